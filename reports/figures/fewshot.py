"""Figure 4B: few-shot learning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import (
    INK,
    PALE,
    PAPERS_MARK,
    grid_of_axes,
    is_comparable,
    legend_below,
    places,
    points,
    sizes_axis,
    with_gaps,
)
from reports.figures.spec import figure
from reports.frames import number
from reports.models import COLOURS, MODELS, label, shown_as
from reports.results import Results


@figure(
    "4b",
    "Figure 4B: few-shot learning",
    "Left: KL_a and KL_z, stacked, against examples per class in memory (8 classes; K = 4). Right: test NLL. The paper "
    "prints its values at the fewest and the most examples without saying how many those are: they stand here at the "
    "first and the last N. Small dots: single seeds; bars: standard errors over targets and seeds. What differs in K "
    "alone is of the same targets.",
    "fewshot",
)
def figure_4b(results: Results) -> Figure | None:
    frame = frames.fewshot(results)
    if frame.empty:
        return None
    first = next((model for model in frame.model if model not in ("vae", "soft")), "vma")
    ours = frame[frame.model == first]
    figure, axes = grid_of_axes(1, 2, 9.6, 4.4)
    shots = places(results, ours.shots, declared("fewshot", "shots", model="vma"))
    _stacked(axes[0][0], results, ours, shots)
    axis = axes[0][1]
    ks = sorted(frame.num_samples.unique())
    for k, dashes, face in zip(ks, ("-", ":"), ({}, {"markerfacecolor": "white"}), strict=False):
        part = with_gaps(ours[ours.num_samples == k], "shots", shots)
        style = {**shown_as(first).style, "linestyle": dashes, **face}
        points(axis, part.shots, part, "nll", label=f"{label(first)}, K = {k:,}", **style)
        for _, alone in frame[(frame.model == "vae") & (frame.num_samples == k)].iterrows():
            axis.axhline(alone.nll, color=MODELS["vae"].colour, linestyle=dashes, label=f"plain VAE, K = {k:,}")
        for model, own in frame[~frame.model.isin([*MODELS, first]) & (frame.num_samples == k)].groupby("model"):
            part = with_gaps(own, "shots", shots)
            style = {**shown_as(str(model)).style, "linestyle": dashes, **face}
            points(axis, part.shots, part, "nll", label=f"{model}, K = {k:,}", **style)
    if is_comparable(results, "fewshot"):
        ends = [shots[0], shots[-1]]
        values = [number(results, f"fewshot.nll.{end}") for end in ("first", "last")]
        axis.plot(ends, values, label="the paper's VMA (N not printed)", **PAPERS_MARK)
        vae = number(results, "fewshot.vae")
        axis.axhline(vae, color=PALE, linewidth=1.1, linestyle=(0, (1, 1.5)), label=f"the paper's plain VAE, {vae:g}")
    sizes_axis(axis, shots, "examples per class N")
    axis.set_ylabel("test NLL, nats (lower is better)")
    legend_below(axis)
    return figure


def _stacked(axis: Axes, results: Results, frame: pd.DataFrame, shots: Sequence[float]) -> None:
    part = with_gaps(frame[frame.num_samples == frame.num_samples.min()], "shots", shots)
    x = np.arange(len(part))
    beside = is_comparable(results, "fewshot")
    width = 0.4 if beside else 0.6
    left = x - width / 2 if beside else x
    axis.bar(left, part.kl_z, width, color=COLOURS[9], label="KL_z, ours", edgecolor=INK, linewidth=0.6)
    axis.bar(left, part.kl_a, width, bottom=part.kl_z, color=MODELS["vma"].colour, label="KL_a, ours",
             yerr=np.hypot(part.kl_a_stderr, part.kl_z_stderr), ecolor=INK, edgecolor=INK, linewidth=0.6)  # fmt: skip
    if beside:
        kl_a, kl_z = ([number(results, f"fewshot.{kl}.{end}") for end in ("first", "last")] for kl in ("kl_a", "kl_z"))
        right = np.array([x[0], x[-1]]) + width / 2
        hollow: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.9}
        axis.bar(right, kl_z, width, label="KL_z, the paper's", **hollow)
        axis.bar(right, kl_a, width, bottom=kl_z, label="KL_a, the paper's", hatch="////", **hollow)
    axis.set_xticks(x, [f"{n:.0f}" for n in shots])
    axis.set_xlabel("examples per class N")
    axis.set_ylabel("KL divergence, nats")
    axis.grid(False, axis="x")
    legend_below(axis)
