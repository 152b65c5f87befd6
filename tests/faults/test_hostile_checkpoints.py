"""Damaged and hostile checkpoints: refused in one line, or passed over for the good one before, and never executed."""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CPU

from benchmarks.declare.spec import TrainSpec, identity
from benchmarks.runs import training
from benchmarks.runs.states import run_folder
from benchmarks.runs.weights import trained_at
from vma import checkpoint
from vma.data import DataSet, load
from vma.data.episodes import EpisodeSpec
from vma.errors import InputError

EPISODE = EpisodeSpec(classes=4, targets_per_class=2, shots=2)
SPEC = TrainSpec(recipe="smoke", dataset="strokes", image_size=8, network="tiny-mlp", episode=EPISODE, threads=1)
NAME = "checkpoint.safetensors"
# What a pickle of protocol 0 would run when it is loaded; each place that may hold one gets its own.
BOMB = b"cposix\nsystem\n(S'touch SENTINEL'\ntR."

Spoil = Callable[[Path], None]


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load("strokes", image_size=SPEC.image_size)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    """A folder with the states of one run after 4, 8 and 12 updates."""
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for updates in (4, 8, 12):
            training.train(SPEC, data, CPU, updates=updates)
            shutil.copy(run_folder(SPEC, CPU) / NAME, folder / str(updates))
    return folder


def weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in checkpoint.load(path, previous=False).tensors.items()}


def rewritten(change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> Spoil:
    """A checkpoint of right form and right digest whose content is changed."""

    def spoil(path: Path) -> None:
        state = checkpoint.load(path)
        change(state.tensors, state.meta)
        path.unlink()
        checkpoint.save(path, state.tensors, state.meta, keep_previous=False)

    return spoil


def meta(**values: Any) -> Spoil:
    return rewritten(lambda _, found: found.update(values))


def tensor(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return rewritten(lambda tensors, _: tensors.update({name: make(tensors.get(name, torch.zeros(1)))}))


def raw(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None  # type: ignore[func-returns-value]


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A changed header before the same bytes."""

    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        fields = json.loads(data[8 : 8 + length])
        change(fields)
        text = json.dumps(fields).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return raw(changed)


def instead(make: Callable[[Path], object]) -> Spoil:
    """Something else at the path."""

    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, checkpoint.MAX_FILE_BYTES + 1)  # which takes no room on the disk


def nan(found: torch.Tensor) -> torch.Tensor:
    return torch.full_like(found, torch.nan)


WEIGHT = "model.addressing.embed_memory.head.weight"
HOSTILE: dict[str, Spoil] = {
    "empty": raw(lambda data: b""),
    "a byte too long": raw(lambda data: data + b"\0"),
    "text": raw(lambda data: b"not a checkpoint\n" * 100),
    "a pickle": raw(lambda data: BOMB),
    "a pickle behind a header": raw(lambda data: (2).to_bytes(8, "little") + b"{}" + BOMB),
    "a header of 2^63 bytes": raw(lambda data: (2**63).to_bytes(8, "little") + data[8:]),
    "a deep header": raw(lambda data: (100_000).to_bytes(8, "little") + b"[" * 100_000),
    "an offset beyond the end": header(lambda fields: fields["rng"].update(data_offsets=[0, 2**40])),
    "offsets that overlap": header(lambda fields: fields["rng"].update(data_offsets=fields[WEIGHT]["data_offsets"])),
    "a shape of 2^120 elements": header(lambda fields: fields["rng"].update(shape=[2**60, 2**60])),
    "an unknown dtype": header(lambda fields: fields["rng"].update(dtype="object")),
    "no metadata": header(lambda fields: fields.pop("__metadata__")),
    "a later version": header(lambda fields: fields["__metadata__"].update(vma_version="2")),
    "meta changed and not signed": header(lambda fields: fields["__metadata__"].update(meta="{}")),
    "a tensor renamed and not signed": header(lambda fields: fields.update(other=fields.pop("rng"))),
    "no spec": rewritten(lambda _, found: found.pop("spec")),
    "no hash of the data": rewritten(lambda _, found: found.pop("data_sha256")),
    "update true": meta(update=True),
    "update -1": meta(update=-1),
    "update 8.5": meta(update=8.5),
    "seconds -1": meta(seconds=-1.0),
    "commits as a number": meta(commits=5),
    "spec as text": meta(spec="vma"),
    "spec of no number of threads": meta(spec={k: v for k, v in identity(SPEC).items() if k != "threads"}),
    "spec of threads as text": meta(spec=identity(SPEC) | {"threads": "1"}),
    "spec of another seed": meta(spec=identity(replace(SPEC, seed=1))),
    "spec of another model": meta(spec=identity(replace(SPEC, model="vae", num_samples=1))),
    "code to run in the place of a model": meta(spec=identity(SPEC) | {"model": "os:system"}),
    "spec with a path": meta(spec=identity(replace(SPEC, dataset="folder:../../../etc"))),
    "spec with a field too many": meta(spec=identity(SPEC) | {"__class__": "os.system"}),
    "no weights": rewritten(lambda tensors, _: tensors.clear()),
    "no rng": rewritten(lambda tensors, _: tensors.pop("rng")),
    "an rng of zeros": tensor("rng", torch.zeros_like),
    "a shorter rng": tensor("rng", lambda found: found[:-1]),
    "no moment": rewritten(lambda tensors, _: tensors.pop("optimizer.0.exp_avg")),
    "another shape": tensor(WEIGHT, lambda found: found[1:]),
    "another dtype": tensor(WEIGHT, torch.Tensor.double),
    "NaN in a weight": tensor(WEIGHT, nan),
    "NaN in a moment": tensor("optimizer.0.exp_avg_sq", nan),
    "a tensor named like a path": tensor("../../../../tmp/evil", lambda found: found),
    "a tensor named over two lines": tensor("a\nb\0c", lambda found: found),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a device that never ends": instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
    "4 GiB and a byte": instead(sparse),
}


def damaged(number: int) -> Spoil:
    """Cut or flipped at random."""
    chance = random.Random(number)

    def change(data: bytes) -> bytes:
        if number % 2:
            return data[: chance.randrange(len(data))]
        place = chance.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]

    return raw(change)


ALL = HOSTILE | {f"damage {number}": damaged(number) for number in range(20)}


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: Path) -> Callable[[str], Path]:
    """The state of a run after 8 updates in a cache of its own, spoilt in the way of this name."""
    monkeypatch.chdir(tmp_path)  # where the bombs would go off

    def make(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        path = run_folder(SPEC, CPU) / NAME
        path.parent.mkdir(parents=True)
        shutil.copy(states / "8", path)
        ALL[name](path)
        return path

    return make


def test_each_is_passed_over_for_the_good_one_before_and_the_log_says_so(
    spoilt: Callable[[str], Path], states: Path, data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vma")
    wanted = weights(states / "12")
    wrong = []
    for name in ALL:
        path = spoilt(name)
        shutil.copy(states / "4", path.with_name(f"{NAME}.previous"))
        caplog.clear()
        if path.is_dir():  # what is there is nobody's to remove
            with pytest.raises(OSError, match="Is a directory"):
                training.train(SPEC, data, CPU, updates=12)
            continue
        training.train(SPEC, data, CPU, updates=12)
        said = [record.getMessage() for record in caplog.records]
        if not said or "going on from checkpoint.safetensors.previous" not in said[0] or "\n" in said[0]:
            wrong.append((name, said))
        if weights(path) != wanted:
            wrong.append((name, "other weights"))
    assert not list(tmp_path.rglob("SENTINEL"))
    assert not wrong


# What weights do not have, and what they may be: of another dtype (they are shipped in half precision), of any data.
NOT_OF_WEIGHTS = ("rng", "moment", "step", "another dtype", "spec of", "spec with a path")


def test_without_a_good_one_before_each_is_refused_in_one_line_and_left_as_it_is(
    spoilt: Callable[[str], Path], data: DataSet, tmp_path: Path
) -> None:
    """By a run that is to go on from it, and as for `--checkpoint FILE`, of which nothing is known beforehand."""
    wrong = []
    for name in ALL:
        path = spoilt(name)
        before = os.lstat(path)
        uses: list[Callable[[], object]] = [partial(training.train, SPEC, data, CPU, updates=12)]
        if not any(part in name for part in NOT_OF_WEIGHTS):
            uses.append(partial(trained_at, path, CPU))
        for use in uses:
            try:
                use()
                wrong.append((name, "accepted"))
            except InputError as error:
                if "\n" in str(error) or (use is uses[0] and str(path) not in str(error)) or "; " not in str(error):
                    wrong.append((name, str(error)))
        if os.lstat(path).st_mtime_ns != before.st_mtime_ns or os.lstat(path).st_size != before.st_size:
            wrong.append((name, "changed"))
    assert not list(tmp_path.rglob("SENTINEL"))
    assert not wrong
