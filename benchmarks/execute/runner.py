"""A job, from its training to its rows: the one way, whichever process it is done in."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.declare.spec import Cell
from benchmarks.plan.cli import in_a_line
from benchmarks.plan.jobs import TIMED, Job, expected, job_name, missing, recorded, restarts, takes_shipped
from benchmarks.record import evaluated, store
from benchmarks.record.evaluated import Trained
from benchmarks.record.locks import locked
from benchmarks.runs import clock, tasks, weights
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from reports.command import one_line
from reports.runs import run_name
from vma.data import DataSet, load
from vma.errors import InputError

Report = Callable[[str, int, int | None], None]  # phase, how much of it is done, of how much if that is known


def attempt(job: Job, progress: Report) -> int:
    """`do`, with every expected failure as one line and an exit code."""
    try:
        do(job, progress)
    except Exception as error:
        code, line = in_a_line(error)
        print(one_line(line), flush=True)
        return code
    return 0


def here(
    experiment: str,
    cells: Sequence[Cell],
    data: DataSet,
    device: torch.device,
    out: Path,
    *,
    since: int | None,
    trained: Trained | None = None,
    updates: int | None = None,
    seconds: float | None = None,
    restart: bool = False,
) -> tuple[tuple[str, int], list[dict[str, Any]]]:
    """Do the job of some cells of one training in this process, with bars; the train_id and updates of the model, and
    the rows of the cells.

    Args:
        trained: the model, where it is at hand; else it is taken or trained as in a sweep: the shipped one unless
            `updates` are asked for, or trained for `updates`, or `seconds` in all.
        since: seconds since 1970; rows that are older do not count.

    Raises:
        As `do`.
    """
    asked = tuple((experiment, cell) for cell in dict.fromkeys(cells))
    job = Job(
        job_name(cells[0]), asked, out.absolute(), str(device), restart=restart, ship=trained is None, since=since
    )
    if trained is None and not takes_shipped(job, updates, data, device):
        job = replace(job, updates=updates, seconds=None if updates else seconds)
    with tqdm(desc=f"evaluate {job.train.name}", unit="episode") as bar:

        def progress(phase: str, done: int, total: int | None) -> None:
            if phase.startswith("evaluate"):
                bar.total, bar.n = total, done
                bar.set_postfix_str(phase.partition(" ")[2], refresh=False)
                bar.refresh()
            elif total is None and phase not in ("load", "train"):  # it waits
                bar.write(phase)

        model = do(job, progress, data, trained)
    assert model is not None
    rows = store.read_rows(job.out / f"{experiment}.jsonl")
    return model, [row for _, cell in asked for row in evaluated.stored(rows, cell, model, data, since or 0)]


def do(
    job: Job, progress: Report, data: DataSet | None = None, trained: Trained | None = None
) -> tuple[str, int] | None:
    """Train or load, evaluate the cells that have no rows yet, and record them.

    Args:
        job: what to do.
        progress: told what is being done, and how much of it.
        data: the data set, where it is at hand.
        trained: the model, likewise.

    Returns:
        The train_id and the updates of the model; None where time is measured.

    Raises:
        InputError: if data, weights or an earlier state cannot be used.
        NonFiniteBound: if training breaks.
        Stopped: after SIGTERM while training, with the state saved.
    """
    progress("load", 0, None)
    device = torch.device(job.device)
    if data is None:
        data = load(job.train.dataset, data=job.data, image_size=job.train.image_size, progress=False)
    with _only_one(job, progress):
        rows = recorded(job.out, job.experiments, job.since)  # another sweep may have made some meanwhile
        if job.timed:
            _measure_times(job, data, device, progress)
            return None
        model = expected(job, data, device) if trained is None else (trained.train_id, trained.updates)
        if model is not None and not missing(job, rows, model, data, device):
            print(f"{job.train.name}: all cells have their rows", flush=True)
            return model
        if trained is None:
            trained = _model(job, data, device, progress)
            _export_log(job, trained, device)
        _evaluate(job, trained, data, device, progress)
        if job.ship:
            weights.offer_weights(trained, data, job.out)
        return trained.train_id, trained.updates


def _only_one(job: Job, progress: Report) -> AbstractContextManager[None]:
    """The lock that the job holds, so that no job on the same training and folder runs beside it."""
    lock = job.out / ".locks" / f"{TIMED if job.timed else job.train.run_id}.lock"
    return locked(lock, patience=1.0, waiting=lambda whom: progress(whom, 0, None))


def _model(job: Job, data: DataSet, device: torch.device, progress: Report) -> Trained:
    name, folder = job.train.name, run_folder(job.train, device)
    if job.updates is None and job.seconds is None:
        shipped = weights.shipped(job.train, data, device)
        if shipped is None:
            raise InputError(f"{weights.weights_path(job.train)} is gone since the sweep began: start it again")
        print(f"{name}: shipped weights, {shipped.updates:,} updates", flush=True)
        return shipped
    limit = f"{job.updates:,} updates" if job.seconds is None else f"{job.seconds / 60:.1f} minutes in all"
    print(f"{name}: no shipped weights used; training for {limit}, with pictures in {folder}", flush=True)
    trained = train(
        job.train,
        data,
        device,
        updates=job.updates,
        seconds=job.seconds,
        restart=restarts(job, device),
        wait=True,  # a sweep on another folder may be training it
        progress=lambda done: progress("train", done, job.updates),
    )
    if job.updates is not None and trained.updates > job.updates:
        print(f"{name}: an earlier start made more updates than {job.updates:,}; --from-scratch forgets it")
    state = folder / "checkpoint.safetensors"
    print(f"{name}: {trained.updates:,} updates in {trained.seconds / 60:.1f} minutes, in {state}", flush=True)
    return trained


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
        evaluated.take_over(job.out, name, trained, cells, data, job.since or 0)
    left = missing(job, recorded(job.out, job.experiments, job.since), model, data, device)
    # what several experiments ask for is evaluated once
    every = {cell.eval: cell for _, cell in job.cells}.values()
    groups = tasks.unfinished(trained.model, every, {cell.eval for _, cell in left})
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
                evaluated.record(job.out, name, trained, own, data, origin)


def _measure_times(job: Job, data: DataSet, device: torch.device, progress: Report) -> None:
    left = missing(job, recorded(job.out, job.experiments, job.since), None, data, device)
    origin = store.provenance(device)
    for name in job.experiments:
        cells = [cell for experiment, cell in left if experiment == name]
        for trained, result in clock.time_updates(cells, data, device, partial(progress, "measure time")):
            evaluated.record(job.out, name, trained, [result], data, origin)
