"""Decoding: each archive's form gives ink, classes and pixels in their places."""

import io
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from vma.data.archives import read_amat, read_chardata, read_gmn_npz, read_made_npz, read_omniglot_zip


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _ink(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.2


def test_omniglot_drawings_by_alphabet_and_character() -> None:
    ink = {(c, d): _ink(10 * c + d, 105, 105) for c in (2, 1) for d in (2, 1)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images_background/", b"")
        archive.writestr("__MACOSX/images_background/._x.png", b"no image")
        for (c, d), drawing in ink.items():
            png = io.BytesIO()
            Image.fromarray(~drawing).save(png, "PNG")  # paper is white
            archive.writestr(f"images_background/Alpha/character{c:02}/0001_{d:02}.png", png.getvalue())
    classes = read_omniglot_zip(file.getvalue())
    assert list(classes) == ["Alpha/character01", "Alpha/character02"]
    assert all(np.array_equal(classes[f"Alpha/character{c:02}"][d - 1], drawing) for (c, d), drawing in ink.items())


@pytest.mark.parametrize("below", [128, None])
def test_gmn_ink_is_dark_or_one(below: int | None) -> None:
    ink = _ink(0, 3, 28, 28)
    stored = np.where(ink, 0, 255).astype(np.uint8).reshape(3, 784) if below else ink.astype(np.float32)
    assert np.array_equal(read_gmn_npz(_npz(key=stored), below=below)["key"], ink)


def test_larochelle_as_text_and_as_made_packed_it() -> None:
    splits = {split: _ink(i, i + 2, 784) for i, split in enumerate(("train", "valid", "test"))}
    made = read_made_npz(_npz(inputsize=np.array(784), **{f"{s}_data": ink.astype("f4") for s, ink in splits.items()}))
    for split, ink in splits.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in ink.astype(int))
        assert np.array_equal(read_amat(text.encode(), split=split)[split], ink.reshape(-1, 28, 28))
        assert np.array_equal(made[split], ink.reshape(-1, 28, 28))


def test_chardata_columns_are_images_column_by_column() -> None:
    images = {key: np.random.default_rng(n).random((n, 28, 28)) for key, n in (("data", 3), ("testdata", 2))}
    file = io.BytesIO()
    scipy.io.savemat(file, {key: np.stack([x.flatten("F") for x in part], axis=1) for key, part in images.items()})
    decoded = read_chardata(file.getvalue())
    assert np.array_equal(decoded["train"], images["data"])
    assert np.array_equal(decoded["test"], images["testdata"])
