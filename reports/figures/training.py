"""The training of every run behind the rows."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports.declared import DECLARED
from reports.drawing import grid_of_axes, thousands
from reports.figures.spec import figure
from reports.models import label, shown_as
from reports.results import Results, select

WINDOW = 10  # lines of a training log, each the mean over 100 updates


@figure(
    "training",
    "Training",
    "The bound of every run behind the rows as NLL, with the K of training: on validation classes, and, pale, on the "
    "training classes (a running mean over 1,000 updates); experiment by experiment. Circles: the test NLL of few-shot "
    "runs, on episodes like those of training. A run that several experiments share stands in the first.",
    *DECLARED,
)
def figure_training(results: Results) -> Figure | None:
    order = list(DECLARED)
    few_shot = results.with_own.of("fewshot", metric="nll", num_samples=4)
    rows = results.with_own.rows
    known = rows[rows.experiment.isin(order)]
    runs = known.sort_values("updates").drop_duplicates("train_id", keep="last")
    first = known.groupby("train_id").experiment.agg(lambda names: min(names, key=order.index))
    curves: dict[str, list[tuple[pd.Series, pd.DataFrame]]] = {}
    for _, row in runs.iterrows():
        log = results.training_log(row)
        if log is not None and log.validation_bound.count() > 1:
            curves.setdefault(first[row.train_id], []).append((row, log))
    if not curves:
        return None
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = grid_of_axes(lines, columns, 3.6 * columns + 0.6, 2.9 * lines + 0.7)
    flat = axes.ravel()
    named: dict[str, Any] = {}
    for axis, (experiment, found) in zip(
        flat, sorted(curves.items(), key=lambda item: order.index(item[0])), strict=False
    ):
        best, start = np.inf, -np.inf
        for row, log in found:
            model = shown_as(row.model, row["read"])
            style: dict[str, Any] = {"color": model.colour, "ls": model.dashes}
            train_nll = -log.bound.rolling(WINDOW, min_periods=1).mean()
            axis.plot(log["update"], train_nll, **style, lw=0.8, alpha=0.35)
            log = log[log.validation_bound.notna()]
            nll = -log.validation_bound
            (line,) = axis.plot(log["update"], nll, **style, lw=1.1, alpha=0.85)
            named.setdefault(label(row.model, row["read"]), line)
            test = select(few_shot, train_id=row.train_id)
            alike = (test.classes == test.train_classes) & (test.shots == test.train_shots)
            test = test[alike | (test.model == "vae")]
            axis.plot(test.updates, test.value, "o", color=model.colour, fillstyle="none", ms=6)
            late = nll[log["update"] >= 0.08 * log["update"].max()]
            best, start = min(best, nll.min(), train_nll.min(), *test.value), max(start, late.max())
        axis.set_ylim(best - 0.04 * (start - best), start)
        axis.set_title(f"{experiment}: {len(found)} run" + "s" * (len(found) > 1))
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
        axis.set_xlabel("updates")
    for axis in flat[len(curves) :]:
        axis.set_axis_off()
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("NLL, nats")
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
    return figure
