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
from jaxtyping import Bool, Float, Num

from vma.data.decode import read_image
from vma.data.download import MIB, BadContent, Decoded, check_digest

# What zipfile and zlib raise on damaged input; programming errors are not among them.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
# The header of an array as numpy writes it. numpy itself reads any Python literal there, which can exhaust the parser.
_NPY_START = re.compile(
    rb"\x93NUMPY(?:\x01\0..|\x02\0....)"
    rb"\{'descr': '([<>|=]\w+)', 'fortran_order': (False|True), 'shape': \(([\dL, ]*)\), \} *\n",
    re.DOTALL,
)


def _members(raw: bytes, max_members: int, max_total: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a zip, sorted by name; the caps are applied before anything is decompressed."""
    # Each member has an entry with this signature, and zipfile makes an object of each before it can be asked how many.
    if (entries := raw.count(b"PK\x01\x02")) > max_members:
        raise BadContent(f"{entries:,} members, more than {max_members:,}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except _DAMAGED as error:
        raise BadContent(f"not a whole zip archive ({error})") from error
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > max_total:
        raise BadContent(f"more than {max_total:,} bytes uncompressed")
    # Else a few bytes could be decompressed again for each of the members.
    if sum(info.compress_size for info in infos) > len(raw):
        raise BadContent("members that overlap")
    names = [info.orig_filename for info in infos]
    if len(set(names)) < len(names):
        raise BadContent("a member occurs twice")
    for info, name in zip(infos, names, strict=True):
        if not name or name.startswith("/") or set(name) & set("\\:\0") or ".." in PurePosixPath(name).parts:
            raise BadContent(f"unsafe member name {name!r}")
        # The others' decompressors give whatever a few bytes expand to at once.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadContent(f"member {name!r} is compressed by method {info.compress_type}, not stored or deflated")
    for info in sorted(infos, key=lambda info: info.filename):
        # Folders, and what a Mac adds when it packs a folder again.
        if info.is_dir() or info.filename.startswith("__MACOSX/") or info.filename.endswith(".DS_Store"):
            continue
        try:
            with archive.open(info) as file:
                # One byte more than declared: a member that lies about its size ends here, not at the end of memory.
                content = file.read(info.file_size + 1)
        except _DAMAGED as error:
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
        try:
            image = read_image(png, 105, ("PNG",))
        except BadContent as error:
            raise BadContent(f"member {name!r}: {error}") from error
        if image.size != (105, 105) or image.mode != "1":
            raise BadContent(f"member {name!r} is not a 1-bit image of 105x105")
        ink = ~np.asarray(image)  # paper is white
        digest.update(name.encode() + b"\0" + np.packbits(ink).tobytes())
        classes.setdefault(match[1], []).append(ink)
    _check_content(digest.hexdigest(), content)
    return {name: np.stack(drawings) for name, drawings in classes.items()}


def _read_npz(
    raw: bytes, max_members: int, max_total: int, keys: Iterable[str] = ()
) -> Iterator[tuple[str, Num[np.ndarray, "N 28 28"]]]:
    """(key, images) of an npz in sorted order, only `keys` where given; no pickle, no header trusted with a size."""
    for name, npy in _members(raw, max_members, max_total):
        key = name.removesuffix(".npy")
        if keys and key not in keys:
            continue
        start = _NPY_START.match(npy, 0, 1_000)
        if start is None:
            raise BadContent(f"array {key!r} is damaged (its header is none that numpy writes for numbers)")
        descr, shape = start[1].decode(), [int(length.rstrip(b"L")) for length in re.findall(rb"\d+L?", start[3])]
        if descr[1] not in "buif":
            raise BadContent(f"array {key!r} is of type {descr}, not numbers")
        try:
            array = np.frombuffer(npy, descr, offset=start.end())
            array = array.reshape(shape, order="F" if start[2] == b"True" else "C").reshape(-1, 28, 28)
        except (OverflowError, TypeError, ValueError) as error:
            raise BadContent(f"array {key!r} is damaged, or not of 28x28 images ({error})") from error
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
    return classes


def read_amat(raw: bytes, *, split: str, content: str) -> Decoded:
    """`split` -> ink (n, 28, 28) bool, of one of Larochelle's text files: 784 digits 0 or 1 a line, between blanks."""
    digits = np.frombuffer(raw.translate(None, b" \t\r\n"), np.uint8)
    if len(digits) % 784 or not ((digits == 48) | (digits == 49)).all():
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
        _check_content(amat_sha256(ink), content[split])
    return arrays


def amat_sha256(ink: Bool[np.ndarray, "N 28 28"]) -> str:
    """sha256 of the .amat file that holds these images: digits parted by one space, each line ended by a newline."""
    digest = hashlib.sha256()
    for image in ink.reshape(-1, 784):  # the text of all of them would take sixteen times the memory of the bits
        text = np.full(2 * 784, ord(" "), dtype=np.uint8)
        text[::2] = image + np.uint8(ord("0"))
        text[-1] = ord("\n")
        digest.update(text.data)
    return digest.hexdigest()


def read_chardata(raw: bytes, *, digest: str) -> Decoded:
    """{"train": (24345, 28, 28), "test": (8070, 28, 28)} grey levels in [0, 1], of the IWAE release's chardata.mat."""
    # Before the parser sees a byte: the pixels' own hash is not known, and some damage would crash the parser.
    check_digest(raw, digest)
    try:
        mat = scipy.io.loadmat(io.BytesIO(raw), variable_names=("data", "testdata"))  # type: ignore[arg-type]
    except Exception as error:  # no list of what it raises would be whole
        raise BadContent(f"not a MATLAB file that can be read ({error})") from error
    return {"train": _grey_levels(mat, "data"), "test": _grey_levels(mat, "testdata")}


def _grey_levels(mat: dict[str, object], key: str) -> Float[np.ndarray, "N 28 28"]:
    grey = mat.get(key)
    if not (
        isinstance(grey, np.ndarray) and grey.dtype.kind == "f" and grey.ndim == 2 and len(grey) == 784 and grey.size
    ):
        raise BadContent(f"holds no array {key!r} of 784 rows of numbers")
    if not ((grey >= 0) & (grey <= 1)).all():
        raise BadContent(f"array {key!r} has grey levels outside [0, 1]")
    # One image a column, itself column by column.
    return grey.T.reshape(-1, 28, 28).transpose(0, 2, 1)


def _check_content(actual: str, expected: str) -> None:
    if actual != expected:
        raise BadContent(
            f"its images are not the official ones (content sha256 {actual[:12]}..., expected {expected[:12]}...)"
        )
