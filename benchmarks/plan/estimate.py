"""How long jobs will take, from measured speeds alone: of earlier updates and evaluations of like models."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.declare.spec import identity
from benchmarks.plan.jobs import Asked, Job
from benchmarks.record import store
from benchmarks.runs.states import branch_point, trained_before

Speeds = dict[tuple[Any, ...], float]


class Measured:
    """Speeds of the training logs and the rows in some results folders.

    A training is like another with the same model, network and image size; an evaluation, if K and |M| are the same
    too. Of several speeds it is the median. Whether they were measured on the same device is not looked at.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        updates: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        targets: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        for folder in folders:
            specs = {line["id"]: line["spec"] for line in store.read_rows(folder / "specs.jsonl")}
            for path in sorted((folder / "training").glob("*.jsonl")):
                lines = store.read_rows(path)
                spec = specs.get(path.stem.rpartition("-")[2])
                if lines and spec is not None:
                    updates[_like(spec)].append(lines[-1]["seconds"] / lines[-1]["update"])
            for path in sorted(folder.glob("*.jsonl")):
                for row in store.read_rows(path):
                    spec, evaluation = specs.get(row.get("train_id")), specs.get(row.get("eval_id"))
                    if spec is not None and evaluation is not None and row["seconds"]:
                        key = (*_like(spec), evaluation.get("task"), row["num_samples"], row["memory_size"])
                        targets[key].append(row["seconds"] / evaluation["targets"])
        self.seconds_per_update: Speeds = {key: statistics.median(values) for key, values in updates.items()}
        self.seconds_per_target: Speeds = {key: statistics.median(values) for key, values in targets.items()}

    def training(self, job: Job, device: torch.device, beside: Iterable[Job] = ()) -> float | None:
        """Seconds that a job will still train; None where the speed is unknown. The updates that it takes from its
        trunk are not counted again where that is one of the jobs `beside` it.
        """
        done, spent = (0, 0.0) if job.timed or job.restart else trained_before(job.train, device)
        if job.seconds is not None:
            return max(0.0, job.seconds - spent)
        speed = spent / done if done else self.seconds_per_update.get(_like(identity(job.train)))
        if not job.restart and branch_point(job.train, device) is not None:
            taken = [trunk.updates or 0 for trunk in beside if trunk.train == job.train.trunk]
            # from a trunk that goes further it takes nothing
            done = max([done, *(updates for updates in taken if updates <= (job.train.decay_from or 0))])
        if job.updates is None or done >= job.updates:
            return 0.0
        return None if speed is None else speed * (job.updates - done)

    def evaluation(self, left: Iterable[Asked]) -> float | None:
        """Seconds that the evaluation of cells will take; None where the speed of any is unknown."""
        total = 0.0
        for cell in {(cell.train, cell.eval): cell for _, cell in left}.values():
            row = cell.row()
            key = (*_like(identity(cell.train)), cell.eval.task, row["num_samples"], row["memory_size"])
            if key not in self.seconds_per_target:
                return None
            total += self.seconds_per_target[key] * cell.eval.targets
        return total


def _like(spec: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(spec.get(key) for key in ("model", "read", "network", "image_size"))


def words(seconds: float | None) -> str:
    """A duration for the eye."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
