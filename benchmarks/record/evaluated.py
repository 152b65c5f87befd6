"""A trained model, its evaluated cells, and their rows: where the numbers come from, and how they are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.declare.spec import Cell, TrainSpec, identity, spec_id
from benchmarks.record import store
from reports import targets
from reports.targets import Key
from vma.data import DataSet
from vma.protocol import Model


@dataclass(frozen=True)
class Trained:
    """A trained model and what a row says of its training."""

    model: Model
    spec: TrainSpec
    updates: int
    seconds: float
    trained_as: dict[str, Any]  # the identity of the spec that its training began with, on whichever machine
    commits: tuple[str, ...]  # of the code that made the updates, in their order; see `training_commit`
    shipped: bool = False

    @property
    def train_id(self) -> str:
        """The hash that names the run."""
        return spec_id(self.trained_as)


@dataclass(frozen=True)
class Result:
    """What a cell came to: its metrics, each with value, stderr, n and what a task adds, and its arrays by name."""

    cell: Cell
    metrics: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    seconds: float


def stored(
    rows: Iterable[Mapping[str, Any]], cell: Cell, model: tuple[str, int], data: DataSet, since: float = 0.0
) -> list[dict[str, Any]]:
    """The rows of exactly this cell, by the model of this train_id and number of updates and on these data, made
    since then (seconds since 1970).
    """
    key = {"train_id": model[0], "updates": model[1], "eval_id": cell.eval.eval_id, "data_sha256": data.sha256}
    return [dict(row) for row in rows if all(row[k] == v for k, v in key.items()) and made(row) >= since]


def made(row: Mapping[str, Any]) -> float:
    """When a row was made, in seconds since 1970."""
    return datetime.fromisoformat(row["created"]).timestamp()


def take_over(
    folder: Path, experiment: str, trained: Trained, cells: Iterable[Cell], data: DataSet, since: float = 0.0
) -> None:
    """Give the experiment, which has no rows of these cells, those that others in `folder` have of the very same
    evaluation, and the values at each target, unless they are older than `since` (seconds since 1970).

    Evaluated once more, beside other cells, they would come from other draws.
    """
    elsewhere = _rows_elsewhere(folder, experiment)
    rows = []
    arrays: dict[Key, Mapping[str, np.ndarray]] = {}
    for cell in cells:
        found = stored(elsewhere, cell, (trained.train_id, trained.updates), data, since)
        if not found:
            continue
        last = max(found, key=lambda row: row["created"])
        key, other = Key(trained.train_id, trained.updates, cell.eval.eval_id), last["experiment"]
        known = targets.read(targets.path(folder, other))
        if key not in known:
            continue
        arrays[key] = known[key] | targets.read_pictures(targets.pictures_path(folder, other, key))
        # two experiments, or two variants, may have it
        numbers = {tuple(row.get(k) for k in _NUMBER): row for row in found if row["created"] == last["created"]}
        own = {"experiment": experiment, "variant": cell.variant}
        rows += [{**cell.row(), **row, **own} for row in numbers.values()]
    if rows:
        store.record_arrays(folder, experiment, arrays)
        store.append_rows(folder / f"{experiment}.jsonl", rows)


_NUMBER = ("metric", "targets", "rule")  # what tells apart the rows of one evaluation


def _rows_elsewhere(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """The rows of all other experiments in a folder."""
    paths = [path for path in sorted(folder.glob("*.jsonl")) if path.stem not in (experiment, "specs")]
    return [row for path in paths for row in store.read_rows(path) if "eval_id" in row]


def record(
    folder: Path, experiment: str, trained: Trained, results: Sequence[Result], data: DataSet, origin: Mapping[str, Any]
) -> None:
    """Write the arrays and specs of some cells of one training, then append all their rows at once.

    A cell whose rows are there has everything else too, however the process ends. Where other experiments have earlier
    rows of a cell, they get these as well.
    """
    elsewhere = _rows_elsewhere(folder, experiment)
    rows: dict[str, list[dict[str, Any]]] = {experiment: []}
    arrays: dict[str, dict[Key, Mapping[str, np.ndarray]]] = {}
    for result in results:
        cell = result.cell
        key = Key(trained.train_id, trained.updates, cell.eval.eval_id)
        specs = {trained.train_id: trained.trained_as, cell.eval.eval_id: identity(cell.eval)}
        store.record_specs(folder / "specs.jsonl", specs)
        shared = {
            **origin,
            **cell.row(),
            "updates": trained.updates,
            "train_id": trained.train_id,
            "train_commits": " ".join(trained.commits),
            "eval_id": cell.eval.eval_id,
            "data_sha256": data.sha256,
            "seconds": result.seconds,
        }
        others = stored(elsewhere, cell, (trained.train_id, trained.updates), data)
        newest = {(row["experiment"], row.get("variant")): row["created"] for row in others}  # the last row counts
        for other, variant in [(experiment, cell.variant), *(k for k, at in newest.items() if at != origin["created"])]:
            keys = shared | {"experiment": other, "variant": variant}
            rows.setdefault(other, []).extend({**keys, **metric} for metric in result.metrics)
            arrays.setdefault(other, {})[key] = result.arrays
    for other, new in rows.items():
        store.record_arrays(folder, other, arrays[other])
        store.append_rows(folder / f"{other}.jsonl", new)
