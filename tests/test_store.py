"""Result files: rows whole or not at all, whoever writes and whatever breaks; ids and provenance."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused

from benchmarks.declare.spec import spec_id
from benchmarks.record import store
from reports import targets
from reports.targets import Key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "omniglot.jsonl"


def values(path: Path) -> list[object]:
    return [row["value"] for row in store.read_rows(path)]


# --- rows


def test_the_keys_of_a_row_are_the_promised_ones() -> None:
    promised = """
    experiment, model, read, recipe, dataset, split, protocol, targets, train_seed, updates, learning_rate,
    train_classes, train_shots, train_memory_size, train_num_samples, train_protocol, classes, shots, memory_size,
    num_samples, metric, value, stderr, n, train_id, eval_id, data_sha256, commit, dirty, torch, device, dtype, threads,
    seconds, created
    """
    assert ", ".join(store.ROW_KEYS) == " ".join(promised.split())


def test_a_row_is_completed_in_order_and_keeps_what_an_experiment_adds(path: Path) -> None:
    row = store.complete({"extra": 1, "value": 2.5, "experiment": "few-shot", "another": "é\n"})
    assert list(row) == [*store.ROW_KEYS, "extra", "another"]
    assert (row["experiment"], row["value"], row["stderr"]) == ("few-shot", 2.5, None)
    assert store.complete(row) == row
    store.append_rows(path, [row])
    assert [list(read) for read in store.read_rows(path)] == [list(row)]
    assert store.read_rows(path) == [row]


@pytest.mark.parametrize(
    ("value", "cause"),
    [(float("nan"), "nan"), (np.float64("inf"), "inf"), ([1.0], "a list")],
)
def test_what_a_row_cannot_hold_is_refused_before_any_row_is_written(path: Path, value: object, cause: str) -> None:
    with refused(f"experiment table1, metric nll: value is {cause}"):
        store.append_rows(path, [{"value": 1.0}, {"experiment": "table1", "metric": "nll", "value": value}])
    assert not path.exists()


@pytest.mark.parametrize(
    "tail", [b"{", b'{"value": 3', b'{"value": 3}', b"{}}\n", b"3\n", b"\n", b'{"v": NaN}\n', b"\0\0", b"\xff\n"]
)
def test_a_torn_last_line_is_ignored_then_cut_off(path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.append_rows(path, [{"value": 1}, {"value": 2}])
    with path.open("ab") as file:
        file.write(tail)
    assert values(path) == [1, 2]
    with caplog.at_level(logging.WARNING, "vma"):
        store.append_rows(path, [{"value": 4}])
    assert "torn" in caplog.text
    assert values(path) == [1, 2, 4]


@pytest.mark.parametrize("bad", ["<<<<<<< ours", "", '{"value": Infinity}', "\0" * 12])  # as a disk may zero it
def test_a_bad_line_in_the_middle_is_named_and_what_follows_it_kept(path: Path, bad: str) -> None:
    store.write_text(path, f'{{"value": 1}}\n{bad}\n{{"value": 3}}\n')
    with refused(re.escape(f"{path}, line 2,")):
        store.read_rows(path)
    before = path.read_bytes()
    store.append_rows(path, [{"value": 4}])  # hours of work are not lost for it
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 4


# --- specs


def test_the_id_of_a_spec_is_of_its_content_not_its_order() -> None:
    spec = {"a": 1, "b": {"x": (1, 2), "y": None}}
    assert spec_id(spec) == spec_id({"b": {"y": None, "x": [1, 2]}, "a": 1})
    assert spec_id(spec) != spec_id({**spec, "a": 2})
    assert spec_id(spec) == "2c4062db9ead"  # ids of committed rows must not move
    with pytest.raises(ValueError, match="JSON"):
        spec_id({"a": float("nan")})


def test_each_spec_is_recorded_once(path: Path) -> None:
    one, two = {"a": 1}, {"a": 2, "nested": {"b": [1]}}
    store.record_specs(path, {spec_id(one): one})
    store.record_specs(path, {spec_id(one): one, spec_id(two): two})
    store.record_specs(path, {})
    assert store.read_rows(path) == [{"id": spec_id(one), "spec": one}, {"id": spec_id(two), "spec": two}]


# --- provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # as under a commit hook
        monkeypatch.delenv(name)
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    root = tmp_path / "checkout"
    for name in ("vma/model.py", "README.md", "results/table1.jsonl", "reports/out/kept.md", ".gitignore"):
        store.write_text(root / name, "*.ignored.py\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    return root


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("vma/model.py", True),
        ("vma/data/new.py", True),
        ("benchmarks/timing/new.py", True),
        ("README.md", False),
        ("results/table1.jsonl", False),
        ("reports/out/kept.md", False),
        ("reports/out/new.py", False),
        ("vma/new.txt", False),
        ("vma/new.ignored.py", False),
        ("tests/new.py", False),
    ],
)
def test_dirty_is_a_change_of_code(checkout: Path, changed: str, dirty: bool) -> None:
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert store.code_state(checkout) == (head, False)
    store.write_text(checkout / changed, "changed")
    assert store.code_state(checkout) == (head, dirty)


def test_outside_a_checkout_there_is_no_commit(checkout: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkout / "vma" / "installed").mkdir()
    assert store.code_state(checkout / "vma" / "installed") == (None, None)
    assert not caplog.records
    git(checkout, "update-ref", "-d", "HEAD")
    assert store.code_state(checkout) == (None, None)
    assert "git failed" in caplog.text


def test_provenance_says_what_made_a_row(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROOT", checkout)
    made = store.provenance("cpu")
    assert made == store.provenance(torch.device("cpu")) | {"created": made["created"]}
    assert set(made) <= set(store.ROW_KEYS)
    assert (made["commit"], made["dirty"]) == (git(checkout, "rev-parse", "HEAD").strip(), False)
    assert (made["torch"], made["threads"]) == (torch.__version__, torch.get_num_threads())
    assert made["device"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["created"])


@pytest.mark.cuda
def test_provenance_names_the_accelerator() -> None:
    assert store.provenance("cuda")["device"] == torch.cuda.get_device_name()


# --- texts and arrays


def test_values_at_targets_are_replaced_by_cell_and_equal_ones_give_equal_bytes(tmp_path: Path) -> None:
    one, other = Key("a", 100, "x"), Key("b", 7, "y")
    first = {"nll": np.linspace(0, 1, 5, dtype=np.float32), "x_index": np.arange(5), "duplicated": np.zeros(5, bool)}
    cells = {one: first, other: {"address": np.ones(3, np.float32), "image": np.zeros((3, 2), np.uint8)}}
    store.record_arrays(tmp_path, "made", cells)
    for key, arrays in reversed(cells.items()):
        store.record_arrays(tmp_path / "again", "made", {key: {**arrays, "nll": np.zeros(5)} if key == one else arrays})
    store.record_arrays(tmp_path / "again", "made", {one: first})
    paths = [targets.path(folder, "made") for folder in (tmp_path, tmp_path / "again")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    read = targets.read(paths[0])
    assert list(read) == [one, other]
    assert list(read[other]) == ["address"]
    for name, array in first.items():
        assert read[one][name].dtype == array.dtype
        np.testing.assert_array_equal(read[one][name], array)
    pictures = [targets.pictures_path(folder, "made", other) for folder in (tmp_path, tmp_path / "again")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    np.testing.assert_array_equal(targets.read_pictures(pictures[0])["image"], np.zeros((3, 2)))
    with refused("array ids holds Python objects"):
        store.record_arrays(tmp_path, "made", {other: {"nll": np.ones(3), "ids": np.array([None, "a"])}})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_values_of_many_processes_are_all_there(tmp_path: Path) -> None:
    script = f"""
import os, sys
import numpy as np
from pathlib import Path
from benchmarks.record.store import record_arrays
from reports.targets import Key
for worker in range(3):
    if os.fork() == 0:
        try:
            for cell in range(8):
                record_arrays(Path({str(tmp_path)!r}), "made", {{Key("t", worker, str(cell)): {{"nll": np.ones(4)}}}})
        finally:
            os._exit(sys.exc_info()[0] is not None)
sys.exit(any([os.wait()[1] for _ in range(3)]))
"""
    subprocess.run([sys.executable, "-c", script], cwd=store.ROOT, check=True, timeout=60)
    assert len(targets.read(targets.path(tmp_path, "made"))) == 3 * 8


@pytest.mark.parametrize("damage", [b"no table", None])
def test_a_damaged_file_of_values_is_named_and_left(tmp_path: Path, damage: bytes | None) -> None:
    path = targets.path(tmp_path, "made")
    store.record_arrays(tmp_path, "made", {Key("t", 1, "e"): {"nll": np.arange(99.0)}})
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    before = path.read_bytes()
    with refused(r"made\.parquet is damaged .*restore it, or delete it"):
        store.record_arrays(tmp_path, "made", {Key("t", 2, "e"): {"nll": np.zeros(3)}})
    assert path.read_bytes() == before
