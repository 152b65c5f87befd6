"""Files that are whole: written so that a crash leaves the old one or the new, and read within a bound."""

import errno
import glob
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)  # without it Windows writes other line ends
ABANDONED_SECONDS = (
    3600.0  # after which a temporary file is one that a killed process left: none is written for so long
)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, creating its folder; a reader, or a crash at any instant, finds the old file or the new.

    Raises:
        OSError: naming `path` (disk full, no permission); the old file is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, and of another name each time: two writers at once do not meet.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)  # without it a power cut can undo the rename
        _remove_abandoned(path)
    except OSError as error:
        # What write and fsync raise names no file, and what open and replace raise names the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of their attempts to write `path`."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        with suppress(FileNotFoundError):  # another process has removed or renamed it
            if time.time() - temporary.stat().st_mtime > ABANDONED_SECONDS:
                temporary.unlink()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`: a disk that fills up takes a part, and refuses the next write."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Make sure that what was renamed, made or removed in a folder stays so; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file that may not be larger than `max_bytes`.

    Raises:
        OSError: naming `path`: it is missing, cannot be read, is larger (EFBIG), or is a folder, a pipe or a device
            (EINVAL), whose reading might never end.
    """
    descriptor = None
    try:
        # O_NONBLOCK: to open a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY)
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        if state.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(state.st_size)  # reading makes room for all that is asked for
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # some name no file
    finally:
        if descriptor is not None:
            os.close(descriptor)
