"""The multi-sample bound (eq. 7) and its VIMCO surrogate (eq. 8), as functions of per-sample terms."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """What a model says of B targets with K posterior samples each; nothing is reduced. All in nats.

    A model without a latent address leaves `log_pa`, `log_qa` and `kl_a` at zero.
    """

    log_px: Float[Tensor, "K B"]  # log p(x | m_a, z)
    log_pz: Float[Tensor, "K B"]  # log p(z | m_a)
    log_qz: Float[Tensor, "K B"]  # log q(z | m_a, x)
    log_pa: Float[Tensor, "K B"]  # log p(a)
    log_qa: Float[Tensor, "K B"]  # log q(a | x)
    kl_a: Float[Tensor, " B"]  # KL(q(a|x) || p(a)), exact: a sum over memory

    @property
    def log_w(self) -> Float[Tensor, "K B"]:
        """log importance weights, log p(x, a, z) - log q(a, z | x)."""
        return self.log_px + self.log_pz + self.log_pa - self.log_qa - self.log_qz

    @property
    def kl_z(self) -> Float[Tensor, " B"]:
        """E_q(a|x) KL(q(z|a,x) || p(z|a)), estimated from the K samples as the paper does (section 2.1)."""
        return (self.log_qz - self.log_pz).mean(0)


def iwae(terms: Terms) -> Float[Tensor, " B"]:
    """The bound L = E[log 1/K sum_k w_k] (eq. 7) of each target, in nats; its gradient for reparameterised variables is
    IWAE's.
    """
    K = terms.log_w.shape[0]
    return terms.log_w.logsumexp(0) - math.log(K)  # eq. 7


def vimco(terms: Terms) -> Float[Tensor, " B"]:
    """A surrogate with the value of `iwae` shifted by a constant, whose gradient is the VIMCO estimate (eq. 8).

    The score term is sum_k (L - L_{-k} - wbar_k) grad log q(a_k | x). The part - wbar_k grad log q(a_k | x) comes by
    itself from log q(a_k | x) inside log w_k, so only the detached learning signal L - L_{-k} is added here.

    Raises:
        ValueError: with fewer than two samples, for which the leave-one-out bound L_{-k} is undefined.
    """
    bound = iwae(terms)
    signal = (bound - leave_one_out(terms.log_w)).detach()
    return bound + (signal * terms.log_qa).sum(0)  # eq. 8


def leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} = log 1/(K-1) sum_{k' != k} w_k' (eq. 8), by a masked logsumexp.

    Subtracting w_k from the sum instead would cancel: it is infinite in float32 once one weight leads by 15 nats.

    Raises:
        ValueError: with fewer than two samples.
    """
    K = log_w.shape[0]
    if K < 2:
        raise ValueError(
            f"VIMCO needs at least 2 samples per target, got {K}: raise num_samples or use the iwae objective"
        )
    own = torch.eye(K, dtype=torch.bool, device=log_w.device)[:, :, None]
    others = log_w.expand(K, *log_w.shape).masked_fill(own, -math.inf)  # [k, k', B]
    return others.logsumexp(1) - math.log(K - 1)
