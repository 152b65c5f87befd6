"""Figure 5A: NLL of a model trained with 8 classes in memory against the number of classes in memory at test time."""

import sys
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks import store
from benchmarks.cli import (
    CommonOptions,
    open_data,
    open_out,
    resolve_device,
    resolve_spec,
    run_command,
    training_minutes,
    warning,
)
from benchmarks.experiments import SCALING_CLASSES, scaling_cell, scaling_training
from benchmarks.measure import check_cells, measure, obtain, offer_weights, record, rows_of, stored
from reports import tables
from vma.errors import InputError


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
    targets: int = 1000
    """Test targets at least, for each number of classes; every class in memory has one in each episode."""


def run(options: Options) -> None:
    for name in ("shots", "num_samples"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}, must be 1 or more")
    if options.targets < 2:
        raise InputError(f"--targets is {options.targets}, must be 2 or more: an error needs two")
    device = resolve_device(options)
    data, fallback = open_data(options, "omniglot45_5")
    spec = resolve_spec(scaling_training(), options, data, device)
    available = data.test.num_classes
    if options.classes is not None and not 1 <= options.classes <= available:
        raise InputError(
            f"--classes is {options.classes}, must lie between 1 and the {available} test classes of {data.name}"
        )
    sweep = [options.classes] if options.classes else [c for c in SCALING_CLASSES if c <= available]
    cells = [scaling_cell(spec, classes, options.shots, options.num_samples, options.targets) for classes in sweep]
    check_cells(cells, data)
    open_out(options.out)
    seconds = training_minutes(options, fallback) * 60
    trained = obtain(spec, data, device, updates=options.updates, seconds=seconds, from_scratch=options.from_scratch)
    origin = store.provenance(device)
    earlier = [] if options.again else store.read_rows(options.out / "scaling.jsonl")
    rows: list[dict[str, Any]] = []
    for cell in tqdm(cells, desc="evaluate vma", unit="cell"):
        found = stored(earlier, cell, trained, data)
        if not found:
            scores, spent = measure(trained, cell, data, device)
            found = rows_of("scaling", cell, trained, scores, data, spent, origin)
            record(options.out, "scaling", cell, trained, found, scores)
        rows += found
    offer_weights(trained, data, options.out)
    title = (
        f"{'. '.join(['Figure 5A', *warning(data)])}. Test NLL in nats (lower is better) against classes in memory, "
        f"{data.name}; "
        f"VMA trained with {spec.episode.classes} classes x {spec.episode.shots} examples in memory; ± standard error."
    )
    print("\n" + tables.text(tables.scaling_grid(rows), title) + "\n")
    print(*warning(data), f"Wrote {options.out / 'scaling.jsonl'}.", sep=". ")


if __name__ == "__main__":
    sys.exit(run_command(Options, run, "benchmarks.scaling"))
