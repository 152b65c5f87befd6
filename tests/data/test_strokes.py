"""Procedural characters: a pure function of the seed, at any size, that looks like writing."""

import pytest
import torch

from vma.data import DataSet, load
from vma.data.strokes import draw_strokes


@pytest.fixture(scope="module")
def strokes() -> DataSet:
    return load("strokes")


def test_counts_and_splits(strokes: DataSet) -> None:
    splits = (strokes.train, strokes.validation, strokes.test)
    assert [part.num_classes for part in splits] == [570, 30, 200]
    assert strokes.validation.class_names == tuple(f"train{c:03}" for c in range(0, 600, 20))
    assert len({name for part in splits for name in part.class_names}) == 800
    for part in splits:
        assert set(part.counts.tolist()) == {20}
        assert part.images.dtype == torch.uint8
        assert part.images.max() == 1
        assert 0.09 < part.images.float().mean() < 0.13
        assert part.images.flatten(1).sum(1).min() > 15


def test_pure_function_of_the_seed(strokes: DataSet) -> None:
    # The hash in result rows: it moves only with a change that affects results.
    assert strokes.sha256 == "224e3e223d059c28a7b419ca3fd4b9362ca61073fcb1d753e8e709b575ffda9e"
    assert draw_strokes(seed=1).sha256 != strokes.sha256


def test_drawings_of_a_class_differ_less_than_classes(strokes: DataSet) -> None:
    drawings = strokes.test.images.float().view(200, 20, -1)
    within = (drawings[:, 0] - drawings[:, 1]).abs().mean()
    between = (drawings[:, 0] - drawings.roll(1, 0)[:, 0]).abs().mean()
    assert 0 < within < 0.8 * between
    assert len(drawings.flatten(0, 1).unique(dim=0)) == 4_000


@pytest.mark.parametrize("size", [8, 13])
def test_sizes(size: int) -> None:
    made = load("strokes", image_size=size)
    assert made.image_size == (size, size)
    assert made.train.images.flatten(1).any(1).all()
