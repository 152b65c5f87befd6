"""What a run leaves behind, the surroundings of the processes that make it (see warm.py), and calls that break it."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.record import store
from vma import checkpoint

ROOT = Path(__file__).parents[2]
WARM = Path(__file__).with_name("warm.py")

CALLS = ("open", "write", "fsync", "ftruncate", "lseek", "replace", "unlink", "mkdir")  # of os, in a file's life

Ask = Callable[..., dict[str, Any]]
Before = Callable[[int, Callable[[], None]], object]


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


def intercept(
    names: Iterable[str],
    before: Before = lambda number, half: None,
    after: Callable[[int], object] = lambda number: None,
    patch: Callable[[Any, str, Any], object] = setattr,
) -> list[int]:
    """Have `before` and `after` happen with the number, from 1 on, of each of these calls of os; gives how many there
    were. `half` does a half of the call if it is a write, which is what `before` may leave behind.
    """
    seen = [0]

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            def half() -> None:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])

            seen[0] += 1
            number = seen[0]
            before(number, half)
            try:
                return real(*arguments, **options)
            finally:
                after(number)

        return call

    for name in names:
        patch(os, name, wrapped(name, getattr(os, name)))
    return seen


def refusal(first: int | None, error: int, lasting: bool) -> Before:
    """Of the call of this number, and with `lasting` of all after it, as of a full or broken disk."""

    def refuse(number: int, half: Callable[[], None]) -> None:
        if number == first or (lasting and first is not None and number > first):
            half()
            raise OSError(error, os.strerror(error))

    return refuse
