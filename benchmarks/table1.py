"""Table 1: test NLL against the number of classes and of examples per class in memory, ours beside the paper's."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from benchmarks.declare.experiments import TABLE1_CLASSES, TABLE1_SHOTS, table1_cells, table1_ours, table1_training
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
from benchmarks.record import store
from reports import frames, tables
from reports.aggregate import difference, per_target
from reports.finding import records
from reports.models import label
from reports.results import PAPER, Results, only, read_results, select
from vma.data import DataSet
from vma.errors import InputError

# of the training time: VMA's updates are the dearest and the table is about it
SHARES = {"vma": 0.6, "soft": 0.3, "vae": 0.1}
DEFAULT_TARGETS, FALLBACK_TARGETS = 40, 30
WHICH = ["model", "classes", "shots"]  # what tells the cells of a table apart


@dataclass(frozen=True)
class Options(CommonOptions):
    """Table 1 of the paper: finds the data and the models, evaluates, and prints ours beside the paper's.

    Takes the trained weights that the project ships, or trains. With shipped weights it also prints the committed
    numbers of the same targets, and ours minus these. Writes rows (table1.jsonl), per-target values and the table
    (table1.md, .csv, .tex) to --out.
    """

    targets: int | None = None
    """Test targets in each cell, the same in all (default: 40, on fallback data 30)."""
    protocol: Literal["per_class", "gmn"] = "per_class"
    """per_class: that many examples of each class, without the target. gmn: that many in total, drawn with replacement.
    """
    recipe: Literal["paper", "suite"] = "paper"
    """How the models are trained: the paper's way, or by the suite's recipe (docs/recipe.md)."""
    models: tuple[Literal["vma", "soft", "vae"], ...] = ("vma", "soft", "vae")
    """Which models to evaluate. Soft attention, the slowest by far, is evaluated at the four corners of the table; in
    all cells if it is asked for alone (--models soft).
    """


def run(options: Options) -> None:
    check_option("--targets", options.targets, 2, MOST_SAMPLES)  # an error needs two
    if not options.models:
        raise InputError(f"--models is empty, must be one or more of {', '.join(SHARES)}")
    device = resolve_device(options)
    data, fallback = open_data(options, "omniglot_gmn")
    targets = options.targets or (FALLBACK_TARGETS if fallback else DEFAULT_TARGETS)
    minutes = training_minutes(options, fallback)
    specs = {
        name: resolve_spec(declared, options, data, device, options.seed)
        for name, declared in (table1_ours() if options.recipe == "suite" else table1_training()).items()
        if name in options.models
    }
    cells = {name: table1_cells(spec, options.protocol, targets) for name, spec in specs.items()}
    if options.models != ("soft",) and "soft" in cells:
        ends = [(c, n) for c in (TABLE1_CLASSES[0], TABLE1_CLASSES[-1]) for n in (TABLE1_SHOTS[0], TABLE1_SHOTS[-1])]
        cells["soft"] = [c for c in cells["soft"] if (c.eval.episode.classes, c.eval.episode.shots) in ends]
    cells = {name: possible(part, data) for name, part in cells.items()}
    check_writable(options.out)
    rows: list[dict[str, Any]] = []
    for name, part in cells.items():
        seconds = minutes * 60 * SHARES[name] / sum(SHARES[model] for model in cells)
        rows += here("table1", part, data, device, options.out, seconds=seconds, **asked(options))[1]
    report(options, rows, data, None if options.out.resolve() == PAPER.parent else read_results(PAPER.parent))


def beside(results: Results, known: Results) -> pd.DataFrame:
    """A line for each cell that `known` has of the same weights too: WHICH; committed, its NLL over the targets that
    both have; minus_committed and minus_committed_stderr, ours minus it, paired.
    """
    rows = pd.concat([known.rows, known.suite])
    lines = []
    for row in records(select(results.rows, metric="nll", targets="all")):
        keys = ("experiment", "metric", "targets", "train_id", "updates", "protocol", "num_samples", *WHICH)
        ours = per_target(results, [row])
        other = per_target(known, records(select(rows, **{key: row[key] for key in keys})))
        found = difference(ours, other)
        if found is not None and other is not None:
            committed = sum(values[: found.n].mean() for values in other.values.values()) / len(other.values)
            lines.append([*(row[key] for key in WHICH), committed, found.value, found.stderr])
    frame = pd.DataFrame(lines, columns=[*WHICH, "committed", "minus_committed", "minus_committed_stderr"])
    return frame.astype({name: float for name in frame if name != "model"})


def report(options: Options, rows: list[dict[str, Any]], data: DataSet, known: Results | None) -> None:
    """Print the table, beside committed results if there are any of the same weights, and write it in three forms."""
    num_samples = rows[0]["num_samples"]
    results = only(options.out, rows)
    frame = frames.table1(results, options.protocol, vae_alone=True)
    compared = None if known is None else beside(results, known)
    if compared is not None:
        frame = frame.merge(compared.assign(targets="all"), "left", [*WHICH, "targets"])
    updates = ", ".join(
        f"{label(str(model))} {part.updates.iloc[0]:,}" for model, part in frame.groupby("model", sort=False)
    )
    title = (
        f"{'. '.join(['Table 1', *warning(data)])}. Test NLL in nats (lower is better) against classes C and "
        f"{'examples per class' if options.protocol == 'per_class' else 'examples in total (protocol gmn)'} in memory; "
        f"K = {num_samples}, n = {int(frame.n.max())} targets, {data.name}; ± standard error. Trained by the "
        f"{options.recipe}'s recipe. Updates: {updates}."
    )
    grid = tables.table1_grid(frame)
    name = "table1" if options.protocol == "per_class" else f"table1-{options.protocol}"
    print("\n" + tables.text(grid, title) + "\n")
    if compared is not None and len(compared):
        apart = compared.minus_committed
        print(
            f"ours - committed, on the same targets: {apart.mean():+.2f} nats in the mean of {len(apart)} cells, "
            f"at most {apart.abs().max():.2f} in one.\n"
        )
    for suffix, content in tables.contents(grid, frame, title).items():
        store.write_text(options.out / f"{name}.{suffix}", content)
    print(
        *warning(data),
        f"Wrote {options.out / 'table1.jsonl'} and {name}.md, {name}.csv, {name}.tex beside it.",
        sep=". ",
    )


if __name__ == "__main__":
    sys.exit(run_command(Options, run, "benchmarks.table1"))
