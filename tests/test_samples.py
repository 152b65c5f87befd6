"""The command that draws samples: what it writes, and its mistakes in one line."""

from pathlib import Path

import numpy as np
import pytest
from helpers import CPU, error_line
from PIL import Image

from benchmarks import samples
from benchmarks.declare.spec import TrainSpec
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from vma.data import load
from vma.data.episodes import EpisodeSpec


@pytest.fixture(scope="module")
def weights() -> dict[str, str]:
    episode = EpisodeSpec(classes=2, targets_per_class=2, shots=2)
    spec = TrainSpec(dataset="strokes", image_size=8, network="tiny-mlp", episode=episode, threads=1)
    vae = TrainSpec(model="vae", dataset="strokes", image_size=8, network="tiny-mlp", num_samples=1, threads=1)
    for part in (spec, vae):
        train(part, load("strokes", image_size=8), CPU, updates=1)
    return {s.model: str(run_folder(s, CPU) / "checkpoint.safetensors") for s in (spec, vae)}


@pytest.fixture
def drawing(tmp_path: Path) -> str:
    page = np.full((32, 32), 255, dtype=np.uint8)
    page[8:24, 12:16] = 0
    Image.fromarray(page).save(tmp_path / "x.png")
    return str(tmp_path / "x.png")


def shape(path: Path) -> tuple[int, int]:
    """Rows and columns of cells, the framed drawing among them."""
    with Image.open(path) as image:
        return image.height // 91, image.width // 91


def test_drawings_are_given_in_any_way(weights: dict[str, str], drawing: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "y.png"
    for images in (["--image", drawing, drawing], ["--image", drawing, "--image", drawing], [f"--image={drawing}"]):
        argv = ["--checkpoint", weights["vma"], *images, "--out", str(out), "--num-samples", "5"]
        assert samples.main(argv) == 0
        assert shape(out) == (1 if len(images) == 1 else 2, 6)
        with Image.open(out) as page:
            assert np.asarray(page.convert("L"))[7:91, 7:91].min() == 0
    dark = out.read_bytes()
    with Image.open(drawing) as page:
        Image.fromarray(255 - np.asarray(page)).save(drawing)
    assert samples.main([*argv, "--ink", "light"]) == 0
    assert out.read_bytes() == dark


def test_without_drawings_they_are_of_the_test_set(weights: dict[str, str], tmp_path: Path) -> None:
    for model, columns in (("vma", 4), ("vae", 3)):
        argv = ["--checkpoint", weights[model], "--rows", "2", "--num-samples", "3", "--out", str(tmp_path / "y.png")]
        assert samples.main(argv) == 0
        assert shape(tmp_path / "y.png") == (2, columns)


def test_a_mistake_costs_one_line(
    weights: dict[str, str], drawing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, words in (
        (["nobody"], "'nobody' is no name of trained weights: give one of"),
        ([weights["vae"], "--image", drawing], "which has no memory to put it into: leave it out"),
        ([weights["vma"], "--image-size", "9"], "are 9x9, the model was trained with 8x8"),
    ):
        assert samples.main(["--checkpoint", *argv, "--out", str(tmp_path / "y.png")]) == 2
        assert words in error_line(capsys)
        assert not (tmp_path / "y.png").exists()
