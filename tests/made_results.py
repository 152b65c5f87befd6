"""A made-up results folder for tests of reports: rows, arrays, logs and specs of every declared experiment, with
invented numbers.

Nothing is trained or evaluated, and equal arguments give equal files.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.declare import experiments
from benchmarks.declare.spec import Cell, TrainSpec, identity
from benchmarks.record.store import append_rows, record_arrays, record_specs
from benchmarks.runs import tasks
from benchmarks.runs.build import SURROGATES
from benchmarks.timing.support import Ratio, write_entries, write_ratio
from reports.gmn import LOGGED
from reports.targets import Key
from vma.model import Z_GRADIENTS

Arrays = dict[str, np.ndarray[Any, Any]]
Metrics = list[dict[str, Any]]

TARGETS, CLASSES, EPISODES = 40, 12, 100
ORIGIN = {
    "data_sha256": "d" * 64,
    "commit": "c" * 40,
    "dirty": False,
    "torch": "2.13.0+cpu",
    "device": "made up",
    "seconds": 1.5,
    "created": "2026-01-01T00:00:00+00:00",
    "train_commits": "c" * 40,
}

# A row, for tests of what is made of a few.
ROW: dict[str, Any] = {
    **{"experiment": "scaling", "model": "vma", "recipe": "paper", "dataset": "omniglot45_5", "protocol": "per_class"},
    **{"targets": "all", "train_seed": 0, "updates": 100, "train_classes": 8, "classes": 2, "shots": 4},
    **{"num_samples": 4, "metric": "nll", "value": 80.0, "stderr": 1.0, "n": 10, "dirty": False},
    **{"train_id": "t0", "eval_id": "e0"},
}


def make_results(folder: Path, smoke: bool = False) -> Path:
    """Write the folder, of smoke runs if asked, and return it.

    VMA's few-shot trainings have two seeds, and one ablation is of a dirty tree.
    """
    specs: dict[str, Any] = {}
    runs: dict[str, tuple[TrainSpec, int, float, float]] = {}
    with mock.patch("os.fsync"):  # invented files need no safety from power cuts, and there are hundreds
        for name, declare in experiments.EXPERIMENTS.items():
            cells = (experiments.smoke(declare()) if smoke else declare()).cells
            if name == "fewshot" and not smoke:
                again = [replace(c, train=replace(c.train, seed=1)) for c in cells if c.train.model == "vma"]
                cells = (*cells, *again)
            rows, everything = [], {}
            for cell in cells:
                metrics, arrays = _evaluated(name, cell)
                row = ORIGIN | cell.row() | {"experiment": name, "updates": cell.updates or 0, "targets": "all"}
                row |= {"train_id": cell.train.train_id, "eval_id": cell.eval.eval_id}
                row["dirty"] = (name, cell.variant) == ("ablations", "inner")
                rows += [row | metric for metric in metrics]
                specs |= {cell.train.train_id: identity(cell.train), cell.eval.eval_id: identity(cell.eval)}
                if cell.updates:
                    runs.setdefault(cell.train.train_id, (cell.train, cell.updates, *_numbers(name, cell)[:2]))
                everything[Key(cell.train.train_id, row["updates"], cell.eval.eval_id)] = arrays
            record_arrays(folder, name, everything)
            append_rows(folder / f"{name}.jsonl", rows)
        record_specs(folder / "specs.jsonl", specs)
        _make_timing(folder / "timing")
    (folder / "training").mkdir(exist_ok=True)
    for train_id, (train, updates, nll, kl_a) in runs.items():
        log = folder / "training" / f"{train.model}-{train_id}.jsonl"
        log.write_text("".join(_log(train, updates, nll, kl_a)), encoding="utf-8")
    return folder


def _log(train: TrainSpec, updates: int, nll: float, kl_a: float) -> list[str]:
    """Lines a hundredth of the run apart; none of a run that is shorter than the trainer's hundred updates."""
    lines, step = [], max(100, updates // 100)
    for update in range(step, updates + 1, step) if updates >= 1000 else ():
        rest = np.exp(-6 * update / updates)
        line = {"update": update, "bound": -nll - 120 * rest, "kl_a": kl_a * (1 - rest), "seconds": 0.07 * update}
        line["kl_z"] = (0.02 if train.episode.protocol == "recall" else 20.0) + 8 * rest
        if update // step % 10 == 0:
            line["validation_bound"] = line["bound"] - 2 - 3 * update / updates
            if train.model == "gmn":
                line |= dict.fromkeys(LOGGED, 1 + update / updates) | {"gain": 13 - 12 * rest}
        lines.append(json.dumps(line) + "\n")
    return lines


def _numbers(name: str, cell: Cell) -> tuple[float, float, float]:
    """An invented NLL, KL_a and KL_z in nats."""
    train, evaluation = cell.train, cell.eval
    episode, model = evaluation.episode, train.model
    more = 0.3 * train.seed - 6.0 * (evaluation.num_samples > 4)
    classes, shots, seen = np.log2(episode.classes), np.log2(episode.shots), np.log2(train.episode.shots)
    tested = np.log(train.learned_entries or evaluation.memory_size or max(episode.num_entries, 1))
    if name == "recall":
        learned = train.recipe != "paper" or train.episode.num_entries <= 256
        return (tested + 0.4, tested - 0.1, 0.05) if learned else (95.0, 3.0, 16.0)
    if name == "learned-mnist":
        far = 0.5 if model == "vae" else 0.0
        kl_a = 0.0 if far else 1.6 + 0.2 * tested - 0.15 * (evaluation.split == "test")
        return 87 + (evaluation.split == "test") + far + more, kl_a, 12.0
    if name == "learned-omniglot":
        if train.weight_decay:
            return 112 + 3 * (model == "vae") + more, 0 if model == "vae" else 4.9, 18.0
        if model == "vae":
            return 108 + 3 * (evaluation.split == "test") + more, 0.0, 24.0
        return (128 - 7 * tested if evaluation.split == "train" else 70 + 11 * tested) + more, 0.95 * tested, 12.0
    if name == "table1":
        nll = 88 + 0.6 * classes - 3 * shots + {"vma": 0, "soft": 9, "vae": 11, "gmn": 4}[model] * (1 + 0.1 * shots)
        return nll + 2 * (train.episode.protocol == "gmn"), tested * (model == "vma"), 22.0
    if model == "vae":
        return 91.5 + more, 0.0, 30.0
    if model == "soft":
        worse = (0.8 if train.episode.classes == 2 else 0.4) * 3 * classes - 0.3 * shots
        return 76 + 2 * (train.episode.classes == 8) + worse + (train.read == "images") + more, 0.0, 25.0
    change = {"flat-prior": 0.2, "inner": 0.6, "cosine": 4.1, "tied": -0.3, "classes32": -0.6}
    nll = 78 - 1.5 * shots + 0.3 * abs(seen - shots) + 1.05 * np.log(2) * classes + more
    return nll + change.get(cell.variant or "", 0), 0.3 + 0.55 * tested, 27 - 1.5 * shots


def _evaluated(name: str, cell: Cell) -> tuple[Metrics, Arrays]:
    made_by = {"wallclock": _timed, "samples": _sampled, "lookup": _looked_up, "gradient-noise": _noisy}
    made_by |= dict.fromkeys(tasks.RULES, _classified)
    if cell.eval.task in made_by:
        return made_by[cell.eval.task](cell)
    metrics, arrays = _bound(cell, *_numbers(name, cell))
    if cell.eval.task == "learned":
        _add_learned(cell, metrics, arrays)
    if cell.eval.task == "address-divergences":
        arrays |= {name: (0.8 + 0.01 * arrays["nll"]).astype(np.float32) for name in ("kl_q_p", "kl_p_q")}
        metrics = [_summary(name, arrays[name]) for name in ("kl_q_p", "kl_p_q")]
    return metrics, arrays


def _summary(metric: str, values: np.ndarray[Any, Any], **extras: Any) -> dict[str, Any]:
    stderr = float(values.std(ddof=1) / np.sqrt(len(values)))
    return {"metric": metric, "value": float(values.mean()), "stderr": stderr, "n": len(values), **extras}


def _bound(cell: Cell, nll: float, kl_a: float, kl_z: float) -> tuple[Metrics, Arrays]:
    """The targets are the same in all cells, and so is most of their spread."""
    shared = np.random.default_rng(7)
    own = np.random.default_rng([cell.train.seed, int(1000 * nll)])
    recall = cell.eval.task == "recall"
    spread = shared.normal(0, 12, TARGETS) * (0.01 if recall else 1)
    arrays: Arrays = {
        "nll": nll + spread - spread.mean() + own.normal(0, 0.5, TARGETS) * (not recall),
        "kl_a": np.full(TARGETS, kl_a) + (kl_a > 0) * shared.normal(0, 0.1, TARGETS),
        "kl_z": np.full(TARGETS, kl_z) + 0.1 * kl_z * shared.normal(0, 1, TARGETS),
    }
    arrays["log_px"] = -(arrays["nll"] - arrays["kl_a"] - arrays["kl_z"])
    if recall:
        p_exact = 0.97 if kl_z < 1 else 0.05
        arrays["p_exact"] = np.clip(p_exact + 0.01 * shared.normal(0, 1, TARGETS), 0, 1)
    arrays = {metric: values.astype(np.float32) for metric, values in arrays.items()}
    metrics = [_summary(metric, values) for metric, values in arrays.items()]
    gmn = cell.eval.episode.protocol == "gmn" and cell.train.model != "vae"
    duplicated = (np.arange(TARGETS) % 5 < 2) & gmn
    for targets, chosen in (("duplicated", duplicated), ("new", ~duplicated)) if gmn else ():
        values = arrays["nll"][chosen] - 20 * (targets == "duplicated")
        metrics.append(_summary("nll", values, targets=targets))
    x_class = np.sort(np.arange(TARGETS) % CLASSES)
    return metrics, {**arrays, "x_index": np.arange(TARGETS), "x_class": x_class, "duplicated": duplicated}


def _add_learned(cell: Cell, metrics: Metrics, arrays: Arrays) -> None:
    entries = cell.train.learned_entries
    assert entries is not None
    p = np.random.default_rng(entries).dirichlet(np.full(entries, 0.8)).clip(1e-12)
    metrics.append({"metric": "entropy_pa", "value": float(-(p * np.log(p)).sum()), "stderr": None, "n": entries})
    shown = np.argsort(-p)[:12]
    arrays["log_pa"] = np.log(p).astype(np.float32)
    arrays["sample_addresses"] = shown
    arrays["sample_means"] = 255 * _pictures(28, len(shown), 12)


def _sampled(cell: Cell) -> tuple[Metrics, Arrays]:
    rows, columns = cell.eval.targets, cell.eval.num_samples
    memory, samples = _pictures(26, rows), 255 * _pictures(26, rows, columns)
    arrays: Arrays = {"memory": memory, "memory_class": np.arange(rows), "samples": samples}
    return [{"metric": "images", "value": float(rows * columns), "stderr": None, "n": rows}], arrays


def _looked_up(cell: Cell) -> tuple[Metrics, Arrays]:
    classes, shots = cell.eval.episode.classes, cell.eval.episode.shots
    rng, targets, entries = np.random.default_rng(3), np.arange(8), classes * shots
    kinds = 300 + 10 * targets[:, None] + np.arange(classes)
    own, labels = kinds[targets, 3 * targets % classes], kinds.repeat(shots, 1)
    scores = np.exp(rng.normal(0, 1.5, labels.shape) + 5 * (labels == own[:, None]))
    q = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    arrays: Arrays = {
        "x": _pictures(26, 8),
        "x_class": own,
        "memory": _pictures(26, 8, entries),
        "memory_class": labels,
    }
    arrays |= {"q": q, "p": rng.dirichlet(np.full(entries, 20.0), 8).astype(np.float32), "top": np.argsort(-q)[:, :5]}
    arrays |= {"reconstruction": 255 * _pictures(26, 8), "samples": 255 * _pictures(26, 8, 4)}
    return [_summary("class_mass", np.where(labels == own[:, None], q, 0).sum(1))], arrays


def _pictures(size: int, *shape: int) -> np.ndarray[Any, Any]:
    """(*shape, size, size) of 0 and 1."""
    return np.random.default_rng(shape).integers(0, 2, (*shape, size, size), np.uint8)


def _classified(cell: Cell) -> tuple[Metrics, Arrays]:
    classes, shots = cell.eval.episode.classes, cell.eval.episode.shots
    rule = tasks.RULES[cell.eval.task]
    level = 0.99 - 0.035 * np.log2(classes) - 0.02 * (5 - shots) + 0.02 * (rule != "address")
    rng = np.random.default_rng(classes + shots)
    values = (rng.binomial(classes, level, EPISODES) / classes).astype(np.float32)
    row = _summary("accuracy", values, rule=rule)
    row |= {"low": row["value"] - 2 * row["stderr"], "high": row["value"] + 2 * row["stderr"]}
    return [row], {rule: values}


def _noisy(cell: Cell) -> tuple[Metrics, Arrays]:
    names = {"snr_a": SURROGATES, "snr_z": Z_GRADIENTS}
    if cell.train.estimator == "nvil":
        names = {"snr_a": ("nvil",)}
    row = {"value": 0.5, "stderr": None, "n": cell.eval.num_samples}
    return [row | {"metric": metric, "rule": name} for metric, rules in names.items() for name in rules], {}


def _timed(cell: Cell) -> tuple[Metrics, Arrays]:
    size = cell.train.episode.num_entries
    fixed, slope = {
        ("vma", None, 2): (0.050, 0.0003),
        ("vma", None, 4): (0.055, 0.0003),
        ("soft", "images", 1): (0.036, 0.0007),
        ("soft", "images", 4): (0.046, 0.0027),
        ("soft", "features", 1): (0.038, 0.0009),
        ("soft", "features", 4): (0.048, 0.0011),
        ("vae", None, 1): (0.021, 0.0),
    }[cell.train.model, cell.train.read, cell.train.num_samples]
    slope *= 0.4 if cell.variant else 1
    shared, own = np.random.default_rng(size), np.random.default_rng([size, cell.train.num_samples, int(1e4 * slope)])
    noise = shared.gamma(200, 1 / 200, 12) * own.gamma(2000, 1 / 2000, 12)
    seconds = (fixed + slope * size) * noise / np.median(noise)
    low, middle, high = (float(quantile) for quantile in np.quantile(seconds, (0.25, 0.5, 0.75)))
    times = {"metric": "seconds_per_update", "value": middle, "stderr": None, "n": 12, "q25": low, "q75": high}
    memory = {"metric": "peak_bytes", "value": float(3 * 10**8 + 10**9 * slope * size), "stderr": None, "n": 12}
    return [times, memory], {"seconds": seconds.astype(np.float32)}


def _make_timing(folder: Path) -> None:
    commit = "c" * 40
    for place, name in enumerate(("evaluate-vs-loop", "flops-vs-matmul", "update-vs-plain")):
        write_ratio(folder / "ratios.csv", Ratio(name, 0.5 + 2 * place, 0.4, 5.0, "made up, 2 threads", commit))
    write_ratio(folder / "ratios.csv", Ratio("graph-vs-eager", 3.0, 2.0, 4.0, "another one", commit + "+"))
    shared = {"machine": {"device": "made up", "torch": "2.13.0+cpu", "threads": 2}, "commit": commit}
    shared |= {"stats": {"median": 0.4, "q1": 0.3, "q3": 0.6, "iqr": 0.3, "min": 0.2, "rounds": 9}}
    update = {"model": "soft", "read": "images", "network": "paper", "entries": 32, "K": 1, "B": 32, "dtype": "float32"}
    write_entries(folder / "update.json", [shared | {"name": "test_update[soft-images]", "extra_info": update}])
    target = {"entries": 2736, "K": 1000, "B": 8, "dtype": "bfloat16", "weights": "untrained", "peak_bytes": 2**30}
    several = [shared | {"name": "test_evaluate[1000-2736]", "extra_info": target | {"B": 1, "peak_bytes": None}}]
    several.append(shared | {"name": "test_evaluate_against_a_loop[8]", "extra_info": target})
    write_entries(folder / "evaluation.json", several)
