"""Log densities, in the precision of the bound, and draws of images."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vma.errors import check_pixels


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor in the precision of the bound's arithmetic: bfloat16 becomes float32, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def split_gaussian(parameters: Float[Tensor, "N two_Z"]) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N Z"]]:
    """Mean and log standard deviation from a head's outputs, in float32 if the head computed in less."""
    mean, log_std = at_least_float32(parameters).chunk(2, -1)
    return mean, log_std


def log_normal(
    z: Float[Tensor, "*N Z"], mean: Float[Tensor, "*N Z"], log_std: Float[Tensor, "*N Z"]
) -> Float[Tensor, "*N"]:
    """log N(z; mean, diag exp(log_std)^2), summed over Z, in nats."""
    return (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_normal_at(noise: Float[Tensor, "*N Z"], log_std: Float[Tensor, "*N Z"]) -> Float[Tensor, "*N"]:
    """log N(z; mean, diag exp(log_std)^2) at z = mean + exp(log_std) * noise, summed over Z, in nats.

    Where exp(log_std) is small beside the mean, z has lost the noise to rounding, and `log_normal` would be off.
    """
    return (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_bernoulli(x: Float[Tensor, "B C H W"], logits: Float[Tensor, "K B C H W"]) -> Float[Tensor, "K B"]:
    """log p(x | logits), summed over pixels in at least float32, in nats.

    Raises:
        InputError: for x outside 0 to 1; not on CUDA devices, which are asked for no value (`Episodes` has looked).
    """
    if not x.is_cuda:
        check_pixels("the targets", x)
    logits = at_least_float32(logits)
    return (
        -F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype).expand_as(logits), reduction="none")
        .flatten(2)
        .sum(-1)
    )


@dataclass(frozen=True)
class Samples:
    """n draws from p(x|M): Bernoulli means, images drawn from them, and the addresses where the model has them."""

    means: Float[Tensor, "n C H W"]
    images: Float[Tensor, "n C H W"]
    addresses: Int[Tensor, " n"] | None


def draw_images(
    logits: Float[Tensor, "n C H W"], addresses: Int[Tensor, " n"] | None, generator: torch.Generator | None
) -> Samples:
    """x ~ p(x | logits), with the addresses that the logits came from."""
    means = at_least_float32(logits).sigmoid()
    return Samples(means, torch.bernoulli(means, generator=generator), addresses)
