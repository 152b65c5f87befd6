"""Models from plain fields, and trained ones by their names: `load_pretrained("vma-fewshot")`."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vma import checkpoint
from vma.errors import InputError, check_name, check_whole
from vma.estimators import NVIL
from vma.gumbel import GumbelAddressing
from vma.model import VariationalMemoryAddressing
from vma.networks import ConvSizes, MLPSizes, Sizes
from vma.protocol import Model
from vma.reference import ReferenceAddressing
from vma.sampled import SampledGradientAddressing

_OWN = Path(__file__).resolve().parent / "weights"  # of an installed copy; a checkout has its weights among the results
WEIGHTS = _OWN if _OWN.exists() else _OWN.parents[1] / "results" / "checkpoints"
MOST_PIXELS = 256  # height and width of an image
MOST_NUMBERS = 2**26  # in a learned memory


def load_pretrained(name_or_path: str | os.PathLike[str]) -> Model:
    """A trained model, in evaluation mode on the CPU: ready for `sample`, `vma.evaluate` and `vma.classify`.

    Args:
        name_or_path: one of `names()`, or a file of weights or of the state of a training run.

    Raises:
        InputError: for another name; it lists those that there are.
        CheckpointError: if the file is missing or damaged, or does not say which model it holds.
    """
    path = weights_file(name_or_path)
    fields = checkpoint.load(path, previous=False).meta.get("spec")
    try:
        if not isinstance(fields, dict):
            raise InputError(f"its spec is {fields!r:.80}")
        model: Any = build(fields, sizes(fields.get("network", "paper"), fields.get("image_size", 26)))
    except (InputError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path} does not say which model it holds ({error}); give another") from None
    checkpoint.load_weights(path, model)
    return model.to(memory_format=torch.channels_last).eval()


def names() -> list[str]:
    """The names of the weights that come with the project."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def weights_file(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a name of `names()`; anything else that is no bare word is a path itself.

    Raises:
        InputError: for a bare word that is no name; it lists those that there are.
    """
    text = os.fspath(name_or_path)
    if text in names():
        return WEIGHTS / f"{text}.safetensors"
    if os.path.isfile(text) or os.path.basename(text) != text or text.endswith(".safetensors"):
        return Path(text)
    raise InputError(f"{text!r} is no name of trained weights: give one of {', '.join(names())}, or the path of a file")


def sizes(network: str, image_size: int) -> Any:
    """The network family of a name. `narrow` has 32 maps in each layer, as with a learned memory under regularisation;
    `small`, the reduced one of Table 1, has no hidden layer in the heads either. `gmn`, that of Generative Matching
    Networks, is a `vma.networks.Family`, the others are `Sizes`. The tiny ones are for smoke runs.

    Raises:
        InputError: for another name, or a size that no image here has.
    """
    # the baselines are made of parts of this package, so it cannot import them before it is there itself
    from baselines import GMNSizes

    check_whole("image_size", image_size, 1, MOST_PIXELS)
    image = (1, image_size, image_size)
    families: dict[str, Sizes] = {
        "paper": ConvSizes(image=image),
        "narrow": ConvSizes(image=image, widths=(32,) * 6),
        "small": ConvSizes(image=image, widths=(32,) * 6, hidden=None),
        "mlp": MLPSizes(image=image),
        "tiny": ConvSizes(image=image, widths=(8,) * 6, hidden=None, latent=8, embedding=16),
        "tiny-mlp": MLPSizes(image=image, widths=(32, 16), latent=4, embedding=16),
    }
    if network == "gmn":
        return GMNSizes(image=image)
    check_name("network", network, (*families, "gmn"))
    return families[network]


def build(fields: Mapping[str, Any], networks: Any, pixel_mean: float = 0.5) -> Model:
    """The model that the fields of a training spec describe, with new weights; the fields of its training are ignored.

    Args:
        fields: `model`, one of vma, soft, gmn and vae, and what belongs to it, by the names and with the defaults of
            `benchmarks.declare.spec.TrainSpec`.
        pixel_mean: mean of the training pixels, where the decoder's output starts; weights that are loaded replace it.

    Raises:
        InputError: for an unknown model, or what a model refuses.
    """
    from baselines import GenerativeMatchingNetwork, PlainVAE, SoftAttentionVAE  # as in `sizes`
    from baselines.sampled import SampledGradientSoftAttention

    name, gradient_entries = fields.get("model", "vma"), fields.get("gradient_entries")
    check_name("model", name, ("vma", "soft", "gmn", "vae"))
    if name == "vae":
        return PlainVAE(networks, pixel_mean=pixel_mean)
    if name == "soft" and gradient_entries is not None:
        return SampledGradientSoftAttention(networks, gradient_entries=gradient_entries, pixel_mean=pixel_mean)
    if name == "soft":
        return SoftAttentionVAE(networks, read=fields.get("read", "images"), pixel_mean=pixel_mean)
    similarity = fields.get("similarity", "paper")
    if name == "gmn":
        given = {key: fields[key] for key in ("hops", "prior_hops", "strength", "skips") if key in fields}
        return GenerativeMatchingNetwork(networks, similarity=similarity, pixel_mean=pixel_mean, **given)
    make: Callable[..., Model] = VariationalMemoryAddressing
    if fields.get("path") == "reference":
        make = ReferenceAddressing
    elif gradient_entries is not None:
        make = partial(SampledGradientAddressing, gradient_entries=gradient_entries)
    elif fields.get("estimator") == "gumbel":
        make = GumbelAddressing
    shape, entries = fields.get("memory_shape"), fields.get("learned_entries")
    if entries is not None:
        numbers = entries * math.prod(shape or networks.image)
        check_whole("learned_entries x memory_shape", numbers, 1, MOST_NUMBERS)
    model: Any = make(
        networks,
        memory_shape=None if shape is None else tuple(shape),
        learned_entries=entries,
        similarity=similarity,
        prior=fields.get("prior", "learned"),
        tied=fields.get("tied", False),
        pixel_mean=pixel_mean,
        z_gradient=fields.get("z_gradient", "iwae"),
    )
    if fields.get("estimator") == "nvil":  # after all other weights, which are then those of the other estimators
        model.baseline = NVIL(networks.embedding)
    return model
