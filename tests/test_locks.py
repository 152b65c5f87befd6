"""Locks: one holder at a time, named to whoever waits, and free once it has ended, however it ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.record.locks import Busy, locked

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from pathlib import Path
from benchmarks.record.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


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


def test_who_waits_is_told_for_whom(path: Path) -> None:
    told: list[str] = []

    def wait() -> None:
        with locked(path, patience=0.05, waiting=told.append):
            told.append("held")

    waiter = threading.Thread(target=wait)
    with locked(path):
        waiter.start()
        while not told:
            time.sleep(0.01)
        assert told == [f"waiting for {me()}, which holds {path}"]
    waiter.join()
    assert told[1:] == ["held"]


def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {holder.pid} on"), locked(path, wait=False):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(path, wait=False):
        assert path.with_name("lock.owner").read_text() == me()


def test_a_lock_that_cannot_be_made_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "lock"
    with pytest.raises(OSError, match="File exists") as caught, locked(path):
        pass
    assert caught.value.filename == str(path)


def test_an_error_of_what_is_done_under_a_lock_frees_it(path: Path) -> None:
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    with locked(path, wait=False):
        pass
