"""Learned memory on 28x28 Omniglot."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import PAPERS_MARK, grid_of_axes, is_comparable, legend_below, places, points
from reports.figures.learned_mnist import learned_kls, learned_nll
from reports.figures.spec import figure
from reports.frames import number
from reports.models import MODELS
from reports.results import Results


@figure(
    "learned-omniglot",
    "Learned memory on 28x28 Omniglot",
    "Left: KL_a against the number of learned entries; the paper's 'typically approaches log |M|' (dashed). Middle: "
    "NLL without regularisation; the paper's is below 80 on the training set and above 150 on the test set with 2,048 "
    "entries. Right: 256 entries, 32 maps, 3e-4 L2, K = 5,000, on the test set, with what the paper has and quotes. "
    "Bars: standard errors. What differs in K alone is of "
    "the same targets.",
    "learned-omniglot",
)
def learned_omniglot(results: Results) -> Figure | None:
    frame = frames.learned_omniglot(results)
    if frame.empty:
        return None
    figure, axes = grid_of_axes(1, 3, 12.5, 5.0, width_ratios=(1, 1, 0.62))
    kls, nll, small = axes[0]
    free, regularised = frame[frame.weight_decay == 0], frame[frame.weight_decay > 0]
    low = free[(free.model == "vma") & (free.num_samples == frame.num_samples.min())]
    sizes = places(results, free.memory_size, declared("learned-omniglot", "memory_size"))
    learned_kls(kls, low, sizes)
    legend_below(kls)
    learned_nll(nll, free, sizes)
    if is_comparable(results, "learned-omniglot"):
        size = max(declared("learned-omniglot", "memory_size"))
        for split, marker, word in (("train", "v", "< 80 (train)"), ("test", "^", "> 150 (test)")):
            value = number(results, f"learned-omniglot.{split}")
            nll.plot([size], [value], **{**PAPERS_MARK, "marker": marker, "markersize": 8})
            nll.annotate(word, (size, value), (8, 0), textcoords="offset points", va="center", fontsize=9)
        nll.plot([], [], label="the paper's", **{**PAPERS_MARK, "marker": "v"})
        nll.set_xlim(right=3.2 * size)  # room for the words beside the marks
    legend_below(nll)
    nll.set_title("no regularisation")
    _regularised(small, results, regularised)
    return figure


def _regularised(axis: Axes, results: Results, frame: pd.DataFrame) -> None:
    frame = frame[frame.num_samples == frame.num_samples.max()] if len(frame) else frame
    for x, model in enumerate(("vma", "vae")):
        part = frame[frame.model == model]
        points(
            axis, pd.Series(x, part.index), part, "nll", **{**MODELS[model].style, "linestyle": "none", "markersize": 8}
        )
    if is_comparable(results, "learned-omniglot"):
        marks = (
            ("regularised", "the paper's", "D", 6),
            ("iwae", "two-layer IWAE", "_", -6),
            ("rbm", "best RBM", "_", 0),
        )
        for key, word, marker, up in marks:
            value = number(results, f"learned-omniglot.{key}")
            axis.plot([0], [value], **{**PAPERS_MARK, "marker": marker})
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
            axis.annotate(f"{word}, {value:.4g}", (0, value), (9, up), **beside)
    axis.set_xlim(-0.5, 1.5)
    axis.set_xticks([0, 1], ["VMA", "plain VAE"])
    axis.set_ylabel("test NLL, nats")
    ks = frame.num_samples.unique()
    axis.set_title("256 entries, 32 maps, L2" + (f", K = {ks[0]:,}" if len(ks) else ""))
