"""From a spec to objects: its model (by `vma.pretrained`), objective and optimiser."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.declare import own_model
from benchmarks.declare.spec import TrainSpec, identity
from vma import estimators, iwae, pretrained, vimco
from vma.addressing import Draw
from vma.data import DataSet
from vma.errors import InputError
from vma.objectives import Terms
from vma.optimisers import Muon
from vma.protocol import Model, has_address

WIDEST = 512  # shorter side of the largest matrix that Muon takes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


# The surrogate of each estimator of q(a|x)'s gradient. NVIL's is a method of the model's own baseline.
SURROGATES: dict[str, Callable[[Terms], Tensor]] = {
    "vimco": vimco,
    "geometric": partial(vimco, baseline=estimators.geometric_leave_one_out),
    "ovis0": partial(estimators.ovis, gamma=0.0),
    "ovis1": partial(estimators.ovis, gamma=1.0),
    "rloo": estimators.rloo,
    "wake": estimators.wake,
    "set-score": estimators.score_of_set,
    "set-wake": estimators.wake,
    "all-score": estimators.score_of_all,
    "all-wake": estimators.wake,
    "gumbel": estimators.pathwise,
}
# How those draw addresses that take no independent draws.
DRAWS: dict[str, Draw] = {
    "set-score": estimators.draw_set,
    "set-wake": estimators.draw_set,
    "all-score": estimators.draw_all,
    "all-wake": estimators.draw_all,
}


def sizes(spec: TrainSpec) -> Any:
    """The network family of a spec."""
    return pretrained.sizes(spec.network, spec.image_size)


def build_model(spec: TrainSpec, data: DataSet | None, device: torch.device) -> Model:
    """The model of a spec with its initial weights, which depend on the spec's seed and the training pixels' mean
    alone; without data, for weights that are loaded, that mean is a half.

    Raises:
        InputError: as `pixel_mean`; for tied networks and entries that are no images, or gradients for a sample of the
            entries of a memory that is tied or learned; for a model of the user's own as `own_model.make`.
    """
    mean = 0.5 if data is None else pixel_mean(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        if own_model.is_own(spec.model):
            model: Any = own_model.make(spec.model, sizes(spec), mean)
        else:
            model = pretrained.build(identity(spec), sizes(spec), mean)
    plain = spec.path == "reference"
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)


def pixel_mean(data: DataSet) -> float:
    """Mean of the training pixels, where a decoder's output starts.

    Raises:
        InputError: if all of them are alike.
    """
    mean = data.train.images.double().mean().item()
    if not 0 < mean < 1:
        what = "ink" if mean else "blank"
        raise InputError(f"the training images of {data.name} are all {what}: there is nothing to learn; give others")
    return mean


def build_objective(spec: TrainSpec, model: Any) -> Callable[[Terms], Tensor]:
    """The spec's estimator, VIMCO unless it names one, where there is an address to learn; else the plain bound."""
    if spec.estimator == "nvil":
        surrogate: Callable[[Terms], Tensor] = model.baseline.surrogate
        return surrogate
    return SURROGATES[spec.estimator] if has_address(model) else iwae


def build_optimizer(spec: TrainSpec, model: Model) -> torch.optim.Optimizer:
    """Adam with the L2 penalty in the loss, so that Adam scales it too (the text does not say which way); or Muon,
    whose decay is decoupled. A learned memory has none: L2 is on "all parameters with the exception of M" (section
    4.2). On CUDA devices a graph can hold it, except on the reference path, which has none.
    """
    memory = getattr(model, "memory", None)
    device = next(model.parameters()).device
    held = uses_graph(spec, device)

    def rate(value: float) -> float | torch.Tensor:
        return torch.tensor(value, device=device) if held else value

    if spec.optimizer == "muon":
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for p in model.parameters():
            # a single row is a vector: the prior's query point, a pseudo-input
            vector = p.dim() < 2 or (p.dim() == 2 and len(p) == 1) or p is memory
            # of the path from an entry to the pixels, whose step would take longer than the rest of the update
            wide = not vector and min(p.flatten(1).shape) > WIDEST
            (others if vector or wide else matrices).append(p)
        return Muon(
            matrices,
            others,
            lr=rate(spec.learning_rate),
            adam_lr=rate(spec.adam_rate or spec.learning_rate),
            weight_decay=spec.weight_decay,
            capturable=held,
        )
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p is not memory]}]
    if memory is not None:
        groups.append({"params": [memory], "weight_decay": 0.0})
    return torch.optim.Adam(
        groups,
        lr=rate(spec.learning_rate),
        betas=(0.9, spec.beta2),
        weight_decay=spec.weight_decay,
        fused=True,
        capturable=held,
    )


def uses_graph(spec: TrainSpec, device: torch.device) -> bool:
    """Whether an update is one CUDA graph: on such a device, except on the reference path or with episodes of changing
    shapes.
    """
    return device.type == "cuda" and spec.path is None and spec.episode.fewest_shots is None


def schedule(spec: TrainSpec) -> Callable[[int], float]:
    """The factor of the rates at each update: linear warm-up, then constant, in steps, or a cosine that begins at
    `decay_from` and reaches zero at `decay_updates`.
    """
    start = spec.decay_from or 0

    def factor(update: int) -> float:
        warm = min(1.0, (update + 1) / spec.warmup) if spec.warmup else 1.0
        if spec.decay_updates is not None:
            decayed = (update - start) / (spec.decay_updates - start)
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, decayed))))
        rates = [rate for since, rate in spec.rate_steps or () if update >= since]
        return warm * (rates[-1] / spec.learning_rate if rates else 1.0)

    return factor
