"""Many processes append to one file of rows, some of them killed: each row is there once; readers see groups whole."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from forking import environment

from benchmarks.record import store

WRITERS = 4
GROUP = 5

# Appends the groups of one writer that are not there yet; what a killed one has done is in the file.
WRITER = f"""
import sys
from pathlib import Path
from benchmarks.record.store import append_rows, read_rows
path, writer, groups = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
done = {{row["group"] for row in read_rows(path) if row["writer"] == writer}}
for group in range(groups):
    if group not in done:
        append_rows(path, [dict(writer=writer, group=group, value=value) for value in range({GROUP})])
"""


def start(path: Path, writer: int, groups: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(writer), str(groups)], env=environment())


def lost_or_doubled(path: Path, groups: int) -> int:
    found = Counter((row["writer"], row["group"], row["value"]) for row in store.read_rows(path))
    wanted = {(w, g, v) for w in range(WRITERS) for g in range(groups) for v in range(GROUP)}
    return len(wanted - found.keys()) + sum(found.values()) - len(wanted & found.keys())


@pytest.mark.parametrize("kills", [0, 3], ids=["undisturbed", "killed"])
def test_rows_of_many_processes_are_each_there_once(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "results" / "table1.jsonl"
    groups = 1000 // GROUP // WRITERS
    chance = random.Random(0)
    running = {writer: start(path, writer, groups) for writer in range(WRITERS)}
    killed = 0
    while running:
        for writer, process in list(running.items()):
            # a reader at any moment sees groups whole
            seen = Counter((row["writer"], row["group"]) for row in store.read_rows(path))
            assert set(seen.values()) <= {GROUP}
            if process.poll() is not None:
                assert process.returncode in (0, -signal.SIGKILL)
                del running[writer]
                if process.returncode:
                    running[writer] = start(path, writer, groups)
            elif killed < kills and any(row_writer == writer for row_writer, _ in seen) and chance.random() < 0.5:
                process.kill()
                killed += 1
    assert lost_or_doubled(path, groups) == 0
    assert [*path.parent.glob(".*.owner")] in ([], [path.with_name(f".{path.name}.lock.owner")])
    assert (killed > 0) == (kills > 0)  # they may be done before all kills


def test_the_first_byte_of_a_group_is_the_last_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table1.jsonl"
    store.append_rows(path, [{"value": 0}])
    states = []
    real = os.fsync

    def sync(descriptor: int) -> None:
        states.append(store.read_rows(path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    store.append_rows(path, [{"value": 1}, {"value": 2}])
    assert [[row["value"] for row in rows] for rows in states] == [[0], [0, 1, 2]]


@pytest.mark.parametrize("length", [1, 30, 628, 629, 1200])
def test_a_group_cut_off_anywhere_does_not_count_and_is_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "table1.jsonl"
    store.append_rows(path, [{"value": 0}])
    before = path.read_bytes()
    store.append_rows(path, [{"value": 1}, {"value": 2}])
    group = path.read_bytes()[len(before) :]
    assert len(group) > 1200
    path.write_bytes(before + b"\0" + group[1:length])
    assert [row["value"] for row in store.read_rows(path)] == [0]
    store.append_rows(path, [{"value": 3}])
    assert [row["value"] for row in store.read_rows(path)] == [0, 3]
