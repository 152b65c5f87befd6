"""One job of a sweep in a process of its own: its JSON is the first line on stdin, which is open while it may run."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure, store, tasks
from benchmarks.cli import in_a_line
from benchmarks.jobs import TIMED, Job, expected, from_json, missing, recorded, restarts
from benchmarks.locks import locked
from benchmarks.sweep import TAIL_LINES, log_path, progress_path
from benchmarks.training import Trained, run_folder, train
from reports.command import one_line
from reports.runs import run_name
from vma.data import DataSet, load
from vma.errors import InputError
from vma.hardware import keep_freed_memory

Report = Callable[[str, int, int | None], None]  # phase, how much of it is done, of how much if that is known

WRITE_SECONDS = 1.0  # between two reports of progress


class Progress:
    """Writes how far a job is to its file, whole and at most once a second; a new phase at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phase, self.written = "", 0.0

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase == self.phase and now - self.written < WRITE_SECONDS:
            return
        if phase != self.phase:
            print(f"{phase}: {done} of {total}" if total else phase, flush=True)
        self.phase, self.written = phase, now
        store.write_text(self.path, json.dumps({"phase": phase, "done": done, "total": total}))


def main() -> int:
    """Do the job; 0, 1 (failed), 2 (bad input); training that is stopped exits by `Stopped`, all else by the signal."""
    keep_freed_memory()
    job = from_json(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}, process {os.getpid()}", flush=True)
    return attempt(job, Progress(progress_path(job.out, job.name)))


def attempt(job: Job, progress: Report) -> int:
    """`do`, with every expected failure as one line and an exit code."""
    try:
        do(job, progress)
    except Exception as error:
        code, line = in_a_line(error)
        print(one_line(line), flush=True)
        return code
    return 0


class Here(Executor):
    """Does each job in this process as soon as it is submitted: jobs that are shorter than the start of a process."""

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> "Future[Any]":
        """In the place of `run_job` with its line of JSON."""
        job = from_json(arguments[0])
        path = log_path(job.out, job.name)
        with path.open("a", encoding="utf-8") as log, redirect_stdout(log):
            code = attempt(job, lambda *_: None)
        future: Future[Any] = Future()
        future.set_result((code, path.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]))
        return future


def _stop_with_the_sweep() -> None:
    # os.read and not sys.stdin, whose lock a thread that waits would hold while the interpreter ends
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def do(job: Job, progress: Report) -> None:
    """Train or load, evaluate the cells that have no rows yet, and record them.

    Raises:
        InputError: if data, weights or an earlier state cannot be used.
        NonFiniteBound: if training breaks.
        Stopped: after SIGTERM while training, with the state saved.
    """
    progress("load", 0, None)
    device = torch.device(job.device)
    data = load(job.train.dataset, data=job.data, image_size=job.train.image_size, progress=False)
    with _only_one(job, progress):
        rows = recorded(job.out, job.experiments, job.since)  # another sweep may have made some meanwhile
        if job.timed:
            _measure_times(job, data, device, progress)
            return
        model = expected(job, data, device)
        if model is not None and not missing(job, rows, model, data, device):
            print("all cells have their rows", flush=True)
            return
        trained = _model(job, data, device, progress)
        print(f"{measure.describe(trained.spec)}: {trained.updates:,} updates", flush=True)
        _export_log(job, trained, device)
        _evaluate(job, trained, data, device, progress)
        if job.ship:
            measure.offer_weights(trained, data, job.out)


def _only_one(job: Job, progress: Report) -> AbstractContextManager[None]:
    """The lock that the job holds, so that no job on the same training and folder runs beside it."""
    lock = job.out / ".locks" / f"{TIMED if job.timed else job.train.run_id}.lock"
    return locked(lock, patience=1.0, waiting=lambda whom: progress(whom, 0, None))


def _model(job: Job, data: DataSet, device: torch.device, progress: Report) -> Trained:
    if job.updates is None and job.seconds is None:
        shipped = measure.shipped(job.train, data, device)
        if shipped is None:
            raise InputError(f"{measure.weights_path(job.train)} is gone since the sweep began: start it again")
        return shipped
    return train(
        job.train,
        data,
        device,
        updates=job.updates,
        seconds=job.seconds,
        restart=restarts(job, device),
        wait=True,  # a sweep on another folder may be training it
        progress=lambda done: progress("train", done, job.updates),
    )


def _export_log(job: Job, trained: Trained, device: torch.device) -> None:
    """Put the training log beside the rows, unless a longer one of the same run is there."""
    name = f"{run_name(trained.trained_as, trained.train_id)}.jsonl"
    source = store.ROOT / "results" / "training" / name
    if not trained.shipped:
        source = run_folder(trained.spec, device) / "metrics.jsonl"
    lines = [line for line in store.read_rows(source) if line["update"] <= trained.updates]
    target = job.out / "training" / name
    if lines and (job.restart or len(lines) >= len(store.read_rows(target))):
        store.write_text(target, "".join(json.dumps(line) + "\n" for line in lines))


def _evaluate(job: Job, trained: Trained, data: DataSet, device: torch.device, progress: Report) -> None:
    model = (trained.train_id, trained.updates)
    asked = missing(job, recorded(job.out, job.experiments, job.since), model, data, device)
    for name in job.experiments:
        cells = [cell for experiment, cell in asked if experiment == name]
        measure.take_over(job.out, name, trained, cells, data, job.since or 0)
    left = missing(job, recorded(job.out, job.experiments, job.since), model, data, device)
    # what several experiments ask for is evaluated once
    groups = tasks.unfinished(
        trained.model, {cell.eval: cell for _, cell in job.cells}.values(), {cell.eval for _, cell in left}
    )
    origin = store.provenance(device)
    for number, group in enumerate(groups, start=1):
        phase = f"evaluate {number}/{len(groups)}"
        results = tasks.evaluate_group(trained, group, data, device, partial(progress, phase))
        found = {result.cell.eval: result for result in results}
        for name in job.experiments:
            own = [
                replace(found[cell.eval], cell=cell)
                for experiment, cell in left
                if experiment == name and cell.eval in found
            ]
            if own:
                measure.record(job.out, name, trained, own, data, origin)


def _measure_times(job: Job, data: DataSet, device: torch.device, progress: Report) -> None:
    rows = recorded(job.out, job.experiments, job.since)
    left = missing(job, rows, None, data, device)
    origin = store.provenance(device)
    for name in job.experiments:
        cells = [cell for experiment, cell in left if experiment == name]
        for trained, result in tasks.time_updates(cells, data, device, partial(progress, "measure time")):
            measure.record(job.out, name, trained, [result], data, origin)


if __name__ == "__main__":
    sys.exit(main())
