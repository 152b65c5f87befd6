"""Weights by name: every file that the project ships loads without data, and what is wrong costs one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CPU, same

import vma
from benchmarks.declare.experiments import named
from benchmarks.declare.spec import MODELS, NETWORKS, TrainSpec, identity
from benchmarks.runs import weights
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from vma import checkpoint, pretrained
from vma.checkpoint import CheckpointError
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec
from vma.errors import InputError

TINY = TrainSpec(dataset="strokes", image_size=8, network="tiny", threads=1)
README = pretrained.WEIGHTS / "README.md"


@pytest.mark.parametrize("name", pretrained.names())
def test_the_weights_of_a_name_are_ready(name: str) -> None:
    model: Any = vma.load_pretrained(name)
    assert isinstance(model, vma.Model)
    assert not model.training
    path = pretrained.weights_file(name)
    spec = weights.spec_at(path)
    assert weights.weights_path(spec) == path, "commands find them by their spec"
    stored = checkpoint.load(path).tensors
    assert all(torch.equal(stored[f"model.{key}"].float(), value) for key, value in model.state_dict().items())
    assert f"| `{name}` |" in README.read_text(encoding="utf-8")
    memory = load("strokes", image_size=spec.image_size).test.images[:3].float()
    drawn = model.sample(model.encode_memory(memory), 2, generator=torch.Generator().manual_seed(0))
    assert drawn.means.shape == (2, 1, spec.image_size, spec.image_size)


def test_evaluate_and_classify_take_them_at_once() -> None:
    model = vma.load_pretrained("vma-table1")
    episodes = Episodes(load("strokes", image_size=28).test, EpisodeSpec(classes=5, targets_per_class=2, shots=1), 0)
    assert len(vma.evaluate(model, episodes, range(1), num_samples=2)) == 10
    found = vma.classify(model, episodes(0), num_samples=2)
    assert found.likelihood is not None
    for log_p in (found.feed_forward, found.likelihood):
        assert found.correct(log_p, episodes(0).x_class).double().mean() > 0.4  # chance is 0.2


def test_every_name_is_of_another_training() -> None:
    assert len({train.science_id for train in named().values()}) == len(named())


def test_weights_of_another_training_by_the_same_name_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load("strokes", image_size=8)
    path = weights.ship(train(TINY, data, CPU, updates=1), data, tmp_path)
    monkeypatch.setattr(weights, "weights_path", lambda spec: path)
    assert weights.shipped(TINY, data, CPU) is not None
    assert weights.shipped(replace(TINY, learning_rate=1e-3), data, CPU) is None


def test_the_state_of_a_run_loads_too() -> None:
    trained = train(TINY, load("strokes", image_size=8), CPU, updates=1)
    assert same(vma.load_pretrained(run_folder(TINY, CPU) / "checkpoint.safetensors"), trained.model)


def test_a_wrong_name_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'vma' is no name of trained weights: give one of .*vma-fewshot"):
        vma.load_pretrained("vma")  # which is a folder where the tests run
    with pytest.raises(CheckpointError, match="does not exist"):
        vma.load_pretrained(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [None, {"model": "lstm"}, {"image_size": 10**9}, {"learned_entries": 10**12}, {"memory_shape": 3}],
)
def test_a_file_that_does_not_say_its_model_is_refused(wrong: Any, tmp_path: Path) -> None:
    spec = TrainSpec(image_size=8, network="tiny-mlp")
    meta = {"spec": identity(spec) | wrong if isinstance(wrong, dict) else wrong}
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, {"model.x": torch.zeros(1)}, meta)
    with pytest.raises(CheckpointError, match="does not say which model it holds"):
        vma.load_pretrained(path)


@pytest.mark.parametrize(
    ("model", "network"),
    [(model, network) for model in MODELS for network in NETWORKS if network != "gmn" or model in ("gmn", "vae")],
)
def test_every_declared_model_and_network_is_known(model: str, network: str) -> None:
    built = pretrained.build({"model": model}, pretrained.sizes(network, 12))
    assert isinstance(built, vma.Model)
    assert vma.has_address(built) == (model == "vma")
