"""Training by the paper's recipe and by the suite's, against updates and against time."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from reports import runs as table_of_runs
from reports.drawing import INK, PALE, grid_of_axes, legend_under, thousands
from reports.figures.spec import figure
from reports.models import label
from reports.results import Results

EXPERIMENTS = ("table1", "fewshot")
OF_SUITE = (*EXPERIMENTS, "recipes", "tuning")  # which hold runs from scratch that no number of the paper is of
DATA = {"omniglot_gmn": "Table 1", "omniglot45_5": "45/5 split"}
RECIPES: dict[str, dict[str, Any]] = {
    "the paper's recipe": {"color": PALE, "ls": "--"},
    "the suite's recipe": {"color": INK, "ls": "-"},
}


@figure(
    "recipes",
    "The paper's recipe and the suite's",
    "The bound on validation classes as NLL, with the K of training, of every model that was trained by both recipes: "
    "above against updates, below against the seconds of training, each on the machine and in the precision that it "
    "had. A run that goes on from the weights of another stands after it.",
    *OF_SUITE,
)
def figure_recipes(results: Results) -> Figure | None:
    papers = _runs(results.rows[results.rows.variant.isna()], EXPERIMENTS)
    suites = _runs(results.suite, OF_SUITE)
    panels = [key for key in suites if key in papers]
    if not panels:
        return None
    figure, axes = grid_of_axes(2, len(panels), 2.9 * len(panels) + 0.6, 5.6, sharey="col")
    for column, key in zip(axes.T, panels, strict=True):
        data, model, read = key
        for (name, style), train_ids in zip(RECIPES.items(), (papers[key], suites[key]), strict=True):
            for log in (curve for one in train_ids if (curve := _curve(results, one)) is not None):
                for axis, against in zip(column, ("update", "seconds"), strict=True):
                    axis.plot(log[against], -log.validation_bound, **style, lw=1.2, label=name)
        column[0].set_title(f"{label(model, read)}, {DATA[data]}")
        for axis, words in zip(column, ("updates", "seconds"), strict=True):
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(thousands))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel(words)
    for row in axes:
        row[0].set_ylabel("validation NLL, nats")
    legend_under(figure, axes[0][0])
    return figure


def _runs(rows: pd.DataFrame, experiments: Sequence[str]) -> dict[tuple[str, str, Any], list[str]]:
    """The runs that train as VMA does by data, model and what it reads."""
    known = rows[rows.experiment.isin(experiments) & rows.dataset.isin(DATA)]
    known = known[(known.train_protocol != "gmn") & (known.updates > 0)]
    found: dict[tuple[str, str, Any], list[str]] = {}
    for _, row in known.drop_duplicates("train_id").iterrows():
        read = row["read"] if isinstance(row["read"], str) else None
        found.setdefault((row.dataset, row.model, read), []).append(row.train_id)
    return found


def _curve(results: Results, train_id: str) -> pd.DataFrame | None:
    """Where the validation bound was taken; a run that goes on from another's weights begins where that one ended."""
    log = results.training_log(train_id)
    if log is None:
        return None
    log = log[log.validation_bound.notna()]
    began = results.began_from(train_id)
    if began is None:
        return log
    known = table_of_runs.table(results)
    begun = known[known.weights == f"checkpoints/{began[0]}.safetensors"]
    before = _curve(results, begun.train_id.iloc[0]) if len(begun) else None  # a folder of one's own may lack it
    if before is None:
        return log
    end = before[before["update"] <= began[1]].tail(1)
    return pd.concat([end, log.assign(**{key: log[key] + end[key].item() for key in ("update", "seconds")})])
