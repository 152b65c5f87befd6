"""Estimators of the gradient, compared: their frame and table, and the paragraph that their rows fill."""

from typing import Any

import numpy as np
import pandas as pd

from reports.aggregate import differences, seed_means
from reports.results import Results

# Variants are named WAY-NAME; lines stand in this order.
WAYS = {"shipped": "shipped weights", "started": "from the shipped weights", "scratch": "from scratch"}
NAMES = {
    "": "none",
    "vimco": "VIMCO",
    "geometric": "VIMCO, geometric",
    "ovis0": "OVIS~, gamma 0",
    "ovis1": "OVIS~, gamma 1",
    "rloo": "RLOO",
    "nvil": "NVIL",
    "wake": "wake-phi",
    "set-score": "set, score",
    "set-wake": "set, wake-phi",
    "all-score": "all addresses, score",
    "all-wake": "all addresses, wake-phi",
    "gumbel": "Gumbel, straight through",
    "iwae": "VIMCO, z by IWAE",
    "stl": "VIMCO, z by STL",
    "dreg": "VIMCO, z by DReG",
    "single": "VIMCO, z by one sample",
    "wake+dreg": "wake-phi, z by DReG",
}
# Column: metric and what else tells its cell apart.
COLUMNS: dict[str, dict[str, Any]] = {
    "nll_4": {"metric": "nll", "num_samples": 4},
    "nll_1000": {"metric": "nll", "num_samples": 1000},
    "kl_p_q": {"metric": "kl_p_q"},
    "accuracy": {"metric": "accuracy"},
}
SMOKE_SAMPLES = 2  # the most of a smoke run


def frame(results: Results) -> pd.DataFrame:
    """A line for each way of training and estimator: `way`, `name`; the NLL with 4 and with 1,000 samples (`nll_4`,
    `nll_1000`) and KL(p(a|x) || q(a|x)) (`kl_p_q`), in nats, and the 20-way accuracy by q(a|x) (`accuracy`), each with
    its `_stderr`, on validation classes; `difference_4` and `difference_1000`, NLL minus that of VIMCO in the same way,
    with the `_stderr` of pairs of the same targets; `seconds_per_update`; the signal to noise of an update's gradient
    of q(a|x) (`snr_a`) and of q(z|m, x) (`snr_z`), from scratch at VIMCO's weights, else at the shipped ones; n,
    updates, seeds, dirty.
    """
    means = seed_means(results.of("estimators", targets="all"))
    if means.empty:
        return means
    parts = means.variant.str.partition("-")
    means = means.assign(way=parts[0], name=parts[2])
    keys = ["way", "name"]
    found = means[(means.metric == "nll") & (means.num_samples == _samples(results, 4))][
        [*keys, "n", "updates", "seeds", "dirty"]
    ]
    for column, where in COLUMNS.items():
        fits = means.metric == where["metric"]
        if "num_samples" in where:
            fits &= means.num_samples == _samples(results, where["num_samples"])
        part = means[fits].rename(columns={"value": column, "stderr": f"{column}_stderr"})
        found = found.merge(part[[*keys, column, f"{column}_stderr"]], "left", keys)
    for samples_ in (4, 1000):
        found = found.merge(_paired(results, samples_), "left", keys)
    times = means[means.metric == "seconds_per_update"].set_index("name").value
    found["seconds_per_update"] = found.name.map(times)
    for metric in ("snr_a", "snr_z"):
        found[metric] = [_noise(means, metric, way, name) for way, name in zip(found.way, found.name, strict=True)]
    order = pd.MultiIndex.from_product([WAYS, NAMES], names=keys)
    return found.set_index(keys).reindex(order).dropna(subset=["nll_4"]).reset_index().astype({"dirty": bool})


def _samples(results: Results, samples: int) -> int:
    return min(samples, SMOKE_SAMPLES) if results.smoke else samples


def _paired(results: Results, samples: int) -> pd.DataFrame:
    rows = results.of("estimators", metric="nll", num_samples=_samples(results, samples))
    parts = []
    for way in WAYS:
        own = rows[rows.variant.str.startswith(way)]
        found = differences(results, own, ["variant"], {"variant": f"{way}-vimco"})
        parts.append(found.assign(way=way, name=found.variant.astype(str).str.removeprefix(f"{way}-")))
    names = {"difference": f"difference_{samples}", "difference_stderr": f"difference_{samples}_stderr"}
    return pd.concat(parts).rename(columns=names)[["way", "name", *names.values()]]


def _noise(means: pd.DataFrame, metric: str, way: str, name: str) -> float:
    """Where a way's own weights were not measured, those of the shipped ones that it starts from."""
    rules = {"snr_a": name, "snr_z": "iwae" if name == "vimco" else name}
    fits = means[(means.metric == metric) & (means.rule == rules[metric])]
    where = {"started": ("shipped", "started"), "scratch": ("scratch",)}.get(way, ())
    own = fits[fits.way.isin(where)]
    return float(own.value.iloc[0]) if len(own) else np.nan


def grid(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read; all text."""
    columns = {
        "training": [WAYS[way] for way in frame.way],
        "estimator": [NAMES[name] for name in frame.name],
        "NLL, K = 4": _values(frame, "nll_4", 2),
        "K = 1,000": _values(frame, "nll_1000", 2),
        "- VIMCO, K = 4": _values(frame, "difference_4", 2),
        "K = 1,000 ": _values(frame, "difference_1000", 2),
        "KL(p||q)": _values(frame, "kl_p_q", 2),
        "20-way, %": _values(frame.assign(accuracy=100 * frame.accuracy), "accuracy", 1, 100),
        "ms an update": _numbers(1000 * frame.seconds_per_update, 0),
        "SNR, q(a|x)": _numbers(frame.snr_a, 2),
        "SNR, q(z|m, x)": _numbers(frame.snr_z, 2),
        "n": _numbers(frame.n, 0),
        "updates": [f"{updates:,.0f}" for updates in frame.updates],
        "seeds": _numbers(frame.seeds, 0),
        "": ["*" if dirty else "" for dirty in frame.dirty],
    }
    return pd.DataFrame(columns)


def _values(frame: pd.DataFrame, column: str, digits: int, scale: float = 1) -> list[str]:
    pairs = zip(frame[column], scale * frame[f"{column}_stderr"], strict=True)
    return [
        "" if np.isnan(value) else f"{value:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
        for value, error in pairs
    ]


def _numbers(values: "pd.Series[float]", digits: int) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.{digits}f}" for value in values]


def conclusions(frame: pd.DataFrame) -> str:
    """A paragraph of what the rows say; empty without rows. A lead counts from two standard errors on."""
    sentences = []
    for way in ("started", "scratch"):
        part = frame[frame.way == way].set_index("name") if len(frame) else pd.DataFrame()
        if "vimco" not in part.index or len(part) < 2:
            continue
        vimco: Any = part.loc["vimco"]
        sentences.append(
            f"After {vimco.updates:,.0f} updates {WAYS[way]} VIMCO has {vimco.nll_4:.2f} nats with 4 samples, "
            f"{vimco.nll_1000:.2f} with 1,000, and a KL(p(a|x) || q(a|x)) of {vimco.kl_p_q:.2f}."
        )
        others = part.drop("vimco")
        leads = {
            "with 4 samples": (-others.difference_4, others.difference_4_stderr, "nats"),
            "with 1,000 samples": (-others.difference_1000, others.difference_1000_stderr, "nats"),
            "in KL(p(a|x) || q(a|x))": (vimco.kl_p_q - others.kl_p_q, _both(others, vimco, "kl_p_q"), "nats"),
            "in 20-way accuracy": (
                100 * (others.accuracy - vimco.accuracy),
                100 * _both(others, vimco, "accuracy"),
                "points",
            ),
        }
        for what, (lead, error, unit) in leads.items():
            ahead = lead[lead > 2 * error].sort_values(ascending=False)
            if ahead.empty:
                sentences.append(f"None is ahead of it {what}.")
            else:
                names = ", ".join(f"{NAMES[str(n)]} ({ahead[n]:.2f} ± {error[n]:.2f})" for n in ahead.index[:3])
                more = f" and {len(ahead) - 3} more" if len(ahead) > 3 else ""
                sentences.append(f"Ahead of it {what}, in {unit}: {names}{more}.")
    return " ".join(sentences)


def _both(others: pd.DataFrame, vimco: Any, column: str) -> "pd.Series[float]":
    """The standard error of a difference whose parts are not paired here."""
    return np.hypot(others[f"{column}_stderr"], vimco[f"{column}_stderr"])
