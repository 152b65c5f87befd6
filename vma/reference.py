"""The reference path: variational memory addressing as its equations stand, with nothing shared and nothing reordered.

It computes what `VariationalMemoryAddressing` computes, with its parameters: every target's K samples gather a memory
entry each, all of which go through every network; skip connections are concatenations before transposed convolutions.
In float32 on contiguous tensors, eager and deterministic, it is what the fast path is tested and timed against.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vma.addressing import draw_addresses, kl_categorical
from vma.model import Encoded, VariationalMemoryAddressing
from vma.networks import ConvDecoder, Levels, UpConv, log_bernoulli, log_normal, split_gaussian
from vma.objectives import Terms


class ReferenceAddressing(VariationalMemoryAddressing):
    """`VariationalMemoryAddressing` with the plain forward; weights can be loaded from one into the other."""

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: Encoded,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        addresses: Int[Tensor, "K B"] | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
    ) -> Terms:
        """As `VariationalMemoryAddressing.forward`, which draws the same addresses and noise from a generator."""
        log_q, log_p = self.address(x, encoded)
        a = draw_addresses(log_q, num_samples, generator) if addresses is None else addresses
        K, B = a.shape
        m_a = encoded.memory[a.flatten()]
        q_mean, q_log_std = split_gaussian(self.posterior(self.sizes.join(x.repeat(K, 1, 1, 1), m_a)))
        eps = torch.randn(q_mean.shape, generator=generator, device=x.device) if noise is None else noise.flatten(0, 1)
        z = q_mean + q_log_std.exp() * eps
        levels = self.memory_pyramid(m_a)
        p_mean, p_log_std = split_gaussian(self.prior_head(levels[-1].flatten(1)))
        if isinstance(self.decoder, ConvDecoder):
            logits = self._decode(z, levels)
        else:
            logits = self.decoder(z, self.conditioner(levels))
        return Terms(
            log_px=log_bernoulli(x, logits.unflatten(0, (K, B))),
            log_pz=log_normal(z, p_mean, p_log_std).unflatten(0, (K, B)),
            log_qz=log_normal(z, q_mean, q_log_std).unflatten(0, (K, B)),
            log_pa=log_p[a],
            log_qa=log_q.gather(1, a.mT).mT,
            kl_a=kl_categorical(log_q, log_p),
        )

    def _decode(self, z: Float[Tensor, "N Z"], levels: Levels) -> Float[Tensor, "N C H W"]:
        """The convolutional decoder, with a level of m_a concatenated to its activations before each layer."""
        m = self.conditioner.vector(levels[-1].flatten(1))
        h = self.decoder.base(torch.cat((z, m), -1)).unflatten(1, self.decoder.base_shape)
        for layer, skip, level in zip(self.decoder.layers, self.conditioner.skips, reversed(levels), strict=True):
            joined = torch.cat((F.relu(h), level), 1)
            if isinstance(layer, UpConv):
                weight = torch.cat((layer.weight, skip.weight), 0)
                padding = [(size - 1) % 2 for size in layer.size]
                h = F.conv_transpose2d(joined, weight, layer.bias, stride=2, padding=1, output_padding=padding)
            else:
                h = F.conv2d(joined, torch.cat((layer.weight, skip.weight), 1), layer.bias, padding=1)
        return h
