"""Procedural characters: a labelled set of drawings that needs no file and is a pure function of (seed, image_size)."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from vma.data.images import DataSet, hold_out_classes, labelled, make_data_set

SEED = 20171205
_TRAIN_CLASSES, _TEST_CLASSES, _DRAWINGS, _MAX_STROKES = 600, 200, 20, 4
_POINTS = 64  # samples along a stroke: closer than half a stroke's width at any size


class _Stream:
    """Uniform numbers from PCG64's raw stream, which numpy promises never to change."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        raw = self._bits.random_raw(math.prod(shape)).reshape(shape)
        return low + (high - low) * (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(2)  # drawn again for each run of a process else
def draw_strokes(image_size: int = 28, seed: int = SEED) -> DataSet:
    """600 training and 200 test classes of 20 drawings each; classes 0, 20, 40, ... of the 600 are for validation.

    A class is 2 to 4 quadratic Bezier strokes; a drawing jitters their control points and adds a small affine map.
    Only additions, products and comparisons are used, so that the pixels are the same on every machine.
    """
    stream = _Stream(seed)
    classes = _TRAIN_CLASSES + _TEST_CLASSES
    control, drawn = _characters(stream, classes)  # (C, S, 3, 2) in the unit square, (C, S)
    control = control[:, None] + stream.uniform(-0.035, 0.035, classes, _DRAWINGS, _MAX_STROKES, 3, 2)
    control = _affine(stream, control - 0.5) + 0.5
    ink = np.concatenate([_render(part, mask, image_size) for part, mask in zip(control, drawn, strict=True)])
    ink = ink.reshape(classes, _DRAWINGS, image_size, image_size)
    train, validation = hold_out_classes(labelled({f"train{c:03}": ink[c] for c in range(_TRAIN_CLASSES)}), every=20)
    test = labelled({f"test{c:03}": ink[_TRAIN_CLASSES + c] for c in range(_TEST_CLASSES)})
    return make_data_set("strokes", train, validation, test)


def _characters(stream: _Stream, classes: int) -> tuple[Float[np.ndarray, "C S 3 2"], Bool[np.ndarray, "C S"]]:
    """Control points of each class, scaled to a common size about the centre, and which of its strokes it has."""
    start = stream.uniform(0.0, 1.0, classes, _MAX_STROKES, 2)
    end = stream.uniform(0.0, 1.0, classes, _MAX_STROKES, 2)
    # A stroke shorter than this is a blot: its end is sent to the other half of the square.
    short = np.abs(end - start).max(-1) < 0.35
    end[short] = (start[short] + 0.5) % 1.0
    bend = stream.uniform(-0.6, 0.6, classes, _MAX_STROKES, 2)
    # Half of the strokes start where the one before ended, or on its middle: characters are mostly connected.
    joined = stream.uniform(0.0, 1.0, classes, _MAX_STROKES)
    for s in range(1, _MAX_STROKES):
        at_end, at_middle = joined[:, s] < 0.35, (joined[:, s] >= 0.35) & (joined[:, s] < 0.6)
        middle = 0.5 * (start[:, s - 1] + end[:, s - 1]) + 0.5 * bend[:, s - 1]
        start[at_end, s] = end[at_end, s - 1]
        start[at_middle, s] = middle[at_middle]
    control = np.stack([start, 0.5 * (start + end) + bend, end], axis=2)
    drawn = np.arange(_MAX_STROKES) < 2 + np.floor(stream.uniform(0.0, 3.0, classes, 1))
    points = np.where(drawn[:, :, None, None], control, control[:, :1, :1])
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    return 0.5 + (control - 0.5 * (low + high)) * 0.8 / (high - low).max(-1, keepdims=True), drawn


def _affine(stream: _Stream, centred: np.ndarray) -> np.ndarray:
    """A small scaling, shear and shift of each drawing of (C, D, S, 3, 2) points about the origin."""
    shape = (*centred.shape[:2], 1, 1)
    x, y = centred[..., 0], centred[..., 1]
    a, d = stream.uniform(0.88, 1.08, *shape), stream.uniform(0.88, 1.08, *shape)
    b, c = stream.uniform(-0.12, 0.12, *shape), stream.uniform(-0.12, 0.12, *shape)
    shift = stream.uniform(-0.04, 0.04, *shape, 2)
    return np.stack([a * x + b * y, c * x + d * y], axis=-1) + shift


def _render(
    control: Float[np.ndarray, "D S 3 2"], drawn: Bool[np.ndarray, "S"], image_size: int
) -> Bool[np.ndarray, "D H W"]:
    """Ink where a pixel's centre is within half a stroke's width of a sampled point of a stroke."""
    t = np.linspace(0.0, 1.0, _POINTS)[:, None]
    p0, p1, p2 = (control[:, drawn][:, :, None, i] for i in range(3))
    curve = ((1 - t) * (1 - t) * p0 + 2 * t * (1 - t) * p1 + t * t * p2) * image_size  # (D, S, P, 2) in pixels
    # 1.7 pixels wide at 28x28; never so thin that a point falls between all pixels (half a diagonal).
    radius = max(0.85 * image_size / 28, 0.71)
    reach = int(radius) + 1
    # A margin of `reach` on every side takes what falls off the page.
    page = np.zeros((len(control), image_size + 2 * reach, image_size + 2 * reach), dtype=np.bool_)
    nearest = np.clip(np.floor(curve), 0, image_size - 1).astype(np.intp)
    away = nearest + 0.5 - curve
    drawing = np.broadcast_to(np.arange(len(control))[:, None, None], nearest.shape[:-1])
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            dy, dx = away[..., 0] + i, away[..., 1] + j
            near = dy * dy + dx * dx <= radius * radius
            page[drawing[near], nearest[near][:, 0] + i + reach, nearest[near][:, 1] + j + reach] = True
    return page[:, reach:-reach, reach:-reach]
