"""A user's folder of images: layouts and splits, what counts as ink, what is said, and what is refused. Files that are
no images are in `tests/faults/test_hostile_data.py`.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vma.data import DataSet, load
from vma.errors import InputError


def _save(path: Path, ink: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert(mode).save(path)


def _ink(seed: int, side: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).random((side, side)) < 0.1


def _fill(folder: Path, nested: bool = False, classes: int = 30) -> None:
    for c in range(classes):
        for d in range(1 + c % 3):  # ragged, some classes with one drawing
            _save(folder / (f"alphabet{c % 2}" if nested else "") / f"class{c:02}" / f"{d}.png", _ink(10 * c + d))


def _load(folder: Path, size: int = 28) -> DataSet:
    return load(f"folder:{folder}", image_size=size)


@pytest.mark.parametrize("nested", [False, True])
def test_ragged_folder(tmp_path: Path, nested: bool) -> None:
    _fill(tmp_path, nested)
    (tmp_path / "class00").mkdir(exist_ok=True)
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "0.png").write_text("not looked at")
    made = _load(tmp_path)
    splits = (made.train, made.validation, made.test)
    names = sorted(f"alphabet{c % 2}/class{c:02}" if nested else f"class{c:02}" for c in range(30))
    others = [name for i, name in enumerate(names) if i % 5]
    assert made.test.class_names == tuple(names[::5])
    assert made.validation.class_names == tuple(others[::20])
    assert made.train.class_names == tuple(name for i, name in enumerate(others) if i % 20)
    for part in splits:
        assert part.counts.tolist() == [1 + int(name[-2:]) % 3 for name in part.class_names]
        assert part.alphabets == (tuple(name.split("/")[0] for name in part.class_names) if nested else ())
    first = int(names[0][-2:])
    assert torch.equal(made.test.images[0, 0], torch.from_numpy(_ink(10 * first)).byte())
    assert _load(tmp_path).sha256 == made.sha256


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "transparent"])
def test_dark_is_ink_in_every_mode(tmp_path: Path, mode: str) -> None:
    _fill(tmp_path)
    path, ink = tmp_path / "class00" / "0.png", _ink(77)
    if mode == "I;16":
        Image.fromarray(np.where(ink, 9_000, 40_000).astype(np.uint16)).save(path)
    elif mode == "transparent":  # black everywhere, and opaque only where there is ink
        Image.fromarray(np.stack([0 * ink] * 3 + [255 * ink], -1).astype(np.uint8)).save(path)
    else:
        _save(path, ink, mode)
    assert torch.equal(_load(tmp_path).test.images[0, 0], torch.from_numpy(ink).byte())


@pytest.mark.parametrize("shape", [(56, 56), (105, 105), (20, 20), (105, 11), (300, 800)])
def test_thin_strokes_survive_resizing(tmp_path: Path, shape: tuple[int, int]) -> None:
    _fill(tmp_path)
    ink = np.zeros(shape, bool)
    ink[shape[0] // 2] = True
    _save(tmp_path / "class00" / "0.png", ink)
    image = _load(tmp_path).test.images[0, 0]
    assert image.any(0).sum() >= 28 * min(1, shape[1] / shape[0])
    if shape == (56, 56):
        assert torch.equal(image, torch.from_numpy(ink.reshape(28, 2, 28, 2).max((1, 3))).byte())


def test_class_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path)
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "class07":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(InputError, match=r"class07: cannot be read \(Permission denied\)"):
        _load(tmp_path)


def test_fewest_classes(tmp_path: Path) -> None:
    _fill(tmp_path, classes=2)
    with pytest.raises(InputError, match="2 classes with images, at least 3"):
        _load(tmp_path)
    _fill(tmp_path, classes=3)
    made = _load(tmp_path)
    assert [part.num_classes for part in (made.train, made.validation, made.test)] == [1, 1, 1]


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path)
    _fill(tmp_path, nested=True)
    with pytest.raises(InputError, match="both as"):
        _load(tmp_path)


FORMATS = {"PNG": ".png", "JPEG": ".JPG", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".pgm"}


def test_all_that_pillow_reads_is_taken_and_what_is_not_is_counted(tmp_path: Path) -> None:
    """One class is of JPEG alone: without it the split would move."""
    ink = np.kron(_ink(3, 7), np.ones((4, 4), bool))  # in blocks, which JPEG keeps
    for c in range(5):
        for form, ending in ({"JPEG": ".jpeg"} if c == 0 else FORMATS).items():
            _save(tmp_path / f"{c}" / "0.png", ink)
            Image.open(tmp_path / f"{c}" / "0.png").save(tmp_path / f"{c}" / f"x{ending}", form)
            (tmp_path / f"{c}" / "0.png").unlink()
    others = ("0/a.svg", "1/b.svg", "1/labels.csv", "README", "1/.hidden", "0/deep/er/x.txt", "0/deep/er/and.png/x.png")
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    _save(tmp_path / "cover.png", ink)
    with pytest.warns(UserWarning, match="images are taken") as said:
        made = _load(tmp_path)
    assert [str(one.message) for one in said] == [
        f"{tmp_path}: 29 images are taken; passed over are 1 .csv, 2 .svg, 1 .txt, 1 without an ending, "
        "1 image outside of the folders of classes, 1 folder further down"
    ]
    assert made.test.class_names == ("0",)
    for part in (made.train, made.validation, made.test):
        assert (part.images[:, 0] == torch.from_numpy(ink)).all()


def test_light_ink_is_said_and_taken_when_asked_for(tmp_path: Path) -> None:
    for c in range(10):
        _save(tmp_path / f"{c}" / "0.png", ~_ink(c))  # white ink on black
    pixels = np.full((28, 28, 4), 255, np.uint8)  # white, and opaque only where there is ink
    pixels[..., 3] = np.where(_ink(0), 255, 0)
    Image.fromarray(pixels).save(tmp_path / "0" / "0.png")
    with (
        pytest.warns(UserWarning, match=r"blank"),
        pytest.warns(UserWarning, match=r"8\d% of the pixels are ink, which is what is dark: .*folder:PATH,ink=light"),
    ):
        _load(tmp_path)
    light = load(f"folder:{tmp_path},ink=light", image_size=28)
    assert light.name == f"folder:{tmp_path},ink=light"
    for c, image in zip((0, 5), light.test.images[:, 0], strict=True):
        assert torch.equal(image, torch.from_numpy(_ink(c)).byte())


def test_a_threshold_takes_pale_strokes(tmp_path: Path) -> None:
    for c in range(4):
        pale = np.where(_ink(c), 190, 255).astype(np.uint8)  # a quarter of the way from paper to black
        (tmp_path / f"{c}").mkdir()
        Image.fromarray(pale).save(tmp_path / f"{c}" / "0.png")
    _save(tmp_path / "1" / "full.png", np.ones((28, 28), bool))
    with pytest.warns(UserWarning, match=r"of 5 images 4 are blank and 1 all ink; folder:PATH,threshold="):
        _load(tmp_path)
    made = load(f"folder:{tmp_path},threshold=0.2", image_size=28)
    assert torch.equal(made.test.images[0, 0], torch.from_numpy(_ink(0)).byte())
    turned = load(f"folder:{tmp_path},threshold=.2,ink=dark", image_size=28)
    assert turned.sha256 == made.sha256


@pytest.mark.parametrize("option", ["ink=white", "threshold=1", "threshold=0.0", "threshold=half", "ink="])
def test_what_ink_cannot_be_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"{option.partition('=')[0]} is '.*', must be"):
        load(f"folder:{tmp_path},{option}", image_size=28)


def test_a_comma_in_a_path_is_no_option(tmp_path: Path) -> None:
    _fill(tmp_path / "a,b=c,ink", classes=3)
    assert load(f"folder:{tmp_path}/a,b=c,ink,ink=dark", image_size=28).train.num_classes == 1


@pytest.mark.parametrize(
    "folders", [("train", "val", "test"), ("Training", None, "TESTING"), ("images_background", "dev", "evaluation")]
)
@pytest.mark.parametrize("nested", [False, True])
def test_folders_that_are_splits_are_taken_so(tmp_path: Path, folders: tuple[str | None, ...], nested: bool) -> None:
    ranges = {folders[0]: range(25), folders[1]: range(30, 32), folders[2]: range(40, 43)}
    for folder, classes in ranges.items():
        for c in classes if folder else ():
            _save(tmp_path / str(folder) / ("alphabet" if nested else "") / f"class{c}" / "0.png", _ink(c))
    made = _load(tmp_path)
    names = [sorted(f"{'alphabet/' if nested else ''}class{c}" for c in classes) for classes in ranges.values()]
    if folders[1] is None:
        names[0], names[1] = [n for i, n in enumerate(names[0]) if i % 20], names[0][::20]
    assert [part.class_names for part in (made.train, made.validation, made.test)] == [*map(tuple, names)]


def test_splits_of_the_same_classes_hold_out_images_and_say_so(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for c in range(4):
            for d in range(10):
                _save(tmp_path / split / f"{c}" / f"{d}.png", _ink(100 * c + d + 1000 * (split == "test")))
    with pytest.warns(UserWarning, match="4 classes are in training and in test: the test is of new drawings of known"):
        made = _load(tmp_path)
    assert made.train.class_names == made.validation.class_names == made.test.class_names == tuple("0123")
    assert [len(part.images) for part in (made.train, made.validation, made.test)] == [38, 2, 40]


@pytest.mark.parametrize(
    ("folders", "cause"),
    [
        (("train", "other", "test"), "other beside its folders test, train; leave train, test and"),
        (("train", "val"), "no test in its folders train, val"),
        (("test",), "no train in its folders test"),
        (("train", "val", "Validation", "test"), "two for validation in its folders Validation, test, train, val"),
    ],
)
def test_splits_that_are_not_whole_are_refused(tmp_path: Path, folders: tuple[str, ...], cause: str) -> None:
    for folder in folders:
        _fill(tmp_path / folder, classes=3)
    with pytest.raises(InputError, match=cause):
        _load(tmp_path)


def test_alphabets_and_classes_may_be_called_like_a_split(tmp_path: Path) -> None:
    for folder in ("test", "greek", "latin"):
        _fill(tmp_path / "alphabets" / folder, classes=2)
    assert _load(tmp_path / "alphabets").test.class_names == ("greek/class00", "test/class01")
    for label in ("train", "test", "car"):
        _save(tmp_path / "classes" / label / "0.png", _ink(0))
    assert _load(tmp_path / "classes").test.class_names == ("car",)
