"""A table of the runs behind the rows: what each is, and which weights and training log belong to it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

from reports.results import Results

NAME = "runs.csv"  # in the folder of results
COLUMNS = (
    *("run", "train_id", "model", "recipe", "variant", "dataset", "updates", "seed"),
    *("experiments", "commits", "weights", "log"),
)
NOT_SCIENCE = ("dtype", "threads", "path")  # fields of a spec that decide numbers up to rounding alone


def run_name(spec: Mapping[str, Any], train_id: str) -> str:
    """A readable name of a training run, by its spec, and its id, which tells alike ones apart."""
    episode = spec["episode"]
    memory = {
        "per_class": f"{episode['classes']}x{episode['shots']}",
        "gmn": f"gmn{episode['classes']}x{episode['shots']}",
        "recall": f"recall{episode.get('memory_size')}",
        "sequence": f"sequence{episode['classes']}x{episode['shots']}",
        "none": f"learned{spec['learned_entries']}" if spec.get("learned_entries") else None,
    }[episode["protocol"]]
    data = re.sub(r"\W+", "_", spec["dataset"])[:40]
    parts = (spec["model"], spec.get("read"), data, memory, spec["recipe"], f"seed{spec['seed']}", train_id)
    return "-".join(part for part in parts if part)


def table(results: Results) -> pd.DataFrame:
    """A line a trained run: COLUMNS. weights and log are paths in the folder of results, empty where there are none."""
    weights = [(path, _meta(path)) for path in sorted((results.folder / "checkpoints").glob("*.safetensors"))]
    lines = []
    known = pd.concat([results.rows, results.suite, results.own])
    for train_id, rows in known[known.updates > 0].groupby("train_id"):
        row, spec = rows.sort_values("updates").iloc[-1], results.specs.get(str(train_id))
        if spec is None:
            continue
        found = [p for p, meta in weights if meta["update"] == row.updates and _science(meta["spec"]) == _science(spec)]
        logs = results.training_logs(str(train_id))
        lines.append(
            [
                *(run_name(spec, str(train_id)), train_id, row.model, spec["recipe"]),
                *(" ".join(rows.variant.dropna().unique()), row.dataset, row.updates, int(row.train_seed)),
                *(" ".join(rows.experiment.unique()), row.train_commits),
                *(str(part[0].relative_to(results.folder)) if part else "" for part in (found, logs)),
            ]
        )
    return pd.DataFrame(lines, columns=list(COLUMNS)).sort_values("run", ignore_index=True)


def _science(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in NOT_SCIENCE}


def _meta(path: Path) -> dict[str, Any]:
    """What a file of weights says of its training, from its header alone."""
    with safe_open(path, framework="np") as file:
        return dict(json.loads(file.metadata()["meta"]))
