"""Means over seeds, intervals by the bootstrap, and differences paired on shared targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reports.results import CELL, Results

Values = np.ndarray[Any, Any]

CONFIDENCE = 0.95
RESAMPLES = 1999


def seed_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Each cell and metric as a line: the mean over its seeds.

    Columns: those of `results.CELL`; value, low, high, q25, q75 (means over seeds); stderr (the error over targets,
    which seeds share, and the error over seeds together); n; updates; seeds (how many); seed_values (a tuple);
    dirty (whether any is).
    """
    if rows.empty:
        return rows.assign(seeds=0, seed_values=())
    cells = rows.groupby(list(CELL), dropna=False, sort=False)
    means = cells[["value", "low", "high", "q25", "q75", "stderr"]].mean()
    seeds = cells.size()
    over_seeds = (cells.value.var(ddof=1) / seeds).fillna(0.0)  # there is no variance of one seed
    means["stderr"] = np.sqrt(means.stderr**2 + over_seeds)
    means["n"] = cells.n.min()
    means["updates"] = cells.updates.max()
    means["seeds"] = seeds
    means["seed_values"] = cells.value.agg(tuple)
    means["dirty"] = cells.dirty.any()
    return means.reset_index()


def interval(values: Values, clusters: Values | None = None) -> tuple[float, float]:
    """The 95 % interval of the mean by scipy.stats.bootstrap (BCa), always with the same random numbers.

    Where `clusters` (n,) are given and there are several, whole clusters are drawn. (nan, nan) for less than two values
    or clusters.
    """
    sums, counts = _by_cluster(np.asarray(values, float), clusters)
    if len(sums) < 2:
        return np.nan, np.nan
    means = sums / counts
    if np.ptp(means) == 0:  # which BCa refuses
        return float(means[0]), float(means[0])
    found = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def clustered_stderr(values: Values, clusters: Values | None = None) -> float:
    """The standard error of the mean, clustered where several clusters are given; nan for less than two values."""
    sums, counts = _by_cluster(np.asarray(values, float), clusters)
    if len(sums) < 2:
        return np.nan
    residuals = sums - counts * values.mean()
    return float(np.sqrt((residuals**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def _by_cluster(values: Values, clusters: Values | None) -> tuple[Values, Values]:
    """Sum and number of the values of each cluster; each value is its own where there are not several clusters."""
    if clusters is None or len(np.unique(clusters)) < 2:
        return values, np.ones(len(values))
    groups = pd.Series(values).groupby(clusters)
    return groups.sum().to_numpy(), groups.size().to_numpy().astype(float)


@dataclass(frozen=True)
class Targets:
    """A quantity at each target (n,), averaged over the seeds of a cell, with the targets' indices and classes."""

    values: Values
    x_index: Values
    x_class: Values


def per_target(results: Results, rows: pd.DataFrame, name: str = "nll") -> Targets | None:
    """The array `name` of the rows' artifacts, rows being one metric of one cell: one a seed.

    None where there are no rows, an artifact is missing or the seeds' targets differ.

    Raises:
        InputError: if an artifact is damaged.
    """
    found = [results.artifact(row) for _, row in rows.iterrows()]
    arrays = [part for part in found if part is not None and name in part]
    if not arrays or len(arrays) < len(found):
        return None
    first = arrays[0]
    if any(not np.array_equal(part["x_index"], first["x_index"]) for part in arrays):
        return None
    values = np.mean([part[name].astype(float) for part in arrays], axis=0)
    return Targets(values, first["x_index"], first["x_class"])


@dataclass(frozen=True)
class Difference:
    """A paired difference of means: standard error and 95 % interval are over targets, clustered by class."""

    value: float
    stderr: float
    low: float
    high: float
    n: int


def paired(ours: Targets | None, reference: Targets | None) -> Difference | None:
    """Ours minus the reference on the same targets; None where either is missing or the targets differ."""
    if ours is None or reference is None or not np.array_equal(ours.x_index, reference.x_index):
        return None
    values = ours.values - reference.values
    low, high = interval(values, ours.x_class)
    return Difference(float(values.mean()), clustered_stderr(values, ours.x_class), low, high, len(values))


def differences(results: Results, rows: pd.DataFrame, keys: Sequence[str], against: Mapping[str, Any]) -> pd.DataFrame:
    """The paired difference in NLL of each cell to another.

    Args:
        results: where the artifacts lie.
        rows: rows of NLL, several seeds of a cell among them.
        keys: the columns that tell the cells apart.
        against: what is subtracted from a cell: the cell with these values, and the others of its keys.

    Returns:
        keys, then difference, difference_stderr, difference_low, difference_high in nats; a line for each cell whose
        targets are shared with the other's.
    """
    cells = {
        tuple(None if value != value else value for value in key): per_target(results, part)  # NaN equals nothing
        for key, part in rows.groupby(list(keys), dropna=False, sort=False)
    }
    lines = []
    for key, ours in cells.items():
        other = tuple(against.get(name, value) for name, value in zip(keys, key, strict=True))
        found = paired(ours, cells.get(other))
        if found is not None:
            lines.append([*key, found.value, found.stderr, found.low, found.high])
    names = ("difference", "difference_stderr", "difference_low", "difference_high")
    return pd.DataFrame(lines, columns=[*keys, *names])


def crossover(sizes: Values, hard: Values, soft: Values) -> float | None:
    """The memory size from which hard attention is faster, by linear interpolation of logarithms.

    Args:
        sizes: memory sizes, ascending (n,).
        hard, soft: seconds an update at each (n,).

    Returns:
        The smallest size if hard is faster everywhere, None if it is not at the largest.
    """
    lead = np.log(hard) - np.log(soft)
    slower = np.flatnonzero(lead >= 0)
    if len(lead) == 0 or lead[-1] >= 0:
        return None
    if len(slower) == 0:
        return float(sizes[0])
    i = slower[-1]
    logs = np.log(sizes)
    return float(np.exp(logs[i] + (logs[i + 1] - logs[i]) * lead[i] / (lead[i] - lead[i + 1])))


def crossover_interval(sizes: Values, hard: Sequence[Values], soft: Sequence[Values]) -> tuple[float, float]:
    """The 95 % interval of the crossover of medians, by the bootstrap over rounds, always with the same random numbers.

    Args:
        sizes: memory sizes, ascending (n,).
        hard, soft: seconds an update in each round, at each of the sizes. At one size the rounds of both are pairs,
            made one after the other, and are drawn together.

    Returns:
        Its ends, the smallest size where hard is faster everywhere, infinite where it is not at the largest.
    """
    rng = np.random.default_rng(0)
    medians = []
    for one, other in zip(hard, soft, strict=True):
        rounds = np.stack([one, other])
        drawn = rng.integers(rounds.shape[1], size=(RESAMPLES, rounds.shape[1]))
        medians.append(np.median(rounds[:, drawn], axis=-1))
    found = [crossover(sizes, *sample) for sample in np.array(medians).transpose(2, 1, 0)]
    ends = np.quantile(
        [np.inf if one is None else one for one in found],
        ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2),
        method="nearest",  # there is nothing between a size and an infinite one
    )
    return float(ends[0]), float(ends[1])
