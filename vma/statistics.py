"""Every statistic of the suite, once: standard errors over targets and over seeds, intervals, paired differences.

Needs numpy alone, so that what reads results need not load torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Values = np.ndarray
Numbers = Values | Sequence[Any]

CONFIDENCE = 0.95
RESAMPLES = 2000


def clustered_stderr(values: Numbers, clusters: Numbers | None = None) -> float:
    """Standard error of the mean of values (n,) whose errors are shared within clusters (n,); without clusters, or with
    one value in each, the usual one.

    The sandwich estimate sqrt(G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2) / n over G clusters. nan where there are
    fewer than two clusters: nothing is known of how they differ then.
    """
    values = np.asarray(values, float)
    sums, counts = _by_cluster(values, clusters)
    if len(sums) < 2:
        return float("nan")
    residuals = sums - counts * values.mean()
    return float(np.sqrt((residuals**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def interval(values: Numbers, clusters: Numbers | None = None) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values (n,), by a bootstrap that draws whole clusters (n,).

    Always with the same random numbers. (nan, nan) for fewer than two clusters.
    """
    sums, counts = _by_cluster(np.asarray(values, float), clusters)
    if len(sums) < 2:
        return float("nan"), float("nan")
    drawn = _drawn(len(sums))
    return percentiles((drawn @ sums) / (drawn @ counts))


@lru_cache(maxsize=8)
def _drawn(clusters: int) -> Values:
    """[RESAMPLES, clusters]: how often each cluster is in each resample."""
    return np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES).astype(float)


def percentiles(resampled: Numbers, method: Any = "linear") -> tuple[float, float]:
    """The ends between which CONFIDENCE of resampled statistics lie."""
    low, high = np.quantile(resampled, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), method=method)
    return float(low), float(high)


def seed_stderr(values: Numbers, stderrs: Numbers) -> float:
    """Standard error of the mean over S seeds of values (S,) with standard errors over targets (S,).

    sqrt(mean_s stderr_s^2 + var_s value_s / S): seeds share their targets, so that the error over targets stays in the
    mean what it is in each (variances are averaged, not errors), and the spread between seeds comes on top where there
    are several. nan where the error of any seed is.
    """
    values, stderrs = np.asarray(values, float), np.asarray(stderrs, float)
    between = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    return float(np.sqrt((stderrs**2).mean() + between))


@dataclass(frozen=True)
class Difference:
    """A paired difference of means over n targets: its standard error over targets and seeds, and the 95 % interval
    over targets. `seeds` has the difference of each seed.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    seeds: tuple[float, ...]


def paired(ours: Numbers, reference: Numbers, clusters: Numbers | None = None) -> Difference:
    """Ours minus the reference, both (S, n): S seeds on the same n targets, which are in clusters (n,)."""
    values = np.asarray(ours, float) - np.asarray(reference, float)
    seeds = values.mean(1)
    stderr = seed_stderr(seeds, [clustered_stderr(one, clusters) for one in values])
    low, high = interval(values.mean(0), clusters)
    return Difference(float(seeds.mean()), stderr, low, high, values.shape[1], tuple(seeds.tolist()))


def _by_cluster(values: Values, clusters: Numbers | None) -> tuple[Values, Values]:
    """Sum and number of the values of each cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    _, group, counts = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    return np.bincount(group, weights=values), counts.astype(float)
