"""What is declared, for readers that do without torch: `python -m benchmarks.declare` writes results/experiments.json.

Of each experiment: where in the paper, what, the data and recipes, and its cells, told apart by as few keys of a row as
do it, beside the same cells as a smoke run shrinks them.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.declare.experiments import EXPERIMENTS, STAND_INS, Experiment, smoke_cells
from benchmarks.declare.spec import Cell
from benchmarks.record.store import ROOT, write_text
from benchmarks.runs.tasks import RULES
from reports.declared import keys_apart
from reports.results import SUITE

PATH = ROOT / "results" / "experiments.json"

# In this order keys are taken, as long as they tell further cells apart.
KEYS = (
    *("model", "variant", "read", "recipe", "dataset", "weight_decay", "split", "train_protocol", "protocol", "rule"),
    *("classes", "shots", "memory_size", "num_samples", "train_classes", "train_shots", "train_memory_size"),
    *("train_num_samples", "learning_rate"),
)


def declared(experiment: Experiment) -> dict[str, Any]:
    """An experiment as readers see it; its cells by the suite's recipe stand in the place of those by the paper's."""
    cells = [cell for cell in experiment.cells if cell.train.recipe != SUITE]
    rows = _rows(cells)
    keys = keys_apart(rows, KEYS)
    return {
        "paper": experiment.paper,
        "what": experiment.what,
        "datasets": sorted({row["dataset"] for row in rows}),
        "recipes": list(dict.fromkeys(row["recipe"] for row in rows)),
        "keys": keys,
        "cells": [[row[key] for key in keys] for row in rows],
        "smoke": [[row[key] for key in keys] for row in _rows(smoke_cells(cells))],
    }


def _rows(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [{**cell.row(), "rule": _rule(cell)} for cell in cells]


def _rule(cell: Cell) -> str | None:
    if cell.eval.task == "gradient-noise":  # a row for each estimator, that of training among them
        return cell.train.estimator
    return RULES.get(cell.eval.task)


def text() -> str:
    """The whole file, a cell a line."""
    parts = []
    for name, declare in EXPERIMENTS.items():
        fields = declared(declare())
        cells = [json.dumps(pair) for pair in zip(fields.pop("cells"), fields.pop("smoke"), strict=True)]
        head = json.dumps(fields)[:-1]
        parts.append(f'{json.dumps(name)}: {head}, "cells, and of a smoke run": [\n' + ",\n".join(cells) + "\n]}")
    return f'{{"stand_ins": {json.dumps(STAND_INS)},\n"experiments": {{\n' + ",\n".join(parts) + "\n}}\n"


def main(path: Path = PATH) -> int:
    write_text(path, text())
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
