"""A user's folder of PNGs: ragged and nested ones, what counts as ink, and refusals that name the file."""

import errno
import os
import struct
import zlib
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
    (tmp_path / "class00" / "notes.txt").write_text("not looked at")
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_dark_is_ink_in_every_mode(tmp_path: Path, mode: str) -> None:
    _fill(tmp_path)
    ink = _ink(77)
    if mode == "I;16":
        Image.fromarray(np.where(ink, 9_000, 40_000).astype(np.uint16)).save(tmp_path / "class00" / "0.png")
    else:
        _save(tmp_path / "class00" / "0.png", ink, mode)
    assert torch.equal(_load(tmp_path).test.images[0, 0], torch.from_numpy(ink).byte())


def test_transparent_is_paper(tmp_path: Path) -> None:
    _fill(tmp_path)
    ink = _ink(77)
    pixels = np.zeros((28, 28, 4), np.uint8)  # black everywhere, and opaque only where there is ink
    pixels[..., 3] = np.where(ink, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "class00" / "0.png")
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


def _huge(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (lambda raw: raw[:60], "cannot be used as a PNG image"),
        (lambda raw: raw[:45] + b"\xff" * 20 + raw[65:], "cannot be used as a PNG image"),
        (lambda raw: raw[:24], "cannot be used as a PNG image"),
        (lambda raw: b"", "not a PNG"),
        (lambda raw: b"GIF89a" + raw, "not a PNG"),
        (lambda raw: _huge(5_000, 5_000), "5000x5000 pixels, not between 1x1 and 4096x4096"),
        (lambda raw: _huge(1, 2**24), "1x16777216 pixels, not between 1x1 and 4096x4096"),
        (lambda raw: bytes(40 * 2**20), "is larger than"),
    ],
    ids=["truncated", "overwritten", "header", "empty", "other", "huge", "long", "large"],
)
def test_unusable_file_is_named(tmp_path: Path, content, cause: str) -> None:
    _fill(tmp_path)
    file = tmp_path / "class07" / "1.png"
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(InputError, match=cause) as caught:
        _load(tmp_path)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_not_passed_over(tmp_path: Path) -> None:
    _fill(tmp_path)
    odd = tmp_path / "class07" / "odd.png"
    for make, cause in (
        (lambda: os.mkfifo(odd), "no regular file"),
        (lambda: odd.symlink_to("/dev/zero"), "no regular file"),
        (lambda: odd.symlink_to("nowhere"), "No such file"),
        (lambda: odd.symlink_to(odd.name), "symbolic links"),
    ):
        make()
        with pytest.raises(InputError, match=cause) as caught:
            _load(tmp_path)
        assert str(caught.value).startswith(str(odd))
        odd.unlink()
    odd.mkdir()  # a folder may be called so
    _load(tmp_path)


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


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", os.fsdecode(b"\xff")])
def test_odd_names_are_shown_in_one_line(tmp_path: Path, name: str) -> None:
    _fill(tmp_path / name)
    assert _load(tmp_path / name).train.num_classes == 22
    (tmp_path / name / "class07" / f"{name}.png").write_bytes(b"")
    for path in (tmp_path / name, tmp_path / name / name):
        with pytest.raises(InputError) as caught:
            _load(path)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["~nobody of this name/x", "a" * 5_000, "a\0b"])
def test_names_that_no_folder_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load(f"folder:{name}", image_size=28)
    with pytest.raises(InputError, match="not a folder"):
        load("omniglot_gmn", data=Path(name))


def test_fewest_classes(tmp_path: Path) -> None:
    _fill(tmp_path, classes=2)
    with pytest.raises(InputError, match="2 classes with PNG images, at least 3"):
        _load(tmp_path)
    _fill(tmp_path, classes=3)
    made = _load(tmp_path)
    assert [part.num_classes for part in (made.train, made.validation, made.test)] == [1, 1, 1]


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path)
    _fill(tmp_path, nested=True)
    with pytest.raises(InputError, match="both as"):
        _load(tmp_path)
