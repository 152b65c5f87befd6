"""What the experiments declare, from results/experiments.json: their data, recipes and cells."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[1] / "results" / "experiments.json"

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Declared:
    """An experiment. `cells` have the least keys of a row that tell them apart; `smoke` are the same cells, in the same
    order, as a smoke run shrinks them.
    """

    name: str
    paper: str
    what: str
    datasets: tuple[str, ...]
    recipes: tuple[str, ...]
    cells: tuple[Cell, ...]
    smoke: tuple[Cell, ...]


def fits(cell: Cell, where: Mapping[str, Any]) -> bool:
    """Whether a cell has these values, as far as it names them."""
    return all(cell[key] == value for key, value in where.items() if key in cell)


def keys_apart(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> list[str]:
    """Those of the keys that tell the rows apart, in their order; the first in any case."""
    first, *others = keys
    chosen = [first]
    for key in others:
        with_it, without = (len({tuple(row[k] for k in some) for row in rows}) for some in ([*chosen, key], chosen))
        chosen += [key] * (with_it > without)
    return chosen


def _read() -> tuple[dict[str, Declared], dict[str, str]]:
    whole = json.loads(PATH.read_text(encoding="utf-8"))
    found = {}
    for name, fields in whole["experiments"].items():
        pairs = fields["cells, and of a smoke run"]
        cells, smoke = (tuple(dict(zip(fields["keys"], pair[i], strict=True)) for pair in pairs) for i in (0, 1))
        datasets, recipes = tuple(fields["datasets"]), tuple(fields["recipes"])
        found[name] = Declared(name, fields["paper"], fields["what"], datasets, recipes, cells, smoke)
    return found, whole["stand_ins"]


# STAND_INS: data sets that stand in for the paper's where these cannot be had, near enough for its marks to stand
# beside them
DECLARED, STAND_INS = _read()


def declared(experiment: str, key: str, **where: Any) -> tuple[Any, ...]:
    """The values of a key among an experiment's cells with these values of others, in their order; null is none."""
    found = dict.fromkeys(cell[key] for cell in DECLARED[experiment].cells if fits(cell, where))
    return tuple(value for value in found if value is not None)
