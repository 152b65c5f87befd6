"""From a spec to objects: the only tables that turn names into networks, models, objectives and optimisers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from baselines import PlainVAE, SoftAttentionVAE
from benchmarks.spec import TrainSpec
from vma import ConvSizes, MLPSizes, VariationalMemoryAddressing, iwae, vimco
from vma.data import DataSet
from vma.errors import InputError
from vma.networks import Sizes
from vma.objectives import Terms

MODELS = ("vma", "soft", "vae")
NETWORKS = ("paper", "small", "mlp")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sizes(spec: TrainSpec) -> Sizes:
    """The network family of a spec. `small` is the reduced one of Table 1: 32 maps in each layer and no hidden layer in
    the heads.

    Raises:
        InputError: for another name.
    """
    image = (1, spec.image_size, spec.image_size)
    if spec.network == "paper":
        return ConvSizes(image=image)
    if spec.network == "small":
        return ConvSizes(image=image, widths=(32,) * 6, hidden=None)
    if spec.network == "mlp":
        return MLPSizes(image=image)
    raise InputError(f"network is {spec.network!r}, must be one of {', '.join(NETWORKS)}")


def build_model(spec: TrainSpec, data: DataSet, device: torch.device) -> nn.Module:
    """The model of a spec with its initial weights, which depend on the spec's seed and the training pixels' mean
    alone.

    Raises:
        InputError: for an unknown model or network.
    """
    pixel_mean = data.train.images.double().mean().item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model: nn.Module
        if spec.model == "vma":
            model = VariationalMemoryAddressing(
                sizes(spec), similarity=spec.similarity, prior=spec.prior, pixel_mean=pixel_mean
            )
        elif spec.model == "soft":
            model = SoftAttentionVAE(sizes(spec), read=spec.read or "images", pixel_mean=pixel_mean)
        elif spec.model == "vae":
            model = PlainVAE(sizes(spec), pixel_mean=pixel_mean)
        else:
            raise InputError(f"model is {spec.model!r}, must be one of {', '.join(MODELS)}")
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_objective(spec: TrainSpec) -> Callable[[Terms], Tensor]:
    """VIMCO where there is an address to learn, else the plain bound."""
    return vimco if spec.model == "vma" else iwae


def build_optimizer(spec: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
    """Adam with the L2 penalty in the loss, so that Adam scales it too (the text does not say which way)."""
    return torch.optim.Adam(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def learning_rate(spec: TrainSpec) -> Callable[[int], float]:
    """The rate of each update: linear warm-up, then constant or a cosine that reaches zero at `decay_updates`."""

    def rate(update: int) -> float:
        factor = min(1.0, (update + 1) / spec.warmup) if spec.warmup else 1.0
        if spec.decay_updates is not None:
            factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, update / spec.decay_updates)))
        return spec.learning_rate * factor

    return rate
