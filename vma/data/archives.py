"""Decoding of the archives that data sets are made of. Their digests are verified before: what they hold is known."""

import io
import re
import zipfile

import numpy as np
import scipy.io
from PIL import Image

from vma.data.download import Decoded

_DRAWING = re.compile(r"images_\w+/([^/]+/character\d\d)/\d{4}_\d\d\.png")


def read_omniglot_zip(raw: bytes) -> Decoded:
    """ "ALPHABET/character" -> ink (20, 105, 105) bool, of one of Lake's two archives of 1-bit PNGs."""
    classes: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in sorted(archive.namelist()):
            if match := _DRAWING.fullmatch(name):
                with Image.open(io.BytesIO(archive.read(name)), formats=("PNG",)) as image:
                    classes.setdefault(match[1], []).append(~np.asarray(image))  # paper is white
    return {name: np.stack(drawings) for name, drawings in classes.items()}


def read_gmn_npz(raw: bytes, *, below: int | None) -> Decoded:
    """Key -> ink (n, 28, 28) bool, of a file of the GMN release: what is less than `below`, or above 0.5 without it."""
    with np.load(io.BytesIO(raw)) as arrays:
        pixels = {key: arrays[key].reshape(-1, 28, 28) for key in arrays}
    return {key: array > 0.5 if below is None else array < below for key, array in pixels.items()}


def read_amat(raw: bytes, *, split: str) -> Decoded:
    """`split` -> ink (n, 28, 28) bool, of one of Larochelle's text files: 784 digits 0 or 1 a line, between blanks."""
    return {split: np.frombuffer(raw.translate(None, b" \n"), np.uint8).reshape(-1, 28, 28) == ord("1")}


def read_made_npz(raw: bytes) -> Decoded:
    """Split -> ink (n, 28, 28) bool, of MADE's binarized_mnist.npz, which has the bits of Larochelle's text files."""
    with np.load(io.BytesIO(raw)) as arrays:
        return {split: arrays[f"{split}_data"].reshape(-1, 28, 28) > 0.5 for split in ("train", "valid", "test")}


def read_chardata(raw: bytes) -> Decoded:
    """{"train": (24345, 28, 28), "test": (8070, 28, 28)} grey levels in [0, 1], of the IWAE release's chardata.mat."""
    mat = scipy.io.loadmat(io.BytesIO(raw), variable_names=("data", "testdata"))  # type: ignore[arg-type]
    # One image a column, itself column by column.
    return {
        split: mat[key].T.reshape(-1, 28, 28).transpose(0, 2, 1)
        for split, key in (("train", "data"), ("test", "testdata"))
    }
