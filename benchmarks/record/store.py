"""Result files: rows appended whole, what made them, and the texts and arrays beside them."""

import io
import json
import logging
import math
import os
import platform
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record.locks import locked
from reports import lines, targets
from vma.errors import InputError
from vma.files import BINARY, read_bounded, sync_folder, write_all, write_atomic

if TYPE_CHECKING:  # importing torch takes seconds, and appending a row needs none of it
    import torch

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 2**30  # of a file of rows
CODE_FOLDERS = ("vma", "baselines", "benchmarks", "reports")

# The promise to whoever reads results/: these keys, in this order, in every row.
ROW_KEYS: tuple[str, ...] = (
    *("experiment", "model", "read", "recipe", "dataset", "split", "protocol", "targets", "train_seed", "updates"),
    *("learning_rate", "train_classes", "train_shots", "train_memory_size", "train_num_samples", "train_protocol"),
    *("classes", "shots", "memory_size", "num_samples", "metric", "value", "stderr", "n", "train_id", "eval_id"),
    *("data_sha256", "commit", "dirty", "torch", "device", "dtype", "threads", "seconds", "created"),
)

logger = logging.getLogger("vma")


def complete(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every key of ROW_KEYS, in that order, None where it gives none; its other keys follow.

    Raises:
        InputError: a value is NaN, infinite (JSON has neither) or not flat; names experiment and metric.
    """
    whole = {**dict.fromkeys(ROW_KEYS), **row}
    for key, value in whole.items():
        if isinstance(value, float) and not math.isfinite(value):
            problem = f"{value}, which is not finite"
        elif value is not None and not isinstance(value, str | int | float):
            problem = f"a {type(value).__name__}, and rows are flat"
        else:
            continue
        raise InputError(
            f"experiment {whole['experiment']}, metric {whole['metric']}: {key} is {problem}; correct what computed it"
        )
    return whole


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the rows, completed: all of them or, on an error or a crash at any instant, none. Safe among processes.

    What a crash left unfinished at the end is cut off first. Creates the folder.

    Raises:
        InputError: see `complete`; nothing is written.
        OSError: naming `path`, as when the disk is full.
    """
    whole = [complete(row) for row in rows]
    with _locked(path):
        append_lines(path, whole)


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the rows as they are: all of them or, on an error or a crash at any instant, none.

    Nobody else may append meanwhile: `append_rows` sees to that, a training log has its run's lock.

    Raises:
        OSError: naming `path`, as when the disk is full.
    """
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    if not data:
        return
    before = _read(path)
    length = lines.sound_length(before)
    if length < len(before):
        logger.warning("%s: its end was unfinished, and is cut off: %r", path, before[length:][:80])
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
        os.ftruncate(descriptor, length)
        os.lseek(descriptor, length, os.SEEK_SET)
        # The first byte comes last, once the others are on the disk: from then on readers see all lines, before none.
        write_all(descriptor, lines.UNFINISHED + data[1:])
        os.fsync(descriptor)
        os.lseek(descriptor, length, os.SEEK_SET)
        write_all(descriptor, data[:1])
        os.fsync(descriptor)
        if not before:
            sync_folder(path.parent)  # it may be new there
    except OSError as error:
        if descriptor is not None:
            with suppress(OSError):  # what cannot be taken back now does not count, and is cut off by the next append
                os.ftruncate(descriptor, length)
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none if it is missing, without what a crash left unfinished (see `lines.sound_length`).

    Raises:
        InputError: a bad line elsewhere; names file and line.
        OSError: naming `path`: it cannot be read, or is no regular file.
    """
    return lines.parse(_read(path), path)


def record_specs(path: Path, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Append a line {"id", "spec"} for each id that the file does not hold yet. Safe among processes.

    Raises:
        InputError: the file has a bad line.
        OSError: as `append_rows`.
    """
    with _locked(path):
        known = {row["id"] for row in read_rows(path)}
        append_lines(path, [{"id": key, "spec": spec} for key, spec in specs.items() if key not in known])


def provenance(device: "torch.device | str") -> dict[str, Any]:
    """What made a row: commit, dirty (see `code_state`), torch, device (the chip's name), threads, created (UTC)."""
    import torch

    commit, dirty = code_state(ROOT)
    device = torch.device(device)
    return {
        "commit": commit,
        "dirty": dirty,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def code_state(root: Path) -> tuple[str | None, bool | None]:
    """The commit checked out at `root`, and whether the code differs from it; (None, None) where `root` is no checkout.

    What counts is the folders of code, pyproject.toml and constraints.txt; of new files, .py in a folder of code.
    """
    if not (root / ".git").exists():  # an installed copy may lie inside the checkout of another project
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = [*CODE_FOLDERS, "pyproject.toml", "constraints.txt"]
    new = [f"{folder}/*.py" for folder in CODE_FOLDERS]
    made = ":(exclude)reports/out"
    try:
        commit = git("rev-parse", "HEAD")
        changed = git("diff", "--name-only", "HEAD", "--", *code, made)
        added = git("ls-files", "--others", "--exclude-standard", "--", *new, made)
    except subprocess.CalledProcessError as error:
        logger.warning("rows will name no commit, since git failed: %s", " ".join(error.stderr.split()))
        return None, None
    except FileNotFoundError:
        logger.warning("rows will name no commit, since git is not installed")
        return None, None
    return commit, bool(changed or added)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, creating its folder.

    Raises:
        OSError: naming `path`, as when the disk is full.
    """
    write_atomic(path, text.encode())


def record_arrays(
    folder: Path, experiment: str, cells: Mapping[targets.Key, Mapping[str, np.ndarray[Any, Any]]]
) -> None:
    """Put the arrays of some cells of an experiment into a folder of results, in the place of what it has of the same
    cells, each file whole or not at all. Safe among processes.

    Values at each target, (n,) as a cell's first array has it, go to the experiment's one file; what else there is, as
    images are, to a file of the cell.

    Raises:
        InputError: the experiment's file is damaged.
        OSError: naming the file, as when the disk is full.
    """
    values = {}
    for key, arrays in cells.items():
        if not arrays:  # of a task whose numbers are no means over targets
            continue
        n = len(next(iter(arrays.values())))
        values[key] = {name: array for name, array in arrays.items() if array.shape == (n,)}
        pictures = {name: array for name, array in arrays.items() if name not in values[key]}
        if pictures:
            write_artifact(targets.pictures_path(folder, experiment, key), pictures)
    if not values:
        return
    path = targets.path(folder, experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        write_atomic(path, targets.encoded({**targets.read(path), **values}))


def write_artifact(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write the arrays as one compressed .npz, whole or not at all, creating its folder. Equal arrays give equal bytes.

    Raises:
        InputError: an array holds Python objects.
        OSError: naming `path`, as when the disk is full.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InputError(f"{path}: array {name} holds Python objects; convert it to numbers or fixed-width text")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            # numpy.savez would stamp the time, and equal arrays would differ in every commit.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def _locked(path: Path) -> AbstractContextManager[None]:
    return locked(path.with_name(f".{path.name}.lock"))


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return b""


def _processor() -> str:
    """The CPU's model: /proc/cpuinfo says it where there is one, and platform only vaguely."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
