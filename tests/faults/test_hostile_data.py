"""Files that mean harm: archives, images, arrays and caches are refused in one line, quickly, in bounded memory.

A child process reads them all and reports for each what came of it, the seconds, and by how much its memory grew.
"""

import bz2
import functools
import hashlib
import io
import json
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import scipy.io
import scipy.sparse
from PIL import Image
from reliability import FULL, amount

from vma.data import prepared
from vma.data.archives import read_gmn_npz
from vma.data.decode import read_image
from vma.data.download import BadContent

KIND = "hostile archives, images and servers"
MIB = 2**20
SECONDS, MEMORY = 5.0, 192  # of one file: processor time, and MiB beyond what the process had before

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

CHILD = r"""
import hashlib, json, re, sys, time, warnings
from pathlib import Path
from vma.data import datasets, load, prepared
from vma.data.archives import read_chardata
from vma.data.download import BadContent
from vma.errors import InputError

def memory():
    status = Path("/proc/self/status").read_text()
    return [int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) / 1024 for name in ("VmHWM", "VmRSS")]

def report(path, reader, read):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, start, refused = memory()[1], time.process_time(), False
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            refused, said = read() is None, ""
        except (BadContent, InputError) as error:
            refused, said = True, str(error)
        except BaseException as error:
            said = repr(error)
    said = [said] * bool(said) + [str(warning.message) for warning in seen]
    grown = memory()[0] - before
    print(json.dumps([path.name, reader, refused, said, time.process_time() - start, grown]), flush=True)

def archive(path):
    groups = ("OMNIGLOT", "OMNIGLOT_GMN", "MNIST_GMN", "MADE", "AMAT", "CHARDATA")
    for source, *_ in (getattr(datasets, group) for group in groups):
        given = path.parent.parent / "given" / source.name
        given.parent.mkdir(exist_ok=True)
        given.symlink_to(path)
        report(path, source.name, lambda: datasets._obtain("hostile", source, given.parent, False))
        given.unlink()

def mat(path):
    raw = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    report(path, "read_chardata", lambda: read_chardata(raw, digest=digest))

def image(path):
    report(path, "folder", lambda: load(f"folder:{path}", image_size=28))

def cached(path):
    target = prepared.prepared_path("hostile")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    path.rename(target)
    report(path, "prepared", lambda: prepared.read("hostile", {}))

for path in sorted(Path(sys.argv[2]).iterdir()):
    globals()[sys.argv[1]](path)
"""


def read_in_a_child(
    kind: str, folder: Path, tally: Callable[..., None], seconds: float = SECONDS, memory: float = MEMORY
) -> None:
    """Assert that each file of `folder` but those of SHOWN is refused in one line, in so many seconds and mebibytes."""
    wrong: dict[str, list[str]] = {path.name: [] for path in folder.iterdir()}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(folder)],
        env=os.environ | {"XDG_CACHE_HOME": str(folder.parent / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, ""), child.stderr
    unread = set(wrong)
    for name, reader, refused, said, took, grown in map(json.loads, child.stdout.splitlines()):
        unread.discard(name)
        if name in SHOWN:
            pass
        elif not refused:
            wrong[name].append(f"{reader} takes it: {said}")
        elif len(said) != 1 or not said[0].isprintable() or len(said[0]) > 1000:
            wrong[name].append(f"{reader} does not refuse it in one line: {said}")
        if took > seconds or grown > memory:
            wrong[name].append(f"{reader} needs {took:.1f} seconds and {grown:,.0f} MiB")
    assert not unread
    failures = [f"{name}: {cause}" for name, causes in wrong.items() for cause in causes]
    tally(KIND, len(wrong), sum(map(bool, wrong.values())))
    assert not failures, "\n".join(failures)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that exists once a pickle was read."""
    path = tmp_path / "unpickled"
    yield path
    assert not path.exists(), "a pickle was read"


def pickled(sentinel: Path) -> bytes:
    """What creates the sentinel when it is read: the opcodes of a call of os.system, by hand."""
    return b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(sentinel)


def zeros(mebibytes: int) -> bytes:
    """A raw deflate stream of so many, a thousandth as long, made without compressing them all."""
    block, end = _mebibyte()
    return block * mebibytes + end


@functools.cache
def _mebibyte() -> tuple[bytes, bytes]:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(bytes(MIB)) + squeeze.flush(zlib.Z_FULL_FLUSH), squeeze.flush()


# Archives. A member: its name, its bytes as they lie in the file, and what the archive says of it.


def member(
    name: bytes | str, raw: bytes, *, method: int = 0, size: int | None = None, flags: int = 0, extra: bytes = b""
) -> dict:
    name = name.encode() if isinstance(name, str) else name
    plain = zlib.decompress(raw, -15) if method == 8 and size is None else raw
    size = len(plain) if size is None else size
    return {
        "name": name,
        "raw": raw,
        "method": method,
        "size": size,
        "crc": zlib.crc32(plain),
        "flags": flags,
        "extra": extra,
    }


def deflated(name: str, plain: bytes) -> dict:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return member(name, squeeze.compress(plain) + squeeze.flush(), method=8)


def archive(*members: dict, same: bool = False, directory: int | None = None, start: int | None = None) -> bytes:
    """A zip; with `same` all members are the bytes of the first, `directory` and `start` are said of its table."""
    body, table = bytearray(), bytearray()
    for i, m in enumerate(members):
        offset = 0 if same else len(body)
        common = struct.pack(
            "<HHHHIII", m["flags"], m["method"], 0, 0x21, m["crc"], len(m["raw"]), min(m["size"], 2**32 - 1)
        )
        if not (same and i):
            body += (
                b"PK\3\4"
                + struct.pack("<H", 20)
                + common
                + struct.pack("<HH", len(m["name"]), 0)
                + m["name"]
                + m["raw"]
            )
        table += b"PK\1\2" + struct.pack("<HH", 20, 20) + common
        table += struct.pack("<HHHHHII", len(m["name"]), len(m["extra"]), 0, 0, 0, 0, m.get("offset", offset))
        table += m["name"] + m["extra"]
    count = min(len(members), 65535)
    directory, start = len(table) if directory is None else directory, len(body) if start is None else start
    return bytes(body + table) + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, directory, start, 0)


def zip64(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def npy(header: str | bytes, data: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    header = (header.encode() if isinstance(header, str) else header) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def array(descr: str, shape: str, data: bytes = b"", **more: int) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data, **more)


def arrays(bomb: bytes) -> dict[str, bytes]:
    return {
        "pickled objects": array("'|O'", "(1,)", bomb),
        "structured objects": array("[('a', '|O'), ('b', '<f4')]", "(1,)", bomb),
        "pickle instead of an array": bomb,
        "array instead of a pickle": b"\x80\x04" + bomb,
        "text": array("'<U784'", "(1,)", bytes(4 * 784)),
        "times": array("'<M8'", "(784,)", bytes(8 * 784)),
        "complex": array("'<c8'", "(784,)", bytes(8 * 784)),
        "bytes without end": array("'|S99999999999999'", "(1,)"),
        "type of no size": array("'|V0'", "(784,)"),
        "type of any size": array("'<f9999999999'", "(1,)"),
        "types in types": array("('<f4', (9999999, 9999999))", "(1,)"),
        "type of many types": array("[" + "('a', '<f4')," * 700 + "]", "(1,)"),
        "shape beyond memory": array("'|u1'", "(9999999999, 784)", bytes(784)),
        "shape beyond 64 bits": array("'|u1'", "(999999999999999999999999, 784)", bytes(784)),
        "shape that overflows to right": array("'|u1'", "(4294967296, 4294967296, 784)", bytes(784)),
        "shape of nothing times all": array("'|u1'", "(0, 99999999999999999999)"),
        "shape below zero": array("'|u1'", "(-1, 784)", bytes(784)),
        "shape of two below zero": array("'|u1'", "(-2, -392)", bytes(784)),
        "shape of no images": array("'|u1'", "(785,)", bytes(785)),
        "shape of nothing": array("'|u1'", "()", b"\0"),
        "shape of a hundred axes": array("'|u1'", "(784, " + "1, " * 99 + ")", bytes(784)),
        "shape of a name": array("'|u1'", "(__import__('os'), 784)", bytes(784)),
        "shape of many digits": array("'|u1'", "(" + "9" * 5000 + ",)", bytes(784)),
        "more data than said": array("'|u1'", "(1, 784)", bytes(785)),
        "numbers that are none": array("'<f4'", "(1, 784)", struct.pack("<f", float("nan")) * 784),
        "brackets": npy("(" * 9000),
        "signs": npy("-" * 9000 + "1"),
        "sums": npy("1" + "+1j" * 3000),
        "lists": npy("[" * 90 + "]" * 90),
        "keys of two types": npy("{1: 2, 'shape': 3, None: ()}"),
        "keys that are none": npy("{[]: 2}"),
        "another key": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 784), 'pickle': True, }", bytes(784)),
        "empty type": array("()", "(1,)"),
        "type from a table": array("{'names': ['a'], 'formats': ['O'], 'offsets': [-1]}", "(1,)", bomb),
        "odd escapes": npy("{'\\d': '\\q', '\\N{DIGIT ONE}': 1}"),
        "zero bytes": npy(b"\0" * 500),
        "no encoding": npy(b"{'descr': '\xff\xfe'}", version=3),
        "header beyond the file": array("'|u1'", "(1, 784)", version=2, length=2**32 - 1) + bytes(784),
        "header of many lines": npy("{\n" * 6000),
        "header of spaces": npy(
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 784), }" + " " * 60_000, bytes(784)
        ),
        "another version": b"\x93NUMPY\xff\xff" + array("'|u1'", "(1, 784)", bytes(784))[8:],
        "half a header": array("'|u1'", "(1, 784)")[:40],
        "archive in an archive": archive(deflated("train_data.npy", archive(deflated("train_data.npy", bytes(MIB))))),
    }


def archives(bomb: bytes) -> dict[str, bytes]:
    right = deflated("train_data.npy", array("'|u1'", "(1, 784)", bytes(784)))
    name = b"train_data.npy"
    entry = archive(member(b"", b""))[30:76]
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 46_000_000, 0, 0)
    blocks = b"\0\0\0\xff\xff" * (200_000 if not FULL else 2_000_000)  # deflate blocks of nothing
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("../../escape"))
    crc = archive(right).replace(struct.pack("<I", right["crc"]), b"\1\2\3\4")
    wrong_end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**63, 2**63)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, 0, 1)
    zipped = {
        "a million members": entry * 1_000_000 + end,
        "a million members of long names": archive(*[member("n" * 60_000, b"")] * 400),
        "a member of ten gigabytes": archive(
            member(name, zeros(64), method=8, size=2**32 - 1, extra=zip64(10 * 2**30))
        ),
        "a member of more than there is": archive(
            member(name, zeros(1), method=8, size=2**32 - 1, extra=zip64(2**64 - 1))
        ),
        "a member larger than it says": archive(member(name, zeros(2048), method=8, size=912)),
        "a member smaller than it says": archive(member(name, zeros(1), method=8, size=30 * MIB)),
        "many members larger than they say": archive(
            *[member(f"{i}.npy", zeros(8), method=8, size=912) for i in range(500)]
        ),
        "bzip2": archive(member(name, bz2.compress(bytes(amount(64, 1024) * MIB), 9), method=12, size=912)),
        "lzma": archive(
            member(
                name,
                b"\5\4\5\0]\xff\xff\xff\xff" + lzma.compress(bytes(99), lzma.FORMAT_ALONE)[13:],
                method=14,
                size=99,
            )
        ),
        "other methods": archive(
            *[member(f"{m}.npy", bytes(9), method=m, size=912) for m in (1, 6, 9, 93, 95, 97, 99)]
        ),
        "members that overlap": archive(
            *[member(f"{i}.npy", zeros(16), method=8, size=912) for i in range(1900)], same=True
        ),
        "members of the same bytes": archive(*[member(name, blocks, method=8, size=1)] * 30, same=True),
        "a member of blocks of nothing": archive(member(name, blocks, method=8, size=912)),
        "absolute": archive(member("/etc/train_data.npy", b"")),
        "above": archive(member("../../train_data.npy", b"")),
        "above, in the middle": archive(member("images_background/../../train_data.npy", b"")),
        "above, by a backslash": archive(member("..\\..\\train_data.npy", b"")),
        "drive": archive(member("C:train_data.npy", b"")),
        "zero byte": archive(member(b"train_data.npy\0.exe", b"")),
        "name of lines": archive(member("images\nerror: all is lost\r\x1b[2J\u2028.npy", b"x")),
        "name in no encoding": archive(member(b"\xff\xfe.npy", b"x", flags=0x800)),
        "name without end": archive(member("n" * 65_000, b"x")),
        "no name": archive(member("", b"x")),
        "twice": archive(right, right),
        "twice, by another name": archive(right, {**right, "name": b"train_data"}),
        "encrypted": archive({**right, "flags": 1}),
        "strongly encrypted": archive({**right, "flags": 0x41}),
        "patched": archive({**right, "flags": 0x20}),
        "wrong checksum": crc,
        "other name inside": archive(right).replace(name, b"other_data.npy", 1),
        "offset beyond 64 bits": archive({**right, "extra": zip64(2**64 - 1), "offset": 2**32 - 1}),
        "offset beyond the file": archive({**right, "offset": 2**31}),
        "extra of no length": archive({**right, "extra": b"\1\0\xff\xff"}),
        "extra cut short": archive({**right, "size": 2**32 - 1, "extra": struct.pack("<HH", 1, 2) + b"xx"}),
        "table beyond the file": archive(right, directory=2**32 - 1),
        "table before the file": archive(right, start=2**32 - 1),
        "table that is no table": archive(right, directory=30),
        "table of 64 bits": archive(right)[:-22] + wrong_end + locator + archive(right)[-22:],
        "other disks": archive(right)[:-22]
        + wrong_end
        + b"PK\6\7"
        + struct.pack("<IQI", 7, 0, 9)
        + archive(right)[-22:],
        "end in a comment": archive(right)[:-2] + b"\x40\0" + b"PK\5\6" + bytes(18) + b"x" * 42,
        "junk before": bomb * 100 + archive(right),
        "half": archive(right)[: len(archive(right)) // 2],
        "without its start": archive(right)[40:],
        "no member": archive(),
        "only folders": archive(member("images_background/", b"")),
        "what is packed by a Mac": archive(member("__MACOSX/../x", zeros(1), method=8, size=2**31)),
        "tar": tar.getvalue(),
        "pickle": bomb,
        "array": array("'|O'", "(1,)", bomb),
        "nothing": b"",
        "a byte": b"P",
        "only an end": archive()[-22:],
        "noise": np.random.default_rng(0).bytes(MIB),
        "zeros": bytes(8 * MIB),
        "digits": b"0 1 " * MIB,
        "page": b"<!DOCTYPE html>\n<html>404</html>\n",
    }
    zipped |= {f"array, {what}": archive(deflated("train_data.npy", raw)) for what, raw in arrays(bomb).items()}
    inside = "images_background/Alphabet/character01/0001_01.png"
    zipped |= {f"image, {what}": archive(deflated(inside, raw)) for what, raw in images(bomb).items()}
    return zipped


# Images.


def chunk(kind: bytes, content: bytes = b"", crc: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ crc)


def png(
    width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, interlace: int = 0, crc: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, crc) + b"".join(chunks) + chunk(b"IEND")


def data(size: int) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(size)))


def other(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, form)
    return file.getvalue()


def images(bomb: bytes) -> dict[str, bytes]:
    good = png(28, 28, data(28 * 29))
    again = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0))
    frame = chunk(b"fcTL", struct.pack(">5I2H2B", 0, 100_000, 100_000, 0, 0, 1, 1, 0, 0))
    endless = chunk(b"IDAT", b"\x78\x9c" + zeros(2048))
    return {
        "100,000 x 100,000": png(100_000, 100_000, data(100)),
        "100,000 x 100,000 in a bit": png(100_000, 100_000, endless, depth=1),
        "100,000 x 1": png(100_000, 1, data(100_001)),
        "1 x 16,777,216": png(1, 2**24, data(2**25)),
        "4,294,967,295 x 4,294,967,295": png(2**32 - 1, 2**32 - 1, data(1)),
        "65,536 x 65,536": png(2**16, 2**16, data(1)),
        "nothing x 28": png(0, 28, data(0)),
        "28 x nothing": png(28, 0, data(0)),
        "header in the middle": png(28, 28, again, data(28 * 29)),
        "narrower than said": png(29, 28, data(28 * 29)),
        "colours that are not there": png(28, 28, data(28 * 29), colour=2),
        "two gigabytes of pixels": png(28, 28, endless),
        "palette without end": png(28, 28, chunk(b"PLTE", bytes(9 * MIB)), data(28 * 29), colour=3),
        "transparency of nothing": png(28, 28, chunk(b"tRNS"), data(28 * 29)),
        "transparency without end": png(
            28, 28, chunk(b"PLTE", bytes(9)), chunk(b"tRNS", bytes(MIB)), data(28 * 29), colour=3
        ),
        "no pixels": png(28, 28),
        "pixels without a stream": png(28, 28, chunk(b"IDAT", bomb)),
        "filters that are none": png(28, 28, chunk(b"IDAT", zlib.compress(b"\xff" * 28 * 29))),
        "wrong checksum": png(28, 28, data(28 * 29), crc=1),
        "wrong checksum of a text": png(28, 28, chunk(b"tEXt", b"a\0b", crc=1), data(28 * 29)),
        "depth that is none": png(28, 28, data(28 * 29), depth=3),
        "colours that are none": png(28, 28, data(28 * 29), colour=7),
        "passes that are none": png(28, 28, data(28 * 29), interlace=9),
        "many chunks": png(28, 28, *[chunk(b"IDAT")] * amount(200_000, 2_700_000), data(28 * 29)),
        "many texts": png(28, 28, *[chunk(b"tEXt", b"a\0")] * 200_000, data(28 * 29)),
        "animation of frames alone": png(28, 28, chunk(b"acTL", bytes(8)), frame, chunk(b"fdAT", bytes(99))),
        "a quarter": good[: len(good) // 4],
        "half": good[: len(good) // 2],
        "start": good[:8],
        "nothing": b"",
        "pickle": bomb,
        "pickle in a text alone": png(28, 28, chunk(b"tEXt", b"a\0" + bomb)),
        "array": array("'|O'", "(1,)", bomb),
        "drawing": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "program": b"\x7fELF" + bytes(100),
        "page": b"<html></html>",
        "zeros": bytes(MIB),
        **{form: other(form) for form in ("EPS", "PDF")},
    }


GOOD_PNG = other("PNG")
# What Pillow shows, as much as it needs of it: what counts is that it takes no more time and memory than other images.
SHOWN = ("two gigabytes of pixels", "many chunks", "many texts")


def folder_of(path: Path, raw: bytes | None, name: bytes = b"x.png") -> None:
    """Four classes of a drawing each, in one of them another file."""
    for label in ("a", "b", "c", "d"):
        (path / label).mkdir(parents=True)
        (path / label / "good.png").write_bytes(GOOD_PNG)
    if raw is not None:
        with open(os.path.join(os.fsencode(path / "a"), name), "wb") as file:
            file.write(raw)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


# Files of a kind, in a folder.


def write_archives(folder: Path, bomb: bytes) -> None:
    for name, raw in archives(bomb).items():
        (folder / name.replace("/", "_")).write_bytes(raw)
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "broken link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    sparse(folder / "a terabyte", 2**40)
    sparse(folder / "a gigabyte", 2**30)


def write_mats(folder: Path, bomb: bytes) -> None:
    grey, cells = np.full((784, 3), 0.5), np.empty((784, 3), object)
    cells[:] = "x"
    for name, value in {
        "other shape": np.full((785, 3), 0.5),
        "turned": np.full((3, 784), 0.5),
        "a row": np.full((1, 784), 0.5),
        "three axes": np.full((784, 3, 2), 0.5),
        "no images": np.empty((784, 0)),
        "nothing": np.empty((0, 0)),
        "whole numbers": np.ones((784, 3), np.int64),
        "truth": np.ones((784, 3), bool),
        "complex": grey + 1j,
        "text": "x" * 784,
        "cells": cells,
        "struct": {"a": grey},
        "table": np.zeros((784, 3), [("a", "f8")]),
        "no number": np.where(np.arange(3) == 1, np.nan, grey),
        "infinite": grey * np.inf,
        "above one": grey * 2.001,
        "below zero": grey - 0.501,
        "sparse": scipy.sparse.csc_matrix(grey),
    }.items():
        scipy.io.savemat(folder / f"train, {name}", {"data": value, "testdata": grey})
        scipy.io.savemat(folder / f"test, {name}", {"data": grey, "testdata": value})
    scipy.io.savemat(folder / "no train", {"testdata": grey})
    scipy.io.savemat(folder / "no test", {"data": grey})
    scipy.io.savemat(folder / "neither", {"grey": grey})
    scipy.io.savemat(folder / "version 4, text", {"data": "x", "testdata": grey}, format="4")
    whole = io.BytesIO()
    scipy.io.savemat(whole, {"data": grey, "testdata": grey})
    for name, raw in {
        "empty": b"",
        "a byte": b"\0",
        "pickle": bomb,
        "start": whole.getvalue()[:128],
        "half a header": whole.getvalue()[:100],
        "half": whole.getvalue()[:9000],
        "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\x89HDF\r\n\x1a\n" + bytes(500),
        "version 9": b"MATLAB 9 MAT-file".ljust(124) + b"\0\x09IM" + bytes(500),
    }.items():
        (folder / name).write_bytes(raw)


def write_images(folder: Path, bomb: bytes) -> None:
    for i, (name, raw) in enumerate(images(bomb).items()):
        folder_of(folder / name, raw, (b"x.png", b"X.PNG")[i % 2])
    for i, name in enumerate(
        (b"a\nerror: b.png", b"\x1b[2J\r.png", b"\xff\xfe.png", "\u202egnp.png".encode(), b"x" * 251 + b".png")
    ):
        folder_of(folder / f"odd name {i}", b"no image", name)
    folder_of(folder / "odd\nname of \x1b[2J the folder", b"no image")
    (folder / "few\nclasses" / "a").mkdir(parents=True)
    folder_of(folder / "both layouts\n", GOOD_PNG, b"x.png")
    (folder / "both layouts\n" / "e\n" / "f").mkdir(parents=True)
    (folder / "both layouts\n" / "e\n" / "f" / "x\n.png").write_bytes(GOOD_PNG)
    (folder / "no folder\n").write_bytes(GOOD_PNG)
    for name in ("pipe", "device", "broken link", "loop", "loop of folders", "too large"):
        folder_of(folder / name, None)
    os.mkfifo(folder / "pipe" / "a" / "x.png")
    (folder / "device" / "a" / "x.png").symlink_to("/dev/zero")
    (folder / "broken link" / "a" / "x.png").symlink_to("nowhere")
    (folder / "loop" / "a" / "x.png").symlink_to("x.png")
    (folder / "loop of folders" / "a" / "here").symlink_to(".")
    sparse(folder / "too large" / "a" / "x.png", 2**40)


def packed(sets: list, ink: list, offsets: list, archives: object = None, sha256: str | None = None) -> bytes:
    """A prepared set whose hash is right: shape, class names and alphabets, ink and offsets of each split."""
    digest = hashlib.sha256()
    for (shape, names, alphabets), bits, parts in zip(sets, ink, offsets, strict=True):
        parts = np.asarray(parts).tolist()
        digest.update(json.dumps([shape, parts, names, alphabets]).encode() + b"\0" + np.asarray(bits).tobytes())
    splits = ("train", "validation", "test")
    keys = ("shape", "class_names", "alphabets")
    about = {split: dict(zip(keys, values, strict=True)) for split, values in zip(splits, sets, strict=True)}
    tensors = {f"{split}.ink": np.asarray(bits) for split, bits in zip(splits, ink, strict=True)}
    tensors |= {f"{split}.offsets": np.asarray(parts) for split, parts in zip(splits, offsets, strict=True)}
    metadata = {
        "sha256": sha256 or digest.hexdigest(),
        "archives": json.dumps(archives or {}),
        "splits": json.dumps(about),
    }
    return safetensors.numpy.save(tensors, metadata)


def caches(bomb: bytes) -> dict[str, bytes]:
    one = ([2, 1, 28, 28], ["a", "b"], [])
    bits = np.zeros(196, np.uint8)

    def made(about: object = one, ink: object = bits, offsets: object = (0, 1, 2), **more: object) -> bytes:
        return packed([about, one, one], [ink, bits, bits], [np.asarray(offsets), [0, 1, 2], [0, 1, 2]], **more)

    right = made()
    header = int.from_bytes(right[:8], "little")
    text, rest = right[8 : 8 + header], right[8 + header :]

    def said(**texts: str) -> bytes:
        tensors = safetensors.numpy.load(right)
        return safetensors.numpy.save(tensors, json.loads(text)["__metadata__"] | texts)

    def framed(text: bytes, size: int | None = None) -> bytes:
        assert (text, size) != (right[8 : 8 + header], None)
        return (len(text) if size is None else size).to_bytes(8, "little") + text + rest

    shapes = {
        "of fewer": [1, 1, 28, 28],
        "of more": [3, 1, 28, 28],
        "of absurdly many": [10**12, 1, 28, 28],
        "beyond 64 bits": [2**70, 1, 28, 28],
        "of nothing times all": [0, 1, 2**70, 28],
        "of nothing": [0, 1, 28, 28],
        "below zero": [-2, 1, -28, 28],
        "of a side below zero": [2, 1, -1, 784],
        "of another order": [2, 28, 28, 1],
        "of other sides": [2, 1, 56, 14],
        "of three axes": [2, 28, 28],
        "of no axes": [],
        "of text": ["2", 1, 28, 28],
        "of parts": [2.0, 1, 28, 28],
        "that is none": None,
        "that is text": "2128",
        "that is a table": {"0": 2},
    }
    return {
        **{f"shape {name}": made((shape, ["a", "b"], [])) for name, shape in shapes.items()},
        **{
            f"offsets {name}": made(offsets=np.asarray(value))
            for name, value in {
                "that fall": [0, 3, 2],
                "below zero": [-1, 1, 2],
                "beyond the images": [0, 1, 9],
                "before the last": [0, 1, 1],
                "that begin late": [1, 1, 2],
                "that are none": np.zeros(0, np.int64),
                "of one": [2],
                "of two axes": [[0, 1, 2]],
                "of no axes": np.int64(0),
                "of floats": [0.0, 1.0, 2.0],
                "of 32 bits": np.array([0, 1, 2], np.int32),
                "of other names": [0, 2],
                "at the edge": [0, 2**63 - 1, 2],
            }.items()
        },
        "ink of another type": made(ink=np.zeros(196, np.int8)),
        "ink of floats": made(ink=np.zeros(196, np.float32)),
        "ink of two axes": made(ink=np.zeros((14, 14), np.uint8)),
        "ink of less": made(ink=np.zeros(195, np.uint8)),
        "ink of more": made(ink=np.zeros(197, np.uint8)),
        "no ink": made(ink=np.zeros(0, np.uint8)),
        "names that are numbers": made(([2, 1, 28, 28], [1, 2], [])),
        "names that are lists": made(([2, 1, 28, 28], [["a"], ["b"]], [])),
        "names that are text": made(([2, 1, 28, 28], "ab", [])),
        "names that are none": made(([2, 1, 28, 28], None, [])),
        "names of one": made(([2, 1, 28, 28], ["a"], [])),
        "alphabets of one": made(([2, 1, 28, 28], ["a", "b"], ["a"])),
        "other hash": made(sha256="0" * 64),
        "hash of text": made(sha256="\n\x1b[2J" * 1000),
        "archives that are a list": made(archives=[1, 2, 3]),
        "archives that are text": made(archives="text"),
        "no metadata": safetensors.numpy.save({"train.ink": bits}),
        "no tensors": safetensors.numpy.save({}, json.loads(text)["__metadata__"]),
        "splits that are deep": said(splits="[" * 100_000),
        "archives that are deep": said(archives="[" * 100_000),
        "splits that are a list": said(splits="[]"),
        "splits that are no JSON": safetensors.numpy.save(
            {}, {"sha256": "", "archives": "{}", "splits": "{" + bomb.decode()}
        ),
        "splits of many digits": said(splits="9" * 10_000),
        "splits that are no numbers": said(splits="NaN"),
        "header that is deep": framed(b"[" * 100_000),
        "header that is a list": framed(b"[]"),
        "header beyond the file": framed(text, 2**63),
        "header of all bits": framed(text, 2**64 - 1),
        "header of nothing": framed(b"", 0),
        "header of many tensors": framed(
            b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(60_000)) + b"}"
        ),
        "header larger than any": framed(b" " * (5 * MIB) + text),
        "tensors that overlap": framed(text.replace(b'"data_offsets":[0,24]', b'"data_offsets":[0,32]')),
        "offsets of bytes below zero": framed(text.replace(b'"data_offsets":[0,', b'"data_offsets":[-1,')),
        "type that is none": framed(text.replace(b'"U8"', b'"O8"')),
        "type of half": framed(text.replace(b'"U8"', b'"F8_E4M3"')),
        "shape of bytes beyond all": framed(text.replace(b'"shape":[196]', b'"shape":[18446744073709551615]')),
        "twice": framed(b"{" + text.strip()[1:-1] + b"," + text.strip()[1:]),
        "pickle": bomb,
        "pickle in an archive": archive(member("archive/data.pkl", bomb)),
        "nothing": b"",
        "a byte": b"\1",
        "half": right[: len(right) // 2],
        "zeros": bytes(MIB),
    }


def write_caches(folder: Path, bomb: bytes) -> None:
    for name, raw in caches(bomb).items():
        (folder / name).write_bytes(raw)
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(prepared.prepared_path("hostile").name)
    sparse(folder / "too large", 2**40)


KINDS = {"archive": write_archives, "mat": write_mats, "image": write_images, "cached": write_caches}


@pytest.mark.parametrize("kind", KINDS)
def test_what_means_harm_is_refused_in_a_line(
    kind: str, tmp_path: Path, sentinel: Path, tally: Callable[..., None]
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    KINDS[kind](folder, pickled(sentinel))
    read_in_a_child(kind, folder, tally)


@pytest.mark.skipif(not FULL, reason="takes gigabytes of disk and a minute: in the full form alone")
def test_as_much_as_the_caps_let_through(tmp_path: Path, tally: Callable[..., None]) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    third, quarter, digits = (size // 784 * 784 for size in (170 * MIB, 255 * MIB, 127 * MIB))
    image = array("'|u1'", f"({third // 784}, 784)") + bytes(third)
    keys = ("train_data", "valid_data", "test_data")
    (folder / "images of half a gigabyte").write_bytes(archive(*[deflated(f"{key}.npy", image) for key in keys]))
    image = array("'|b1'", f"({quarter // 784}, 784)") + bytes(quarter)
    (folder / "images of a quarter").write_bytes(archive(deflated("1.npy", image)))
    (folder / "digits").write_bytes(b"01" * (digits // 2))
    name = "images_background/Alphabet/character{:02}/{:04}_{:02}.png"
    blank = png(105, 105, chunk(b"IDAT", zlib.compress(bytes(105 * 15))), depth=1)
    names = [name.format(i % 99, i // 99, i % 99) for i in range(39_999)]
    (folder / "images of nothing").write_bytes(archive(*[member(name, blank) for name in names]))
    read_in_a_child("archive", folder, tally, seconds=60, memory=3 * 512)


# Damage at random: a few bytes of a good file, and checksums made right again where they would hide the rest.

INK = np.random.default_rng(0).random((3, 28, 28)) < 0.2
KEYS = ("images/a/1", "images/b/1", "images/b/2")
CONTENT = hashlib.sha256()
for key, drawing in zip(KEYS, INK, strict=True):
    CONTENT.update(key.encode() + b"\0" + np.packbits(drawing).tobytes())
ARRAYS = [array("'|u1'", "(1, 28, 28)") + drawing.astype(np.uint8).tobytes() for drawing in INK]
GOOD_ARCHIVE = archive(*[deflated(f"{key}.npy", raw) for key, raw in zip(KEYS, ARRAYS, strict=True)])
GOOD_CACHE = packed(
    [([3, 1, 28, 28], list("abc"), ["x", "y", "y"])] * 3, [np.packbits(INK)] * 3, [np.array([0, 1, 2, 3])] * 3
)


def damaged(raw: bytes, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    changed = bytearray(raw)
    for place in generator.integers(0, len(raw), generator.integers(1, 6)):
        changed[place] = generator.choice([0, 1, 127, 128, 255, changed[place] ^ 1, generator.integers(256)])
    return bytes(changed[: generator.integers(len(raw))] if seed % 8 == 0 else changed)


def with_checksums(raw: bytes) -> bytes:
    """A PNG with the checksum that each chunk should have."""
    whole, start = raw[:8], 8
    while start + 8 <= len(raw):
        end = start + 8 + int.from_bytes(raw[start : start + 4])
        whole += raw[start:end] + struct.pack(">I", zlib.crc32(raw[start + 4 : end]))
        start = end + 4
    return whole


def read_archive(raw: bytes) -> bool:
    images = read_gmn_npz(raw, below=None, content=CONTENT.hexdigest())
    return np.array_equal(np.concatenate([images[key] for key in KEYS]), INK)


def read_array(seed: int) -> bool:
    raws = [damaged(raw, seed) if i == seed % 3 else raw for i, raw in enumerate(ARRAYS)]
    return read_archive(archive(*[deflated(f"{key}.npy", raw) for key, raw in zip(KEYS, raws, strict=True)]))


def read_png(raw: bytes) -> bool:
    image = read_image(raw, 256)  # other pixels are as good as these, if there are as many as the header says
    return image.size == struct.unpack(">II", raw[16:24]) and np.asarray(image).shape[1::-1] == image.size


def read_cache(raw: bytes) -> bool:
    target = prepared.prepared_path("damaged")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(raw)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = prepared.read("damaged", {})
    if made is None:
        (warning,) = seen
        raise BadContent(str(warning.message))
    return all(np.array_equal(part.images[:, 0], INK) for part in (made.train, made.validation, made.test))


PALETTE_PNG = png(28, 28, chunk(b"PLTE", bytes(768)), chunk(b"tRNS", bytes(9)), data(28 * 29), colour=3)
PASSES_PNG = png(8, 8, data(8 * 8 + 15), interlace=1)
DAMAGES: dict[str, Callable[[int], bool]] = {
    "archive": lambda seed: read_archive(damaged(GOOD_ARCHIVE, seed)),
    "array": read_array,
    "cache": lambda seed: read_cache(damaged(GOOD_CACHE, seed)),
    "image": lambda seed: read_png(with_checksums(damaged((GOOD_PNG, PALETTE_PNG, PASSES_PNG)[seed % 3], seed))),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_refused_or_right(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable[..., None]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert all((read_archive(GOOD_ARCHIVE), read_cache(GOOD_CACHE), read_png(PALETTE_PNG), read_png(PASSES_PNG)))
    tried, failures = amount(500, 20_000), []
    for seed in range(tried):
        try:
            if not DAMAGES[what](seed):
                failures.append(f"seed {seed}: taken, and not right")
        except BadContent as error:
            if not str(error).isprintable() or len(str(error)) > 1000:
                failures.append(f"seed {seed}: {error}")
        except Exception as error:
            failures.append(f"seed {seed}: {error!r}")
    tally(KIND, tried, len(failures))
    assert not failures, "\n".join(failures[:20])
