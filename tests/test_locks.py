"""Locks: one holder at a time, and named. Holders that are killed, and who waits for whom, are in `tests/faults`."""

import os
import socket
from pathlib import Path

import pytest

from benchmarks.record.locks import Busy, locked


def test_a_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    path, me = tmp_path / "folder" / "lock", f"process {os.getpid()} on {socket.gethostname()}"
    with locked(path):
        assert path.with_name("lock.owner").read_text() == me
        with pytest.raises(Busy, match=me), locked(path, wait=False):
            pass
    assert not path.with_name("lock.owner").exists()
    with locked(path, wait=False):
        pass
