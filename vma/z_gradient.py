"""The gradient of a bound for the parameters of q(z|m, x): its own, and the rivals of which
`vma.model.VariationalMemoryAddressing` tells.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vma.networks import log_normal_at

Z_GRADIENTS = ("iwae", "stl", "dreg", "single")
LEAST = 1e-20  # a sample's weight beside those of its target's others, below which its gradient is lost


def z_terms(
    z_gradient: str,
    z: Float[Tensor, "KB Z"],
    noise: Float[Tensor, "KB Z"],
    log_std: Float[Tensor, "KB Z"],
    log_px: Float[Tensor, "K B"],
    log_pz: Float[Tensor, "K B"],
) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
    """log_px and log_rz = log_pz - log q(z|m, x), of which a bound has one of the `Z_GRADIENTS` for the parameters of
    z = mean + exp(log_std) * noise.

    A bound's gradient arrives at log p(x|z_k) in proportion to wbar_k, and comes to z_k as wbar_k D_k: "dreg" and
    "single" multiply the second by what the first says, whatever the bound is.
    """
    log_qz = log_normal_at(noise, log_std).view_as(log_px)
    if z_gradient == "iwae" or not z.requires_grad:
        return log_px, log_pz - log_qz
    # its value with the gradient through z alone, -noise / std: z - mean would have lost the noise to rounding
    log_qz = log_qz.detach() - ((z - z.detach()) * (noise / log_std.exp()).detach()).sum(-1).view_as(log_px)
    log_rz = log_pz - log_qz
    if z_gradient == "stl":
        return log_px, log_rz
    arrived: list[Tensor] = []

    def raised(gradient: Tensor) -> Tensor:
        return gradient + LEAST * gradient.sum(0)

    def look(gradient: Tensor) -> None:
        everything = gradient.sum(0)
        # of a target that does not count at all the weights do not matter
        arrived[:] = [torch.where(everything == 0, 1.0, gradient / everything).flatten()[:, None]]

    def multiply(gradient: Tensor) -> Tensor:
        (wbar,) = arrived
        return gradient * wbar if z_gradient == "dreg" else gradient / (len(log_px) * wbar)

    log_px = log_px.view_as(log_px)  # a tensor of its own, whose gradient is the bound's alone
    if z_gradient == "single":  # which divides by wbar_k: one that is zero is raised to what changes no sum
        log_px.register_hook(raised)
        log_rz.register_hook(raised)
    log_px.register_hook(look)
    z.register_hook(multiply)
    return log_px, log_rz
