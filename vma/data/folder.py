"""A user's own drawings: a folder of images, one subfolder per class."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from vma.data.decode import formats, read_image
from vma.data.download import MIB, printable, read_bounded
from vma.data.images import (
    DataSet,
    ImageSet,
    hold_out_classes,
    hold_out_images,
    labelled,
    make_data_set,
)
from vma.errors import InputError

VALIDATION_EVERY, TEST_EVERY = 20, 5
_SPLIT_SEED = 20152  # of the images for validation, where classes cannot be held out
_MAX_FILES = 200_000
_MAX_BYTES = 32 * MIB  # of one file
_MAX_SIDE = 4096  # pixels of one image, before it is resized
_MIN_CLASSES = 3  # one for each of test, validation and training
_LAYOUT = "class/IMAGE or alphabet/class/IMAGE, both also within train/, validation/ and test/"
# What folders that part the images themselves are called, without regard to case.
SPLITS = {
    **dict.fromkeys(("train", "training", "background", "images_background"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "images_evaluation"), "test"),
}

Classes = dict[str, list[Bool[np.ndarray, "H W"]]]


@dataclass(frozen=True)
class Ink:
    """What of a drawing is ink: `light` on dark paper, or dark on light; and pixels that are more than `threshold` of
    the way from paper (0) to ink (1).
    """

    light: bool = False
    threshold: float = 0.5


def parse_name(name: str) -> tuple[Path, Ink]:
    """The folder and the ink of "folder:PATH", "folder:PATH,ink=light", "folder:PATH,threshold=0.2" or both.

    Raises:
        InputError: naming the option and what it may be.
    """
    whole = re.fullmatch(r"folder:(.*?)((?:,(?:ink|threshold)=[^,]*)*)", name, re.DOTALL)
    assert whole is not None
    said = dict(option.split("=", 1) for option in whole[2].split(",")[1:])
    ink, threshold = said.get("ink", "dark"), said.get("threshold", "0.5")
    if ink not in ("dark", "light"):
        raise InputError(f"{printable(name)}: ink is {ink!r}, must be dark or light")
    if not re.fullmatch(r"0?\.\d{1,9}", threshold) or float(threshold) == 0:
        raise InputError(f"{printable(name)}: threshold is {threshold!r}, must be a number between 0 and 1, as 0.2")
    return Path(os.path.expanduser(whole[1])), Ink(ink == "light", float(threshold))


def read_folder(name: str, image_size: int) -> DataSet:
    """The set "folder:PATH" (see `parse_name`) of PATH/class/IMAGE or PATH/alphabet/class/IMAGE, at `image_size`
    squared.

    Images are what Pillow decodes; the others, and what lies elsewhere, are passed over with a warning that counts
    them. Hidden files are left out. Ink is what is darker than half (see `Ink`); transparent pixels are paper. An image
    that is not square gets paper on both sides of its shorter axis; then adaptive max-pooling of ink brings it to size
    (plain max-pooling where the size is a multiple), so that thin strokes survive. A class may have any number of
    drawings.

    Split: PATH/train/class/IMAGE and the like (see `SPLITS`) are taken as they are. Where nothing is for validation, it
    is training classes 0, 20, 40, ... in sorted order; or, where training and test have classes in common or there is
    one class to train with, a twentieth of the training images. Without such folders classes 0, 5, 10, ... are for
    test, and of the others 0, 20, 40, ... for validation.

    Warns: of blank and of full images, and of more ink than paper.

    Raises:
        InputError: for fewer than 3 classes or a split without training or test, a file that is called an image and
            cannot be read, or one beyond the caps on size.
    """
    path, ink = parse_name(name)
    if not os.path.isdir(path):
        raise InputError(f"{printable(path)}: not a folder; name one that holds {_LAYOUT}")
    try:
        found = sorted(file.relative_to(path) for file in _files(path, levels=3))
    except OSError as error:  # a class that is passed over would make another data set
        raise InputError(
            f"{printable(error.filename)}: cannot be read ({error.strerror}); mend its permissions or take it out"
        ) from error
    images = [file for file in found if file.suffix.lower() in formats() and not (path / file).is_dir()]
    splits = _splits(path, images)
    used = [file for file in images if len(file.parts) - bool(splits) in (2, 3)]
    _check_files(path, used, bool(splits))
    _say_what_is_passed_over(path, found, images, used)
    classes: dict[str, Classes] = {}
    for file in used:
        split = splits[file.parts[0]] if splits else ""
        label = file.parent.relative_to(file.parts[0]) if splits else file.parent
        classes.setdefault(split, {}).setdefault(label.as_posix(), []).append(_read_ink(path / file, image_size, ink))
    sets = {split: labelled({label: np.stack(d) for label, d in part.items()}) for split, part in classes.items()}
    _say_what_is_odd(path, sets, ink)
    return make_data_set(name, *(_own_splits(path, sets) if splits else _split_by_class(path, sets)))


def read_drawing(file: Path, image_size: int, ink: Ink = Ink()) -> Float[torch.Tensor, "1 H W"]:
    """One drawing as an image of 0 and 1 at `image_size` squared, read as those of a folder are.

    Warns: of more ink than paper.

    Raises:
        InputError: for a file that is not a whole image or beyond the caps on size, or an image without ink.
    """
    drawn = _read_ink(file, image_size, ink)
    now, other = ("light", "dark") if ink.light else ("dark", "light")
    share = f"{printable(file)}: {drawn.mean():.0%} of its pixels are ink, which is what is {now}"
    if not drawn.any():
        raise InputError(f"{share}; give a drawing with {now} ink")
    if drawn.mean() > 0.5:
        warnings.warn(f"{share}: where it is {other}, give --ink {other}", stacklevel=2)
    return torch.from_numpy(drawn)[None].float()


def _files(folder: Path, levels: int) -> Iterator[Path]:
    """The files in `folder` and in subfolders down to `levels` below, and the folders below these; hidden names are
    left out.
    """
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if levels and entry.is_dir():
            yield from _files(entry, levels - 1)
        else:
            yield entry


def _splits(path: Path, images: list[Path]) -> dict[str, str]:
    """The split of each folder directly below, none if these are classes or alphabets.

    Raises:
        InputError: if some of them part the images, and others do not.
    """
    tops = sorted({file.parts[0] for file in images if len(file.parts) > 2})
    found = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    if not {"train", "test"} <= set(found.values()) and len(found) < max(1, len(tops)):
        return {}  # an alphabet may be called so
    odd = [top for top in tops if top not in found] or [
        file.parts[0] for file in images if len(file.parts) == 2 and file.parts[0] not in found
    ]
    twice = [split for split, count in Counter(found.values()).items() if count > 1]
    missing = {"train", "test"} - set(found.values())
    if odd or twice or missing:
        what = f"{printable(odd[0])} beside" if odd else f"two for {twice[0]} in" if twice else f"no {min(missing)} in"
        raise InputError(
            f"{printable(path)}: {what} its folders {', '.join(map(printable, found))}; leave train, test and, if you "
            "like, validation alone there, or name a folder below"
        )
    return found


def _say_what_is_passed_over(path: Path, found: list[Path], images: list[Path], used: list[Path]) -> None:
    others = set(found) - set(images)
    folders = {other for other in others if (path / other).is_dir()}
    kinds = Counter(file.suffix.lower() or "without an ending" for file in others - folders)
    parts = [f"{count:,} {kind}" for kind, count in sorted(kinds.items())]
    for count, what, where in (
        (len(images) - len(used), "image", "outside of the folders of classes"),
        (len(folders), "folder", "further down"),
    ):
        parts += [f"{count:,} {what}{'s' * (count > 1)} {where}"] * bool(count)
    if parts:
        passed = printable(", ".join(parts))
        warnings.warn(f"{printable(path)}: {len(used):,} images are taken; passed over are {passed}", stacklevel=3)


def _check_files(path: Path, used: list[Path], own_splits: bool) -> None:
    flat, nested = ([file for file in used if len(file.parts) - own_splits == parts] for parts in (2, 3))
    if flat and nested:
        raise InputError(
            f"{printable(path)}: has images both as {printable(flat[0])} and as {printable(nested[0])}; use {_LAYOUT}"
        )
    if len(used) > _MAX_FILES:
        raise InputError(f"{printable(path)}: {len(used):,} images, more than {_MAX_FILES:,}; use fewer")


def _own_splits(path: Path, sets: dict[str, ImageSet]) -> tuple[ImageSet, ImageSet, ImageSet]:
    train, test = sets["train"], sets["test"]
    common = set(train.class_names) & set(test.class_names)
    if common:
        warnings.warn(
            f"{printable(path)}: {len(common)} classes are in training and in test: the test is of new drawings of "
            "known classes, not of new classes",
            stacklevel=3,
        )
    if "validation" in sets:
        return train, sets["validation"], test
    if common or train.num_classes == 1:
        return *hold_out_images(train, _SPLIT_SEED), test
    return *hold_out_classes(train, VALIDATION_EVERY), test


def _split_by_class(path: Path, sets: dict[str, ImageSet]) -> tuple[ImageSet, ImageSet, ImageSet]:
    whole = sets.get("")
    classes = 0 if whole is None else whole.num_classes
    if whole is None or classes < _MIN_CLASSES:
        raise InputError(
            f"{printable(path)}: {classes} classes with images, at least {_MIN_CLASSES} are needed; add folders "
            f"{_LAYOUT}"
        )
    others, test = hold_out_classes(whole, TEST_EVERY)
    return *hold_out_classes(others, VALIDATION_EVERY), test


def _say_what_is_odd(path: Path, sets: dict[str, ImageSet], ink: Ink) -> None:
    if not sets:
        return
    each = torch.cat([part.images.flatten(1).float().mean(1) for part in sets.values()])
    blank, full = int((each == 0).sum()), int((each == 1).sum())
    if blank or full:
        warnings.warn(
            f"{printable(path)}: of {len(each):,} images {blank:,} are blank and {full:,} all ink; "
            f"folder:PATH,threshold=... says how far from paper a pixel is ink (now {ink.threshold:g}): less takes "
            "paler strokes",
            stacklevel=3,
        )
    if (mean := each.mean().item()) > 0.5:
        now, other = ("light", "dark") if ink.light else ("dark", "light")
        warnings.warn(
            f"{printable(path)}: {mean:.0%} of the pixels are ink, which is what is {now}: where it is {other}, give "
            f"folder:PATH,ink={other}",
            stacklevel=3,
        )


def _read_ink(file: Path, image_size: int, ink: Ink = Ink()) -> Bool[np.ndarray, "H W"]:
    try:
        image = read_image(read_bounded(file, _MAX_BYTES), _MAX_SIDE)
        lightness = _lightness(image, paper=0 if ink.light else 255)
    except (OSError, ValueError) as error:
        cause = f"cannot be used as an image ({error})"
        raise InputError(f"{printable(file)}: {cause}; replace it or take it out") from error
    drawn = (lightness if ink.light else 1 - lightness) > ink.threshold
    height, width = drawn.shape
    side = max(width, height)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.pad(drawn, ((top, side - height - top), (left, side - width - left)))
    pooled = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(square)[None].float(), image_size)
    return pooled[0].numpy() > 0


def _lightness(image: Image.Image, paper: int) -> Float[np.ndarray, "H W"]:
    """From 0, black, to 1, white; what is transparent shows paper of this grey level."""
    if image.mode[0] in "IF":  # more than 8 bits a pixel, which Pillow would clip and not scale
        levels = np.asarray(image).astype(np.float64)
        if image.mode[0] == "F" or not (levels.min() >= 0 and levels.max() < 2**16):
            raise ValueError(f"pixels of mode {image.mode}, which have no known white")
        return levels / (2**16 - 1)
    rgba = image.convert("RGBA")
    sheet = Image.new("RGBA", rgba.size, (paper, paper, paper, 255))
    return np.asarray(Image.alpha_composite(sheet, rgba).convert("L")) / 255.0
