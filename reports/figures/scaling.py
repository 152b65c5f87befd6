"""Figure 5A: more classes in memory."""

from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import (
    PAPERS_MARK,
    THEORY,
    grid_of_axes,
    is_comparable,
    legend_under,
    line_style,
    places,
    points,
    sizes_axis,
    with_gaps,
)
from reports.figures.spec import figure
from reports.frames import number
from reports.models import MODELS, label, shown_as
from reports.results import Results


@figure(
    "5a",
    "Figure 5A: more classes in memory",
    "Above: test NLL against the number of classes in memory, with N examples of each. VMA was trained with 4 examples "
    "of each of 8 classes, soft attention, which reads features, with 16. Dashed: the optimum, which is VMA's NLL with "
    "one class in memory + log C. Below: the difference to it at the same N, paired on the same targets, with 95 % "
    "bootstrap intervals; VMA's in the paper is about 0. Soft attention has no address and pays no log C. Diamond: the "
    "paper's soft attention with 1 or 2 classes of 16 examples. Bands: standard errors. What differs in K alone is of "
    "the same targets.",
    "scaling",
)
def figure_5a(results: Results) -> Figure | None:
    frame = frames.scaling(results)
    if frame.empty:
        return None
    ks = sorted(frame.num_samples.unique())
    figure, axes = grid_of_axes(2, len(ks), 5.0 * len(ks), 8.2, sharex=True, sharey="row", height_ratios=(1.5, 1))
    classes = places(results, frame.classes, declared("scaling", "classes"))
    series = frame.groupby(["model", "read", "train_classes", "shots"], dropna=False, sort=False)
    for column, k in enumerate(ks):
        for key, whole in series:
            model, read, trained, shots = cast(tuple[str, Any, float, float], key)
            part = with_gaps(whole[whole.num_samples == k], "classes", classes)
            dashes, face = line_style(shots, sorted(frame.shots.unique()))
            style = {**shown_as(model, read).style, "linestyle": dashes, **face}
            words = f"{label(model, read)}, N = {shots:.0f}"
            if model == "soft":
                style |= {"marker": "X", "linewidth": 1.0} if trained == 8 else {}
                words = f"soft attention of {trained:.0f} classes, N = {shots:.0f}"
            points(axes[0][column], part.classes, part, "nll", band=True, label=words, **style)
            ends = np.array([part.excess - part.excess_low, part.excess_high - part.excess])
            axes[1][column].errorbar(part.classes, part.excess, ends, capsize=2, elinewidth=1, **style)
            if model == "vma":
                axes[0][column].plot(part.classes, part.optimum, **{**THEORY, "color": MODELS["vma"].colour})
        above, below = axes[0][column], axes[1][column]
        above.plot([], [], label="optimum: VMA's NLL at C = 1, + log C", **{**THEORY, "color": MODELS["vma"].colour})
        if is_comparable(results, "scaling"):
            soft = number(results, "fewshot.soft")
            above.plot([1, 2], [soft, soft], label="the paper's soft attention, N = 16", **PAPERS_MARK)
        below.axhline(0, **THEORY)
        above.set_title(f"K = {k:,}")
        sizes_axis(below, classes, "classes in memory C")
    axes[0][0].set_ylabel("test NLL, nats (lower is better)")
    axes[1][0].set_ylabel("NLL - optimum, nats")
    legend_under(figure, axes[0][0])
    return figure
