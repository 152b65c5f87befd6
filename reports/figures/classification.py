"""Few-shot classification."""

import numpy as np
from matplotlib.figure import Figure

from reports import frames
from reports.drawing import INK, PAPERS_MARK, THEORY, is_comparable, one_axis
from reports.figures.spec import figure
from reports.models import MODELS
from reports.results import Results


@figure(
    "classification",
    "Few-shot classification",
    "Accuracy without fine-tuning, by q(a|x), by likelihood, and by likelihood with copies of each entry that are "
    "shifted by a pixel; 95 % intervals over episodes. The paper's values are with q(a|x). Dashed: chance.",
    "classification",
)
def figure_classification(results: Results) -> Figure | None:
    frame = frames.classification(results)
    if frame.empty:
        return None
    settings = list(frame[["classes", "shots"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axis = one_axis(7.4, 4.2)
    width = 0.27
    faces = {
        "address": (MODELS["vma"].colour, "", "q(a|x)"),
        "likelihood": ("white", "////", "likelihood"),
        "shifted": ("white", "....", "likelihood, shifted too"),
    }
    for (rule, (face, hatch, label)), shift in zip(faces.items(), (-width, 0.0, width), strict=True):
        part = frame[frame.rule == rule]
        x = np.array([settings.index((c, s)) for c, s in zip(part.classes, part.shots, strict=True)]) + shift
        ends = 100 * np.array([part.accuracy - part.low, part.high - part.accuracy])
        axis.bar(x, 100 * part.accuracy, width, yerr=ends, capsize=3, color=face, hatch=hatch, label=label,
                 edgecolor=MODELS["vma"].colour, ecolor=INK)  # fmt: skip
        if rule == "address" and is_comparable(results, "classification"):
            axis.plot(x, 100 * part.paper, label="the paper's, with q(a|x)", **{**PAPERS_MARK, "markersize": 7})
    for i, (c, _) in enumerate(settings):
        axis.plot([i - 0.42, i + 0.42], [100 / c, 100 / c], label="chance" if i == 0 else None, **THEORY)
    axis.set_xticks(range(len(settings)), [f"{c:.0f}-way\n{s:.0f}-shot" for c, s in settings])
    axis.set_xlabel("classes in memory and examples of each")
    axis.set_ylim(0, 100)
    axis.set_ylabel("accuracy, %")
    axis.grid(False, axis="x")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=5, columnspacing=1.0)
    return figure
