"""From a spec to objects: its model (by `vma.pretrained`), objective and optimiser."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.spec import TrainSpec, identity
from vma import iwae, pretrained, vimco
from vma.data import DataSet
from vma.errors import InputError
from vma.networks import Sizes
from vma.objectives import Terms, geometric_leave_one_out
from vma.protocol import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sizes(spec: TrainSpec) -> Sizes:
    """The network family of a spec."""
    return pretrained.sizes(spec.network, spec.image_size)


def build_model(spec: TrainSpec, data: DataSet | None, device: torch.device) -> Model:
    """The model of a spec with its initial weights, which depend on the spec's seed and the training pixels' mean
    alone; without data, for weights that are loaded, that mean is a half.

    Raises:
        InputError: as `pixel_mean`; for tied networks and entries that are no images, or gradients for a sample of the
            entries of a memory that is tied or learned.
    """
    mean = 0.5 if data is None else pixel_mean(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model: Any = pretrained.build(identity(spec), sizes(spec), mean)
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


def build_objective(spec: TrainSpec) -> Callable[[Terms], Tensor]:
    """VIMCO where there is an address to learn, else the plain bound."""
    if spec.model != "vma":
        return iwae
    return vimco if spec.estimator is None else partial(vimco, baseline=geometric_leave_one_out)


def build_optimizer(spec: TrainSpec, model: Model) -> torch.optim.Optimizer:
    """Adam with the L2 penalty in the loss, so that Adam scales it too (the text does not say which way). A learned
    memory has none: L2 is on "all parameters with the exception of M" (section 4.2). On CUDA devices a graph can hold
    it, except on the reference path, which has none.
    """
    memory = getattr(model, "memory", None)
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p is not memory]}]
    if memory is not None:
        groups.append({"params": [memory], "weight_decay": 0.0})
    device = next(model.parameters()).device
    held = uses_graph(spec, device)
    rate = torch.tensor(spec.learning_rate, device=device) if held else spec.learning_rate
    return torch.optim.Adam(groups, lr=rate, weight_decay=spec.weight_decay, fused=True, capturable=held)


def uses_graph(spec: TrainSpec, device: torch.device) -> bool:
    """Whether an update is one CUDA graph: on such a device, except on the reference path."""
    return device.type == "cuda" and spec.path is None


def learning_rate(spec: TrainSpec) -> Callable[[int], float]:
    """The rate of each update: linear warm-up, then constant or a cosine that begins at `decay_from` and reaches zero
    at `decay_updates`.
    """
    start = spec.decay_from or 0

    def rate(update: int) -> float:
        factor = min(1.0, (update + 1) / spec.warmup) if spec.warmup else 1.0
        if spec.decay_updates is not None:
            decayed = (update - start) / (spec.decay_updates - start)
            factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, decayed))))
        return spec.learning_rate * factor

    return rate
