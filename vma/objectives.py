"""The multi-sample bound (eq. 7) and its VIMCO surrogate (eq. 8), as functions of per-sample terms."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
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


def leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} = log 1/(K-1) sum_{k' != k} w_k' (eq. 8), by a masked logsumexp.

    Subtracting w_k from the sum instead would cancel: it is infinite in float32 once one weight leads by 15 nats.

    Raises:
        ValueError: with fewer than two samples.
    """
    rows, own = _rows(log_w)
    return rows.masked_fill(own, -math.inf).logsumexp(1) - math.log(len(log_w) - 1)


def geometric_leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} with the geometric mean of the other weights in the place of w_k: log 1/K (sum_{k' != k} w_k' + exp(mean
    over k' != k of log w_k')), as VIMCO had it first (Mnih and Rezende, ICML 2016).

    Raises:
        ValueError: with fewer than two samples.
    """
    rows, own = _rows(log_w)
    mean = rows.masked_fill(own, 0).sum(1) / (len(log_w) - 1)
    return torch.where(own, mean[:, None], rows).logsumexp(1) - math.log(len(log_w))


def _rows(log_w: Float[Tensor, "K B"]) -> tuple[Float[Tensor, "K K B"], Bool[Tensor, "K K 1"]]:
    """All weights once for each k, [k, k', B], and where k' = k.

    Raises:
        ValueError: with fewer than two samples.
    """
    K = len(log_w)
    if K < 2:
        raise ValueError(
            f"VIMCO needs at least 2 samples per target, got {K}: raise num_samples or use the iwae objective"
        )
    return log_w.expand(K, *log_w.shape), torch.eye(K, dtype=torch.bool, device=log_w.device)[:, :, None]


def vimco(terms: Terms, baseline: Callable[[Tensor], Tensor] = leave_one_out) -> Float[Tensor, " B"]:
    """A surrogate with the value of `iwae` shifted by a constant, whose gradient is the VIMCO estimate (eq. 8).

    The score term is sum_k (L - L_{-k} - wbar_k) grad log q(a_k | x). The part - wbar_k grad log q(a_k | x) comes by
    itself from log q(a_k | x) inside log w_k, so only the detached learning signal L - L_{-k} is added here.

    Args:
        baseline: L_{-k} of the log weights (K, B): `leave_one_out`, the paper's, or `geometric_leave_one_out`. The
            gradient is unbiased with each, since neither depends on a_k.

    Raises:
        ValueError: with fewer than two samples, for which the leave-one-out bound L_{-k} is undefined.
    """
    bound = iwae(terms)
    signal = (bound - baseline(terms.log_w)).detach()
    return bound + (signal * terms.log_qa).sum(0)  # eq. 8
