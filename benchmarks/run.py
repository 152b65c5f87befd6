"""Any declared experiments: train or load, evaluate what has no rows yet, several runs at a time."""

import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro

from benchmarks import measure, memory_size, store
from benchmarks.cli import (
    TrainingOptions,
    check_option,
    check_writable,
    resolve_device,
    resolve_spec,
    run_command,
    warning,
)
from benchmarks.estimate import Measured, words
from benchmarks.experiments import EXPERIMENTS, STAND_INS, Experiment, smoke
from benchmarks.fill import TooFew, possible
from benchmarks.jobs import TIMED, Asked, Job, expected, grouped, missing, recorded
from benchmarks.spec import MOST_SAMPLES, MOST_SEED, Cell, TrainSpec
from benchmarks.sweep import ExecutorLost, Failure, check_executor, log_path, open_executor, run_jobs
from benchmarks.training import Stopped, other_settings, state_before, trained_before
from benchmarks.worker import Here
from reports import tables
from vma.data import DataSet, load
from vma.errors import DataUnavailable, InputError

OUT, SMOKE_OUT = Path("reproduced"), Path("smoke")
MOST_JOBS, MOST_RETRIES = 1000, 1000


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


def run(options: Options) -> None:
    names = check(options)
    started = int(time.time())
    if options.smoke and options.out == OUT:
        options = replace(options, out=SMOKE_OUT)
    options = replace(options, out=options.out.absolute(), threads=options.threads or 1)
    device = resolve_device(options)
    experiments = [smoke(EXPERIMENTS[name]()) if options.smoke else EXPERIMENTS[name]() for name in names]
    found = Data(options)
    declared = [asked for experiment in experiments for asked in resolved(experiment, options, found, device)]
    cells = fillable(chosen(declared, options.only), found)
    notes = found.notes + ["SMOKE RUN: ITS NUMBERS SAY NOTHING"] * options.smoke
    for note in notes:
        print(f"{note}.")
    since = started if options.again or options.from_scratch else None
    at_once = 1 if in_process(options) else options.jobs or default_jobs(device, options.threads or 1)
    planned_jobs = planned(cells, options, found, device, since, at_once)
    plans = [plan(job, found.of(job.train), device) for job in planned_jobs]
    if options.dry_run:
        print(dry_run(plans, device, options.out, at_once))
        return
    jobs = [part.job for part in plans if part.left]
    print(f"{len(plans)} runs, {len(plans) - len(jobs)} of them done already; {at_once} at a time, to {options.out}")
    check_writable(options.out)
    for job in jobs:
        trains = not (job.timed or job.restart) and (job.updates is not None or job.seconds is not None)
        if trains and (moved := other_settings(state_before(job.train, device)[0], job.train)):
            print(f"{job.name}: {moved}")
    failures = sweep(jobs, options, at_once) if jobs else []
    failed = [failure.job.name for failure in failures]
    left = [asked for job in jobs if job.name in failed for asked in plan(job, found.of(job.train), device).left]
    print(summary(cells, left, options.out))
    print(*notes, f"Wrote {options.out}; tables and figures: python -m reports --results {options.out}", sep=". ")
    if failures:
        report(failures)
        raise SystemExit(1)


def check(options: Options) -> list[str]:
    """The names of the experiments.

    Raises:
        InputError: for an unknown name, a number out of its range, or options that contradict each other.
    """
    known = f"one or more of {', '.join(EXPERIMENTS)}, or all"
    for name in options.names:
        if name == "memory-size":
            raise InputError("memory-size is run alone, and its name comes first: python -m benchmarks.run memory-size")
        if name not in EXPERIMENTS and name != "all":
            raise InputError(f"{name!r} is no experiment: give {known}")
    if not options.names:
        raise InputError(f"no experiment is named: give {known}")
    check_option("--seeds", options.seeds, 0, MOST_SEED)
    check_option("--targets", options.targets, 2, MOST_SAMPLES)  # an error needs two
    check_option("--jobs", options.jobs, 1, MOST_JOBS)
    check_option("--retries", options.retries, 0, MOST_RETRIES)
    check_executor(options.executor)
    remote = options.executor.startswith("dask://")
    real = store.ROOT / "results"
    for wrong, words_ in (
        (options.updates and options.minutes, "--updates and --minutes: give one of them"),
        (options.minutes and len(options.seeds) > 1, "--minutes with several --seeds: give --updates, equal for all"),
        (options.ship and options.out.resolve() != real, f"--ship puts weights into {real}: give --out results"),
        (options.smoke and (options.dataset or options.image_size), "--smoke has data of its own: leave out --dataset"),
        (options.smoke and options.minutes, "--smoke has few updates: leave out --minutes"),
        (options.smoke and options.out.resolve() == real, f"--smoke writes no rows to {real}: give another --out"),
        (remote and options.jobs, "--jobs: how many runs at a time a cluster does is up to its workers"),
    ):
        if wrong:
            raise InputError(words_)
    return list(EXPERIMENTS) if "all" in options.names else list(dict.fromkeys(options.names))


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
        own_size = name == "strokes" or name.startswith("folder:")  # which have none: that of the declared images
        try:
            return load(name, data=options.data, image_size=options.image_size or (size if own_size else None))
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
    to_train = [job for job in jobs if not job.timed and not _is_shipped(job, options, found, device)]
    if options.minutes is not None:
        share = options.minutes * 60 * at_once / max(1, len(to_train))
        trained = {job.name: replace(job, seconds=share) for job in to_train}
    else:
        trained = {job.name: replace(job, updates=options.updates or _declared_updates(job)) for job in to_train}
    return [trained.get(job.name, job) for job in jobs]


def _is_shipped(job: Job, options: Options, found: Data, device: torch.device) -> bool:
    if options.updates is not None or options.from_scratch:
        return False
    return measure.shipped(job.train, found.of(job.train), device) is not None


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


def plan(job: Job, data: DataSet, device: torch.device) -> Plan:
    """What is left of a job.

    Raises:
        InputError: if shipped weights or a file of rows are damaged.
    """
    model = None if job.timed else expected(job, data, device)
    return Plan(job, model, missing(job, recorded(job.out, job.experiments, job.since), model, data, device))


def dry_run(plans: Sequence[Plan], device: torch.device, out: Path, at_once: int) -> str:
    """What would run as a table: cells and updates done, and the time for the rest from measured speeds."""
    measured = Measured(dict.fromkeys((store.ROOT / "results", out)))
    lines = []
    parts: list[float | None] = []
    running = [plan.job for plan in plans if plan.left]
    for plan in plans:
        job = plan.job
        done = 0 if job.timed or job.restart else trained_before(job.train, device)[0]
        if job.updates is not None:
            updates = f"{done:,}/{job.updates:,}"
        elif job.seconds is not None:
            updates = f"{done:,}, {words(job.seconds)} in all"
        else:
            updates = f"{plan.model[1]:,} shipped" if plan.model is not None else "-"
        times = [measured.training(job, device, running), measured.evaluation(plan.left)] if plan.left else [0.0, 0.0]
        parts += times
        cells = f"{len(job.cells) - len(plan.left)}/{len(job.cells)}"
        lines.append([job.name, what(job), " ".join(job.experiments), cells, updates, *map(words, times)])
    grid = pd.DataFrame(lines, columns=["run", "of", "experiments", "cells", "updates", "training", "evaluation"])
    known = words(sum(part for part in parts if part is not None) / at_once)
    total = f"at least {known}, since some speeds were never measured" if None in parts else known
    return f"{tables.text(grid, f'Done and to be done, to {out}:')}\nTime in all, {at_once} runs at a time: {total}."


def what(job: Job) -> str:
    """What a job trains, in a few words."""
    if job.timed:
        return "times"
    spec = job.train
    episode = spec.episode
    memory: str | None
    if spec.learned_entries is not None:
        memory = f"{spec.learned_entries} learned"
    elif spec.model == "vae":
        memory = None
    elif episode.protocol == "per_class":
        memory = f"{episode.classes} x {episode.shots}"
    else:
        memory = f"{episode.num_entries} {episode.protocol}"
    change = next((cell.variant for _, cell in job.cells if cell.variant not in (None, "control", "k")), None)
    network = None if spec.network == "paper" else spec.network
    seed = f"seed {spec.seed}" if spec.seed else None
    parts = (spec.dataset, network, spec.recipe, change, spec.read, memory, seed)
    return ", ".join(part for part in parts if part)


def in_process(options: Options) -> bool:
    """Whether jobs are so short that processes of their own would take most of the time."""
    return options.smoke and options.jobs is None and options.executor == "local"


def sweep(jobs: Sequence[Job], options: Options, at_once: int) -> list[Failure]:
    """Run the jobs under the executor of the options.

    Raises:
        InputError: if that executor is not to be had.
        SystemExit: with 1 if it is lost.
        Stopped: after a signal, once the jobs have saved their state.
    """
    try:
        opened = Here() if in_process(options) else open_executor(options.executor, at_once)
        with opened as executor:
            return run_jobs(jobs, executor, options.retries, options.out)
    except ExecutorLost as error:
        print(f"error: {error}; states of training and rows are kept: start it again, and then this", file=sys.stderr)
        raise SystemExit(1) from None
    except Stopped:
        print("stopped; states of training and rows are kept, and the same command continues", file=sys.stderr)
        raise


def summary(cells: Sequence[Asked], left: Sequence[Asked], out: Path) -> str:
    """How many cells of each experiment are done, and how many rows its file has."""
    lines = []
    for name in dict.fromkeys(experiment for experiment, _ in cells):
        asked, undone = (sum(experiment == name for experiment, _ in part) for part in (set(cells), left))
        path = out / f"{name}.jsonl"
        lines.append([name, f"{asked - undone}/{asked}", len(store.read_rows(path)), path])
    return tables.text(pd.DataFrame(lines, columns=["experiment", "cells", "rows", "file"]), "What there is now:")


def report(failures: Sequence[Failure]) -> None:
    """Print each failed job with the end of its log."""
    for failure in failures:
        job = failure.job
        print(
            f"error: {job.name} ({', '.join(job.experiments)}) failed with exit code {failure.code} after "
            f"{failure.attempts} attempt{'s' * (failure.attempts > 1)}; the end of {log_path(job.out, job.name)}:",
            *(f"  {line}" for line in failure.tail),
            sep="\n",
            file=sys.stderr,
        )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["memory-size"]:
        return memory_size.main(arguments[1:])
    return run_command(Options, run, "benchmarks.run", arguments)


if __name__ == "__main__":
    sys.exit(main())
