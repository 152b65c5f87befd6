"""What a data set is: binary images in memory with their classes and splits, and the hash that names its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Binary images, the drawings of one class side by side. An unlabelled set is one class without a name."""

    images: UInt8[Tensor, "N 1 H W"]  # 0 or 1, ink = 1
    offsets: Int64[Tensor, "C_plus_1"]  # class c is images[offsets[c]:offsets[c + 1]]
    class_names: tuple[str, ...] = ()  # one per class, () for an unlabelled set
    alphabets: tuple[str, ...] = ()  # one per class, () where there are none

    @property
    def num_classes(self) -> int:
        """C, which is 1 for an unlabelled set."""
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Int64[Tensor, "C"]:
        """Drawings per class."""
        return self.offsets.diff()

    @cached_property
    def labels(self) -> Int64[Tensor, "N"]:
        """Class index of each image."""
        classes = torch.arange(self.num_classes, device=self.offsets.device)
        return classes.repeat_interleave(self.counts, output_size=len(self.images))

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its tensors on `device`."""
        return ImageSet(self.images.to(device), self.offsets.to(device), self.class_names, self.alphabets)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three splits of one size. `sha256` hashes images, class names and split: it is a result row's `data_sha256`."""

    name: str
    train: ImageSet  # validation already taken out
    validation: ImageSet
    test: ImageSet
    sha256: str

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.train.images.shape[-2:]
        return height, width


def make_data_set(name: str, train: ImageSet, validation: ImageSet, test: ImageSet) -> DataSet:
    """A DataSet with the sha256 over shapes, offsets, class names, alphabets and packed ink of the three splits."""
    digest = hashlib.sha256()
    for split in (train, validation, test):
        shape, offsets = list(split.images.shape), split.offsets.tolist()
        digest.update(json.dumps([shape, offsets, split.class_names, split.alphabets]).encode() + b"\0")
        digest.update(np.packbits(split.images.numpy()).tobytes())
    return DataSet(name, train, validation, test, digest.hexdigest())


def labelled(classes: Mapping[str, Bool[np.ndarray, "n H W"]]) -> ImageSet:
    """The ink of each class as one set, classes sorted by name; a name "ALPHABET/character" also gives the alphabet."""
    names = tuple(sorted(classes))
    offsets = np.cumsum([0] + [len(classes[name]) for name in names])
    images = np.concatenate([classes[name] for name in names])
    alphabets = tuple(name.rpartition("/")[0] for name in names) if all("/" in name for name in names) else ()
    return ImageSet(_as_images(images), torch.from_numpy(offsets), names, alphabets)


def unlabelled(ink: Bool[np.ndarray, "N H W"]) -> ImageSet:
    """The ink as a set without classes."""
    return ImageSet(_as_images(ink), torch.tensor([0, len(ink)]))


def _as_images(ink: Bool[np.ndarray, "N H W"]) -> UInt8[Tensor, "N 1 H W"]:
    return torch.from_numpy(np.ascontiguousarray(ink).view(np.uint8)[:, None])


def hold_out_classes(whole: ImageSet, every: int) -> tuple[ImageSet, ImageSet]:
    """(kept, held out): classes 0, every, 2 * every, ... in sorted order are held out."""
    held = torch.arange(whole.num_classes) % every == 0
    return _take_classes(whole, ~held), _take_classes(whole, held)


def _take_classes(whole: ImageSet, keep: Bool[Tensor, "C"]) -> ImageSet:
    offsets = torch.nn.functional.pad(whole.counts[keep].cumsum(0), (1, 0))
    chosen = keep.nonzero().flatten().tolist()
    names = tuple(whole.class_names[c] for c in chosen)
    alphabets = tuple(whole.alphabets[c] for c in chosen) if whole.alphabets else ()
    return ImageSet(whole.images[keep[whole.labels]], offsets, names, alphabets)


def hold_out_images(whole: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """(kept, held out): the last 5 % (rounded down) of a seeded permutation are held out; order is kept within each."""
    # random_raw is the one numpy stream that is guaranteed never to change; argsort makes it a permutation.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(whole.images)), kind="stable")
    cut = len(order) - len(order) // 20
    kept, held = (torch.from_numpy(np.sort(part)) for part in (order[:cut], order[cut:]))
    return _take_images(whole, kept), _take_images(whole, held)


def _take_images(whole: ImageSet, index: Int64[Tensor, "n"]) -> ImageSet:
    counts = torch.bincount(whole.labels[index], minlength=whole.num_classes)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return ImageSet(whole.images[index], offsets, whole.class_names, whole.alphabets)


def sample_ink(grey: np.ndarray, seed: tuple[int, int]) -> Bool[np.ndarray, "N H W"]:
    """Each pixel of `grey` (N, H, W), levels in [0, 1], drawn once as ink with its level as the probability."""
    stream = np.random.PCG64(seed)
    ink = np.empty(grey.shape, dtype=np.bool_)
    for i in range(len(grey)):  # image by image, so that the 64-bit draws of a whole set are never in memory at once
        uniform = (stream.random_raw(grey[i].size) >> np.uint64(11)) * 2.0**-53
        ink[i] = uniform.reshape(grey[i].shape) < grey[i]
    return ink
