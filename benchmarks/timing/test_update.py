"""Seconds of one update, from the episode to the step of Adam: every model, and what the fast path gains."""

from dataclasses import replace

import pytest

from benchmarks.declare.experiments import SAMPLED_GRADIENT, plain_vae, recall_training, scaling_training
from benchmarks.declare.spec import TrainSpec
from benchmarks.timing.support import MATRIX, Timing, matrix_product, side_by_side

FEW_SHOT = scaling_training()
MODELS = {
    "vma": FEW_SHOT,
    "soft-images": replace(FEW_SHOT, model="soft", read="images", num_samples=1),
    "soft-features": replace(FEW_SHOT, model="soft", read="features", num_samples=1),
    "vae": plain_vae(),
}
LARGE = 4096  # entries
ROUNDS, WARMUP = 40, 3


def plain(spec: TrainSpec) -> TrainSpec:
    """The same model by its reference path."""
    return replace(spec, path="reference", dtype="float32")


@pytest.mark.parametrize("model", MODELS)
def test_update(timing: Timing, model: str) -> None:
    """Each model on the episodes of few-shot training, |M| = 32 and B = 32; VMA with K = 4, the others with 1."""
    spec = timing.spec(MODELS[model])
    update = timing.updates(spec)
    timing.say(spec, flops=timing.flops(spec))
    timing.in_turns(ROUNDS, WARMUP, update=update)


def test_update_mlp(timing: Timing) -> None:
    """Training to recall digits, MLPs and |M| = 256; against the reference path."""
    spec = timing.spec(recall_training(256, grown=False), 256)
    update, slow = timing.updates(spec), timing.updates(plain(spec))
    timing.say(spec, flops=timing.flops(spec), flops_of_plain=timing.flops(plain(spec)))
    seconds = timing.in_turns(ROUNDS, WARMUP, plain=slow, update=update)
    timing.ratio("mlp-update-vs-plain", seconds["plain"] / seconds["update"])


def test_update_against_plain(timing: Timing) -> None:
    """VMA's update against the reference path's, and against a matrix product of as many operations."""
    spec = timing.spec(FEW_SHOT)
    update, slow = timing.updates(spec), timing.updates(plain(spec))
    work = timing.flops(plain(spec))
    product = 2 * MATRIX**3
    seconds = timing.in_turns(ROUNDS, WARMUP, plain=slow, product=matrix_product(timing.device), update=update)
    rate = product / seconds["product"]
    timing.say(spec, flops=timing.flops(spec), flops_of_plain=work, flops_per_second_of_product=float(rate.mean()))
    timing.ratio("update-vs-plain", seconds["plain"] / seconds["update"])
    timing.ratio("flops-vs-matmul", work / seconds["update"] / rate)


def test_update_against_float32(timing: Timing) -> None:
    """VMA's update in mixed precision against the same code in float32."""
    spec = timing.spec(FEW_SHOT)
    update, slow = timing.updates(spec), timing.updates(replace(spec, dtype="float32"))
    timing.say(spec, flops=timing.flops(spec))
    seconds = timing.in_turns(ROUNDS, WARMUP, float32=slow, update=update)
    timing.ratio("update-vs-float32", seconds["float32"] / seconds["update"])


def test_update_against_soft_attention(timing: Timing) -> None:
    """VMA's update, K = 4, against that of soft attention over features, K = 1, both with 4,096 random images in
    memory: with a gradient for every entry, and for those that are drawn and a sample of the others.
    """
    hard, soft = (timing.spec(MODELS[model], LARGE) for model in ("vma", "soft-features"))
    specs = {"soft": soft, "exact": hard, "approx": replace(hard, gradient_entries=SAMPLED_GRADIENT)}
    work = {f"flops_of_{name}": timing.flops(spec) for name, spec in specs.items()}
    timing.say(specs["approx"], against="soft attention over features, K = 1", flops=work["flops_of_approx"], **work)
    runs = {name: timing.updates(spec) for name, spec in specs.items()}
    seconds = timing.in_turns(5, 1, **runs)
    for name in ("exact", "approx"):
        timing.ratio(f"hard-{name}-vs-soft-features-{LARGE}", seconds["soft"] / seconds[name])


@pytest.mark.cuda
def test_update_as_a_graph(timing: Timing) -> None:
    """The whole update as one CUDA graph against the same update launched kernel by kernel."""
    spec = timing.spec(FEW_SHOT)
    eager, graph = timing.updates(spec, graph=False), timing.updates(spec, graph=True)
    timing.say(spec, flops=timing.flops(spec))
    seconds = timing.in_turns(200, 20, eager=eager, graph=graph)
    timing.ratio("graph-vs-eager", seconds["eager"] / seconds["graph"])


@pytest.mark.cuda
def test_updates_side_by_side(timing: Timing) -> None:
    """Updates a second of four trainings that share a device against those of one alone."""
    spec = timing.spec(FEW_SHOT)
    processes, updates = 4, 2 if timing.tiny else 200
    timing.say(spec, processes=processes, updates_a_round=updates)
    with side_by_side(spec, timing.device, processes) as run:
        seconds = timing.in_turns(5, 1, alone=lambda: run(1, updates), together=lambda: run(processes, updates))
    timing.ratio("side-by-side-throughput", processes * seconds["alone"] / seconds["together"])
