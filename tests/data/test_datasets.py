"""`load`: the real sets where their files are at hand, and the search, verification and caching on a small one."""

import functools
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused

from vma.data import DataSet, cache_dir, datasets, download, load, prepared
from vma.data.archives import read_gmn_npz
from vma.data.datasets import MNIST_GMN, OMNIGLOT, OMNIGLOT_GMN
from vma.data.download import Source
from vma.errors import InputError

REAL = {
    "omniglot45_5": (OMNIGLOT, 26, (1405, 74, 144), (28_100, 1_480, 2_880), "dd9f1b591a974978"),
    "omniglot_gmn": (OMNIGLOT_GMN, 28, (915, 49, 659), (18_300, 980, 13_180), "0b57e57d78b8b0f5"),
    "omniglot28_resampled": (OMNIGLOT, 28, (1, 1, 1), (23_128, 1_217, 8_070), "c7d0c47c081d2fab"),
    "mnist_gmn": (MNIST_GMN, 28, (10, 10, 10), (57_000, 3_000, 10_000), "cc0df5a0184328bf"),
}
# Two sets read the same archives, whose 32,460 PNGs are the slowest part of these tests: they are decoded once.
DECODED_ONCE = tuple(replace(source, decode=functools.cache(source.decode)) for source in OMNIGLOT)


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    for source in DECODED_ONCE:
        source.decode.cache_clear()


@pytest.mark.parametrize("name", REAL)
def test_real_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = datasets._RECIPES[name]
    if recipe.variants == (OMNIGLOT,):
        monkeypatch.setitem(datasets._RECIPES, name, replace(recipe, variants=(DECODED_ONCE,)))
    sources, size, classes, images, sha256 = REAL[name]
    if not all(download.locate(source, download.LOCAL_MIRROR) for source in sources):
        pytest.skip("the files of this set are not in shared/data beside the checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load(name)
    again = load(name, data=download.LOCAL_MIRROR, image_size=size)
    assert first.sha256.startswith(sha256)
    assert again.sha256 == first.sha256
    assert first.image_size == (size, size)
    splits = (first.train, first.validation, first.test)
    assert tuple(part.num_classes for part in splits) == classes
    assert tuple(len(part.images) for part in splits) == images
    for part in splits:
        assert part.images.dtype == torch.uint8
        assert part.images.max() == 1
        assert 0.05 < part.images.float().mean() < 0.2
        assert part.labels.bincount().tolist() == part.counts.tolist()
    if classes[0] > 10:  # splits by class
        train, validation, test = (set(part.class_names) for part in splits)
        assert not train & validation
        assert name == "omniglot_gmn" or not (train | validation) & test
        assert set(first.validation.class_names) == set(sorted(train | validation)[::20])
        assert first.train.class_names == tuple(sorted(train))
        assert set(torch.cat([part.counts for part in splits]).tolist()) == {20}
        assert all(a == n.split("/")[0] for a, n in zip(first.test.alphabets, first.test.class_names, strict=True))
    if name == "omniglot45_5":
        assert set(first.test.alphabets) == {"Tengwar", "Sylheti", "Tibetan", "Syriac_(Serto)", "ULOG"}


def test_the_inverted_set_is_the_same_with_paper_as_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not all(download.locate(source, download.LOCAL_MIRROR) for source in OMNIGLOT_GMN):
        pytest.skip("the files of this set are not in shared/data beside the checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ink, paper = load("omniglot_gmn"), load("omniglot_gmn_inverted")
    assert ink.sha256 != paper.sha256
    for one, other in ((ink.train, paper.train), (ink.validation, paper.validation), (ink.test, paper.test)):
        assert torch.equal(one.images + other.images, torch.ones_like(one.images))
        assert one.class_names == other.class_names


def test_unlabelled_splits_share_no_image() -> None:
    ink = np.unpackbits(np.arange(400, dtype=">u2").view(np.uint8)).reshape(400, 4, 4).astype(bool)
    whole = datasets.unlabelled(ink)
    train, validation = datasets.hold_out_images(whole, seed=1)
    codes = [{tuple(image.flatten().tolist()) for image in part.images} for part in (train, validation)]
    assert (len(codes[0]), len(codes[1])) == (380, 20)
    assert not codes[0] & codes[1]
    assert not torch.equal(datasets.hold_out_images(whole, seed=2)[1].images, validation.images)


def test_max_pooling_keeps_ink() -> None:
    ink = np.random.default_rng(0).random((3, 105, 105)) < 0.03
    expected = torch.nn.functional.max_pool2d(torch.from_numpy(ink).float(), 4)
    assert np.array_equal(datasets._max_pool4(ink), expected.numpy() > 0)


def test_sampling_follows_grey_levels() -> None:
    grey = np.broadcast_to(np.linspace(0, 1, 5), (2_000, 5, 5))
    ink = datasets.sample_ink(grey, (1, 2))
    assert np.allclose(ink.mean((0, 1)), np.linspace(0, 1, 5), atol=0.02)
    assert np.array_equal(ink, datasets.sample_ink(grey, (1, 2)))


@pytest.mark.parametrize(
    ("name", "size", "cause"),
    [
        ("omniglot", None, "no such data set; use one of omniglot45_5"),
        ("omniglot45_5", 28, "its images are 26x26, not 28"),
        ("strokes", 7, "from 8 to 256"),
        ("folder:.", None, "give image_size"),
        ("folder:nowhere", 28, "not a folder"),
    ],
)
def test_refused_requests(name: str, size: int | None, cause: str) -> None:
    with refused(cause):
        load(name, image_size=size)


# The rest is about finding, verifying and caching, on a set of two small files that is made here.


def _npz(seed: int) -> bytes:
    """A file in the form of the GMN release."""
    generator = np.random.default_rng(seed)
    arrays = {f"images/Alphabet{c % 3}/character{c:02}": generator.integers(0, 2, (4, 784)) * 255 for c in range(21)}
    file = io.BytesIO()
    np.savez_compressed(file, **{key: array.astype(np.uint8) for key, array in arrays.items()})  # type: ignore[arg-type]
    return file.getvalue()


class Small:
    """A data set `small` made of two files, and a folder that has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {"a.npz": _npz(1), "b.npz": _npz(2)}
        self.sources = tuple(
            Source(
                f"gmn/{name}",
                partial(read_gmn_npz, below=128),
                2**20,
                (f"sha256:{hashlib.sha256(raw).hexdigest()}",),
            )
            for name, raw in self.files.items()
        )

    def fill(self, folder: Path, nested: bool = True) -> None:
        for name, raw in self.files.items():
            target = folder / "gmn" / name if nested else folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "LOCAL_MIRROR", tmp_path / "mirror")
    made = Small(tmp_path / "data")
    made.folder.mkdir()
    recipe = datasets._Recipe(28, datasets._omniglot_gmn, (made.sources,))
    monkeypatch.setitem(datasets._RECIPES, "small", recipe)
    return made


def same(one: DataSet, other: DataSet) -> bool:
    parts = ("train", "validation", "test")
    return one.sha256 == other.sha256 and all(
        torch.equal(getattr(one, part).images, getattr(other, part).images)
        and torch.equal(getattr(one, part).offsets, getattr(other, part).offsets)
        and getattr(one, part).class_names == getattr(other, part).class_names
        and getattr(one, part).alphabets == getattr(other, part).alphabets
        for part in parts
    )


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("how", ["argument", "variable", "mirror", "downloads"])
def test_every_place_and_layout_gives_the_same(
    small: Small, how: str, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"mirror": download.LOCAL_MIRROR, "downloads": download.downloads_dir()}.get(how, small.folder)
    small.fill(place, nested)
    if how == "variable":
        monkeypatch.setenv("VMA_DATA", str(small.folder))
    first = load("small", data=small.folder if how == "argument" else None)
    assert prepared.prepared_path("small").is_file()
    assert same(first, load("small", data=small.folder if how == "argument" else None))
    assert (first.train.num_classes, first.validation.num_classes, first.test.num_classes) == (19, 2, 21)


def test_prepared_set_needs_no_source(small: Small) -> None:
    small.fill(small.folder)
    first = load("small", data=small.folder)
    for name in small.files:
        (small.folder / "gmn" / name).unlink()
    assert same(first, load("small"))


@pytest.mark.parametrize("prepared_before", [True, False])
def test_wrong_file_in_the_given_folder_is_refused(small: Small, prepared_before: bool) -> None:
    small.fill(download.LOCAL_MIRROR)  # there would be another source, which must not be used silently
    if prepared_before:
        load("small")
    small.files["b.npz"] = b""
    small.fill(small.folder)
    with pytest.raises(InputError, match=r"wrong bytes.*replace it with") as caught:
        load("small", data=small.folder)
    assert str(caught.value).startswith(str(small.folder / "gmn" / "b.npz"))


def test_given_folder_without_the_file_is_passed_over(small: Small) -> None:
    small.fill(download.LOCAL_MIRROR)
    assert load("small", data=small.folder).train.num_classes == 19


@pytest.mark.parametrize(
    ("make", "cause"),
    [(lambda path: path.write_bytes(b"nonsense"), "wrong bytes"), (os.mkfifo, "is no regular file")],
)
def test_wrong_file_in_the_cache_is_named_and_passed_over(small: Small, make, cause: str) -> None:
    small.fill(download.LOCAL_MIRROR)
    path = download.downloads_dir() / "gmn" / "a.npz"
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.warns(UserWarning, match=rf"a\.npz: not used \({cause}"):
        assert load("small").train.num_classes == 19


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:-100] + bytes(100)),
        lambda path: path.unlink() or os.mkfifo(path),
        lambda path: path.unlink() or path.symlink_to("nowhere"),
        lambda path: path.unlink() or path.symlink_to(path.name),
    ],
    ids=["truncated", "changed", "pipe", "broken link", "loop"],
)
def test_damaged_prepared_file_is_rebuilt_with_a_warning(small: Small, damage) -> None:
    small.fill(small.folder)
    first = load("small", data=small.folder)
    path = prepared.prepared_path("small")
    damage(path)
    with pytest.warns(UserWarning, match="damaged; prepared again") as seen:
        assert same(first, load("small", data=small.folder))
    assert len(seen) == 1
    assert path.is_file()
    assert not path.is_symlink()
    assert same(first, load("small"))


def test_cache_that_cannot_be_written(small: Small) -> None:
    small.fill(small.folder)
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="not cached"):
        assert load("small", data=small.folder).train.num_classes == 19
