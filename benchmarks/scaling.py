"""Figure 5A: NLL of a model trained with 8 classes in memory against the number of classes in memory at test time."""

import sys
from dataclasses import dataclass

from benchmarks.declare.experiments import FIGURE_SAMPLES, SCALING_CLASSES, memory_cell, scaling_training
from benchmarks.declare.spec import MOST_SAMPLES
from benchmarks.execute.runner import here
from benchmarks.plan.cli import (
    CommonOptions,
    asked,
    check_option,
    check_writable,
    open_data,
    resolve_device,
    resolve_spec,
    run_command,
    training_minutes,
    warning,
)
from benchmarks.plan.fill import possible
from reports import tables
from vma.data.episodes import MOST

DEFAULT_TARGETS = 200


@dataclass(frozen=True)
class Options(CommonOptions):
    """Figure 5A of the paper: test NLL against the number of classes in memory, one point or all.

    Takes the trained weights that the project ships, or trains. Writes rows (scaling.jsonl) and per-target values to
    --out.
    """

    classes: int | None = None
    """Number of classes in memory; without it the whole sweep."""
    shots: int = 4
    """Examples per class in memory; 19 gives more than 2,500 entries with 144 classes."""
    num_samples: int = 4
    """K; the paper evaluates its figures with 4."""
    targets: int | None = None
    """Test targets, the same for each number of classes (default: 1000 at K = 4, else 200)."""


def run(options: Options) -> None:
    check_option("--shots", options.shots, 1, MOST)
    check_option("--num-samples", options.num_samples, 1, MOST_SAMPLES)
    check_option("--targets", options.targets, 2, MOST_SAMPLES)  # an error needs two
    device = resolve_device(options)
    data, fallback = open_data(options, "omniglot45_5")
    spec = resolve_spec(scaling_training(), options, data, device, options.seed)
    available = data.test.num_classes
    check_option("--classes", options.classes, 1, available)
    sweep = [options.classes] if options.classes else [c for c in SCALING_CLASSES if c <= available]
    targets = options.targets or dict(FIGURE_SAMPLES).get(options.num_samples, DEFAULT_TARGETS)
    cells = [memory_cell(spec, classes, options.shots, options.num_samples, targets) for classes in sweep]
    cells = possible(cells, data)
    check_writable(options.out)
    seconds = training_minutes(options, fallback) * 60
    _, rows = here("scaling", cells, data, device, options.out, seconds=seconds, **asked(options))
    title = (
        f"{'. '.join(['Figure 5A', *warning(data)])}. Test NLL in nats (lower is better) against classes in memory, "
        f"{data.name}; "
        f"VMA trained with {spec.episode.classes} classes x {spec.episode.shots} examples in memory; ± standard error."
    )
    print("\n" + tables.text(tables.scaling_grid(rows), title) + "\n")
    print(*warning(data), f"Wrote {options.out / 'scaling.jsonl'}.", sep=". ")


if __name__ == "__main__":
    sys.exit(run_command(Options, run, "benchmarks.scaling"))
