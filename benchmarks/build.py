"""From a spec to objects: the only tables that turn names into networks, models, objectives and optimisers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines import PlainVAE, SoftAttentionVAE
from baselines.sampled import SampledGradientSoftAttention
from benchmarks.spec import TrainSpec
from vma import ConvSizes, MLPSizes, VariationalMemoryAddressing, iwae, vimco
from vma.data import DataSet
from vma.errors import InputError
from vma.networks import Sizes
from vma.objectives import Terms, geometric_leave_one_out
from vma.optimisers import Muon
from vma.reference import ReferenceAddressing
from vma.sampled import SampledGradientAddressing

WIDEST = 512  # shorter side of the largest matrix that Muon takes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sizes(spec: TrainSpec) -> Sizes:
    """The network family of a spec. `narrow` has 32 maps in each layer, as with a learned memory under regularisation;
    `small`, the reduced one of Table 1, has no hidden layer in the heads either. The tiny ones are for smoke runs.
    """
    image = (1, spec.image_size, spec.image_size)
    families: dict[str, Sizes] = {
        "paper": ConvSizes(image=image),
        "narrow": ConvSizes(image=image, widths=(32,) * 6),
        "small": ConvSizes(image=image, widths=(32,) * 6, hidden=None),
        "mlp": MLPSizes(image=image),
        "tiny": ConvSizes(image=image, widths=(8,) * 6, hidden=None, latent=8, embedding=16),
        "tiny-mlp": MLPSizes(image=image, widths=(32, 16), latent=4, embedding=16),
    }
    return families[spec.network]


def build_model(spec: TrainSpec, data: DataSet, device: torch.device) -> nn.Module:
    """The model of a spec with its initial weights, which depend on the spec's seed and the training pixels' mean
    alone.

    Raises:
        InputError: as `pixel_mean`; for tied networks and entries that are no images, or gradients for a sample of the
            entries of a memory that is tied or learned.
    """
    mean = pixel_mean(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model: nn.Module
        if spec.model == "vma":
            make: Callable[..., nn.Module] = VariationalMemoryAddressing
            if spec.path == "reference":
                make = ReferenceAddressing
            elif spec.gradient_entries is not None:
                make = partial(SampledGradientAddressing, gradient_entries=spec.gradient_entries)
            model = make(
                sizes(spec),
                memory_shape=spec.memory_shape,
                learned_entries=spec.learned_entries,
                similarity=spec.similarity,
                prior=spec.prior,
                tied=bool(spec.tied),
                pixel_mean=mean,
            )
        elif spec.model == "soft" and spec.gradient_entries is not None:
            model = SampledGradientSoftAttention(sizes(spec), gradient_entries=spec.gradient_entries, pixel_mean=mean)
        elif spec.model == "soft":
            model = SoftAttentionVAE(sizes(spec), read=spec.read or "images", pixel_mean=mean)
        else:
            model = PlainVAE(sizes(spec), pixel_mean=mean)
    plain = spec.path == "reference"
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)  # type: ignore[call-overload]


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


def build_optimizer(spec: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
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
        matrices, others = [], []
        for name, p in model.named_parameters():
            vector = p.dim() < 2 or p is memory or name.endswith("prior_query")
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
        groups, lr=rate(spec.learning_rate), weight_decay=spec.weight_decay, fused=True, capturable=held
    )


def uses_graph(spec: TrainSpec, device: torch.device) -> bool:
    """Whether an update is one CUDA graph: on such a device, except on the reference path or with episodes of changing
    shapes.
    """
    return device.type == "cuda" and spec.path is None and spec.episode.fewest_shots is None


def schedule(spec: TrainSpec) -> Callable[[int], float]:
    """The factor of the rates at each update: linear warm-up, then constant or a cosine that begins at `decay_from` and
    reaches zero at `decay_updates`.
    """
    start = spec.decay_from or 0

    def factor(update: int) -> float:
        warm = min(1.0, (update + 1) / spec.warmup) if spec.warmup else 1.0
        if spec.decay_updates is None:
            return warm
        decayed = (update - start) / (spec.decay_updates - start)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, decayed))))

    return factor
