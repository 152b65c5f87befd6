"""Any declared experiments: train or load, evaluate what has no rows yet, several runs at a time."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks import memory_size
from benchmarks.declare import own_model
from benchmarks.declare.experiments import EXPERIMENTS, smoke
from benchmarks.declare.spec import MOST_SAMPLES, MOST_SEED
from benchmarks.execute.sweep import ExecutorLost, Failure, Here, check_executor, log_path, open_executor, run_jobs
from benchmarks.plan.cli import check_option, check_writable, resolve_device, run_command
from benchmarks.plan.estimate import Measured, words
from benchmarks.plan.jobs import Asked, Job
from benchmarks.plan.selection import (
    OUT,
    Data,
    Options,
    Plan,
    chosen,
    default_jobs,
    fillable,
    left_of,
    planned,
    resolved,
)
from benchmarks.record import store
from benchmarks.runs.states import other_settings, state_before, trained_before
from benchmarks.runs.training import Stopped
from reports import tables
from vma.errors import InputError

SMOKE_OUT = Path("smoke")
MOST_JOBS, MOST_RETRIES = 1000, 1000


def run(options: Options) -> None:
    names = check(options)
    started = int(time.time())
    if options.smoke and options.out == OUT:
        options = replace(options, out=SMOKE_OUT)
    options = replace(options, out=options.out.absolute(), threads=options.threads or 1)
    device = resolve_device(options)
    experiments = [smoke(EXPERIMENTS[name]()) if options.smoke else EXPERIMENTS[name]() for name in names]
    if options.model is not None:
        experiments = own_model.experiments(experiments, options.model)
    found = Data(options)
    declared = [asked for experiment in experiments for asked in resolved(experiment, options, found, device)]
    cells = fillable(chosen(declared, options.only), found)
    notes = found.notes + ["SMOKE RUN: ITS NUMBERS SAY NOTHING"] * options.smoke
    for note in notes:
        print(f"{note}.")
    since = started if options.again or options.from_scratch else None
    at_once = 1 if in_process(options) else options.jobs or default_jobs(device, options.threads or 1)
    planned_jobs = planned(cells, options, found, device, since, at_once)
    plans = [left_of(job, found.of(job.train), device) for job in planned_jobs]
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
    left = [asked for job in jobs if job.name in failed for asked in left_of(job, found.of(job.train), device).left]
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
        (options.ship and options.model, "--ship puts weights beside the suite's own: leave it out with --model"),
        (options.smoke and (options.dataset or options.image_size), "--smoke has data of its own: leave out --dataset"),
        (options.smoke and options.minutes, "--smoke has few updates: leave out --minutes"),
        (options.smoke and options.out.resolve() == real, f"--smoke writes no rows to {real}: give another --out"),
        (remote and options.jobs, "--jobs: how many runs at a time a cluster does is up to its workers"),
    ):
        if wrong:
            raise InputError(words_)
    return list(EXPERIMENTS) if "all" in options.names else list(dict.fromkeys(options.names))


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
