"""A user's own drawings: a folder of PNG images, one subfolder per class."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image

from vma.data.archives import DAMAGED, png_size
from vma.data.download import MIB, BadContent, read_bounded
from vma.data.images import DataSet, hold_out_classes, labelled, make_data_set
from vma.errors import InputError

_MAX_FILES = 200_000
_MAX_BYTES = 32 * MIB  # of one file
_MAX_PIXELS = 4096 * 4096  # of one image, before it is resized
_MIN_CLASSES = 3  # one for each of test, validation and training


def read_folder(path: Path, image_size: int, name: str) -> DataSet:
    """The set of PATH/class/*.png, or PATH/alphabet/class/*.png, at `image_size` squared; hidden files are left out.

    Ink is what is dark (below half), as in Omniglot's black on white; transparent pixels are paper. An image that is
    not square gets paper on both sides of its shorter axis; then adaptive max-pooling of ink brings it to size (plain
    max-pooling where the size is a multiple), so that thin strokes survive. A class may have any number of drawings.
    Split: of the classes in sorted order 0, 5, 10, ... are for test; of the others 0, 20, 40, ... for validation.
    Raises InputError for fewer than 3 classes, a file that is not a whole PNG image, or one beyond the caps on size.
    """
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; name one that holds class/*.png or alphabet/class/*.png")
    flat, nested = _pngs(path, "*/*"), _pngs(path, "*/*/*")
    if flat and nested:
        raise InputError(
            f"{path}: has images both as {flat[0]} and as {nested[0]}; use class/*.png or alphabet/class/*.png"
        )
    files = flat or nested
    if len(files) > _MAX_FILES:
        raise InputError(f"{path}: {len(files):,} images, more than {_MAX_FILES:,}; use fewer")
    classes: dict[str, list[np.ndarray]] = {}
    for file in files:
        classes.setdefault(file.parent.as_posix(), []).append(_read_ink(path / file, image_size))
    if len(classes) < _MIN_CLASSES:
        raise InputError(
            f"{path}: {len(classes)} classes with PNG images, at least {_MIN_CLASSES} are needed; "
            "add folders class/*.png or alphabet/class/*.png"
        )
    whole = labelled({label: np.stack(drawings) for label, drawings in classes.items()})
    others, test = hold_out_classes(whole, every=5)
    train, validation = hold_out_classes(others, every=20)
    return make_data_set(name, train, validation, test)


def _pngs(path: Path, pattern: str) -> list[Path]:
    found = (file.relative_to(path) for file in path.glob(pattern) if file.suffix.lower() == ".png" and file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.parts))


def _read_ink(file: Path, image_size: int) -> Bool[np.ndarray, "H W"]:
    try:
        raw = read_bounded(file, _MAX_BYTES)
        width, height = png_size(raw)
        if width * height > _MAX_PIXELS:
            raise BadContent(f"{width}x{height} is more than {_MAX_PIXELS:,} pixels")
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip and not scale
                ink = np.asarray(image) < 2**15
            else:
                rgba = image.convert("RGBA")
                paper = Image.new("RGBA", rgba.size, "white")
                ink = np.asarray(Image.alpha_composite(paper, rgba).convert("L")) < 128
    except DAMAGED as error:
        raise InputError(f"{file}: cannot be used as a PNG image ({error}); replace it or take it out") from error
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.pad(ink, ((top, side - height - top), (left, side - width - left)))
    pooled = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(square)[None].float(), image_size)
    return pooled[0].numpy() > 0
