"""The cache of prepared data sets: one verified safetensors file of packed bits each."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from vma import checkpoint
from vma.data.download import cache_dir, printable
from vma.data.images import DataSet, ImageSet, make_data_set

# Raise it whenever a recipe in datasets.py changes what a set holds: older files are then no longer looked at.
_VERSION = 2
_SPLITS = ("train", "validation", "test")


def prepared_path(name: str) -> Path:
    """The file that holds the set `name`; it need not exist."""
    return cache_dir() / "prepared" / f"{name}-v{_VERSION}.safetensors"


def write(data_set: DataSet) -> None:
    """Store a set. A cache that cannot be written is a warning, no more."""
    tensors, about = {}, {}
    for split in _SPLITS:
        part: ImageSet = getattr(data_set, split)
        tensors[f"{split}.ink"] = torch.from_numpy(np.packbits(part.images.numpy()))
        tensors[f"{split}.offsets"] = part.offsets
        about[split] = {"shape": part.images.shape, "class_names": part.class_names, "alphabets": part.alphabets}
    path = prepared_path(data_set.name)
    try:
        checkpoint.save(path, tensors, about, keep_previous=False)
    except OSError as error:
        cause = error.strerror or error
        warnings.warn(f"{printable(path)}: not cached ({cause}); the next start prepares the data again", stacklevel=2)


def read(name: str) -> DataSet | None:
    """The stored set, or None if there is none. A damaged file is reported by a warning and counts as none."""
    path = prepared_path(name)
    try:
        stored = checkpoint.load(path, previous=False)
    except checkpoint.CheckpointError:
        if os.path.lexists(path):
            warnings.warn(f"{printable(path)}: damaged; prepared again from the source files", stacklevel=2)
        return None

    def unpacked(split: str) -> ImageSet:
        about = stored.meta[split]
        ink = np.unpackbits(stored.tensors[f"{split}.ink"].numpy(), count=int(np.prod(about["shape"])))
        images = torch.from_numpy(ink.reshape(about["shape"]))
        names = tuple(about["class_names"]), tuple(about["alphabets"])
        return ImageSet(images, stored.tensors[f"{split}.offsets"], *names)

    return make_data_set(name, *map(unpacked, _SPLITS))
