"""Each experiment as one tidy frame: means over seeds, the paper's numbers beside them, and what follows from both.
Cells that differ in K alone are of the same targets.

A frame has a line a cell. Columns: the keys that tell cells apart; each metric and its standard error, `nll` and
`nll_stderr`; n, updates, seeds (how many), dirty; and what the function names. Log-quantities in nats per image.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from reports.aggregate import differences, on_common_targets, seed_means
from reports.crossover import crossover, crossover_interval
from reports.declared import DECLARED, declared
from reports.results import SAMPLED, SETTING, TIMED, Results, Row, select
from vma.statistics import Values

BOUND = ("nll", "kl_a", "kl_z")
# The paper's words on each variant, by the id of its number.
IN_WORDS = {
    "flat-prior": "ablation.flat_prior",
    "inner": "ablation.similarity",
    "cosine": "ablation.similarity",
    "tied": "ablation.tied",
    "classes32": "ablation.classes32",
}
WAYS = ["classes", "shots"]
TUNED_AND_CHANGE = "(?P<model>.*-finish|[^-]*)-(?P<variant>.*)"  # a variant of `tuning`
# Lines stand in the order of their values, but for these columns.
ORDER = {
    "model": ["vma", "soft", "vae", "gmn", "fewshot", "table1-finish", "fewshot-finish"],
    "variant": list(
        dict.fromkeys(  # "control" comes first
            (
                *declared("ablations", "variant"),
                *declared("choices", "variant"),
                SAMPLED,
                *(re.sub(TUNED_AND_CHANGE, r"\2", name) for name in declared("tuning", "variant")),
            )
        )
    ),
    "split": ["train", "test"],
    "recipe": [
        *("paper", "smoke", "grown", "smoke-grown", "annealed", "smoke-annealed", "fast", "smoke-fast"),
        *("choice", "smoke-choice"),
    ],
}


# Each frame is made once for the same results: tables, figures and the page ask for it in turn, and change nothing.
once = lru_cache(maxsize=64)


def rows(results: Results, experiment: str, **where: Any) -> pd.DataFrame:
    """The rows of an experiment over all targets; `where` selects among them."""
    return on_common_targets(results, results.of(experiment, targets="all", **where))


def cells(rows: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """The frame of an experiment's rows, see above. `<metric>_seeds` has the value of each seed."""
    keys = list(keys)
    means = seed_means(rows)
    about = ["n", "updates", "seeds", "dirty"]
    frame = means[means.metric == metrics[0]][[*keys, *about]]
    for metric in metrics:
        names = {"value": metric, "stderr": f"{metric}_stderr", "seed_values": f"{metric}_seeds"}
        part = means[means.metric == metric].rename(columns=names)
        frame = frame.merge(part[[*keys, *names.values()]], "left", keys)
    return frame.sort_values(keys, key=_rank, na_position="first", ignore_index=True)


def compared(
    results: Results, of: pd.DataFrame, keys: list[str], metrics: Sequence[str] = BOUND, **against: Any
) -> pd.DataFrame:
    """The frame of the metrics; also difference, NLL minus that of another cell on the same targets, with its standard
    error and 95 % interval (difference_stderr, difference_low, difference_high), and difference_seeds, of each seed
    that both have.
    """
    return _beside(cells(of, keys, metrics), differences(results, of[of.metric == "nll"], keys, against), keys)


def _rank(column: "pd.Series[Any]") -> "pd.Series[Any]":
    order = ORDER.get(str(column.name))
    if order is None:
        return column
    places = {value: place for place, value in enumerate(order)}
    return column.map(lambda value: value if pd.isna(value) else places.get(value, len(order)))


@once
def recall(results: Results) -> pd.DataFrame:
    """Also log_m, log |M| at the test; paper, its NLL of the model with 256 entries."""
    keys = ["recipe", "train_memory_size", "memory_size", "num_samples"]
    frame = cells(rows(results, "recall"), keys, (*BOUND, "p_exact"))
    paper = {(256, 256): number(results, "recall.nll"), (256, 2048): number(results, "recall.2048")}
    sizes = zip(frame.train_memory_size, frame.memory_size, strict=True)
    return frame.assign(log_m=np.log(frame.memory_size), paper=[paper.get(pair, np.nan) for pair in sizes])


@once
def learned_mnist(results: Results) -> pd.DataFrame:
    """Also entropy_pa, the entropy of p(a); log_m; paper, its KL_a."""
    frame = _learned(results, "learned-mnist")
    paper = {size: number(results, f"learned-mnist.kl_a.{size}") for size in declared("learned-mnist", "memory_size")}
    return frame.assign(paper=frame.memory_size.map(paper))


@once
def learned_omniglot(results: Results) -> pd.DataFrame:
    """Also entropy_pa, the entropy of p(a); log_m; paper, its NLL, and paper_relation, which is < or > or empty."""
    frame = _learned(results, "learned-omniglot")
    largest = max(declared("learned-omniglot", "memory_size"))
    numbers = {
        (largest, 0.0, "train"): "learned-omniglot.train",
        (largest, 0.0, "test"): "learned-omniglot.test",
        (256, 3e-4, "test"): "learned-omniglot.regularised",
    }
    keys = zip(frame.memory_size, frame.weight_decay, frame.split, strict=True)
    ids = [numbers.get(key) for key in keys]
    relations = results.paper.set_index("id").relation
    return frame.assign(
        paper=[np.nan if key is None else number(results, key) for key in ids],
        paper_relation=["" if key is None else str(relations[key]).replace("=", "") for key in ids],
    )


def _learned(results: Results, experiment: str) -> pd.DataFrame:
    keys = ["model", "weight_decay", "memory_size", "split", "num_samples"]
    frame = cells(rows(results, experiment), keys, (*BOUND, "entropy_pa"))
    return frame.assign(log_m=np.log(frame.memory_size))


@once
def fewshot(results: Results) -> pd.DataFrame:
    """Also paper, its NLL: of VMA at the fewest and the most examples, since it does not print which N they are of; of
    soft attention trained on two classes, at 1 and 2.
    """
    keys = ["model", "read", "train_classes", "train_shots", "classes", "shots", "num_samples"]
    frame = cells(rows(results.with_own, "fewshot"), keys, BOUND)
    few = declared("fewshot", "shots", model="vma")

    def paper(row: "pd.Series[Any]") -> float:
        if row.model == "vae":
            return number(results, "fewshot.vae")
        if row.model == "soft":
            return number(results, "fewshot.soft") if row.train_classes == 2 and row.classes <= 2 else np.nan
        ends = {few[0]: "first", few[-1]: "last"}
        return number(results, f"fewshot.nll.{ends[row.shots]}") if row.shots in ends else np.nan

    return frame.assign(paper=[paper(row) for _, row in frame.iterrows()])


@once
def scaling(results: Results) -> pd.DataFrame:
    """Also optimum, VMA's NLL with one class in memory + log C; excess, NLL - optimum on the same targets, with its
    standard error and 95 % interval (excess_stderr, excess_low, excess_high); nothing where targets are not shared.

    VMA's optimum is every model's yardstick: without an address a model pays no log C, and its own NLL with one class
    promises nothing about more.
    """
    keys = ["model", "read", "train_classes", "shots", "num_samples", "classes"]
    of = rows(results.with_own, "scaling")
    frame = cells(of, [*keys, "memory_size"], BOUND)
    alone = frame[(frame.classes == 1) & (frame.model == "vma")].rename(columns={"nll": "optimum"})
    frame = frame.merge(alone[["shots", "num_samples", "optimum"]], "left", ["shots", "num_samples"])
    against = {"classes": 1, "model": "vma", "read": None, "train_classes": alone.train_classes.max()}
    found = differences(results, of[of.metric == "nll"], keys, against)
    frame = _beside(frame, found, keys, "excess")
    log_c = np.log(frame.classes)
    shifted = {name: frame[name] - log_c for name in ("excess", "excess_low", "excess_high")}
    return frame.assign(optimum=frame.optimum + log_c, **shifted)


@once
def shots(results: Results) -> pd.DataFrame:
    """All classes in memory; the plain VAE is at 0 examples. Also paper, its NLL of the plain VAE, and trained, the
    examples of a class in training in words.
    """
    of = rows(results.with_own, "shots")
    frame = cells(of, ["model", "train_shots", "shots", "num_samples"], BOUND)
    drawn = [bool((results.specs.get(run, {}).get("episode") or {}).get("fewest_shots")) for run in of.train_id]
    words = {n: f"1 to {n:.0f}" if n in set(of.train_shots[drawn]) else f"{n:.0f}" for n in of.train_shots.dropna()}
    alone = frame.model == "vae"
    return frame.assign(
        shots=frame.shots.mask(alone, 0),
        paper=np.where(alone, number(results, "fewshot.vae"), np.nan),
        trained=frame.train_shots.map(words),
    )


@once
def table1(results: Results, protocol: str, train_protocol: str = "per_class", vae_alone: bool = False) -> pd.DataFrame:
    """Table 1 under a protocol, VMA having been trained under `train_protocol`: as `tables.table1`, and seeds, dirty.
    GMN is in `gmn.frame`.

    minus_vma is a model's NLL minus VMA's on the same targets. Empty if there is only the plain VAE's line, unless
    `vae_alone`.
    """
    of = results.with_own.of("table1", metric="nll", protocol=(protocol, "none"), variant=None)
    of = of[(of.train_protocol == train_protocol) | ((of.model == "vae") & (train_protocol == "per_class"))]
    of = of if vae_alone or (of.model != "vae").any() else of.iloc[:0]
    keys = ["model", "targets", *WAYS]
    about = ["dataset", "value", "stderr", "n", "updates", "seeds", "dirty", "seed_values"]
    frame = seed_means(of)[[*keys, *about]]
    frame = frame.sort_values(keys, key=_rank, ignore_index=True)
    found = differences(results, of[of.targets == "all"], keys, {"model": "vma"})
    frame = _beside(frame, found[found.model != "vma"], keys, "minus_vma")
    if (
        protocol != train_protocol
        or protocol != "per_class"
        or not frame.dataset.isin(DECLARED["table1"].datasets).all()
    ):
        return frame
    published = results.paper[(results.paper["where"] == "Table 1") & (results.paper.model == "vma")]
    published = published.rename(columns={"number": "paper"})[["model", *WAYS, "paper"]]
    frame = frame.merge(published, "left", ["model", *WAYS])
    return frame.assign(difference=frame.value - frame.paper)


@once
def own(results: Results) -> pd.DataFrame:
    """Every cell and metric of the user's own models, a line each: value and stderr."""
    frame = seed_means(on_common_targets(results, results.own)).rename(columns={"stderr": "value_stderr"})
    told = ["model", "experiment", "recipe", "variant", "train_classes", "train_shots", "train_memory_size"]
    keys = [*told, *WAYS, "memory_size", "num_samples", "metric", "rule", "targets"]
    return frame.sort_values(keys, na_position="first", ignore_index=True)


@once
def classification(results: Results) -> pd.DataFrame:
    """accuracy is 0 to 1, with its 95 % interval over episodes, low and high; paper, its accuracy with q(a|x)."""
    keys = [*WAYS, "rule"]
    frame = cells(rows(results, "classification"), keys, ("accuracy",))
    means = seed_means(results.of("classification", metric="accuracy"))
    frame = frame.merge(means[[*keys, "low", "high"]], "left", keys)
    paper = [
        number(results, f"classification.{c:.0f}.{s:.0f}") / 100 if rule == "address" else np.nan
        for c, s, rule in zip(frame.classes, frame.shots, frame.rule, strict=True)
    ]
    return frame.assign(paper=paper)


@once
def ablations(results: Results) -> pd.DataFrame:
    """`compared` with the control. Also paper, what it says in words."""
    frame = compared(results, rows(results, "ablations"), ["variant", "num_samples"], variant="control")
    words = results.paper.set_index("id").value
    return frame.assign(paper=[words.get(IN_WORDS.get(variant, ""), "") for variant in frame.variant])


@once
def recipes(results: Results) -> pd.DataFrame:
    """`compared` with the paper's recipe."""
    keys = ["dataset", "classes", "shots", "num_samples", "recipe"]
    return compared(results, rows(results, "recipes"), keys, recipe="smoke" if results.smoke else "paper")


@once
def choices(results: Results) -> pd.DataFrame:
    """What differs in training, `compared` with the control."""
    short = tuple(variant for variant in declared("choices", "variant") if variant != "k")
    of = rows(results, "choices", variant=short)
    return compared(results, of, ["variant", "num_samples"], variant="control")


@once
def tuning(results: Results) -> pd.DataFrame:
    """`compared` with the control of the same training, which stands under `model`; `variant` is what differs. Short
    runs, and runs of full length by the suite's recipe. Also accuracy, 20-way 1-shot by q(a|x), where it was measured.
    """
    of = rows(replace(results, rows=pd.concat([results.rows, results.suite])), "tuning")
    of = of.assign(**of.variant.astype(str).str.extract(TUNED_AND_CHANGE))
    return compared(results, of, ["model", "variant"], (*BOUND, "accuracy"), variant="control")


@once
def num_samples(results: Results) -> pd.DataFrame:
    """`compared` with K = 4."""
    return compared(results, rows(results, "choices", variant="k"), ["model", "num_samples"], num_samples=4)


@once
def wallclock(results: Results) -> pd.DataFrame:
    """seconds_per_update is the median over n rounds, q25 and q75 the quartiles; peak_bytes. Also setting, what was
    timed on in words: its lines stand together, and those of the setting with the most lines come first.
    """
    keys = ["variant", "model", "read", "train_num_samples", "train_memory_size"]
    parts = []
    for words, where in settings(results):
        frame = cells(rows(results.with_own, TIMED, **where), keys, ("seconds_per_update", "peak_bytes"))
        means = seed_means(results.with_own.of(TIMED, metric="seconds_per_update", **where))
        parts.append(frame.merge(means[[*keys, "q25", "q75"]], "left", keys).assign(setting=words))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*keys, "seconds_per_update"])


def settings(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """Each machine, number of threads and precision that updates were timed with, in words and for `select`; that with
    the most rows first.
    """
    sizes = (
        results.with_own.of(TIMED, metric="seconds_per_update").groupby(list(SETTING), dropna=False, sort=False).size()
    )
    found = []
    for values in sizes.sort_values(ascending=False, kind="stable").index:
        known = [None if pd.isna(value) else value for value in values]
        device, threads, dtype = known
        words = [device, None if threads is None else f"{threads:.0f} thread" + "s" * (threads > 1), dtype]
        found.append((", ".join(word for word in words if word), dict(zip(SETTING, known, strict=True))))
    return found


@once
def crossovers(results: Results) -> pd.DataFrame:
    """From which |M| on VMA's updates are faster than soft attention's, both with a gradient for every entry: a line
    for each setting, read and train_num_samples.

    memory_size is NaN where they are not at the largest common size, see `crossover.crossover`; low and high are the
    ends of its 95 % interval (an end is infinite where it may be at none), NaN where the seconds of the rounds are
    missing.
    """
    lines = []
    for words, where in settings(results):
        of = results.of(TIMED, metric="seconds_per_update", variant=None, **where).drop_duplicates(
            ["model", "read", "train_num_samples", "train_memory_size"], keep="last"
        )
        hard = select(of, model="vma").set_index("train_memory_size", drop=False)
        for key, part in select(of, model="soft").groupby(["read", "train_num_samples"], sort=True):
            soft = part.set_index("train_memory_size", drop=False)
            sizes = np.array(sorted(set(hard.index) & set(soft.index)))
            found = crossover(sizes, hard.value[sizes].to_numpy(), soft.value[sizes].to_numpy())
            pairs = [_rounds(results, hard.loc[size], soft.loc[size]) for size in sizes]
            known = [pair for pair in pairs if pair is not None]
            ends = (np.nan, np.nan)
            if known and len(known) == len(pairs):
                ends = crossover_interval(sizes, *zip(*known, strict=True))
            lines.append([words, *key, np.nan if found is None else found, *ends])
    return pd.DataFrame(lines, columns=["setting", "read", "train_num_samples", "memory_size", "low", "high"])


def _rounds(results: Results, hard: Row, soft: Row) -> tuple[Values, Values] | None:
    """The seconds of the rounds behind two rows; None if they are not there, not as many, or of another machine, whose
    arrays have the same name.
    """
    found = []
    for row in (hard, soft):
        seconds = (results.arrays(row) or {}).get("seconds")
        if seconds is None or not np.isclose(np.median(seconds), row["value"], rtol=1e-3):
            return None
        found.append(seconds.astype(float))
    return (found[0], found[1]) if len(found[0]) == len(found[1]) else None


def number(results: Results, key: str) -> float:
    """The paper's number of this id; NaN if it has none, or says it in words."""
    found = results.paper.set_index("id").number
    return float(found[key]) if key in found.index else np.nan


def _beside(frame: pd.DataFrame, found: pd.DataFrame, keys: list[str], name: str = "difference") -> pd.DataFrame:
    """The frame with the columns of `differences` beside it, under another name."""
    renamed = {column: str(column).replace("difference", name) for column in found if column not in keys}
    found = found.astype({key: frame[key].dtype for key in keys})
    return frame.merge(found.rename(columns=renamed), "left", keys)
