"""The data sets by name: what each is made of, how it is split, and `load`, which finds, verifies and caches it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vma.data import download, prepared
from vma.data.archives import read_amat, read_chardata, read_gmn_npz, read_made_npz, read_omniglot_zip
from vma.data.download import MIB, BadContent, Decoded, Source, printable
from vma.data.folder import read_folder
from vma.data.images import (
    DataSet,
    ImageSet,
    hold_out_classes,
    hold_out_images,
    labelled,
    make_data_set,
    sample_ink,
    unlabelled,
)
from vma.data.strokes import draw_strokes
from vma.errors import DataUnavailable, InputError

SAMPLING_SEED = 20151  # binarisation of grey levels, once and for all
SPLIT_SEED = 20152  # permutations that part images where no split by class or by file exists
TEST_ALPHABETS = ("Tengwar", "Sylheti", "Tibetan", "Syriac_(Serto)", "ULOG")
VALIDATION_EVERY = 20  # training classes 0, 20, 40, ... in sorted order
_SIZES = range(8, 257)  # of images that are made at any size


def _homes(repository: str, commit: str, path: str) -> tuple[str, ...]:
    """The repository itself at one commit, and a public mirror of all such files; the digest decides what is taken."""
    return (
        f"https://raw.githubusercontent.com/{repository}/{commit}/{path}",
        f"https://cdn.jsdelivr.net/gh/{repository}@{commit}/{path}",
    )


_LAKE = ("brendenlake/omniglot", "057f034baf2ecb8530bc5710e5a23584d2a519cc")
_GMN = ("sbos/gmn", "b7d6ec508821e66a4dd2252b6f33e7d5128d7a5a")
_IWAE = ("yburda/iwae", "78a6075484bd7dd6f47a4bb9880d2295bc7a5220")
_MADE = "https://github.com/mgermain/MADE/releases/download/ICML2015/"


def _omniglot(root: str, *sha256: str) -> Source:
    digests = tuple(f"sha256:{digest}" for digest in sha256)
    return Source(f"omniglot/{root}.zip", read_omniglot_zip, 32 * MIB, digests, _homes(*_LAKE, f"python/{root}.zip"))


def _gmn(name: str, below: int | None, sha256: str) -> Source:
    decode = partial(read_gmn_npz, below=below)
    return Source(f"gmn/{name}.npz", decode, 32 * MIB, (f"sha256:{sha256}",), _homes(*_GMN, f"data/{name}.npz"))


# The official archives, and the same members, names and pixels under another compression, as a local mirror has them.
OMNIGLOT = (
    _omniglot(
        "images_background",
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "0ca674f1c02257123afb1ae3337b536f9c4d0181ca780d9af318151efb4e45bc",
    ),
    _omniglot(
        "images_evaluation",
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        "fd45a41e89479c48ddc20ba2db00bee78297e97e337db2b9eba978d143193271",
    ),
)
OMNIGLOT_GMN = (  # paper is 255
    _gmn("train_small", 128, "136ac9970475ee96cb03275a4299233ef7d0f023380d2eff4ca73b31cc2f97da"),
    _gmn("test_small", 128, "5ac797844c90af132a423614c198f7b83ef8fad7cf8d32d6dc4f24483d317ac3"),
)
MNIST_GMN = (
    _gmn("binmnist_train", None, "8457d814b7c8cf3ea3583a00ead4e5a4497a9b7fa1f59e682943a7a224c50e26"),
    _gmn("binmnist_test", None, "ef8ee8b6b99c560e20776db966b763171ddc2b299c5307fc7b6724e3943ff202"),
)
CHARDATA = (
    Source(
        "iwae/chardata.mat",
        read_chardata,
        100 * MIB,  # the largest file that GitHub takes
        ("git:016a3536ffe5e1d38e42563a18d7a78bfaf643ec",),
        _homes(*_IWAE, "datasets/OMNIGLOT/chardata.mat"),
    ),
)
MADE = (
    Source(
        "mnist/binarized_mnist.npz",
        read_made_npz,
        512 * MIB,
        ("sha256:af10774d1da7e037c2f2d0388e6fd51e99f03d8878b72c15c86e0ca91c1424b2",),
        (_MADE + "binarized_mnist.npz",),
    ),
)
# The .amat files' own home speaks http only, so they are read where the user has them and never downloaded.
AMAT = tuple(
    Source(f"mnist/binarized_mnist_{split}.amat", partial(read_amat, split=split), 128 * MIB, (f"sha256:{sha256}",))
    for split, sha256 in {
        "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    }.items()
)

Splits = tuple[ImageSet, ImageSet, ImageSet]


def _omniglot45_5(background: Decoded, evaluation: Decoded) -> Splits:
    # Ink is already 1, so that max-pooling keeps strokes; 105 = 26 * 4 + 1, the last row and column fall away.
    pooled = {name: _max_pool4(ink) for name, ink in (background | evaluation).items()}
    test = {name: ink for name, ink in pooled.items() if name.split("/")[0] in TEST_ALPHABETS}
    train = labelled({name: ink for name, ink in pooled.items() if name not in test})
    return *hold_out_classes(train, VALIDATION_EVERY), labelled(test)


def _max_pool4(ink: np.ndarray) -> np.ndarray:
    rows = ink[:, 0:104:4] | ink[:, 1:104:4] | ink[:, 2:104:4] | ink[:, 3:104:4]
    return rows[..., 0:104:4] | rows[..., 1:104:4] | rows[..., 2:104:4] | rows[..., 3:104:4]


def _omniglot_gmn(train: Decoded, test: Decoded) -> Splits:
    # Keys are "images_background/ALPHABET/characterNN"; the first part is the file's own name again.
    kept, test_set = (labelled({key.partition("/")[2]: ink for key, ink in part.items()}) for part in (train, test))
    return *hold_out_classes(kept, VALIDATION_EVERY), test_set


def _omniglot_gmn_inverted(train: Decoded, test: Decoded) -> Splits:
    return _omniglot_gmn(*({key: ~ink.astype(bool) for key, ink in part.items()} for part in (train, test)))


def _omniglot28(chardata: Decoded) -> Splits:
    train, test = (
        unlabelled(sample_ink(chardata[split], (SAMPLING_SEED, i))) for i, split in enumerate(("train", "test"))
    )
    return *hold_out_images(train, SPLIT_SEED), test


def _omniglot28_resampled(background: Decoded, evaluation: Decoded) -> Splits:
    # 105 / 28 = 15 / 4: in quarters of a pixel the area that input j shares with output i is a whole number, the sums
    # are exact, and the pixels are the same on every machine.
    i, j = np.arange(28)[:, None], np.arange(105)
    area = np.clip(np.minimum(15 * (i + 1), 4 * (j + 1)) - np.maximum(15 * i, 4 * j), 0, None).astype(np.float32)
    classes = background | evaluation
    grey = np.concatenate([area @ classes[name].astype(np.float32) @ area.T for name in sorted(classes)]) / 225.0
    order = np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(len(grey)), kind="stable")
    train, test = (
        unlabelled(sample_ink(grey[np.sort(part)], (SAMPLING_SEED, i)))
        for i, part in enumerate((order[:24_345], order[24_345 : 24_345 + 8_070]))
    )
    return *hold_out_images(train, SPLIT_SEED), test


def _mnist_gmn(train: Decoded, test: Decoded) -> Splits:
    return *hold_out_images(labelled(train), SPLIT_SEED), labelled(test)


def _mnist_larochelle(*files: Decoded) -> Splits:
    splits = {split: unlabelled(ink) for file in files for split, ink in file.items()}
    return splits["train"], splits["valid"], splits["test"]


@dataclass(frozen=True)
class _Recipe:
    size: int
    build: Callable[..., Splits]  # from the decoded sources, in order
    variants: tuple[tuple[Source, ...], ...]  # the files it is made of; the first variant is the one that is downloaded


_RECIPES = {
    "omniglot45_5": _Recipe(26, _omniglot45_5, (OMNIGLOT,)),
    "omniglot_gmn": _Recipe(28, _omniglot_gmn, (OMNIGLOT_GMN,)),
    "omniglot_gmn_inverted": _Recipe(28, _omniglot_gmn_inverted, (OMNIGLOT_GMN,)),
    "omniglot28": _Recipe(28, _omniglot28, (CHARDATA,)),
    "omniglot28_resampled": _Recipe(28, _omniglot28_resampled, (OMNIGLOT,)),
    "mnist_gmn": _Recipe(28, _mnist_gmn, (MNIST_GMN,)),
    "mnist_larochelle": _Recipe(28, _mnist_larochelle, (MADE, AMAT)),
}
DATASETS: tuple[str, ...] = (*_RECIPES, "strokes")


def load(name: str, *, data: Path | None = None, image_size: int | None = None, progress: bool = True) -> DataSet:
    """The data set `name`, one of DATASETS or "folder:PATH" (class/IMAGE or alphabet/class/IMAGE; see `read_folder`).

    Files are taken from `data` (else VMA_DATA), the user's cache, shared/data beside the checkout, or a public home.

    - `omniglot45_5`: 26x26, Bornschein et al. 2017; 144 classes of five alphabets for test.
    - `omniglot_gmn`: 28x28, the files of Bartunov and Vetrov's Generative Matching Networks.
    - `omniglot_gmn_inverted`: the same with paper as 1, to measure what that does.
    - `omniglot28`: 28x28 grey levels of Burda et al. 2015, sampled once to binary (seed 20151); unlabelled.
    - `omniglot28_resampled`: its stand-in, area-resampled from the PNGs and sampled alike; 45 images are in no split.
    - `mnist_gmn`: the GMN release's binarised MNIST, with digits as classes.
    - `mnist_larochelle`: the fixed binarisation of Larochelle and Murray 2011 with its own validation set; unlabelled.
    - `strokes`: procedural characters, at any `image_size` from 8 to 256 (28 if not given); a folder needs one given.

    Validation is every 20th training class in sorted order (0, 20, 40, ...). Sets without labels, and `mnist_gmn`,
    hold out the last 5 % of a permutation of the training images (seed 20152). Raises InputError for a name, size or
    file that cannot be used, and DataUnavailable where a file was found nowhere.
    """
    if image_size is not None and name not in _RECIPES and image_size not in _SIZES:
        raise InputError(f"image_size {image_size}: give a size from {_SIZES[0]} to {_SIZES[-1]} pixels")
    if name == "strokes":
        return draw_strokes(28 if image_size is None else image_size)
    if name.startswith("folder:"):
        if image_size is None:
            raise InputError(
                f"{printable(name)}: a folder has no size of its own; give image_size (26 is that of the paper)"
            )
        return read_folder(name, image_size)
    if name not in _RECIPES:
        raise InputError(f"{name!r}: no such data set; use one of {', '.join(DATASETS)}, or folder:PATH")
    recipe = _RECIPES[name]
    if image_size not in (None, recipe.size):
        raise InputError(f"{name}: its images are {recipe.size}x{recipe.size}, not {image_size}; leave image_size out")
    return _load(name, recipe, download.user_folder(data), progress)


def _load(name: str, recipe: _Recipe, folder: Path | None, progress: bool) -> DataSet:
    places = [place for place in (folder, download.downloads_dir(), download.LOCAL_MIRROR) if place is not None]
    # The first place that has any file of a variant decides for that variant.
    sources = next(
        (v for place in places for v in recipe.variants if any(download.locate(s, place) for s in v)),
        recipe.variants[0],
    )
    if folder is not None:  # what the user pointed to is verified at every start
        for source in sources:
            if path := download.locate(source, folder):
                _read(source, path)
    if (data_set := prepared.read(name)) is None:
        data_set = make_data_set(name, *recipe.build(*(_obtain(name, s, folder, progress) for s in sources)))
        prepared.write(data_set)
    return data_set


def _obtain(name: str, source: Source, folder: Path | None, progress: bool) -> Decoded:
    """What a source holds, from the first place that has the right bytes."""
    attempts = []
    if folder is None:
        attempts.append("data or VMA_DATA: not given")
    elif path := download.locate(source, folder):
        return source.decode(_read(source, path))
    else:
        attempts.append(f"{printable(folder)}: has no {source.path} and no {source.name}")
    for what, place in (("cache", download.downloads_dir()), ("mirror beside the checkout", download.LOCAL_MIRROR)):
        path = download.locate(source, place)
        if path is None:
            attempts.append(f"{what} {printable(place)}: has no {source.path}")
            continue
        try:
            return source.decode(download.read_verified(source, path))
        except (BadContent, OSError) as error:
            attempts.append(f"{what} {printable(path)}: {error}")
            warnings.warn(f"{printable(path)}: not used ({error}); looking further", stacklevel=2)
    raw, failed = download.fetch(source, progress)
    if raw is None:
        raise DataUnavailable(
            f"{name}: {source.name} was found nowhere; give a data folder with {source.path}, or take strokes",
            (*attempts, *failed),
        )
    return source.decode(raw)


def _read(source: Source, path: Path) -> bytes:
    try:
        return download.read_verified(source, path)
    except (BadContent, OSError) as error:
        home = f"the one from {source.urls[0]}" if source.urls else "an intact copy"
        raise InputError(f"{printable(path)}: {error}; replace it with {home}, or take it out of the folder") from error
