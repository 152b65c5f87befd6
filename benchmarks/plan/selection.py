"""From the declared experiments and a sweep's options to jobs: on which data, which cells, and what is left of each."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.declare.experiments import EXPERIMENTS, STAND_INS, Experiment
from benchmarks.declare.spec import Cell, TrainSpec
from benchmarks.plan.cli import TrainingOptions, at_any_size, resolve_spec, warning
from benchmarks.plan.fill import TooFew, possible
from benchmarks.plan.jobs import TIMED, Asked, Job, expected, grouped, missing, recorded, takes_shipped
from vma.data import DataSet, load
from vma.errors import DataUnavailable, InputError

OUT = Path("reproduced")


def _described(name: str) -> str:
    experiment = EXPERIMENTS[name]()
    return f"{name} ({experiment.paper}): {experiment.what}"


@dataclass(frozen=True)
class Options(TrainingOptions):
    """Run experiments of the paper by their names, or `all`; what has its rows in --out is skipped.

    Takes the trained weights that the project ships, or trains. Each run is a process of its own; one that fails is
    tried again and goes on from its last checkpoint. `memory-size` is a sweep of one trained model, with options of
    its own: python -m benchmarks.run memory-size --help.
    """

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME ...", help=f"{'; '.join(map(_described, EXPERIMENTS))}. Or all."),
    ] = ()
    model: str | None = None
    """A model of your own in VMA's place, package.module:factory, in each cell that it fits: docs/extending.md."""
    smoke: bool = False
    """The same experiments on built-in characters with tiny networks, in a minute, in this process unless --jobs or
    --executor are given; their numbers say nothing.
    """
    minutes: float | None = None
    """Train, where there are no weights, for this many minutes in all, in equal parts, --jobs at a time (default: the
    declared numbers of updates).
    """
    seeds: tuple[int, ...] = (0,)
    """Of initial weights, training episodes and samples: each makes runs of its own. Evaluation has a seed of its own,
    so that all runs share their targets.
    """
    targets: int | None = None
    """At most this many test targets in each cell (default: as declared)."""
    stand_ins: bool = False
    """Where a data set can be had from nowhere, take the one that stands in for it, and say so."""
    threads: int | None = None
    """CPU threads of each run (default: 1)."""
    jobs: int | None = None
    """Runs at a time (default: on the CPU as many as keep it busy, else 1)."""
    executor: str = "local"
    """local; dask, a cluster in this process; or dask://HOST:PORT, a scheduler. It and its workers need vma, the data
    and --out on a file system that they share; and TLS in dask's configuration if it is on another machine.
    """
    ship: bool = False
    """With --out results: put the trained weights there too, in half precision, for all commands to take."""
    only: tuple[str, ...] = ()
    """Only these of the runs that --dry-run lists, such as vma-4cf0dec30163."""
    retries: int = 2
    """How often a run that failed is tried again."""
    dry_run: bool = False
    """Print what would run, what is done and how long the rest will take; run nothing."""
    out: Path = OUT
    """Folder for rows, logs and per-target values (default: reproduced, with --smoke smoke)."""


class Data:
    """The data sets of a sweep: the declared ones or what the options put in their place, each loaded once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.sets: dict[tuple[str, int], DataSet] = {}  # by declared name and size
        self.notes: list[str] = []  # what is to be said loudly

    def declared(self, spec: TrainSpec) -> DataSet:
        """The data set for a declared training.

        Raises:
            DataUnavailable: if it can be had from nowhere, and the options allow nothing in its place.
            InputError: for an unknown name or data that are not what they should be.
        """
        key = (spec.dataset, spec.image_size)
        if key not in self.sets:
            self.sets[key] = self._load(self.options.dataset or spec.dataset, spec.image_size)
            for note in warning(self.sets[key]):
                self._note(note)
        return self.sets[key]

    def of(self, spec: TrainSpec) -> DataSet:
        """The data set that a resolved training names."""
        return next(
            data
            for data in self.sets.values()
            if data.name == spec.dataset and data.image_size == (spec.image_size, spec.image_size)
        )

    def _load(self, name: str, size: int) -> DataSet:
        options = self.options
        try:  # data of any size take that of the declared images
            return load(name, data=options.data, image_size=options.image_size or (size if at_any_size(name) else None))
        except DataUnavailable as error:
            if options.stand_ins and name in STAND_INS:
                found = self._load(STAND_INS[name], size)
                self._note(f"{found.name} STANDS IN FOR {name}, which can be had from nowhere")
                return found
            if options.fallback is not None:
                self._note(f"{name} can be had from nowhere ({error})")
                return self._load(options.fallback, size)
            if name in STAND_INS:
                words_ = f"{error}; --stand-ins takes {STAND_INS[name]} in its place"
                raise DataUnavailable(words_, error.attempts) from None
            raise

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def resolved(experiment: Experiment, options: Options, found: Data, device: torch.device) -> list[Asked]:
    """The cells of an experiment with the seeds, data, precision, threads, targets and updates of the options."""
    cells = []
    for cell in experiment.cells:
        data = found.declared(cell.train)
        targets = min(cell.eval.targets, options.targets or cell.eval.targets)
        for seed in options.seeds:
            try:
                train = resolve_spec(cell.train, options, data, device, seed)
            except TooFew as error:
                warnings.warn(f"{experiment.name}: cells are left out: {error}", stacklevel=2)
                continue
            evaluation = replace(cell.eval, targets=targets, dtype=train.dtype, threads=train.threads)
            cells.append((experiment.name, Cell(train, evaluation, cell.updates, cell.variant)))
    return cells


def chosen(cells: Sequence[Asked], only: Sequence[str]) -> Sequence[Asked]:
    """The cells of the runs with these names; all if none is given.

    Raises:
        InputError: for a name that no run has.
    """
    if not only:
        return cells
    runs = grouped(cells)
    # rows name a run by its train_id
    trained = {name: part[0][1].train for name, part in runs.items() if name != TIMED}
    by_row = {f"{train.model}-{train.train_id}": name for name, train in trained.items()}
    only = [by_row.get(name, name) for name in only]
    unknown = [name for name in only if name not in runs]
    if unknown:
        raise InputError(
            f"--only {unknown[0]!r} is no run of these experiments: --dry-run, without --only, lists what they have"
        )
    return [asked for name in dict.fromkeys(only) for asked in runs[name]]


def fillable(cells: Sequence[Asked], found: Data) -> list[Asked]:
    """The cells that their data can fill (`fill.possible`).

    Raises:
        InputError: if there are none.
    """
    if not cells:
        raise InputError("the data can fill none of these experiments: give others, or --train-shots and the like")
    kept: set[Cell] = set()
    for data in found.sets.values():
        if own := list(dict.fromkeys(cell for _, cell in cells if found.of(cell.train) is data)):
            kept.update(possible(own, data))
    return [asked for asked in cells if asked[1] in kept]


def planned(
    cells: Sequence[Asked], options: Options, found: Data, device: torch.device, since: int | None, at_once: int
) -> list[Job]:
    """The jobs of a sweep, whether done or not; minutes are shared by the trainings, `at_once` of which run at a
    time.
    """
    jobs = [
        Job(
            name,
            tuple(part),
            options.out,
            str(device),
            None if options.data is None else options.data.absolute(),
            restart=options.from_scratch,
            ship=options.ship,
            since=since,
        )
        for name, part in grouped(cells).items()
    ]
    # a run that goes on from another's state would wait for that one
    jobs.sort(key=lambda job: job.train.trunk is not None)
    to_train = [
        job for job in jobs if not (job.timed or takes_shipped(job, options.updates, found.of(job.train), device))
    ]
    if options.minutes is not None:
        share = options.minutes * 60 * at_once / max(1, len(to_train))
        trained = {job.name: replace(job, seconds=share) for job in to_train}
    else:
        trained = {job.name: replace(job, updates=options.updates or _declared_updates(job)) for job in to_train}
    return [trained.get(job.name, job) for job in jobs]


def _declared_updates(job: Job) -> int:
    return max(cell.updates for _, cell in job.cells if cell.updates is not None)


def default_jobs(device: torch.device, threads: int) -> int:
    """Runs at a time: as many as the CPU's cores are busy with; on an accelerator one."""
    if device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


@dataclass(frozen=True)
class Plan:
    """A job, the model that it will evaluate as far as that is known, and its cells that have no rows yet."""

    job: Job
    model: tuple[str, int] | None
    left: Sequence[Asked]


def left_of(job: Job, data: DataSet, device: torch.device) -> Plan:
    """What is left of a job.

    Raises:
        InputError: if shipped weights or a file of rows are damaged.
    """
    model = None if job.timed else expected(job, data, device)
    return Plan(job, model, missing(job, recorded(job.out, job.experiments, job.since), model, data, device))
