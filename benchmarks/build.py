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
from vma.reference import ReferenceAddressing
from vma.sampled import SampledGradientAddressing

MODELS = ("vma", "soft", "vae")
NETWORKS = ("paper", "narrow", "small", "mlp", "tiny", "tiny-mlp")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def sizes(spec: TrainSpec) -> Sizes:
    """The network family of a spec. `narrow` has 32 maps in each layer, as with a learned memory under regularisation;
    `small`, the reduced one of Table 1, has no hidden layer in the heads either. The tiny ones are for smoke runs.

    Raises:
        InputError: for another name.
    """
    image = (1, spec.image_size, spec.image_size)
    if spec.network == "paper":
        return ConvSizes(image=image)
    if spec.network == "narrow":
        return ConvSizes(image=image, widths=(32,) * 6)
    if spec.network == "small":
        return ConvSizes(image=image, widths=(32,) * 6, hidden=None)
    if spec.network == "mlp":
        return MLPSizes(image=image)
    if spec.network == "tiny":
        return ConvSizes(image=image, widths=(8,) * 6, hidden=None, latent=8, embedding=16)
    if spec.network == "tiny-mlp":
        return MLPSizes(image=image, widths=(32, 16), latent=4, embedding=16)
    raise InputError(f"network is {spec.network!r}, must be one of {', '.join(NETWORKS)}")


def build_model(spec: TrainSpec, data: DataSet, device: torch.device) -> nn.Module:
    """The model of a spec with its initial weights, which depend on the spec's seed and the training pixels' mean
    alone.

    Raises:
        InputError: for an unknown name, or for parts of a spec that do not go together.
    """
    _check_parts(spec)
    pixel_mean = data.train.images.double().mean().item()
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
                pixel_mean=pixel_mean,
            )
        elif spec.model == "soft" and spec.gradient_entries is not None:
            model = SampledGradientSoftAttention(
                sizes(spec), gradient_entries=spec.gradient_entries, pixel_mean=pixel_mean
            )
        elif spec.model == "soft":
            model = SoftAttentionVAE(sizes(spec), read=spec.read or "images", pixel_mean=pixel_mean)
        else:
            model = PlainVAE(sizes(spec), pixel_mean=pixel_mean)
    plain = spec.path == "reference"
    return model.to(device, memory_format=torch.contiguous_format if plain else torch.channels_last)  # type: ignore[call-overload]


def _check_parts(spec: TrainSpec) -> None:
    if spec.model not in MODELS:
        raise InputError(f"model is {spec.model!r}, must be one of {', '.join(MODELS)}")
    if spec.path not in (None, "reference"):
        raise InputError(f"path is {spec.path!r}, must be reference, or None for the fast one")
    if spec.path == "reference" and spec.dtype != "float32":
        raise InputError(f"dtype is {spec.dtype}: the reference path is float32")
    if spec.path == "reference" and spec.model != "vma":
        raise InputError(f"path is reference for {spec.model}: only vma has a path of its own for reference")
    if spec.gradient_entries is not None and (
        spec.path is not None or not (spec.model == "vma" or (spec.model, spec.read) == ("soft", "features"))
    ):
        raise InputError(
            f"gradient_entries is given for model {spec.model}, read {spec.read}, path {spec.path}: it is for vma and "
            "for soft with read features, without path"
        )
    if spec.model != "vma":
        for name in ("learned_entries", "memory_shape", "tied", "estimator"):
            if getattr(spec, name) is not None:
                raise InputError(f"{name} is given for {spec.model}, which has no address: leave it out")
    if spec.learned_entries is not None and spec.learned_entries < 1:
        raise InputError(f"learned_entries is {spec.learned_entries}, must be 1 or more")
    if spec.learned_entries is None and spec.memory_shape is not None:
        raise InputError("memory_shape is given without learned_entries: entries that episodes bring are images")
    if spec.model != "vae" and (spec.episode.protocol == "none") != (spec.learned_entries is not None):
        raise InputError(
            f"protocol is {spec.episode.protocol}, learned_entries is {spec.learned_entries}: a learned memory goes "
            "with protocol none, every other one with a protocol that brings it"
        )


def build_objective(spec: TrainSpec) -> Callable[[Terms], Tensor]:
    """VIMCO where there is an address to learn, else the plain bound.

    Raises:
        InputError: for an unknown estimator.
    """
    if spec.estimator not in (None, "geometric"):
        raise InputError(f"estimator is {spec.estimator!r}, must be geometric, or None for the arithmetic mean")
    if spec.model != "vma":
        return iwae
    return vimco if spec.estimator is None else partial(vimco, baseline=geometric_leave_one_out)


def build_optimizer(spec: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
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
    """The rate of each update: linear warm-up, then constant or a cosine that reaches zero at `decay_updates`."""

    def rate(update: int) -> float:
        factor = min(1.0, (update + 1) / spec.warmup) if spec.warmup else 1.0
        if spec.decay_updates is not None:
            factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, update / spec.decay_updates)))
        return spec.learning_rate * factor

    return rate
