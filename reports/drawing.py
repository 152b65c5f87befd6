"""What all figures share: one style for each model, the paper and theory; axes, marks, notes and files."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports.declared import STAND_INS
from reports.models import shown_as
from reports.results import Results, stand_ins

Image = np.ndarray[Any, Any]

INK, PALE = "#1a1a1a", "#8a8a8a"
PAPERS_MARK: dict[str, Any] = {
    "color": INK,
    "marker": "D",
    "markerfacecolor": "white",
    "linestyle": "none",
    "zorder": 5,
}
THEORY: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.1, "marker": "none"}
STYLE: Any = {  # its keys are literals to matplotlib's stubs of some versions
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "image.cmap": "gray_r",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "vma",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


# Formats, and what of their metadata would make equal figures unequal.
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.svg, NAME.pdf and NAME.png; equal figures give equal bytes. Returns the paths.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it lies as it is to: each format would do the work anew
        for suffix, metadata in FORMATS.items():
            paths.append(folder / f"{name}.{suffix}")
            figure.savefig(paths[-1], format=suffix, dpi=150, metadata=metadata)
    return paths


def png(figure: Figure) -> bytes:
    """The figure as a PNG for a screen."""
    written = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(written, format="png", dpi=110, metadata=FORMATS["png"])
    return written.getvalue()


def annotate(figure: Figure, results: Results, experiments: Iterable[str]) -> None:
    """Say on the figure itself what its rows are not."""
    rows = results.rows[results.rows.experiment.isin(list(experiments))]
    notes = []
    if stand_ins(rows):
        notes.append(f"Not the paper's data: {', '.join(stand_ins(rows))}.")
    if rows.dirty.any():
        dirty = ", ".join(sorted(rows[rows.dirty].variant.fillna(rows.experiment).unique()))
        notes.append(f"Made by code that differs from any commit: {dirty}.")
    legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
    before = rows.train_id.map({one: (results.began_from(one) or ("", 0))[1] for one in rows.train_id.unique()})
    whole = rows.assign(updates=rows.updates + before)
    if unequal := _unequal_updates(whole, " ".join(text.get_text() for one in legends for text in one.get_texts())):
        notes.append(unequal)
    if notes:
        room = 0.3 / figure.get_size_inches()[1]
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(0, 0, 1, 1 - room))
        figure.text(0.01, 1 - 0.2 * room, " ".join(notes), fontsize=9, color="#a00000", va="top")
    if results.smoke:
        mark: dict[str, Any] = {"fontsize": 30, "color": "#a00000", "alpha": 0.28, "weight": "bold", "zorder": 100}
        figure.text(0.5, 0.5, "SMOKE RUN - not results", rotation=25, ha="center", va="center", **mark)


def _unequal_updates(rows: pd.DataFrame, legends: str) -> str | None:
    """How long each model that the legends name was trained, where models of one experiment were not for equally
    long.
    """
    if rows.experiment.nunique() > 1:  # a figure of all runs
        return None
    names = {name: shown_as(name).label for name in rows.model.unique() if shown_as(name).label in legends}
    spans = rows[rows.updates > 0].groupby("model").updates.agg(["min", "max"])
    spans = spans.loc[[model for model in names if model in spans.index]]
    if spans["max"].nunique() < 2:
        return None
    parts = [f"{few:,}" + f" to {many:,}" * (many > few) for few, many in spans.itertuples(index=False)]
    return f"Updates: {', '.join(f'{names[model]} {part}' for model, part in zip(spans.index, parts, strict=True))}."


def is_comparable(results: Results, experiment: str) -> bool:
    """Whether the paper's marks may stand beside the rows: these are of its data, or nearly."""
    return not results.smoke and set(stand_ins(results.of(experiment))) <= set(STAND_INS.values())


def grid_of_axes(rows: int, columns: int, width: float, height: float, **more: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def one_axis(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = grid_of_axes(1, 1, width, height)
    return figure, axes[0][0]


def points(
    axis: Axes, x: "pd.Series[Any]", frame: pd.DataFrame, metric: str, *, band: bool = False, **style: Any
) -> None:
    """A line with standard errors, as bars or, for lines that lie close together, as a band; and a small dot for each
    seed of the cells that have several.
    """
    if frame.empty:
        return
    value, stderr = frame[metric], frame[f"{metric}_stderr"]
    (line,) = axis.plot(x, value, **style)
    colour = line.get_color()
    if band:
        axis.fill_between(x, value - stderr, value + stderr, color=colour, alpha=0.1, linewidth=0)
    else:
        under: dict[str, Any] = {"fmt": "none", "zorder": line.get_zorder() - 0.1}
        axis.errorbar(x, value, stderr.fillna(0), ecolor=colour, elinewidth=1, capsize=2, **under)
    for at, values in zip(x, frame[f"{metric}_seeds"], strict=True):
        if isinstance(values, tuple) and len(values) > 1:  # NaN at a gap
            axis.plot([at] * len(values), values, ".", color=INK, markersize=3, zorder=6)


def places(results: Results, present: "pd.Series[Any]", declared: Iterable[float]) -> list[float]:
    """Where the points of a line stand: at all declared values, and of smoke runs at those that they have."""
    return sorted({*present.dropna(), *(() if results.smoke else declared)})


def with_gaps(frame: pd.DataFrame, column: str, values: Sequence[float]) -> pd.DataFrame:
    """The frame with a line for each of the values of a column, empty for those that it lacks: its line breaks there
    instead of running through.
    """
    return frame.set_index(column).reindex(np.array(values)).rename_axis(column).reset_index()


def plain_log_axis(axis: Axes) -> None:
    """A logarithmic axis of y with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def sizes_axis(axis: Axes, sizes: Sequence[float], label: str) -> None:
    """A logarithmic axis with these sizes as its marks."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_xlabel(label)


def legend_below(axis: Axes) -> None:
    """A legend under one axis, where no line can cross it."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def legend_under(figure: Figure, *axes: Axes) -> None:
    """One legend for all axes, under the figure; equal labels stand once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)


def line_style(value: float, values: Sequence[float]) -> tuple[Any, dict[str, Any]]:
    """Dashes and face of the n-th of a few lines of one model."""
    white = {"markerfacecolor": "white"}
    styles: list[tuple[Any, dict[str, Any]]] = [("-", {}), ((0, (4, 1.5)), white), (":", white)]
    return styles[list(values).index(value) % len(styles)]


def recipe_name(recipe: str) -> str:
    return "a memory that grows, 1e-3" if recipe.endswith("grown") else "|M| from the start, 3e-4"


def thousands(value: float, _: Any) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def first_arrays(results: Results, rows: pd.DataFrame) -> dict[str, Image] | None:
    return results.arrays(rows.iloc[0]) if len(rows) else None


def tiled(images: Image) -> Image:
    """(R, S, H, W) as one image with a white border of 2 pixels below and right of each."""
    rows, columns, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded.transpose(0, 2, 1, 3).reshape(rows * (height + 2), columns * (width + 2))


def picture(axis: Axes, image: Image, title: str, frame: str | None = None) -> None:
    axis.imshow(image, interpolation="nearest", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.set_title(title, fontsize=9)
    for side in axis.spines.values():
        side.set(visible=True, color=frame or "#cccccc", linewidth=2.0 if frame else 0.8)
