"""Decoding of archives in memory, within caps, and verification of what they hold by content, not by compression."""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import numpy as np
import scipy.io
from jaxtyping import Bool
from PIL import Image

from vma.data.download import MIB, BadContent, Decoded, check_digest

# What zipfile, zlib, numpy and PIL raise on damaged input; programming errors are not among them.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    SyntaxError,
)
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def png_size(raw: bytes) -> tuple[int, int]:
    """(width, height) from a PNG's header, so that a cap can be applied before anything is decoded."""
    if not raw.startswith(_PNG_START) or len(raw) < 24:
        raise BadContent("not a PNG image")
    return int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24])


def _members(raw: bytes, max_members: int, max_total: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a zip, sorted by name; the caps are applied before anything is decompressed."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except DAMAGED as error:
        raise BadContent(f"not a whole zip archive ({error})") from error
    infos = archive.infolist()
    if len(infos) > max_members:
        raise BadContent(f"{len(infos):,} members, more than {max_members:,}")
    if sum(info.file_size for info in infos) > max_total:
        raise BadContent(f"more than {max_total:,} bytes uncompressed")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise BadContent("a member occurs twice")
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise BadContent(f"unsafe member name {name!r}")
    for info in sorted(infos, key=lambda info: info.filename):
        # Folders, and what a Mac adds when it packs a folder again.
        if info.is_dir() or info.filename.startswith("__MACOSX/") or info.filename.endswith(".DS_Store"):
            continue
        try:
            with archive.open(info) as file:
                # One byte more than declared: a member that lies about its size ends here, not at the end of memory.
                content = file.read(info.file_size + 1)
        except DAMAGED as error:
            raise BadContent(f"member {info.filename!r} is damaged ({error})") from error
        yield info.filename, content


def read_omniglot_zip(raw: bytes, *, root: str, content: str) -> Decoded:
    """ "ALPHABET/character" -> ink (n, 105, 105) bool, of one of Lake's two archives of PNGs; `content` is their hash.

    The hash is sha256 over the members in sorted order: name, a zero byte, the ink packed most significant bit first.
    """
    pattern = re.compile(rf"{root}/([^/]+/character\d\d)/\d{{4}}_\d\d\.png")
    digest = hashlib.sha256()
    classes: dict[str, list[np.ndarray]] = {}
    for name, png in _members(raw, max_members=40_000, max_total=32 * MIB):
        match = pattern.fullmatch(name)
        if match is None:
            raise BadContent(f"unexpected member {name!r}")
        if png_size(png) != (105, 105):
            raise BadContent(f"member {name!r} is not 105x105")
        try:
            with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
                if image.mode != "1":
                    raise BadContent(f"member {name!r} is not a 1-bit image")
                ink = ~np.asarray(image)  # paper is white
        except BadContent:
            raise
        except DAMAGED as error:
            raise BadContent(f"member {name!r} is damaged ({error})") from error
        digest.update(name.encode() + b"\0" + np.packbits(ink).tobytes())
        classes.setdefault(match[1], []).append(ink)
    _check_content(digest.hexdigest(), content)
    return {name: np.stack(drawings) for name, drawings in classes.items()}


def _read_npz(
    raw: bytes, max_members: int, max_total: int, keys: Iterable[str] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    """(key, array) of an npz in sorted order, only `keys` where given; no pickle, no header trusted with a size."""
    for name, npy in _members(raw, max_members, max_total):
        key = name.removesuffix(".npy")
        if keys and key not in keys:
            continue
        file = io.BytesIO(npy)
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file)
            if dtype.kind not in "buif":
                raise BadContent(f"array {key!r} is of type {dtype}, not numbers")
            array = np.frombuffer(npy, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
        except BadContent:
            raise
        except DAMAGED as error:
            raise BadContent(f"array {key!r} is damaged ({error})") from error
        yield key, array


def read_gmn_npz(raw: bytes, *, below: int | None, content: str) -> Decoded:
    """Key -> ink (n, 28, 28) bool, of a file of the GMN release; ink is value < `below`, or > 0.5 where that is None.

    `content` is sha256 over the keys in sorted order, each followed by a zero byte and its packed ink.
    """
    digest = hashlib.sha256()
    classes: Decoded = {}
    for key, array in _read_npz(raw, max_members=2_000, max_total=256 * MIB):
        ink = array < below if below is not None else array > 0.5
        digest.update(key.encode() + b"\0" + np.packbits(ink).tobytes())
        classes[key] = ink
    _check_content(digest.hexdigest(), content)
    return {key: ink.reshape(-1, 28, 28) for key, ink in classes.items()}


def read_amat(raw: bytes, *, split: str, content: str) -> Decoded:
    """`split` -> ink (n, 28, 28) bool, of one of Larochelle's text files: 784 digits 0 or 1 a line, between blanks."""
    digits = np.frombuffer(raw.translate(None, b" \t\r\n"), np.uint8)
    if len(digits) % 784 or not np.isin(digits, (48, 49)).all():
        raise BadContent("not lines of 784 digits 0 or 1")
    ink = (digits == 49).reshape(-1, 28, 28)
    _check_content(amat_sha256(ink), content)
    return {split: ink}


def read_made_npz(raw: bytes, *, content: dict[str, str]) -> Decoded:
    """Split -> ink (n, 28, 28) bool, of MADE's binarized_mnist.npz; `content` has the sha256 of each split's .amat."""
    keys = {f"{split}_data": split for split in content}
    arrays = {keys[key]: array > 0.5 for key, array in _read_npz(raw, 32, 512 * MIB, keys)}
    if arrays.keys() != content.keys():
        raise BadContent(f"holds no array {min(keys.keys() - {f'{split}_data' for split in arrays})!r}")
    for split, ink in arrays.items():
        if ink.size % 784:
            raise BadContent(f"array {split}_data is not of 28x28 images")
        arrays[split] = ink.reshape(-1, 28, 28)
        _check_content(amat_sha256(arrays[split]), content[split])
    return arrays


def amat_sha256(ink: Bool[np.ndarray, "N 28 28"]) -> str:
    """sha256 of the .amat file that holds these images: digits parted by one space, each line ended by a newline."""
    text = np.full((len(ink), 2 * 784), ord(" "), dtype=np.uint8)
    text[:, ::2] = ink.reshape(-1, 784) + ord("0")
    text[:, -1] = ord("\n")
    return hashlib.sha256(text.tobytes()).hexdigest()


def read_chardata(raw: bytes, *, digest: str) -> Decoded:
    """{"train": (24345, 28, 28), "test": (8070, 28, 28)} grey levels in [0, 1], of the IWAE release's chardata.mat."""
    check_digest(raw, digest)  # before the parser sees a byte: the pixels' own hash is not known
    mat = scipy.io.loadmat(io.BytesIO(raw), variable_names=("data", "testdata"))  # type: ignore[arg-type]
    # One image a column, itself column by column.
    return {
        split: mat[key].T.reshape(-1, 28, 28).transpose(0, 2, 1)
        for split, key in (("train", "data"), ("test", "testdata"))
    }


def _check_content(actual: str, expected: str) -> None:
    if actual != expected:
        raise BadContent(
            f"its images are not the official ones (content sha256 {actual[:12]}..., expected {expected[:12]}...)"
        )
