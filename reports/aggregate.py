"""From rows to cells: means over seeds, and what is paired on the targets that cells share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.results import CELL, TIMED, Results, Row
from vma.statistics import Difference, Values, clustered_stderr, paired, seed_stderr

BY_CLASS = ("per_class", "gmn")  # protocols whose episodes are made of classes


def seed_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Each cell and metric as a line: the mean over its seeds.

    Columns: those of `results.CELL`; value, low, high, q25, q75 (means over seeds); stderr, see
    `vma.statistics.seed_stderr`; n; updates; seeds (how many); seed_values (a tuple); dirty (whether any is).
    """
    if rows.empty:
        return rows.assign(seeds=0, seed_values=())
    cells = rows.groupby(list(CELL), dropna=False, sort=False)
    means = cells[["value", "low", "high", "q25", "q75"]].mean()
    values, stderrs = cells.value.agg(tuple), cells.stderr.agg(tuple)
    means["stderr"] = [seed_stderr(*pair) for pair in zip(values, stderrs, strict=True)]
    means["n"] = cells.n.min()
    means["updates"] = cells.updates.max()
    means["seeds"] = cells.size()
    means["seed_values"] = values
    means["dirty"] = cells.dirty.any()
    return means.reset_index()


@dataclass(frozen=True)
class Targets:
    """A quantity of a cell at each of its targets (n,), by seed; the targets' images, and what clusters them."""

    values: Mapping[int, Values]
    x_index: Values
    clusters: Values


def per_target(results: Results, rows: Iterable[Row], name: str = "nll") -> Targets | None:
    """The values `name` of the rows, which are of one metric of one cell, one a seed, at their first n targets.

    None where there are no rows, their values are missing or the seeds' targets differ.

    Raises:
        InputError: if the file of values is damaged.
    """
    values: dict[int, Values] = {}
    x_index = clusters = np.empty(0)
    for row in rows:
        arrays = results.arrays(row)
        if arrays is None or name not in arrays or "x_index" not in arrays:
            return None
        n = int(row["n"])
        index = arrays["x_index"][:n]
        if values and not np.array_equal(index, x_index):
            return None
        x_index, clusters = index, _clusters(results, row, arrays)[:n]
        values[int(row["train_seed"])] = arrays[name][:n].astype(float)
    return Targets(values, x_index, clusters) if values else None


def _clusters(results: Results, row: Row, arrays: Mapping[str, Values]) -> Values:
    """As the evaluator has it: the classes where episodes are made of several, else the images."""
    protocol = results.specs.get(row["eval_id"], {}).get("episode", {}).get("protocol", BY_CLASS[0])
    classes = arrays["x_class"]
    return classes if protocol in BY_CLASS and np.ptp(classes) else arrays["x_index"]


def difference(ours: Targets | None, reference: Targets | None) -> Difference | None:
    """Ours minus the reference, seed by seed, on the targets with which both begin; None where they share neither a
    target nor a seed, or either is missing.
    """
    if ours is None or reference is None:
        return None
    n = min(len(ours.x_index), len(reference.x_index))
    seeds = [seed for seed in ours.values if seed in reference.values]
    if n == 0 or not seeds or not np.array_equal(ours.x_index[:n], reference.x_index[:n]):
        return None
    one, other = (np.stack([part.values[seed][:n] for seed in seeds]) for part in (ours, reference))
    return paired(one, other, ours.clusters[:n])


def differences(results: Results, rows: pd.DataFrame, keys: Sequence[str], against: Mapping[str, Any]) -> pd.DataFrame:
    """The paired difference in NLL of each cell to another.

    Args:
        results: where the values at each target lie.
        rows: rows of NLL, several seeds of a cell among them.
        keys: the columns that tell the cells apart.
        against: what is subtracted from a cell: the cell with these values, and the others of its keys.

    Returns:
        keys, then difference, difference_stderr, difference_low, difference_high in nats, and difference_seeds; a line
        for each cell that shares targets and seeds with the other.
    """
    cells = {key: per_target(results, part) for key, part in _grouped(rows.to_dict("records"), keys).items()}
    lines = []
    for key, ours in cells.items():
        other = tuple(against.get(name, value) for name, value in zip(keys, key, strict=True))
        found = difference(ours, cells.get(other))
        if found is not None:
            lines.append([*key, found.value, found.stderr, found.low, found.high, found.seeds])
    names = ("difference", "difference_stderr", "difference_low", "difference_high", "difference_seeds")
    return pd.DataFrame(lines, columns=[*keys, *names])


def on_common_targets(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, those that differ in K alone brought to the targets with which all of them begin: value, stderr and n
    are of these. Rows whose values at each target are missing stay as they are.
    """
    keys = [*(key for key in CELL if key != "num_samples"), "train_seed", "updates"]
    records = rows.to_dict("records")
    for part in _grouped(records, keys).values():
        least = min(part, key=lambda row: row["n"])
        n, metric = int(least["n"]), least["metric"]
        more = [row for row in part if row["n"] > n and row["experiment"] != TIMED]
        shared = per_target(results, [least], metric) if more else None
        for row in more:
            own = per_target(results, [row], metric)
            if own and shared and np.array_equal(own.x_index[:n], shared.x_index):
                values = own.values[int(row["train_seed"])][:n]
                row |= {"value": values.mean(), "stderr": clustered_stderr(values, own.clusters[:n]), "n": n}
    found = rows.copy()
    for column in ("value", "stderr", "n"):
        found[column] = [row[column] for row in records]
    return found


def _grouped(records: Iterable[dict[Any, Any]], keys: Sequence[str]) -> dict[tuple[Any, ...], list[dict[Any, Any]]]:
    """Records by their values of the keys; NaN, which equals nothing, is None."""
    found: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in records:
        found.setdefault(tuple(None if row[key] != row[key] else row[key] for key in keys), []).append(row)
    return found
