"""The jobs of a sweep: one training and all its evaluations each, what of them is done, and their JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.declare.spec import Cell, TrainSpec, eval_spec, identity, spec_id, train_spec
from benchmarks.record import evaluated, store
from benchmarks.runs import weights
from benchmarks.runs.states import run_folder, state_before
from vma.data import DataSet

TIMED = "wallclock"  # the task that measures time, for which nothing else may run

Asked = tuple[str, Cell]  # an experiment and one of its cells
Key = tuple[str, int, str, str, str | None]  # train_id, updates, eval_id, data_sha256, device where times are measured


@dataclass(frozen=True)
class Job:
    """One training run and its evaluations for all experiments, or the cells that measure time.

    With neither `updates` nor `seconds` the model is the one with the shipped weights.
    """

    name: str
    cells: tuple[Asked, ...]
    out: Path  # absolute
    device: str
    data: Path | None = None  # absolute; the folder that the user points to
    updates: int | None = None
    seconds: float | None = None
    restart: bool = False  # forget what was trained before `since`
    ship: bool = False  # whether its weights go beside committed rows
    since: int | None = None  # seconds since 1970; rows that are older do not count
    token: str = ""  # of the sweep that it belongs to

    @property
    def train(self) -> TrainSpec:
        """What is trained, for all cells."""
        return self.cells[0][1].train

    @property
    def timed(self) -> bool:
        """Whether it measures time."""
        return self.cells[0][1].eval.task == TIMED

    @property
    def experiments(self) -> list[str]:
        """The experiments that ask for its cells."""
        return list(dict.fromkeys(name for name, _ in self.cells))

    def to_json(self) -> str:
        """One line."""
        fields = vars(self) | {"out": str(self.out), "data": None if self.data is None else str(self.data)}
        return json.dumps(fields | {"cells": [(name, identity(cell)) for name, cell in self.cells]})


def from_json(line: str) -> Job:
    """The job that `Job.to_json` wrote.

    Raises:
        ValueError: if the line is no JSON.
        TypeError: if it names a field that there is none of.
    """
    fields = json.loads(line)
    fields["cells"] = tuple((name, _cell(cell)) for name, cell in fields["cells"])
    return Job(**fields | {"out": Path(fields["out"]), "data": fields["data"] and Path(fields["data"])})


def _cell(fields: Mapping[str, Any]) -> Cell:
    return Cell(**{**fields, "train": train_spec(fields["train"]), "eval": eval_spec(fields["eval"])})


def grouped(cells: Iterable[Asked]) -> dict[str, list[Asked]]:
    """The cells by the name of their job: one for each training, and one for all that measure time."""
    found: dict[str, list[Asked]] = {}
    for name, cell in dict.fromkeys(cells):
        found.setdefault(job_name(cell), []).append((name, cell))
    return found


def job_name(cell: Cell) -> str:
    """The name of the job that a cell belongs to."""
    return TIMED if cell.eval.task == TIMED else f"{cell.train.model}-{cell.train.run_id}"


def takes_shipped(job: Job, updates: int | None, data: DataSet, device: torch.device) -> bool:
    """Whether a job evaluates the shipped weights: where there are any, and nothing else is asked for.

    Raises:
        CheckpointError: if they are damaged.
    """
    return updates is None and not job.restart and weights.shipped(job.train, data, device) is not None


def restarts(job: Job, device: torch.device) -> bool:
    """Whether the training is to begin anew: not where the sweep's own earlier attempt has done so already."""
    path = run_folder(job.train, device) / "checkpoint.safetensors"
    return job.restart and not (path.exists() and job.since is not None and path.stat().st_mtime >= job.since)


def expected(job: Job, data: DataSet, device: torch.device) -> tuple[str, int] | None:
    """The train_id and the number of updates of the model that the job will evaluate; None if only training will tell.

    Raises:
        CheckpointError: if shipped weights are damaged.
    """
    if job.updates is None and job.seconds is None:
        found = weights.shipped(job.train, data, device)
        return None if found is None else (found.train_id, found.updates)
    if restarts(job, device):
        train_id, done, spent = job.train.train_id, 0, 0.0
    else:
        trained_as, done, spent = state_before(job.train, device)
        train_id = spec_id(trained_as)
    if job.updates is not None:
        return train_id, max(done, job.updates)
    return (train_id, done) if job.seconds is not None and done and spent >= job.seconds else None


def recorded(out: Path, experiments: Iterable[str], since: int | None) -> dict[str, set[Key]]:
    """The cells of each experiment that have rows in `out`.

    Raises:
        InputError: if a file has a bad line.
    """

    def key(row: Mapping[str, Any]) -> Key:
        device = None if row["updates"] else row["device"]  # what is untrained is timed
        return row["train_id"], row["updates"], row["eval_id"], row["data_sha256"], device

    def counts(row: Mapping[str, Any]) -> bool:
        return since is None or evaluated.made(row) >= since

    return {name: {key(row) for row in store.read_rows(out / f"{name}.jsonl") if counts(row)} for name in experiments}


def missing(
    job: Job, rows: Mapping[str, set[Key]], model: tuple[str, int] | None, data: DataSet, device: torch.device
) -> Sequence[Asked]:
    """The cells of a job that have no row yet, for the model that will be evaluated or that there is."""
    if model is None and not job.timed:
        return job.cells
    chip = store.provenance(device)["device"] if job.timed else None

    def key(cell: Cell) -> Key:
        return *(model or (cell.train.train_id, 0)), cell.eval.eval_id, data.sha256, chip

    return [(name, cell) for name, cell in job.cells if key(cell) not in rows[name]]
