"""A free sweep: any trained model against any number of classes, examples and memory entries, on any data set; its NLL,
or how well it tells the classes apart.
"""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from benchmarks.declare.spec import MOST_SAMPLES, Cell, EvalSpec
from benchmarks.execute.runner import here
from benchmarks.plan.cli import (
    EvaluationOptions,
    check_option,
    check_writable,
    open_data_for,
    resolve_device,
    resolve_dtype,
    resolve_threads,
    run_command,
    warning,
)
from benchmarks.plan.fill import possible
from benchmarks.runs.tasks import RULES
from benchmarks.runs.weights import spec_at, trained_at
from reports import tables
from vma.data.episodes import MOST, EpisodeSpec
from vma.errors import InputError
from vma.pretrained import weights_file


@dataclass(frozen=True)
class Options(EvaluationOptions):
    """Evaluate one trained model over classes x examples x memory sizes.

    Writes rows (memory-size.jsonl) and per-target values to --out, and prints the table.
    """

    checkpoint: Path | None = None
    """Trained weights: a name of those that come with the project, as vma-fewshot; or a file, as a run's
    checkpoint.safetensors. Required.
    """
    classes: tuple[int, ...] = (8,)
    """Numbers of classes in memory."""
    shots: tuple[int, ...] = (4,)
    """Examples of each class."""
    memory_size: tuple[int, ...] = ()
    """Entries that are left of classes x shots, drawn at random, one of each class among them (default: all)."""
    num_samples: int = 4
    """K."""
    targets: int = 1000
    """Test targets, the same in all cells."""
    protocol: Literal["per_class", "gmn"] = "per_class"
    """per_class: that many examples of each class, without the target. gmn: that many in total, drawn with replacement.
    """
    classify: bool = False
    """Classify the targets instead of scoring them: by q(a|x), by likelihood, and with entries shifted by a pixel."""


def run(options: Options) -> None:
    if options.checkpoint is None:
        raise InputError("--checkpoint is needed: a name such as vma-fewshot, or a file of weights")
    check_option("--classes", options.classes, 1, MOST)
    check_option("--shots", options.shots, 1, MOST)
    check_option("--memory-size", options.memory_size or None, 1, MOST)
    check_option("--num-samples", options.num_samples, 1, MOST_SAMPLES)
    check_option("--targets", options.targets, 2, MOST_SAMPLES)  # an error needs two
    if options.reference:
        raise InputError("memory-size evaluates on the fast path: leave out --reference")
    device = resolve_device(options)
    path = weights_file(options.checkpoint)
    spec = spec_at(path)
    if spec.learned_entries:
        raise InputError(f"{path} has a learned memory, whose size is part of the model: give another")
    data = open_data_for(options, spec)
    trained = trained_at(path, device)
    spec = replace(spec, dataset=data.name, dtype=resolve_dtype(options, device), threads=resolve_threads(options))
    cells = []
    if spec.model == "vae" and len(options.classes) * len(options.shots) * max(1, len(options.memory_size)) > 1:
        raise InputError("a plain VAE has no memory to sweep over: give one of --classes, --shots and --memory-size")
    for classes, shots, size in itertools.product(options.classes, options.shots, options.memory_size or (None,)):
        episode = EpisodeSpec(options.protocol, classes, targets_per_class=1, shots=shots, target_classes=1)
        if size is not None and not classes <= size <= episode.num_entries:
            raise InputError(
                f"--memory-size is {size}, must lie between the {classes} classes and their {episode.num_entries} "
                "entries"
            )
        evaluation = EvalSpec(
            episode,
            options.num_samples,
            options.targets,
            memory_size=None if size == episode.num_entries else size,
            dtype=spec.dtype,
            threads=spec.threads,
        )
        cells += [Cell(spec, replace(evaluation, task=task)) for task in (RULES if options.classify else (None,))]
    cells = possible(cells, data, train=False)
    check_writable(options.out)
    since = int(time.time()) if options.again else None
    _, rows = here("memory-size", cells, data, device, options.out, trained=trained, since=since)
    what = "Accuracy of few-shot classification, %," if options.classify else "Test NLL in nats (lower is better)"
    title = (
        f"{'. '.join(['Memory size', *warning(data)])}. {what} of {spec.name} after {trained.updates:,} updates, "
        f"{data.name}; ± standard error."
    )
    print("\n" + tables.text(accuracies(rows) if options.classify else tables.scaling_grid(rows), title) + "\n")
    print(*warning(data), f"Wrote {options.out / 'memory-size.jsonl'}.", sep=". ")


def accuracies(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A line for each number of classes and of examples, a column for each rule."""
    found: dict[tuple[int, int, int], dict[str, str]] = {}
    for row in rows:
        cell = found.setdefault((row["classes"], row["shots"], row["memory_size"]), {})
        cell[row["rule"]] = f"{100 * row['value']:.1f}" + (f" ± {100 * row['stderr']:.1f}" if row["stderr"] else "")
    columns = [rule for rule in RULES.values() if any(rule in cell for cell in found.values())]
    lines = [[*map(str, key), *(cell.get(rule, "") for rule in columns)] for key, cell in sorted(found.items())]
    return pd.DataFrame(lines, columns=["classes", "examples", "entries", *columns])


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Options, run, "benchmarks.run memory-size", argv)


if __name__ == "__main__":
    sys.exit(main())
