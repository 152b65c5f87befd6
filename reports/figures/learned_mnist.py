"""Learned memory on binarised MNIST."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import (
    PALE,
    THEORY,
    grid_of_axes,
    is_comparable,
    legend_below,
    places,
    points,
    sizes_axis,
    with_gaps,
)
from reports.figures.spec import figure
from reports.models import COLOURS, MODELS
from reports.results import Results


@figure(
    "learned-mnist",
    "Learned memory on binarised MNIST",
    "Left: KL_a on training and test images, and the entropy of p(a), against the number of learned entries; the band "
    "is the paper's 2.5 +- 0.3 for all sizes, on both sets. Right: NLL beside the plain VAE's. Bars: standard errors. "
    "What differs in K alone is of the same targets.",
    "learned-mnist",
)
def learned_mnist(results: Results) -> Figure | None:
    frame = frames.learned_mnist(results)
    if frame.empty:
        return None
    figure, axes = grid_of_axes(1, 2, 9.6, 4.6)
    low = frame[frame.num_samples == frame.num_samples.min()]
    sizes = places(results, frame.memory_size, declared("learned-mnist", "memory_size"))
    learned_kls(axes[0][0], low[low.model == "vma"], sizes)
    if is_comparable(results, "learned-mnist"):
        axes[0][0].axhspan(2.2, 2.8, color=PALE, alpha=0.3, linewidth=0, label="the paper's KL_a, 2.5 ± 0.3")
    legend_below(axes[0][0])
    learned_nll(axes[0][1], frame, sizes)
    legend_below(axes[0][1])
    return figure


def learned_kls(axis: Axes, frame: pd.DataFrame, sizes: Sequence[float]) -> None:
    for split, part in frame.groupby("split", sort=False):
        part = with_gaps(part, "memory_size", sizes)
        face = {} if split == "test" else {"markerfacecolor": "white", "linestyle": (0, (4, 1.5))}
        points(axis, part.memory_size, part, "kl_a", label=f"KL_a, {split}", **{**MODELS["vma"].style, **face})
    # the same on both sets: it is of the memory alone
    entropy = with_gaps(frame.drop_duplicates("memory_size"), "memory_size", sizes)
    axis.plot(entropy.memory_size, entropy.entropy_pa, ":", color=COLOURS[9], marker="x", label="entropy of p(a)")
    axis.plot(sizes, np.log(sizes), label="log |M|", **THEORY)
    sizes_axis(axis, sizes, "learned entries |M|")
    axis.set_ylabel("nats")
    axis.set_ylim(bottom=0)
    axis.set_title("use of the memory")


def learned_nll(axis: Axes, frame: pd.DataFrame, sizes: Sequence[float]) -> None:
    few = frame.num_samples.min()
    sides = frame[["split", "num_samples"]].drop_duplicates().sort_values(["num_samples", "split"])
    for split, k in sides.itertuples(index=False, name=None):
        part = frame[(frame.split == split) & (frame.num_samples == k)]
        dashes = (0, (4, 1.5)) if split == "train" else "-" if k == few else ":"
        face = {"markerfacecolor": "white"} if split == "train" else {}
        label = f"{split}, K = {k:,}"
        ours = with_gaps(part[part.model == "vma"], "memory_size", sizes)
        style = {**MODELS["vma"].style, "linestyle": dashes, **face}
        points(axis, ours.memory_size, ours, "nll", label=f"VMA, {label}", **style)
        for _, alone in part[part.model == "vae"].iterrows():
            axis.axhline(alone.nll, color=MODELS["vae"].colour, linestyle=dashes, label=f"plain VAE, {label}")
    sizes_axis(axis, sizes, "learned entries |M|")
    axis.set_ylabel("NLL, nats (lower is better)")
    axis.set_title("negative log-likelihood")
