"""Ablations as differences to the control."""

import numpy as np
from matplotlib.figure import Figure

from reports import frames
from reports.drawing import INK, THEORY, is_comparable, one_axis
from reports.figures.spec import figure
from reports.models import MODELS
from reports.results import Results

VARIANT_NAMES = {
    "control": "control",
    "flat-prior": "flat prior p(a)",
    "inner": "inner product",
    "cosine": "cosine",
    "tied": "tied embeddings",
    "classes32": "32 classes a minibatch",
}


@figure(
    "ablations",
    "Ablations",
    "Test NLL minus that of the control, on the same targets for both K, with 95 % bootstrap intervals over targets; "
    "small dots are single seeds, whose spread the intervals do not hold. Right of zero is worse. At the right: the "
    "paper.",
    "ablations",
)
def figure_ablations(results: Results) -> Figure | None:
    frame = frames.ablations(results)
    frame = frame[(frame.variant != "control") & frame.difference.notna()]
    if frame.empty:
        return None
    variants = list(frame.variant.unique())[::-1]
    figure, axis = one_axis(8.6, 1.5 + 0.5 * len(variants))
    ks = sorted(frame.num_samples.unique())
    for k, shift, face in zip(ks, (0.12, -0.12), ({}, {"markerfacecolor": "white"}), strict=False):
        part = frame[frame.num_samples == k]
        y = np.array([variants.index(variant) for variant in part.variant]) + shift
        ends = np.array([part.difference - part.difference_low, part.difference_high - part.difference])
        style = {**MODELS["vma"].style, "linestyle": "none", **face}
        axis.errorbar(part.difference, y, xerr=ends, capsize=3, label=f"K = {k:,}", **style)
        for height, values in zip(y, part.difference_seeds, strict=True):
            if len(values) > 1:
                axis.plot(values, [height] * len(values), ".", color=INK, markersize=3, zorder=6)
    axis.axvline(0, **THEORY)
    axis.set_yticks(range(len(variants)), [VARIANT_NAMES[variant] for variant in variants])
    axis.set_ylim(-0.6, len(variants) - 0.4)
    axis.grid(False, axis="y")
    axis.set_xlabel("NLL - control's, nats")
    axis.set_ylabel("what was changed")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=2)
    if is_comparable(results, "ablations"):
        words = frame.drop_duplicates("variant").set_index("variant").paper
        for line, variant in enumerate(variants):
            axis.text(1.02, line, words[variant], transform=axis.get_yaxis_transform(), va="center", fontsize=9)
        axis.text(1.02, len(variants) - 0.4, "the paper:", transform=axis.get_yaxis_transform(), style="italic")
    return figure
