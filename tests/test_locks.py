"""Locks: one holder at a time, and named. Holders that are killed, and who waits for whom, are in `tests/faults`."""

import os
import socket
from pathlib import Path

import pytest

from benchmarks.locks import Busy, locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "lock"


def me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def test_a_lock_is_held_once_and_names_its_holder(path: Path) -> None:
    with locked(path):
        assert path.with_name("lock.owner").read_text() == me()
        with pytest.raises(Busy, match=me()), locked(path, wait=False):
            pass
    assert not path.with_name("lock.owner").exists()
    with locked(path, wait=False):
        pass


def test_a_lock_that_cannot_be_made_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "lock"
    with pytest.raises(OSError, match="File exists") as caught, locked(path):
        pass
    assert caught.value.filename == str(path)
