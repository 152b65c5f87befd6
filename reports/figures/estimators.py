"""Estimators of the gradient."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from reports.drawing import INK, PALE, THEORY, grid_of_axes
from reports.estimators import NAMES, WAYS, frame
from reports.figures.spec import figure
from reports.models import MODELS
from reports.results import Results


@figure(
    "estimators",
    "Estimators of the gradient",
    "Table 1's VMA trained by each estimator of the gradient of q(a|x), and by each gradient of z; validation classes. "
    "Dashed: VIMCO. Bars: standard errors, of NLL over pairs of the same targets. At the right: an update's signal to "
    "noise in the parameters of q(a|x) alone, all at the same weights.",
    "estimators",
)
def figure_estimators(results: Results) -> Figure | None:
    """Above, trained from the shipped weights, below from scratch; a line for each estimator, a panel for each measure.
    The dashed line is VIMCO's value.
    """
    whole = frame(results)
    ways = [way for way in ("started", "scratch") if not whole.empty and (whole.way == way).any()]
    if not ways:
        return None
    panels = {
        "difference_4": "NLL - VIMCO's, K = 4, nats",
        "difference_1000": "NLL - VIMCO's, K = 1,000, nats",
        "kl_p_q": "KL(p(a|x) || q(a|x)), nats",
        "accuracy": "20-way accuracy by q(a|x)",
        "snr_a": "signal to noise, q(a|x)",
    }
    figure, axes = grid_of_axes(len(ways), len(panels), 2.5 * len(panels) + 1.5, 4.6 * len(ways), sharey="row")
    for row, way in zip(np.reshape(axes, (len(ways), -1)), ways, strict=True):
        part = whole[whole.way == way].iloc[::-1].reset_index(drop=True)
        for axis, (column, label) in zip(row, panels.items(), strict=True):
            _panel(axis, part, column)
            axis.set_xlabel(label)
        row[0].set_yticks(range(len(part)), [NAMES[name] for name in part.name])
        row[0].set_ylabel(WAYS[way])
    return figure


def _panel(axis: Axes, part: pd.DataFrame, column: str) -> None:
    errors = part.get(f"{column}_stderr")
    style = {**MODELS["vma"].style, "linestyle": "none"}
    axis.errorbar(part[column], part.index, xerr=None if errors is None else errors.fillna(0), capsize=2, **style)
    reference = part.loc[part.name == "vimco", column]
    if len(reference) and np.isfinite(reference.iloc[0]):
        axis.axvline(reference.iloc[0], **THEORY)
    if column == "snr_a" and (part[column] > 0).any():
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(True, axis="x", color=PALE)
    axis.tick_params(colors=INK)
    axis.set_ylim(-0.6, len(part) - 0.4)
