"""Finds our numbers among the rows, each with the rows that it comes from."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reports.aggregate import difference, per_target
from reports.crossover import crossover
from reports.declared import DECLARED, fits
from reports.results import SETTING, Results, select, stand_ins
from vma.statistics import seed_stderr


class Missing(LookupError):
    """Rows that a claim needs are not there. The message names them."""


@dataclass(frozen=True)
class Measured:
    """A number of ours: the mean over its seeds, its standard error if there is one, and the rows that it comes from.

    `shown` says in words what digits alone would not; `paired` is the number of targets that a difference is over.
    """

    value: float
    stderr: float | None
    seeds: tuple[tuple[int, float], ...]
    rows: tuple[Mapping[str, Any], ...]
    shown: str | None = None
    paired: int | None = None

    @property
    def n(self) -> int | None:
        """How many targets, episodes or rounds it is over; None where there are no rows."""
        return self.paired or min((int(row["n"]) for row in self.rows), default=None)


class Finder:
    """Finds numbers among the rows of one experiment. `stand_in` names the data set that they are of, if that is not
    the paper's.
    """

    def __init__(self, results: Results, experiment: str) -> None:
        self.results, self.experiment = results, experiment
        self.rows = results.of(experiment)
        self.stand_in = ", ".join(stand_ins(self.rows))
        # claims ask for hundreds of cells, for which a frame is slow
        self._of_metric: dict[str, list[dict[str, Any]]] = {}
        for row in records(self.rows):
            if row["targets"] == "all":
                self._of_metric.setdefault(row["metric"], []).append(row)

    def __call__(self, metric: str, **keys: Any) -> Measured:
        """The metric of the cell with these keys: of the runs with most updates, the mean over their seeds.

        Raises:
            Missing: if there is no such row.
        """
        wanted = _in_a_smoke_run(self.experiment, keys) if self.results.smoke else keys
        rows = [row for row in self._of_metric.get(metric, ()) if all(row[key] == wanted[key] for key in wanted)]
        if not rows:
            words = ", ".join(_named(*pair) for pair in wanted.items())
            raise Missing(f"{self.experiment}: {metric} of {words}")
        most = max(row["updates"] for row in rows)
        longest = sorted((row for row in rows if row["updates"] == most), key=lambda row: (row["n"], row["created"]))
        by_seed = {int(row["train_seed"]): row for row in longest}  # of one seed the last counts
        found = [by_seed[seed] for seed in sorted(by_seed)]
        return self._measured([(int(row["train_seed"]), row["value"], row["stderr"]) for row in found], found)

    def minus(self, first: Measured, second: Measured) -> Measured:
        """The difference of two measured cells over the seeds that both have; paired where they share targets.

        Where they share no seed, means are subtracted.

        Raises:
            Missing: if they are of one model after different numbers of updates: that is not the difference asked for.
        """
        pairs = [(one, two) for one in first.rows for two in second.rows if one["train_seed"] == two["train_seed"]]
        if not pairs:
            stderr = _unpaired(first.stderr, second.stderr)
            return Measured(first.value - second.value, stderr, (), first.rows + second.rows)
        for one, two in pairs:
            if one["model"] == two["model"] and one["updates"] != two["updates"]:
                updates = f"{one['updates']:,} and {two['updates']:,}"
                raise Missing(f"{self.experiment}: {one['metric']} after equal numbers of updates, not {updates}")
        metric, names = str(pairs[0][0]["metric"]), [int(one["train_seed"]) for one, _ in pairs]
        ours, reference = (per_target(self.results, [pair[i] for pair in pairs], metric) for i in (0, 1))
        found = difference(ours, reference)
        both = tuple(row for pair in pairs for row in pair)
        if found is not None:
            seeds = tuple(zip(names, found.seeds, strict=True))
            return Measured(found.value, _known(found.stderr), seeds, both, paired=found.n)
        parts = [(one["value"] - two["value"], _unpaired(one["stderr"], two["stderr"])) for one, two in pairs]
        return self._measured([(name, *part) for name, part in zip(names, parts, strict=True)], both)

    def _measured(
        self, seeds: Iterable[tuple[int, float, float | None]], rows: Iterable[Mapping[str, Any]]
    ) -> Measured:
        names, values, errors = zip(*seeds, strict=True)
        stderr = seed_stderr(values, [np.nan if error is None else error for error in errors])
        return Measured(float(np.mean(values)), _known(stderr), tuple(zip(names, values, strict=True)), tuple(rows))


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _unpaired(one: float | None, two: float | None) -> float | None:
    """Too large where the targets are the same after all: they vary more than differences do."""
    return None if one is None or two is None else math.hypot(one, two)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings; null is None."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in rows.astype(object).to_dict("records")
    ]


def _named(key: str, value: Any) -> str:
    names = {"num_samples": "K", "memory_size": "|M|", "train_memory_size": "|M| in training", "metric": ""}
    return f"{names.get(key, key.replace('_', ' '))} {value}".strip()


def _in_a_smoke_run(experiment: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the declared cell as a smoke run shrinks it."""
    declared = DECLARED[experiment]
    small = next(small for cell, small in zip(declared.cells, declared.smoke, strict=True) if fits(cell, keys))
    return {key: small[key] for key in keys if key in small}


# Ways to find a number.

Compute = Callable[[Finder], Measured]


def cell(metric: str, **keys: Any) -> Compute:
    """One cell."""
    return lambda find: find(metric, **keys)


def change(metric: str, keys: Mapping[str, Any], reference: Mapping[str, Any]) -> Compute:
    """One cell minus another."""
    return lambda find: find.minus(find(metric, **keys), find(metric, **reference))


def less_log(compute: Compute, key: str) -> Compute:
    """A number minus the logarithm of a key of its first row."""

    def less(find: Finder) -> Measured:
        found = compute(find)
        log = math.log(float(found.rows[0][key]))
        seeds = tuple((seed, value - log) for seed, value in found.seeds)
        return replace(found, value=found.value - log, seeds=seeds)

    return less


def chosen(computes: Iterable[Compute], rank: Callable[[Measured], float], median: bool = False) -> Compute:
    """Of several numbers the one that ranks lowest, or the one in the middle (the lower of two); all must be there."""
    parts = tuple(computes)

    def choose(find: Finder) -> Measured:
        ranked = sorted(every(find, parts), key=rank)
        return ranked[(len(ranked) - 1) // 2 if median else 0]

    return choose


def lowest(computes: Iterable[Compute]) -> Compute:
    """The least of several numbers."""
    return chosen(computes, lambda found: found.value)


def farthest(computes: Iterable[Compute], reference: float) -> Compute:
    """The number that is farthest from a reference."""
    return chosen(computes, lambda found: -abs(found.value - reference))


def every(find: Finder, computes: Iterable[Compute]) -> list[Measured]:
    """All of several numbers.

    Raises:
        Missing: naming all that are not there.
    """
    found, missing = [], []
    for compute in computes:
        try:
            found.append(compute(find))
        except Missing as error:
            missing.append(str(error))
    if missing:
        raise Missing("; ".join(missing))
    return found


def faster_from(read: str) -> Compute:
    """The |M| from which on VMA with K = 4 makes its updates faster than soft attention with K = 1, see
    `crossover.crossover`; NaN if it does at none. Every entry has its gradient; of several devices, numbers of threads
    and precisions the last one counts.
    """

    def find_size(find: Finder) -> Measured:
        rows = select(find.rows, metric="seconds_per_update", variant=None).sort_values("created")
        setting = rows.groupby(list(SETTING), dropna=False).ngroup()
        rows = rows[setting == setting.iloc[-1]] if len(rows) else rows
        rows = rows.drop_duplicates(["model", "read", "train_num_samples", "memory_size"], keep="last")
        hard = select(rows, model="vma", train_num_samples=4).set_index("memory_size", drop=False)
        soft = select(rows, model="soft", read=read, train_num_samples=1).set_index("memory_size", drop=False)
        sizes = sorted(set(hard.index) & set(soft.index))
        if not sizes:
            raise Missing(f"wallclock: seconds per update of vma (K 4) and of soft attention over {read} (K 1)")
        hard, soft = hard.loc[sizes], soft.loc[sizes]
        found = crossover(np.array(sizes), hard.value.to_numpy(), soft.value.to_numpy())
        timed = (*records(hard), *records(soft))
        if found is None:
            return Measured(math.nan, None, (), timed, f"at none up to {sizes[-1]:.0f}")
        return Measured(found, None, (), timed, f"≤ {found:.0f}" if found == sizes[0] else f"{found:.0f}")

    return find_size
