"""Data that mean harm: archives of other bytes are not parsed, and images are refused in a line and little memory."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vma.data import datasets, load
from vma.data.datasets import AMAT, CHARDATA, MADE, MNIST_GMN, OMNIGLOT, OMNIGLOT_GMN
from vma.errors import InputError

MIB = 2**20
MEMORY = 192 * MIB  # beyond what the process had before

# What a pickle of protocol 0 would run when it is loaded.
BOMB = b"cposix\nsystem\n(S'touch SENTINEL'\ntR."

Make = Callable[[Path], object]


def raw(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


NO_FILES: dict[str, Make] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a terabyte": sparse,
}


def one_line(error: InputError, path: Path) -> bool:
    return str(error).isprintable() and len(str(error)) < 1000 and str(error).startswith(str(path))


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ARCHIVES = NO_FILES | {
    "nothing": raw(b""),
    "zeros": raw(bytes(MIB)),
    "a pickle": raw(BOMB),
    "an archive of zeros": raw(zipped(train_data=bytes(64 * MIB))),
    "an archive of a pickle": raw(zipped(train_data=b"\x93NUMPY\1\0\x0a\0{'descr': '|O'" + BOMB)),
    "a page": raw(b"<!DOCTYPE html>\n<html>404</html>\n"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_other_bytes_is_refused_in_a_line_and_not_parsed(
    name: str, tmp_path: Path, peak: Callable[[], int]
) -> None:
    for source in (*OMNIGLOT, *OMNIGLOT_GMN, *MNIST_GMN, *MADE, *AMAT, *CHARDATA):
        path = tmp_path / source.name
        ARCHIVES[name](path)
        unread = replace(source, decode=lambda raw: pytest.fail("it was parsed"))
        with pytest.raises(InputError) as caught:
            datasets._obtain("hostile", unread, tmp_path, False)
        assert one_line(caught.value, path), str(caught.value)
        assert peak() < MEMORY


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND")


def pixels(size: int) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(size)))


GOOD = png(28, 28, pixels(28 * 29))
IMAGES = {name: make for name, make in NO_FILES.items() if name != "a folder"} | {
    "100,000 x 100,000": raw(png(100_000, 100_000, pixels(100))),
    "100,000 x 100,000 in a bit": raw(png(100_000, 100_000, pixels(512 * MIB), depth=1)),
    "4,294,967,295 x 4,294,967,295": raw(png(2**32 - 1, 2**32 - 1, pixels(1))),
    "nothing x 28": raw(png(0, 28, pixels(0))),
    "depth that is none": raw(png(28, 28, pixels(28 * 29), depth=3)),
    "no pixels": raw(png(28, 28)),
    "pixels without a stream": raw(png(28, 28, chunk(b"IDAT", BOMB))),
    "a quarter": raw(GOOD[: len(GOOD) // 4]),
    "nothing": raw(b""),
    "a pickle": raw(BOMB),
    "a drawing": raw(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "a program that Pillow would run": raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "zeros": raw(bytes(MIB)),
}
NAMES = ("x.png", "X.PNG", "a\nerror: b.png", "\x1b[2J\r.png", "\u202egnp.png")


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_none_is_refused_in_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peak: Callable[[], int]
) -> None:
    monkeypatch.chdir(tmp_path)  # where the bomb would go off
    for i, file in enumerate(NAMES if name == "zeros" else NAMES[:1]):
        folder = tmp_path / f"{i}"
        for label in "abcd":
            (folder / label).mkdir(parents=True)
            (folder / label / "good.png").write_bytes(GOOD)
        IMAGES[name](folder / "a" / file)
        with pytest.raises(InputError) as caught:
            load(f"folder:{folder}", image_size=28)
        assert one_line(caught.value, folder), str(caught.value)
    assert peak() < MEMORY
    assert not (tmp_path / "SENTINEL").exists()
