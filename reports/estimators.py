"""Estimators of the gradient, compared: their frame and table, and the paragraph that their rows fill."""

import re
from typing import Any

import numpy as np
import pandas as pd

from reports import frames
from reports.aggregate import seed_means
from reports.columns import DIRTY, Column, plain, text_of, value, whole
from reports.results import Results, select

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
SMOKE_SAMPLES = 2  # the most of a smoke run
KEYS = ["model", "variant"]
WITH_ERRORS = ("nll_4", "nll_1000", "kl_p_q", "accuracy", "difference_4", "difference_1000")
NUMBERS = [
    *("n", "updates", "seeds", "dirty"),
    *(column for name in WITH_ERRORS for column in (name, f"{name}_stderr")),
    *("seconds_per_update", "snr_a", "snr_z"),
]


def frame(results: Results) -> pd.DataFrame:
    """A line for each way of training and estimator: `way`, `name`; the NLL with 4 and with 1,000 samples (`nll_4`,
    `nll_1000`) and KL(p(a|x) || q(a|x)) (`kl_p_q`), in nats, and the 20-way accuracy by q(a|x) (`accuracy`), each with
    its `_stderr`, on validation classes; `difference_4` and `difference_1000`, NLL minus that of VIMCO in the same way,
    with the `_stderr` of pairs of the same targets; `seconds_per_update`; the signal to noise of an update's gradient
    of q(a|x) (`snr_a`) and of q(z|m, x) (`snr_z`), from scratch at VIMCO's weights, else at the shipped ones; n,
    updates, seeds, dirty.
    """
    rows = results.of("estimators", targets="all")
    if rows.empty:
        return rows
    parts = rows.variant.str.partition("-")
    rows = rows.assign(model=parts[0], variant=parts[2])  # way and name, in columns that tell cells apart
    whole = [_bounds(results, rows, samples) for samples in (4, 1000)]
    whole += [frames.cells(rows, KEYS, [metric]) for metric in ("kl_p_q", "accuracy")]
    found = pd.concat([part.set_index(KEYS) for part in whole], axis="columns")
    found = found.loc[:, ~found.columns.duplicated()]  # n, updates, seeds and dirty of the first
    means = seed_means(rows)
    times = select(means, metric="seconds_per_update").set_index("variant").value
    found["seconds_per_update"] = found.index.get_level_values("variant").map(times.to_dict())
    for metric in ("snr_a", "snr_z"):
        found[metric] = [_noise(means, metric, *pair) for pair in found.index]
    found = found[NUMBERS].reindex(pd.MultiIndex.from_product([WAYS, NAMES], names=["way", "name"]))
    return found.dropna(subset=["nll_4"]).reset_index().astype({"dirty": bool})


def _bounds(results: Results, rows: pd.DataFrame, samples: int) -> pd.DataFrame:
    """The NLL with so many samples, and minus that of VIMCO in the same way."""
    nll = select(rows, metric="nll", num_samples=min(samples, SMOKE_SAMPLES) if results.smoke else samples)
    found = frames.compared(results, nll, KEYS, ["nll"], variant="vimco")
    return found.rename(columns=lambda name: re.sub("^(nll|difference)", rf"\1_{samples}", name))


def _noise(means: pd.DataFrame, metric: str, way: str, name: str) -> float:
    """Where a way's own weights were not measured, those of the shipped ones that it starts from."""
    rules = {"snr_a": name, "snr_z": "iwae" if name == "vimco" else name}
    fits = means[(means.metric == metric) & (means.rule == rules[metric])]
    where = {"started": ("shipped", "started"), "scratch": ("scratch",)}.get(way, ())
    own = fits[fits.model.isin(where)]
    return float(own.value.iloc[0]) if len(own) else np.nan


def _known(column: Column) -> Column:
    """The column, empty where a number is not there."""
    return lambda frame: ["" if text == "-" else text for text in column(frame)]


COLUMNS: dict[str, Column] = {
    "training": text_of("way", WAYS),
    "estimator": text_of("name", NAMES),
    "NLL, K = 4": _known(value("nll_4", 2)),
    "K = 1,000": _known(value("nll_1000", 2)),
    "- VIMCO, K = 4": _known(value("difference_4", 2)),
    "K = 1,000 ": _known(value("difference_1000", 2)),
    "KL(p||q)": _known(value("kl_p_q", 2)),
    "20-way, %": _known(value("accuracy", scale=100)),
    "ms an update": plain("seconds_per_update", 0, 1000),
    "SNR, q(a|x)": plain("snr_a", 2),
    "SNR, q(z|m, x)": plain("snr_z", 2),
    "n": plain("n", 0),
    "updates": whole("updates"),
    "seeds": plain("seeds", 0),
    **DIRTY,
}


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
