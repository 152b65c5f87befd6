"""A disk that refuses any one call, or is full from then on: each file stays the old one or is the new one, the error
is one line, and the same command goes on once there is room.
"""

import errno
import json
import os
import random
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forking import CALLS, Ask, environment, intercept, outcome, refusal
from helpers import python
from made_results import make_results

from benchmarks.record import store
from reports import lines
from reports.targets import Key
from vma import checkpoint
from vma.data import images, prepared
from vma.errors import InputError

WRITING = [name for name in CALLS if name != "unlink"]
TENSORS = {"a": torch.arange(600.0), "rng": torch.zeros(16, dtype=torch.uint8)}


@contextmanager
def faults(number: int | None = None, error: int = 0, *, lasting: bool = False) -> Iterator[list[int]]:
    """Counts the calls that write files, and lets one fail, or all from it on."""
    with pytest.MonkeyPatch.context() as patch:
        yield intercept(WRITING, refusal(number, error, lasting), patch=patch.setattr)


def save(folder: Path, update: int) -> None:
    checkpoint.save(folder / "state.safetensors", TENSORS | {"a": TENSORS["a"] + update}, {"update": update})


def ship(folder: Path, update: int) -> None:
    model = torch.nn.Linear(5, 5, bias=False)
    torch.nn.init.constant_(model.weight, update)
    checkpoint.save_weights(folder / "weights.safetensors", model, {"update": update})


def append(folder: Path, update: int) -> None:
    rows = [{"metric": metric, "value": update} for metric in ("nll", "kl_a", "kl_z")]
    store.append_rows(folder / "table1.jsonl", rows)


def specs(folder: Path, update: int) -> None:
    store.record_specs(folder / "specs.jsonl", {str(number): {"update": number} for number in range(update + 1)})


def arrays(folder: Path, update: int) -> None:
    store.record_arrays(folder, "made", {Key("0", update, "0"): {"nll": np.full(100, update), "x": np.zeros((100, 2))}})


def text(folder: Path, update: int) -> None:
    store.write_text(folder / "deep" / "table1.md", f"{update}\n" * 1000)


def cached(folder: Path, update: int) -> None:
    part = images.unlabelled(np.full((20, 4, 4), bool(update % 2)))
    prepared.write(images.make_data_set("made", part, part, part))


WRITERS = (save, ship, append, specs, arrays, text, cached)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but locks, temporary ones too."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.endswith(".lock"))
    return {str(file.relative_to(folder)): what_counts(file) for file in files}


def what_counts(file: Path) -> bytes:
    """The bytes of a file: of rows without those that were left unfinished, of safetensors with the metadata, which are
    written in any order, in one.
    """
    data = file.read_bytes()
    if file.suffix == ".jsonl":
        return data[: lines.sound_length(data)]
    if ".safetensors" in file.name:
        length = int.from_bytes(data[:8], "little")
        return json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode() + data[8 + length :]
    return data


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_each_call_that_fails_leaves_the_old_file_or_the_new(
    write: Callable[[Path, int], None],
    lasting: bool,
    error: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fresh(name: str) -> Path:
        folder = tmp_path / name
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        shutil.copytree(tmp_path / "before", folder, dirs_exist_ok=True)
        return folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "before"))
    for update in (1, 2):
        write(tmp_path / "before", update)
    old = contents(fresh("old"))
    with faults() as counted:
        write(fresh("new"), 3)
    new = contents(tmp_path / "new")
    assert old != new
    newest = {name: data for name, data in new.items() if name != "state.safetensors.previous"}
    wrong = []
    for number in range(1, counted[0] + 1):
        folder = fresh(str(number))
        said: list[str] = []
        with faults(number, error, lasting=lasting), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                write(folder, 3)
            except (OSError, InputError) as failure:
                said.append(str(failure))
                # what names no file is no clear line
                if isinstance(failure, OSError) and not str(failure.filename or "").startswith(str(folder)):
                    wrong.append(f"call {number}: no file in {failure!r}")
        errors = len(said)
        said += [str(warning.message) for warning in warned] + [record.getMessage() for record in caplog.records]
        caplog.clear()
        found = contents(folder)
        # of several files each is the old one or the new one
        if any(name not in found for name in old) or any(
            data not in (old.get(name), new.get(name)) for name, data in found.items()
        ):
            wrong.append(f"call {number}: {sorted(found)}")
        if errors > 1 or any("\n" in line for line in said) or (not said and found != new):
            wrong.append(f"call {number}: said {said}")
        if found != new and said:  # whoever goes on looks at what is there
            write(folder, 3)  # there is room again
            caplog.clear()
        # the one before the last may be the last one now
        if {name: data for name, data in contents(folder).items() if name != "state.safetensors.previous"} != newest:
            wrong.append(f"call {number}: going on gives other files")
    assert not wrong


def requests(calls: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Of a run: which call is refused, or how far its files may grow, and what the system says then. By a limit the
    kernel itself cuts a write short, as a full disk does, whatever code makes it.
    """
    chance = random.Random(0)
    for _ in range(10):
        error = chance.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT])
        refused = {"call": chance.randint(1, calls), "error": error, "lasting": chance.random() < 0.5}
        yield refused, os.strerror(error)
    for factor in (1, 2):
        yield {"limit": 4096 * factor}, "File too large"


def test_a_run_whose_disk_refuses_a_call_or_is_full_ends_in_one_line_and_goes_on_once_there_is_room(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    wrong: list[Any] = []
    for number, (request, reason) in enumerate(requests(undisturbed["calls"])):
        folder = tmp_path / str(number)
        answer = ask(folder, **request)
        if answer["status"] != 0:  # fewer calls than were counted can fail
            said = Path(f"{folder}.log").read_text().splitlines()
            if answer["status"] != 1 or not said[-1].startswith("error: ") or reason not in said[-1]:
                wrong.append((request, answer, said[-3:]))
        if ask(folder)["status"] != 0 or outcome(folder) != undisturbed["outcome"]:
            wrong.append((request, answer, "another outcome"))
    assert not wrong


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    results = make_results(tmp_path / "results")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("index.html", "tables/table1.md", "figures/scaling.png"):
        store.write_text(out / name, "old")
    old = contents(out)
    run = python(
        *("-m", "reports", "--results", results, "--out", out),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY)),
    )
    assert run.returncode == 1
    refused = f"error: cannot write or read {out}: File too large; free space there or mend permissions"
    assert run.stderr.splitlines()[-1] == refused  # matplotlib says before that it has no cache
    assert contents(out) == old
