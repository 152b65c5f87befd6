"""Whole files: what killed writers leave, and reading that always ends. Writes that fail are in `tests/faults`."""

import os
import stat
from pathlib import Path

import pytest

from vma.files import read_bounded, write_atomic


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "name [1].json"


def test_a_file_is_written_and_replaced_whole(path: Path) -> None:
    for data in (b"old", b"", bytes(3_000_000)):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_write_that_takes_a_part_is_finished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:100]))
        write_atomic(path, bytes(range(256)) * 10)
    assert path.read_bytes() == bytes(range(256)) * 10


def test_what_a_killed_process_left_is_removed_once_it_is_old(path: Path) -> None:
    write_atomic(path, b"old")
    names = f"{path.name}.01234567", f"{path.name}.89abcdef", "another.01234567"
    abandoned, recent, other = (path.with_name(f".{name}.tmp") for name in names)
    for file in (abandoned, recent, other):
        file.write_bytes(b"half")
    for file in (abandoned, other):
        os.utime(file, (0, 0))
    write_atomic(path, b"new")
    assert sorted(path.parent.iterdir()) == sorted([path, recent, other])


@pytest.mark.parametrize(("size", "bound"), [(0, 10), (10, 10), (10, 2**62)])
def test_a_file_is_read_up_to_its_bound(path: Path, size: int, bound: int) -> None:
    """And room is made for no more than the file has."""
    write_atomic(path, bytes(size))
    assert read_bounded(path, bound) == bytes(size)
