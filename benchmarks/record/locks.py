"""Locks between processes. The kernel frees one when its holder ends, however it ends; a note beside it names the
holder.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("vma")


class Busy(RuntimeError):
    """Another process holds a lock; the message names it."""


@contextmanager
def locked(
    path: Path, *, wait: bool = True, patience: float = 10.0, waiting: Callable[[str], None] = logger.warning
) -> Iterator[None]:
    """Hold the lock at `path`, creating its folder. After `patience` seconds of waiting `waiting` is told for whom.

    Raises:
        Busy: if another process holds it, and not to `wait`.
        OSError: if the folder cannot be written.
    """
    lock = FileLock(path)
    # Not in the lock file itself, which whoever tries to get it may empty.
    note = path.with_name(f"{path.name}.owner")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=patience if wait else 0)
        except Timeout:
            owner = _owner(note)
            if not wait:
                raise Busy(owner) from None
            waiting(f"waiting for {owner}, which holds {path}")
            lock.acquire()
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8", errors="replace")
    except OSError as error:
        lock.release()
        raise OSError(error.errno, error.strerror, str(path)) from error  # some name no file
    try:
        yield
    finally:
        with suppress(OSError):  # the next holder writes its own
            note.unlink()
        lock.release()


def _owner(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8", errors="replace") or "another process"
    except FileNotFoundError:  # it is just taking or leaving the lock
        return "another process"
