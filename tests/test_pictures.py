"""Pictures of samples, pixel by pixel; and pictures of a run, which change nothing in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU, same, seeded
from PIL import Image

from baselines import SoftAttentionVAE
from benchmarks.declare.spec import TrainSpec
from benchmarks.runs import training, watch
from benchmarks.runs.states import run_folder
from vma import MLPSizes, VariationalMemoryAddressing
from vma.data import Ink, load, read_drawing
from vma.data.episodes import EpisodeSpec
from vma.errors import InputError
from vma.pictures import CELL, GAP, one_shot, png, sheet

SIZES = MLPSizes(image=(1, 6, 6), widths=(6, 5), latent=2, embedding=3)
INK = torch.zeros(2, 3, 1, 6, 6)
INK[1, 2] = 1  # the last sample of the second drawing is all ink
STEP = CELL + GAP  # 6 pixels, 14 times enlarged


@pytest.mark.parametrize(("columns", "row", "column"), [(None, 1, 2), (2, 3, 0)])
def test_samples_stand_in_their_places(columns: int | None, row: int, column: int) -> None:
    page = np.asarray(sheet(INK, columns=columns).convert("L"))
    top = GAP + row * STEP + (GAP if columns else 0)
    left = GAP + column * STEP
    expected = np.full_like(page, 255)
    expected[top : top + CELL, left : left + CELL] = 0
    assert np.array_equal(page, expected)


@pytest.mark.parametrize("make", [VariationalMemoryAddressing, SoftAttentionVAE])
def test_samples_are_of_each_drawing_alone(make: Any) -> None:
    model = make(SIZES).train()
    drawings = torch.rand(2, 1, 6, 6).round()
    both = one_shot(model, drawings, 3, seeded())
    generator = seeded()
    alone = [one_shot(model, drawing[None], 3, generator) for drawing in drawings]
    assert torch.equal(both, torch.cat(alone))
    assert model.training


def test_a_drawing_is_read_as_ink(tmp_path: Path) -> None:
    page = np.full((16, 16), 255, dtype=np.uint8)
    page[4:6, 4:6] = 0
    Image.fromarray(page).save(tmp_path / "x.png")
    ink = read_drawing(tmp_path / "x.png", 8)
    assert ink.nonzero().tolist() == [[0, 2, 2]]
    Image.new("L", (16, 16), 255).save(tmp_path / "blank.png")
    with pytest.raises(InputError, match=r"blank\.png: 0% of its pixels are ink, which is what is dark; give"):
        read_drawing(tmp_path / "blank.png", 8)
    Image.fromarray(255 - page).save(tmp_path / "light.png")
    with pytest.warns(UserWarning, match=r"light\.png: 98% .* what is dark: where it is light, give --ink light"):
        read_drawing(tmp_path / "light.png", 8)
    assert torch.equal(read_drawing(tmp_path / "light.png", 8, Ink(light=True)), ink)
    assert png(sheet(ink[None, None])).startswith(b"\x89PNG")


NONE = EpisodeSpec("none", classes=2, targets_per_class=2)
RUNS: dict[str, dict[str, Any]] = {
    "vma": {},
    "soft": {"model": "soft", "read": "features", "num_samples": 1},
    "vae": {"model": "vae", "num_samples": 1},
    "learned": {"learned_entries": 4, "memory_shape": (5,), "episode": NONE},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_drawn_is_the_same_run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    episode = EpisodeSpec(classes=2, targets_per_class=2, shots=2)
    spec = TrainSpec(**{"dataset": "strokes", "image_size": 8, "network": "tiny-mlp", "episode": episode, **RUNS[name]})
    monkeypatch.setattr(watch, "LOG_EVERY", 2)
    models = []
    for every in (4, 10**6):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(every)))
        monkeypatch.setattr(watch, "DRAW_EVERY", every)
        models.append(training.train(spec, load("strokes", image_size=8), CPU, updates=6).model)
        folder = run_folder(spec, CPU)
        drawn = {path.name for path in folder.glob("*.png")}
        assert drawn == ({"samples.png", "curve.png"} if every == 4 else set())
        for path in folder.glob("*.png"):
            with Image.open(path) as image:
                image.load()
                assert np.asarray(image.convert("L")).min() < 200
    assert same(*models)
