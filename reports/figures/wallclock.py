"""Time and memory of an update against the size of memory."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import (
    INK,
    grid_of_axes,
    is_comparable,
    legend_under,
    places,
    plain_log_axis,
    sizes_axis,
    with_gaps,
)
from reports.figures.spec import figure
from reports.frames import number
from reports.models import label, shown_as
from reports.results import SAMPLED, Results


@figure(
    "wallclock",
    "Time and memory of an update against the size of memory",
    "Left: medians over rounds with quartile bands, hard attention (VMA) with K = 4 and soft attention with K = 1 and "
    "4; dashed curves embed memory without a gradient but for what is drawn and 64 others. Vertical lines: the |M| "
    "from which hard attention with K = 4 is faster than soft attention with one sample, every entry with its "
    "gradient: the paper's (48) and ours, with 95 % intervals by the bootstrap over rounds. Right: what model, "
    "optimiser and update take at most. Machines and precisions stand apart, a line of panels each.",
    "wallclock",
)
def figure_wallclock(results: Results) -> Figure | None:
    frame = frames.wallclock(results)
    if frame.empty:
        return None
    names = list(frame.setting.unique())
    figure, axes = grid_of_axes(len(names), 2, 11.0, 1.1 + 4.3 * len(names))
    sizes = places(results, frame.train_memory_size, declared("wallclock", "memory_size"))
    found = frames.crossovers(results)
    for setting, (time, memory) in zip(names, axes, strict=True):
        part = frame[frame.setting == setting].assign(peak_mib=lambda own: own.peak_bytes / 2**20)
        _against_size(time, part, "seconds_per_update", sizes)
        _against_size(memory, part, "peak_mib", sizes)
        _crossover_lines(time, results, found[found.setting == setting])
        time.set_title(setting)
        time.set_ylabel("seconds per update")
        memory.set_title("peak of memory")
        memory.set_ylabel("MiB")
    legend_under(figure, *axes[:, 1])
    return figure


def _against_size(axis: Axes, frame: pd.DataFrame, metric: str, sizes: Sequence[float]) -> None:
    for key, part in frame.groupby(["variant", "model", "read", "train_num_samples"], dropna=False, sort=False):
        variant, model, read, k = cast(tuple[Any, str, Any, int], key)
        shown = shown_as(model, read)
        colour = shown.colour
        if model == "vae":
            axis.axhline(part[metric].iloc[0], color=colour, linestyle="-.", label="plain VAE, no memory")
            continue
        first = part.train_memory_size.min()
        part = with_gaps(part, "train_memory_size", [size for size in sizes if size >= first])
        many, sampled = model == "soft" and k > 1, variant == SAMPLED
        dashes = (0, (4, 1.5)) if sampled else ":" if many else "-"
        style = {**shown.style, "linestyle": dashes, **({"markerfacecolor": "white"} if many or sampled else {})}
        words = f"{label(model, read)}, K = {k:.0f}" + ", sampled gradient" * sampled
        axis.plot(part.train_memory_size, part[metric], label=words, **style)
        if metric == "seconds_per_update":
            axis.fill_between(part.train_memory_size, part.q25, part.q75, color=colour, alpha=0.25, lw=0)
    sizes_axis(axis, sizes, "entries in memory |M|")
    axis.tick_params(axis="x", labelrotation=45)
    plain_log_axis(axis)


def _crossover_lines(axis: Axes, results: Results, found: pd.DataFrame) -> None:
    lines = []
    if is_comparable(results, "wallclock"):
        paper = number(results, "wallclock.crossover")
        lines.append(axis.axvline(paper, color=INK, linestyle="--", linewidth=1, label=f"the paper's, {paper:.0f}"))
    for _, row in found[found.train_num_samples == 1].iterrows():
        colour = shown_as("soft", row["read"]).colour
        # an interval without an end says no more than the number
        between = f" ({_size(row.low)} to {_size(row.high)})" if np.isfinite(row.low) else ""
        if np.isnan(row.memory_size):
            label = f"ours with {row['read']}, none{between}"
            lines.append(axis.plot([], [], color=colour, linestyle="--", linewidth=1, label=label)[0])
            continue
        label = f"ours with {row['read']}, {row.memory_size:.0f}{between}"
        lines.append(axis.axvline(row.memory_size, color=colour, linestyle="--", linewidth=1, label=label))
        if np.isfinite([row.low, row.high]).all():
            axis.axvspan(row.low, row.high, color=colour, alpha=0.12, linewidth=0)
    behind: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9}
    axis.legend(handles=lines, title="crossover", loc="upper left", **behind)


def _size(entries: float) -> str:
    return f"{entries:.0f}" if np.isfinite(entries) else "none"
