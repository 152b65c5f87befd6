"""From which size of memory on hard attention makes its updates faster than soft attention."""

from collections.abc import Sequence

import numpy as np

from vma.statistics import RESAMPLES, Values, percentiles


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
    # there is nothing between a size and an infinite one
    return percentiles([np.inf if one is None else one for one in found], method="nearest")
