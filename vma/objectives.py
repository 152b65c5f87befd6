"""The multi-sample bound (eq. 7), as a function of per-sample terms. `vma.estimators` has the gradients of q(a|x)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vma.errors import InputError


@dataclass(frozen=True)
class Terms:
    """What a model says of B targets with K posterior samples each; nothing is reduced. All in nats.

    A model without a latent address leaves `log_pa`, `log_qa` and `kl_a` at zero.

    The two densities of z come as their difference alone. log q(z|m_a, x) is computed along z = mean + std * noise,
    where it has no gradient in the mean: on its own it looks like the score of q(z|m_a, x) and is not. An estimator
    that needs the score has to compute it at z held fixed.

    Raises:
        InputError: for terms of other shapes than these, whose sums and means would be of something else.
    """

    log_px: Float[Tensor, "K B"]  # log p(x | m_a, z)
    log_rz: Float[Tensor, "K B"]  # log p(z | m_a) - log q(z | m_a, x)
    log_pa: Float[Tensor, "K B"]  # log p(a)
    log_qa: Float[Tensor, "K B"]  # log q(a | x)
    kl_a: Float[Tensor, " B"]  # KL(q(a|x) || p(a)), exact: a sum over memory
    # log omega_k, E[sum_k omega_k f(a_k)] = sum_a q(a|x) f(a), without gradient; None: independent draws, 1/K each
    log_omega: Float[Tensor, "K B"] | None = None
    baseline: Float[Tensor, " B"] | None = None  # b(x), of a model that has one (see `vma.estimators.NVIL`)

    def __post_init__(self) -> None:
        B = self.kl_a.numel()
        for name, tensor in self.tensors.items():
            shape = (B,) if name in ("kl_a", "baseline") else (*self.log_px.shape[:1], B)
            if tensor.shape != shape:
                raise InputError(
                    f"{name} of Terms has shape {tuple(tensor.shape)}, must be {shape}: (K, B), or (B,) for kl_a and "
                    "baseline"
                )

    @property
    def log_w(self) -> Float[Tensor, "K B"]:
        """log importance weights, log p(x, z, a|M) - log q(a, z|M, x) (eq. 2)."""
        return self.log_px + self.log_rz + self.log_pa - self.log_qa  # eq. 2

    @property
    def kl_z(self) -> Float[Tensor, " B"]:
        """E_q(a|x) KL(q(z|a,x) || p(z|a)), estimated from the K samples as the paper does (section 2.1)."""
        if self.log_omega is None:
            return -self.log_rz.mean(0)
        return -(self.log_omega.exp() * self.log_rz).sum(0)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def each(self, change: Callable[[Tensor], Tensor]) -> "Terms":
        """The terms with every tensor changed."""
        return replace(self, **{name: change(value) for name, value in self.tensors.items()})

    @staticmethod
    def join(parts: Sequence["Terms"]) -> "Terms":
        """The terms of all targets of the parts, which have the same K and the same fields."""
        return replace(
            parts[0], **{name: torch.cat([part.tensors[name] for part in parts], -1) for name in parts[0].tensors}
        )


def iwae(terms: Terms) -> Float[Tensor, " B"]:
    """The bound L = E[log 1/K sum_k w_k] (eq. 7) of each target, in nats; its gradient for reparameterised variables is
    IWAE's.

    Where the addresses are no independent draws the weights are omega_k in the place of 1/K: still a bound, but not
    the paper's.
    """
    if terms.log_omega is not None:
        return (terms.log_w + terms.log_omega).logsumexp(0)
    K = terms.log_w.shape[0]
    return terms.log_w.logsumexp(0) - math.log(K)  # eq. 7


class NonFiniteBound(RuntimeError):
    """A bound, or what is computed beside it, was not finite; the message says where, and which terms broke."""

    @classmethod
    def of_terms(cls, where: str, broken: list[str]) -> "NonFiniteBound":
        """Of a bound with these terms, by name, that are not finite."""
        return cls(f"the bound is not finite at {where}: {', '.join(broken) or 'log_w'} broke")


def check_finite(terms: Terms, where: str) -> None:
    """Refuse a bound that is not finite.

    Raises:
        NonFiniteBound: naming `where` and the terms that are not finite.
    """
    if not torch.isfinite(iwae(terms)).all():
        broken = [name for name, value in terms.tensors.items() if not torch.isfinite(value).all()]
        raise NonFiniteBound.of_terms(where, broken)
