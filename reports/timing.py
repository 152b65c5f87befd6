"""What `benchmarks/timing` measured: the ratios, what each means and what is wanted of it, and seconds by benchmark."""

import json

import numpy as np
import pandas as pd

from reports.columns import DIRTY, Column, ends, models, plain, text_of, whole
from reports.results import InputError, Results

COLUMNS = ("name", "ratio", "q25", "q75", "device", "commit")

# What each ratio is, and the least that the suite wants of it.
MEANINGS: dict[str, tuple[str, float | None]] = {
    "update-vs-plain": ("speed-up of the few-shot update over the reference path", 2.2),
    "flops-vs-matmul": (
        "operations of the reference path's update in the time of a fast one, as a fraction of the rate of a matrix "
        "product (bfloat16, 2,048 x 2,048)",
        0.6,
    ),
    "mlp-update-vs-plain": ("speed-up of the MLPs' update over the reference path: recall of 256 digits", None),
    "update-vs-float32": ("speed-up by mixed precision over float32, same code", None),
    "hard-exact-vs-soft-features-4096": (
        "speed-up of VMA's update (K = 4) over that of soft attention over features (K = 1): 4,096 entries, a gradient "
        "for each",
        None,
    ),
    "hard-approx-vs-soft-features-4096": (
        "the same, VMA's gradient reaching the drawn entries and a sample of the others",
        None,
    ),
    "evaluate-vs-loop": (
        "speed-up of evaluating a target over the training forward in a loop: K = 1,000, 2,736 entries, 144 targets "
        "that share a memory",
        5.0,
    ),
    "evaluate-vs-loop-alone": ("the same for one target with a memory of its own", None),
    "graph-vs-eager": ("speed-up of an update as one CUDA graph", None),
    "side-by-side-throughput": ("updates a second of four processes on one device against one alone", None),
}


def ratios(results: Results) -> pd.DataFrame:
    """timing/ratios.csv, in the order of MEANINGS: COLUMNS, then meaning, wanted (NaN where nothing is) and dirty.

    Raises:
        InputError: if the file is not such a table; names it.
    """
    path = results.folder / "timing" / "ratios.csv"
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(("name", "device", "commit"), "str"))
        frame = frame[list(COLUMNS)].astype(dict.fromkeys(("ratio", "q25", "q75"), float))
    except FileNotFoundError:
        frame = pd.DataFrame(columns=list(COLUMNS))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} is no table of ratios ({' '.join(str(error).split())}): restore it, or delete it and measure again"
        ) from None
    known = [MEANINGS.get(name, ("", None)) for name in frame.name]
    wanted = pd.Series([least for _, least in known], frame.index, dtype=float)
    places = {name: place for place, name in enumerate(MEANINGS)}
    dirty = frame.commit.astype(str).str.endswith("+")
    frame = frame.assign(meaning=[meaning for meaning, _ in known], wanted=wanted, dirty=dirty)
    return frame.sort_values("name", key=lambda names: names.map(places), kind="stable", ignore_index=True)


RATIOS: dict[str, Column] = {
    "ratio": text_of("name"),
    "median": plain("ratio", 2),
    "quartiles": ends("q25", "q75", 2),
    "wanted": lambda frame: ["" if np.isnan(least) else f"at least {least:g}" for least in frame.wanted],
    "what it is": text_of("meaning"),
    "on": text_of("device"),
    "commit": lambda frame: [commit[:8] for commit in frame.commit],
    **DIRTY,
}


def updates(results: Results) -> pd.DataFrame:
    """timing/update.json: name, model, read, entries, K, B, dtype, operations of an update, median, q1 and q3 in
    seconds, on (what machine), dirty.

    Raises:
        InputError: if the file is damaged; names it.
    """
    keys = ("model", "read", "network", "entries", "K", "B", "dtype", "flops")
    return _benchmarks(results, "update", keys)


def evaluations(results: Results) -> pd.DataFrame:
    """timing/evaluation.json: name, entries, K, B (targets of a round), dtype, weights, peak_bytes of a process that
    does nothing else (NaN if it was not measured), median, q1 and q3 in seconds a target, on, dirty.

    Raises:
        InputError: if the file is damaged; names it.
    """
    keys = ("entries", "K", "B", "dtype", "weights", "peak_bytes")
    frame = _benchmarks(results, "evaluation", keys)
    frame = frame.assign(**{name: frame[name] / frame.B for name in ("median", "q1", "q3")})
    return frame.sort_values(["entries", "K", "B"], kind="stable", ignore_index=True)


def _plain_names(frame: pd.DataFrame) -> list[str]:
    return [name.removeprefix("test_").partition("[")[0].replace("_", " ") for name in frame.name]


SECONDS: dict[str, Column] = {
    "ms": plain("median", 1, 1000),
    "quartiles": ends("q1", "q3", 1, 1000),
    "on": text_of("on"),
    **DIRTY,
}
UPDATES: dict[str, Column] = {
    "benchmark": _plain_names,
    "model": models,
    "network": text_of("network"),
    "|M|": whole("entries"),
    "K": whole("K"),
    "B": whole("B"),
    "GFLOP": plain("flops", 1, 1e-9),
    "precision": text_of("dtype"),
    **SECONDS,
}
# milliseconds a target
EVALUATIONS: dict[str, Column] = {
    "benchmark": _plain_names,
    "|M|": whole("entries"),
    "K": whole("K"),
    "targets of a memory": whole("B"),
    "weights": text_of("weights"),
    "precision": text_of("dtype"),
    **SECONDS,
    "peak, MiB": lambda frame: ["" if pd.isna(peak) else f"{peak / 2**20:,.0f}" for peak in frame.peak_bytes],
}


def _benchmarks(results: Results, module: str, keys: tuple[str, ...]) -> pd.DataFrame:
    path = results.folder / "timing" / f"{module}.json"
    lines = []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else []
        for one in found:
            threads = one["machine"].get("threads")
            lines.append(
                {
                    "name": one["name"],
                    **{key: one["extra_info"].get(key) for key in keys},
                    **{key: float(one["stats"][key]) for key in ("median", "q1", "q3")},
                    "on": one["machine"]["device"] + (f", {threads} thread" + "s" * (threads > 1) if threads else ""),
                    "dirty": one["commit"].endswith("+"),
                }
            )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())}): restore it, or delete it and measure again"
        ) from None
    return pd.DataFrame(lines, columns=["name", *keys, "median", "q1", "q3", "on", "dirty"])
