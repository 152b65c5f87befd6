"""A user's own drawings: a folder of PNG images, one subfolder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from vma.data.download import MIB, printable, read_bounded
from vma.data.images import DataSet, hold_out_classes, labelled, make_data_set
from vma.data.png import read_png
from vma.errors import InputError

_MAX_FILES = 200_000
_MAX_BYTES = 32 * MIB  # of one file
_MAX_SIDE = 4096  # pixels of one image, before it is resized
_MIN_CLASSES = 3  # one for each of test, validation and training


def read_folder(path: Path, image_size: int, name: str) -> DataSet:
    """The set of PATH/class/*.png, or PATH/alphabet/class/*.png, at `image_size` squared; hidden files are left out.

    Ink is what is dark (below half), as in Omniglot's black on white; transparent pixels are paper. An image that is
    not square gets paper on both sides of its shorter axis; then adaptive max-pooling of ink brings it to size (plain
    max-pooling where the size is a multiple), so that thin strokes survive. A class may have any number of drawings.
    Split: of the classes in sorted order 0, 5, 10, ... are for test; of the others 0, 20, 40, ... for validation.
    Raises InputError for fewer than 3 classes, a file that is not a whole PNG image, or one beyond the caps on size.
    """
    if not os.path.isdir(path):
        raise InputError(f"{printable(path)}: not a folder; name one that holds class/*.png or alphabet/class/*.png")
    try:
        found = sorted(file.relative_to(path) for file in _pngs(path, levels=2))
    except OSError as error:  # a class that is passed over would make another data set
        raise InputError(
            f"{printable(error.filename)}: cannot be read ({error.strerror}); mend its permissions or take it out"
        ) from error
    flat, nested = ([file for file in found if len(file.parts) == parts] for parts in (2, 3))
    if flat and nested:
        raise InputError(
            f"{printable(path)}: has images both as {printable(flat[0])} and as {printable(nested[0])}; "
            "use class/*.png or alphabet/class/*.png"
        )
    files = flat or nested
    if len(files) > _MAX_FILES:
        raise InputError(f"{printable(path)}: {len(files):,} images, more than {_MAX_FILES:,}; use fewer")
    classes: dict[str, list[np.ndarray]] = {}
    for file in files:
        classes.setdefault(file.parent.as_posix(), []).append(_read_ink(path / file, image_size))
    if len(classes) < _MIN_CLASSES:
        raise InputError(
            f"{printable(path)}: {len(classes)} classes with PNG images, at least {_MIN_CLASSES} are needed; "
            "add folders class/*.png or alphabet/class/*.png"
        )
    whole = labelled({label: np.stack(drawings) for label, drawings in classes.items()})
    others, test = hold_out_classes(whole, every=5)
    train, validation = hold_out_classes(others, every=20)
    return make_data_set(name, train, validation, test)


def read_drawing(file: Path, image_size: int) -> Float[torch.Tensor, "1 H W"]:
    """One drawing as an image of 0 and 1 at `image_size` squared, read as those of a folder are.

    Raises:
        InputError: for a file that is not a whole PNG image or beyond the caps on size, or an image without ink.
    """
    ink = _read_ink(file, image_size)
    if not ink.any():
        raise InputError(f"{printable(file)}: has no ink, which is what is darker than half; give a drawing on white")
    return torch.from_numpy(ink)[None].float()


def _pngs(folder: Path, levels: int) -> Iterator[Path]:
    """What is named *.png in `folder` and in subfolders down to `levels` below; hidden names are left out."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if levels:
                yield from _pngs(entry, levels - 1)
        elif entry.suffix.lower() == ".png":
            yield entry


def _read_ink(file: Path, image_size: int) -> Bool[np.ndarray, "H W"]:
    try:
        image = read_png(read_bounded(file, _MAX_BYTES), _MAX_SIDE)
        if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip and not scale
            ink = np.asarray(image) < 2**15
        else:
            rgba = image.convert("RGBA")
            paper = Image.new("RGBA", rgba.size, "white")
            ink = np.asarray(Image.alpha_composite(paper, rgba).convert("L")) < 128
    except (OSError, ValueError) as error:
        raise InputError(
            f"{printable(file)}: cannot be used as a PNG image ({error}); replace it or take it out"
        ) from error
    height, width = ink.shape
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.pad(ink, ((top, side - height - top), (left, side - width - left)))
    pooled = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(square)[None].float(), image_size)
    return pooled[0].numpy() > 0
