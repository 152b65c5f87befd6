"""Straight-through Gumbel addresses: a try that is no estimator of any bound's gradient, kept to show what it does.

Training reads a hard entry, and its backward pass takes the read for one of softmax((log q(a|x) + Gumbel noise) /
temperature), which mixes all entries (Jang et al., ICLR 2017). Each network reads such a mixture in its own way: the
posterior, which takes pairs of images, a mixture of pixels; p(z|m) and the decoder, which read features, a mixture of
features. So all M entries go through the pyramid, and K posterior passes a target share nothing.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vma.addressing import Draw, draw_independent, kl_categorical
from vma.errors import InputError
from vma.model import Encoded, VariationalMemoryAddressing
from vma.networks import Sizes, log_bernoulli, log_normal, log_normal_at, split_gaussian
from vma.networks.kernels import one_hot
from vma.objectives import Terms

TEMPERATURE = 0.5  # the lowest of Jang et al.'s schedule


class GumbelAddressing(VariationalMemoryAddressing):
    """`VariationalMemoryAddressing` whose samples have a (biased) gradient in q(a|x), for `vma.estimators.pathwise`;
    weights can be loaded from one into the other. Without gradient, and at given addresses, it is the base class.

    Raises:
        InputError: for another gradient of z than the plain one. As the base class.
    """

    def __init__(self, sizes: Sizes, **options: Any) -> None:
        super().__init__(sizes, **options)
        if self.z_gradient != "iwae":
            raise InputError(f"z_gradient is {self.z_gradient}: Gumbel addresses have iwae alone")

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: Encoded,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        addresses: Int[Tensor, "K B"] | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
        chunk: int | None = None,
        draw: Draw = draw_independent,
    ) -> Terms:
        if addresses is not None or not torch.is_grad_enabled():
            return super().forward(
                x, encoded, num_samples, generator=generator, addresses=addresses, noise=noise, chunk=chunk, draw=draw
            )
        log_q, log_p = self.address(x, encoded)
        K, (B, M) = num_samples, log_q.shape
        waiting = torch.empty(K, B, M, dtype=log_q.dtype, device=log_q.device).exponential_(generator=generator)
        relaxed = ((log_q - waiting.log()) / TEMPERATURE).softmax(-1).flatten(0, 1)
        a = relaxed.argmax(-1)
        y = one_hot(a, M, relaxed.dtype) + relaxed - relaxed.detach()

        entries = (y @ encoded.memory.flatten(1)).unflatten(1, encoded.memory.shape[1:])
        q_mean, q_log_std = split_gaussian(self.posterior(self.sizes.join(x.repeat(K, 1, 1, 1), entries)))
        eps = torch.randn(q_mean.shape, generator=generator, device=x.device) if noise is None else noise.flatten(0, 1)
        z = q_mean + q_log_std.exp() * eps
        levels = self.memory_pyramid(encoded.memory) if encoded.levels is None else encoded.levels
        p_mean, p_log_std = split_gaussian(y @ self.prior_head(levels[-1].flatten(1)).to(y.dtype))
        condition = self.conditioner(levels)
        logits = self.decoder(z.to(condition[0].dtype), condition, y.to(condition[0].dtype))
        a = a.view(K, B)
        return Terms(
            log_px=log_bernoulli(x, logits.unflatten(0, (K, B))),
            log_rz=(log_normal(z, p_mean, p_log_std) - log_normal_at(eps, q_log_std)).unflatten(0, (K, B)),
            log_pa=log_p[a],
            log_qa=log_q.gather(1, a.mT).mT,
            kl_a=kl_categorical(log_q, log_p),
        )
