"""Figure 2A: train to recall."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports import frames
from reports.declared import declared
from reports.drawing import (
    INK,
    PALE,
    THEORY,
    grid_of_axes,
    places,
    plain_log_axis,
    points,
    recipe_name,
    sizes_axis,
    thousands,
    with_gaps,
)
from reports.figures.spec import figure
from reports.models import COLOURS, MODELS
from reports.results import Results


@figure(
    "2a",
    "Figure 2A: train to recall",
    "Above: learning curves (training digits) of the models with 256 entries in memory: |M| from the start at the "
    "paper's learning rate of 3e-4, and a memory that has 64 entries for 6,000 updates first (log 64 = 4.16), at 1e-3. "
    "Below: what is left at the end for each size of memory, on test digits (K = 4; q of the target's own entry over "
    "all targets). An optimal lookup has NLL = KL_a = log |M| (dashed) and KL_z = 0. Large hollow marks: the models "
    "with 256 entries, tested with 2,048. At a constant rate the NLL swings by several nats between updates.",
    "recall",
)
def figure_2a(results: Results) -> Figure | None:
    frame = frames.recall(results)
    if frame.empty:
        return None
    frame = frame[frame.num_samples == frame.num_samples.min()]
    same = frame.train_memory_size == frame.memory_size
    own, other = frame[same], frame[~same]
    recipes = list(frame.recipe.unique())
    figure, axes = grid_of_axes(2, 2, 9.6, 7.0)
    size = 256 if (own.train_memory_size == 256).any() else own.train_memory_size.median()
    for axis, recipe in zip(axes[0], [*recipes, None], strict=False):
        if recipe is not None:
            _recall_curves(axis, results, recipe, size)
            axis.set_title(f"{recipe_name(recipe)}, |M| = {size:.0f}")
    for axis in axes[0][len(recipes) :]:
        axis.set_axis_off()
    ends, exact = axes[1]
    sizes = places(results, frame.memory_size, declared("recall", "memory_size"))
    for recipe, dashes, marker in zip(recipes, ("-", (0, (4, 1.5))), ("o", "s"), strict=False):
        part, moved = with_gaps(own[own.recipe == recipe], "memory_size", sizes), other[other.recipe == recipe]
        for axis, metric in ((ends, "kl_a"), (exact, "p_exact")):
            style = {**MODELS["vma"].style, "linestyle": dashes, "marker": marker}
            points(axis, part.memory_size, part, metric, label=recipe_name(recipe), **style)
            large = {"linestyle": "none", "fillstyle": "none", "markersize": 11}
            label = f"the same, trained with {size:.0f} and tested with more"
            if len(moved):
                points(axis, moved.memory_size, moved, metric, label=label, **{**style, **large})
    ends.plot(sizes, np.log(sizes), label="log |M|", **THEORY)
    exact.axhline(1, **THEORY)
    for axis, label in ((ends, "KL(q(a|x) || p(a)), nats"), (exact, "q(own entry | x)")):
        sizes_axis(axis, sizes, "entries in memory |M|")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    exact.set_xlim(ends.get_xlim())
    ends.set_title("KL_a at the end")
    exact.set_title("probability of the exact entry")
    ends.legend()
    return figure


def _recall_curves(axis: Axes, results: Results, recipe: str, size: float) -> None:
    rows = results.of("recall", recipe=recipe, train_memory_size=size, metric="nll")
    curves = (("NLL", "bound", "-", INK), ("KL_a", "kl_a", "-", COLOURS[0]), ("KL_z", "kl_z", ":", COLOURS[9]))
    for i, (_, row) in enumerate(rows.drop_duplicates("train_id").iterrows()):
        log = results.training_log(row)
        if log is None or log.empty:
            continue
        for label, column, dashes, colour in curves:
            values = -log[column] if column == "bound" else log[column]
            axis.plot(log["update"], values.clip(lower=0.01), dashes, color=colour, label=label if i == 0 else None)
    if not axis.lines:
        axis.text(0.5, 0.5, "no line in the training log", transform=axis.transAxes, ha="center", color=PALE)
    axis.axhline(np.log(size), label=f"log {size:.0f} = {np.log(size):.2f}", **THEORY)
    plain_log_axis(axis)
    axis.set_xlabel("updates")
    axis.set_ylabel("nats per image (training, K = 4)")
    axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    axis.legend()
