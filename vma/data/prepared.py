"""The cache of prepared data sets: one safetensors file of packed bits each, verified whenever it is read."""

import json
import warnings
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from vma.data.download import MIB, cache_dir, printable
from vma.data.images import DataSet, ImageSet, make_data_set
from vma.files import read_bounded, write_atomic

# Raise it whenever a recipe in datasets.py changes what a set holds: older files are then no longer looked at.
_VERSION = 1
_MAX_BYTES, _MAX_HEADER = 64 * MIB, 4 * MIB  # several times what the largest set takes
_SPLITS = ("train", "validation", "test")


def prepared_path(name: str) -> Path:
    """The file that holds the set `name`; it need not exist."""
    return cache_dir() / "prepared" / f"{name}-v{_VERSION}.safetensors"


def write(data_set: DataSet, archives: dict[str, str]) -> None:
    """Store a set and the sha256 of the archives it came from. A cache that cannot be written is a warning, no more."""
    tensors, about = {}, {}
    for split in _SPLITS:
        part: ImageSet = getattr(data_set, split)
        tensors[f"{split}.ink"] = np.packbits(part.images.numpy())
        tensors[f"{split}.offsets"] = part.offsets.numpy()
        about[split] = {"shape": part.images.shape, "class_names": part.class_names, "alphabets": part.alphabets}
    metadata = {"sha256": data_set.sha256, "archives": json.dumps(archives), "splits": json.dumps(about)}
    path = prepared_path(data_set.name)
    try:
        write_atomic(path, safetensors.numpy.save(tensors, metadata))
    except OSError as error:
        cause = error.strerror or error
        warnings.warn(f"{printable(path)}: not cached ({cause}); the next start prepares the data again", stacklevel=2)


def read(name: str, archives: dict[str, str]) -> DataSet | None:
    """The stored set, or None if there is none or it came from other archives than those named in `archives`.

    A damaged file is reported by a warning and counts as none: the caller rebuilds it.
    """
    path = prepared_path(name)
    try:
        raw = read_bounded(path, _MAX_BYTES)
        header_bytes = int.from_bytes(raw[:8], "little")
        if header_bytes > _MAX_HEADER:
            raise ValueError(f"it claims a header of {header_bytes:,} bytes")
        tensors = safetensors.numpy.load(raw)
        # safetensors has just accepted this header, so it is JSON of little depth with metadata of strings.
        metadata = json.loads(raw[8 : 8 + header_bytes])["__metadata__"]
        known, about = json.loads(metadata["archives"]), json.loads(metadata["splits"])
        if not archives.items() <= dict(known).items():
            return None
        parts = [_unpack(tensors[f"{split}.ink"], tensors[f"{split}.offsets"], about[split]) for split in _SPLITS]
        data_set = make_data_set(name, *parts)
        if len({part.images.shape[2:] for part in parts}) > 1:
            raise ValueError("sizes differ")
        if data_set.sha256 != metadata["sha256"]:
            raise ValueError("its content hash differs")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (safetensors.SafetensorError, OSError, LookupError, RecursionError, TypeError, ValueError) as error:
        cause = printable(f"{type(error).__name__}: {error}"[:200])
        warnings.warn(f"{printable(path)}: damaged ({cause}); prepared again from the source files", stacklevel=2)
        return None
    return data_set


def _unpack(packed: np.ndarray, offsets: np.ndarray, about: object) -> ImageSet:
    match about:
        case {"shape": [int(n), 1, int(height), int(width)], "class_names": [*names], "alphabets": [*alphabets]}:
            pass
        case _:
            raise ValueError("a split is not described")
    if min(n, height, width) < 1 or packed.dtype != np.uint8 or packed.shape != (-(-n * height * width // 8),):
        raise ValueError("its size is not that of its images")
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError("offsets are no row of integers")
    if offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not part its images")
    if any(len(texts) not in (0, len(offsets) - 1) for texts in (names, alphabets)):
        raise ValueError("names of another number of classes")
    if not all(isinstance(text, str) for text in (*names, *alphabets)):
        raise ValueError("names that are no text")
    images = torch.from_numpy(np.unpackbits(packed, count=n * height * width).reshape(n, 1, height, width))
    return ImageSet(images, torch.tensor(offsets), tuple(names), tuple(alphabets))
