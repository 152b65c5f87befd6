"""Same science: the few-shot model trained on the fast path and on the reference path, from the same seeds.

Both see the same episodes and start from the same weights; after a few updates rounding makes them different runs of
one distribution, so what is compared is the validation NLL over several seeds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.declare.experiments import scaling_training
from benchmarks.declare.spec import MOST_SAMPLES, MOST_SEED, MOST_UPDATES, TrainSpec
from benchmarks.plan.cli import (
    EvaluationOptions,
    check_option,
    check_writable,
    open_data,
    resolve_device,
    resolve_spec,
    run_command,
    warning,
)
from benchmarks.record.evaluated import Trained
from benchmarks.record.store import write_text
from benchmarks.runs.build import DTYPES
from benchmarks.runs.episodes import validation_episodes
from benchmarks.runs.training import train
from vma.data import DataSet
from vma.errors import InputError
from vma.evaluation import Scores, evaluate


@dataclass(frozen=True)
class Options(EvaluationOptions):
    """Train on both paths, compare the validation NLL: paths.csv, a line for each run, and a table."""

    updates: int = 2000
    """Of each run; a run goes on from earlier updates."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run on each path for each."""
    targets: int = 1024
    """Validation targets, the same for both runs of a seed."""


def run(options: Options) -> None:
    check_option("--updates", options.updates, 1, MOST_UPDATES)
    check_option("--targets", options.targets, 1, MOST_SAMPLES)
    check_option("--seeds", options.seeds, 0, MOST_SEED)
    if len(set(options.seeds)) < len(options.seeds):
        raise InputError(f"--seeds is {' '.join(map(str, options.seeds))}, must be different numbers")
    if options.reference:
        raise InputError("both paths are run: leave out --reference")
    device = resolve_device(options)
    data, _ = open_data(options, "omniglot45_5")
    check_writable(options.out)
    lines, scores = [], {}
    for seed in options.seeds:
        fast = resolve_spec(scaling_training(), options, data, device, seed)
        for path, spec in (("fast", fast), ("reference", replace(fast, path="reference", dtype="float32"))):
            trained = train(spec, data, device, updates=options.updates)
            scores[path, seed] = _validation(trained, data, device, options.targets)
            lines.append(_line(path, trained, scores[path, seed]))
    frame = pd.DataFrame(lines)
    write_text(options.out / "paths.csv", frame.to_csv(index=False, lineterminator="\n"))
    print("\n" + "\n".join(report(scores, options.seeds)))
    print(*warning(data), f"Wrote {options.out / 'paths.csv'}.", sep=". ")


def _validation(trained: Trained, data: DataSet, device: torch.device, targets: int) -> Scores:
    """The bound of validation targets, by the path that the model was trained on."""
    spec = trained.spec
    steps = range(-(-targets // spec.episode.num_targets))
    episodes = validation_episodes(spec, data, device)
    return evaluate(trained.model, episodes, steps, spec.num_samples, dtype=DTYPES[spec.dtype])


def _line(path: str, trained: Trained, scores: Scores) -> dict[str, Any]:
    spec: TrainSpec = trained.spec
    nll, stderr = scores.summary("nll", by_class=True)
    return {
        "path": path,
        "seed": spec.seed,
        "updates": trained.updates,
        "nll": nll,
        "stderr": stderr,
        "kl_a": scores.summary("kl_a", by_class=True)[0],
        "kl_z": scores.summary("kl_z", by_class=True)[0],
        "n": len(scores),
        "dataset": spec.dataset,
        "dtype": spec.dtype,
        "threads": spec.threads,
        "seconds": round(trained.seconds),
        "train_id": trained.train_id,
        "commits": " ".join(trained.commits),
    }


def report(scores: dict[tuple[str, int], Scores], seeds: Sequence[int]) -> list[str]:
    """A markdown table of the NLL by seed, and the mean difference with the standard error that the seeds give."""
    lines = ["| seed | fast | reference | fast - reference |", "| --- | --- | --- | --- |"]
    nll = np.array([[scores[path, seed].nll.mean() for path in ("fast", "reference")] for seed in seeds])
    differences = nll[:, 0] - nll[:, 1]
    lines += [
        f"| {seed} | {one:.2f} | {other:.2f} | {one - other:+.2f} |"
        for seed, (one, other) in zip(seeds, nll, strict=True)
    ]
    if len(seeds) > 1:
        error = differences.std(ddof=1) / np.sqrt(len(seeds))
        spread = nll.std(axis=0, ddof=1)
        lines += [
            f"| mean | {nll[:, 0].mean():.2f} | {nll[:, 1].mean():.2f} | {differences.mean():+.2f} ± {error:.2f} |",
            "",
            f"Standard deviation between seeds: fast {spread[0]:.2f}, reference {spread[1]:.2f} nats.",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(run_command(Options, run, "benchmarks.compare_paths"))
