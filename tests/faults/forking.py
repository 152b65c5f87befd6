"""What a run leaves behind, and the surroundings of the processes that make it (see warm.py)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import store
from vma import checkpoint

ROOT = Path(__file__).parents[2]
WARM = Path(__file__).with_name("warm.py")

Ask = Callable[..., dict[str, Any]]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def outcome(folder: Path) -> dict[str, Any]:
    """What a run leaves: its weights and the state of its optimizer and generator, rows, logs and arrays, without
    times.
    """
    (path,) = folder.glob("cache/vma/runs/*/checkpoint.safetensors")
    state = checkpoint.load(path, previous=False)
    found: dict[str, Any] = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    found["update"] = state.meta["update"]
    for file in sorted(folder.glob("out/**/*.jsonl")):
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "created")} for row in store.read_rows(file)]
        if file.parent.name == "training":  # as many a line as the machine was fast: its means go from start to start
            rows = [{k: row[k] for k in ("update", "validation_bound") if k in row} for row in rows]
        found[file.name] = sorted(map(json.dumps, rows))
    for file in sorted(folder.glob("out/targets/[!.]*")):  # not what those killed left half-written
        found[file.name] = file.read_bytes()
    return found
