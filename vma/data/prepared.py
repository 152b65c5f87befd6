"""The cache of prepared data sets: one safetensors file of packed bits each, verified whenever it is read."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from vma.data.download import cache_dir
from vma.data.images import DataSet, ImageSet, make_data_set
from vma.files import write_atomic

# Raise it whenever a recipe in datasets.py changes what a set holds: older files are then no longer looked at.
_VERSION = 1
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
        warnings.warn(
            f"{path}: not cached ({error.strerror or error}); the next start prepares the data again", stacklevel=2
        )


def read(name: str, archives: dict[str, str]) -> DataSet | None:
    """The stored set, or None if there is none or it came from other archives than those named in `archives`.

    A damaged file is reported by a warning and counts as none: the caller rebuilds it.
    """
    path = prepared_path(name)
    try:
        if not path.exists():
            return None
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata()
            known = json.loads(metadata["archives"])
            if any(known.get(source) != sha256 for source, sha256 in archives.items()):
                return None
            splits = json.loads(metadata["splits"])
            parts = [_unpack(file.get_tensor(f"{s}.ink"), file.get_tensor(f"{s}.offsets"), splits[s]) for s in _SPLITS]
        data_set = make_data_set(name, *parts)
        if data_set.sha256 != metadata["sha256"]:
            raise ValueError("its content hash differs")
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path}: damaged ({error}); prepared again from the source files", stacklevel=2)
        return None
    return data_set


def _unpack(packed: np.ndarray, offsets: np.ndarray, about: dict) -> ImageSet:
    shape, pixels = about["shape"], math.prod(about["shape"])
    if packed.size != -(-pixels // 8):
        raise ValueError("its size is not that of its images")
    images = torch.from_numpy(np.unpackbits(packed, count=pixels).reshape(shape))
    return ImageSet(images, torch.from_numpy(offsets), tuple(about["class_names"]), tuple(about["alphabets"]))
