"""Figure 3: what is looked up."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.drawing import INK, PALE, Image, first_arrays, picture
from reports.figures.spec import figure
from reports.models import MODELS
from reports.results import Results


@figure(
    "3",
    "Figure 3: what is looked up",
    "Two unseen targets, the first two of different classes: q(a|x) over memory, whose entries stand class by class "
    "(the target's own class shaded and in colour, p(a) as a thin line), and the five entries with most of it, framed "
    "where they are of the target's own class.",
    "lookup",
)
def figure_3(results: Results) -> Figure | None:
    found = first_arrays(results, results.of("lookup", metric="class_mass"))
    if found is None:
        return None
    classes = found["x_class"]
    other = np.flatnonzero(classes != classes[0])
    shown = [0, *other[:1]] if len(other) else list(range(min(2, len(classes))))
    figure = Figure(figsize=(10.5, 0.6 + 2.1 * len(shown)), layout="constrained")
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for row, t in zip(rows, shown, strict=True):
        top = found["top"][t][:5]
        axes = row.subplots(1, 2 + len(top), width_ratios=(1, 5.2, *[1] * len(top)))
        picture(axes[0], found["x"][t], "target x")
        _histogram(axes[1], found, t)
        for axis, a in zip(axes[2:], top, strict=True):
            own = found["memory_class"][t][a] == classes[t]
            frame = MODELS["vma"].colour if own else None
            picture(axis, found["memory"][t][a], f"q = {found['q'][t][a]:.2f}", frame)
    return figure


def _histogram(axis: Axes, found: dict[str, Image], t: int) -> None:
    q, p, labels = found["q"][t], found["p"][t], found["memory_class"][t]
    order = np.argsort(labels, kind="stable")
    own = labels[order] == found["x_class"][t]
    entries = np.arange(len(q))
    axis.bar(entries[~own], q[order][~own], width=0.9, color=PALE)
    axis.bar(entries[own], q[order][own], width=0.9, color=MODELS["vma"].colour)
    axis.axvspan(entries[own].min() - 0.5, entries[own].max() + 0.5, color=MODELS["vma"].colour, alpha=0.12, lw=0)
    axis.step(entries, p[order], where="mid", color=INK, linewidth=0.8)
    for edge in np.flatnonzero(np.diff(labels[order])) + 0.5:
        axis.axvline(edge, color="#cccccc", linewidth=0.6, zorder=0)
    axis.grid(False, axis="x")
    axis.set_xlim(-0.5, len(q) - 0.5)
    axis.set_xlabel("memory entry a, class by class")
    axis.set_ylabel("q(a|x)")
    axis.set_title(f"{q[order][own].sum():.2f} on the target's own class")
