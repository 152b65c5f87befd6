"""Seconds of evaluating one target against K and |M|, and against the training forward called in a loop."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.declare.experiments import scaling_training
from benchmarks.declare.spec import TrainSpec
from benchmarks.runs.build import build_model
from benchmarks.runs.weights import trained_at, weights_path
from benchmarks.timing.support import Timing, characters, evaluation_peak, training_forward_in_a_loop
from vma.data.episodes import Episodes, EpisodeSpec
from vma.evaluation import evaluate

CHUNK = 256  # samples that are decoded at a time
BFLOAT16 = torch.bfloat16
# |M|: classes x examples of each; the last is that of the paper's claim
MEMORIES = {32: (8, 4), 288: (144, 2), 2736: (144, 19)}
SAMPLES = (4, 100, 1000)
SHARING = 144  # targets that share a memory, one of each class


def built(spec: TrainSpec, trained: bool, episode: EpisodeSpec, device: torch.device) -> tuple[Any, Episodes]:
    """The few-shot model and episodes of unseen characters: what a process of its own builds anew."""
    data = characters(spec.image_size)
    path = weights_path(scaling_training())
    model = trained_at(path, device).model if trained else build_model(spec, data, device)
    return model, Episodes(data.test.to(device), episode, 0)


def setup(timing: Timing, entries: int, targets: int, num_samples: int) -> tuple[partial[Any], int]:
    """How model and episodes are built, and K; with what extra_info says of them."""
    spec = timing.spec(scaling_training())
    trained = weights_path(scaling_training()).exists() and not timing.tiny
    classes, shots = MEMORIES[entries]
    if timing.tiny:
        classes, targets, num_samples = min(classes, 8), min(targets, 8), min(num_samples, 8)
    episode = EpisodeSpec(classes=classes, targets_per_class=1, shots=shots, target_classes=targets)
    build = partial(built, spec, trained, episode, timing.device)
    weights = "shipped with the project" if trained else "untrained"
    timing.say(spec, entries=episode.num_entries, K=num_samples, B=targets, weights=weights)
    return build, num_samples


@pytest.mark.parametrize("entries", MEMORIES)
@pytest.mark.parametrize("num_samples", SAMPLES)
def test_evaluate(timing: Timing, num_samples: int, entries: int) -> None:
    """One target and its memory, which is encoded for it alone; another one each round."""
    build, num_samples = setup(timing, entries, 1, num_samples)
    model, episodes = build()
    steps = itertools.count()

    def run() -> None:
        evaluate(model, episodes, [next(steps)], num_samples, chunk=CHUNK, dtype=BFLOAT16)

    timing.in_turns(9, 2, evaluate=run)


@pytest.mark.parametrize("targets", [1, SHARING])
def test_evaluate_against_a_loop(timing: Timing, targets: int) -> None:
    """K = 1,000 over 2,736 entries, seconds a target: the training forward, which encodes the memory for each 256
    samples, against the evaluator, for one target with a memory of its own and for one of each class, which share it.
    """
    build, num_samples = setup(timing, 2736, targets, 1000)
    model, episodes = build()
    generator = torch.Generator(timing.device).manual_seed(0)
    of_loop, of_evaluate = itertools.count(), itertools.count()

    def loop() -> None:
        training_forward_in_a_loop(model, episodes(next(of_loop)), num_samples, CHUNK, BFLOAT16, generator)

    def run() -> None:
        evaluate(model, episodes, [next(of_evaluate)], num_samples, chunk=CHUNK, dtype=BFLOAT16)

    seconds = timing.in_turns(9 if targets == 1 else 3, 1, loop=loop, evaluate=run)
    timing.benchmark.extra_info["peak_bytes"] = evaluation_peak(build, num_samples, timing.device)
    name = "evaluate-vs-loop" if targets == SHARING else "evaluate-vs-loop-alone"
    timing.ratio(name, episodes.spec.num_targets * seconds["loop"] / seconds["evaluate"])
