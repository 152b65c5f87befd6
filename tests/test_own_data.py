"""A user's own drawings, few and uneven: the whole path by commands, what they fill, and what is said of the rest."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CPU
from PIL import Image

from benchmarks import memory_size, scaling
from benchmarks.declare.experiments import table1_cells, table1_training
from benchmarks.declare.spec import Cell, TrainSpec
from benchmarks.plan.cli import run_command
from benchmarks.plan.fill import TooFew, possible, training_episode
from benchmarks.record import store
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from vma.data import DataSet, ImageSet, load
from vma.data.episodes import EpisodeSpec

TINY = TrainSpec(
    dataset="strokes", image_size=8, network="tiny", threads=1, episode=EpisodeSpec(classes=4, targets_per_class=2)
)


def draw(folder: Path, classes: range, drawings: int) -> None:
    """White on black, every other one as JPEG."""
    for c in classes:
        (folder / f"class{c}").mkdir(parents=True)
        for d in range(drawings):
            ink = np.random.default_rng(100 * c + d).random((8, 8)) < 0.2
            ending = "jpg" if d % 2 else "png"
            Image.fromarray((255 * ink).astype(np.uint8)).save(folder / f"class{c}" / f"{d}.{ending}", quality=95)


def call(module, *arguments: object) -> int:
    return run_command(module.Options, module.run, module.__name__, [*map(str, arguments), "--threads", "1"])


def test_ten_classes_of_ten_drawings_go_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "drawings" / "train", range(6), 10)
    draw(tmp_path / "drawings" / "test", range(6, 10), 10)
    (tmp_path / "drawings" / "labels.csv").touch()
    data = ("--dataset", f"folder:{tmp_path / 'drawings'},ink=light", "--image-size", 8)
    out = ("--out", tmp_path / "out", "--targets", 4)
    assert call(scaling, *data, *out, "--updates", 2) == 0
    said = capsys.readouterr()
    assert "100 images are taken; passed over are 1 .csv" in said.err
    assert "episodes of training have 5 classes instead of 8" in said.err
    assert {row["classes"] for row in store.read_rows(tmp_path / "out" / "scaling.jsonl")} == {1, 2, 4}
    found = re.search(r"vma: 2 updates in \S+ minutes, in (\S+)\n", said.out)
    model = ("--checkpoint", found[1], *out, "--num-samples", 2)  # which says what data it had, and their size
    assert call(memory_size, *model, "--classes", 2, 4, "--shots", 1, 9) == 0
    rows = [row for row in store.read_rows(tmp_path / "out" / "memory-size.jsonl") if row["metric"] == "nll"]
    assert [(row["classes"], row["shots"]) for row in rows] == [(2, 1), (2, 9), (4, 1), (4, 9)]
    capsys.readouterr()
    assert call(memory_size, *model, "--classes", 4, 5, "--shots", 1, "--classify") == 0
    said = capsys.readouterr()
    assert "3 of 6 cells are left out, those of 1 of each of 5 classes; the first since 5 classes with 2" in said.err
    assert re.search(r"classes +examples +entries +address +likelihood +shifted\n4 +1 +4 ", said.out)


def test_what_is_not_run_is_not_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two drawings of a class are too few for any training, and enough to be asked for one example."""
    for model in ("vma", "vae"):
        spec = replace(TINY, model=model, num_samples=4 if model == "vma" else 1)
        train(spec, load("strokes", image_size=8), CPU, updates=1)
        folder = tmp_path / model
        draw(folder, range(10), 2)
        checkpoint = run_folder(spec, CPU) / "checkpoint.safetensors"
        data = ("--checkpoint", checkpoint, "--dataset", f"folder:{folder},ink=light", "--out", tmp_path / "out")
        assert call(memory_size, *data, "--classes", 2, "--shots", 1, "--targets", 2) == 0
        assert call(memory_size, *data, "--classes", 3, "--shots", 1, "--targets", 2) == 2
        assert "3 classes with 2 drawings each are needed, the set has 2" in capsys.readouterr().err


def image_set(*counts: int) -> ImageSet:
    images = torch.randint(0, 2, (sum(counts), 1, 8, 8), dtype=torch.uint8)
    return ImageSet(images, torch.tensor([0, *np.cumsum(counts)]), tuple(f"class{c}" for c in range(len(counts))))


def data_set(train: Sequence[int], validation: Sequence[int] = (9,), test: Sequence[int] = (9,) * 5) -> DataSet:
    return DataSet("own", image_set(*train), image_set(*validation), image_set(*test), "0" * 64)


def warned(call, *arguments, **options) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = call(*arguments, **options)
    return result, [str(warning.message) for warning in seen]


@pytest.mark.parametrize(
    ("counts", "options", "episode", "said"),
    [
        ([8] * 8, {}, (8, 4, 4), []),
        ([8] * 7, {}, (7, 4, 4), ["own: episodes of training have 7 classes instead of 8: no more have"]),
        ([7, 8, 9], {}, (2, 4, 4), ["own: 1 of its 3 training classes have fewer than 8 drawings", "own: episodes of"]),
        ([5] * 3, {"shots": 3, "targets": 2, "classes": 3}, (3, 3, 2), []),
        ([20] * 9, {"classes": 9}, (9, 4, 4), []),
    ],
)
def test_training_takes_what_the_set_has_and_says_so(
    counts: list[int], options: dict[str, int], episode: tuple[int, int, int], said: list[str]
) -> None:
    made, words = warned(training_episode, EpisodeSpec(), data_set(counts), **options)
    assert made == EpisodeSpec(classes=episode[0], shots=episode[1], targets_per_class=episode[2])
    assert len(words) == len(said)
    assert all(word.startswith(start) for word, start in zip(words, said, strict=True))


def table(data: DataSet) -> list[Cell]:
    spec = replace(table1_training()["vma"], episode=EpisodeSpec(classes=2), dataset="own", image_size=8)
    return table1_cells(spec, "per_class", 4)


def test_cells_that_cannot_be_filled_are_left_out_and_named() -> None:
    data = data_set([9] * 3)
    kept, words = warned(possible, table(data), data)
    assert [(cell.eval.episode.classes, cell.eval.episode.shots) for cell in kept] == [  # type: ignore[attr-defined]
        (classes, shots) for classes in (1, 2, 4) for shots in (1, 2, 3, 4, 5)
    ]
    assert len(words) == 1
    assert words[0].startswith("own: 13 of 28 cells are left out, those of 10 of each of 1 classes, 19 of each of 1")
    with pytest.raises(TooFew, match="own can fill no cell: 1 classes with 2 drawings each are needed, the set has 0"):
        possible(table(data), data_set([9] * 3, test=[1] * 5))
    with pytest.raises(TooFew, match="own can fill no cell: 2 classes with 8 drawings"):
        possible(table(data), data_set([7] * 3))
    assert possible(table(data)[:1], data_set([7] * 3), train=False)


def test_cells_of_uneven_classes_share_their_targets() -> None:
    """Those that some classes are too small for are left out, since the others draw targets from all classes."""
    kept, _ = warned(possible, table(data_set([9])), data_set([9] * 3, test=(6, 6, 6, 9)))
    assert {cell.eval.episode.shots for cell in kept} == {1, 2, 3, 4, 5}  # type: ignore[attr-defined]
    assert {cell.eval.episode.classes for cell in kept} == {1, 2, 4}  # type: ignore[attr-defined]
    kept, _ = warned(possible, table(data_set([9])), data_set([9] * 3, test=(4, 6, 6, 9)))
    assert {cell.eval.episode.shots for cell in kept} == {1, 2, 3}  # type: ignore[attr-defined]


def test_a_small_validation_class_costs_the_validation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    spec = replace(TINY, dataset="own", episode=replace(TINY.episode, classes=2))
    data = data_set([9] * 3, validation=[3])
    assert train(spec, data, CPU, updates=1).updates == 1
    said = capsys.readouterr().err
    assert "training goes without validation: of the validation images, 1 classes with 6 drawings each are" in said
    assert train(spec, replace(data, validation=image_set(3, 6)), CPU, updates=2).updates == 2
    assert "without validation" not in capsys.readouterr().err
