"""The reference path: variational memory addressing as its equations stand, with nothing shared and nothing reordered.

It computes what `VariationalMemoryAddressing` computes, with its parameters: every target's K samples gather a memory
entry each, all of which go through every network; skip connections are concatenations before transposed convolutions.
In float32 on contiguous tensors, eager and deterministic, it is what the fast path is tested and timed against.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vma.addressing import kl_categorical
from vma.errors import InputError
from vma.model import Encoded, VariationalMemoryAddressing
from vma.networks import Levels, Sizes, log_bernoulli, log_normal, log_normal_at, split_gaussian
from vma.networks.conv import ConvConditioner, ConvDecoder
from vma.networks.kernels import UpConv
from vma.objectives import Terms


class ReferenceAddressing(VariationalMemoryAddressing):
    """`VariationalMemoryAddressing` with the plain forward; weights can be loaded from one into the other.

    Raises:
        InputError: for another gradient of z than the plain one. As the base class.
    """

    def __init__(self, sizes: Sizes, **options: Any) -> None:
        super().__init__(sizes, **options)
        if self.z_gradient != "iwae":
            raise InputError(f"z_gradient is {self.z_gradient}: the reference path has iwae alone")

    def _terms(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: Encoded,
        log_q: Float[Tensor, "B M"],
        log_p: Float[Tensor, " M"],
        a: Int[Tensor, "K B"],
        generator: torch.Generator | None,
        noise: Float[Tensor, "K B Z"] | None,
        chunk: int | None,
    ) -> Terms:
        K, B = a.shape
        shape = (K, B, self.sizes.latent)
        eps = torch.randn(shape, generator=generator, device=x.device) if noise is None else noise
        parts = []
        for k in torch.arange(K).split(K if chunk is None else max(1, chunk // B)):
            m_a = encoded.memory[a[k].flatten()]
            inputs = self.sizes.join(x.expand(len(k), *x.shape).flatten(0, 1), m_a)
            q_mean, q_log_std = split_gaussian(self.posterior(inputs))
            noise_k = eps[k].flatten(0, 1)
            z = q_mean + q_log_std.exp() * noise_k
            levels = self.memory_pyramid(m_a)
            p_mean, p_log_std = split_gaussian(self.prior_head(levels[-1].flatten(1)))
            logits = self._logits(z, levels).unflatten(0, (len(k), B))
            log_rz = log_normal(z, p_mean, p_log_std) - log_normal_at(noise_k, q_log_std)
            parts.append((log_bernoulli(x, logits), log_rz.view(len(k), B)))
        log_px, log_rz = (torch.cat(same) for same in zip(*parts, strict=True))
        log_qa = log_q.gather(1, a.mT).mT
        return Terms(log_px, log_rz, log_pa=log_p[a], log_qa=log_qa, kl_a=kl_categorical(log_q, log_p))

    def _logits(self, z: Float[Tensor, "N Z"], levels: Levels) -> Float[Tensor, "N C H W"]:
        """The decoder, of which the convolutional one has a level of m_a concatenated to its activations before each
        layer.
        """
        if not isinstance(self.decoder, ConvDecoder):
            return self.decoder(z, self.conditioner(levels))
        decoder, conditioner = self.decoder, self.conditioner
        assert isinstance(conditioner, ConvConditioner)
        h = decoder.base(torch.cat((z, conditioner.vector(levels[-1].flatten(1))), -1)).unflatten(1, decoder.base_shape)
        for layer, skip, level in zip(decoder.layers, conditioner.skips, reversed(levels), strict=True):
            joined = torch.cat((F.relu(h), level), 1)
            if isinstance(layer, UpConv):
                assert isinstance(skip, UpConv)
                weight = torch.cat((layer.weight, skip.weight), 0)
                padding = [(size - 1) % 2 for size in layer.size]
                h = F.conv_transpose2d(joined, weight, layer.bias, stride=2, padding=1, output_padding=padding)
            else:
                assert isinstance(layer, nn.Conv2d)
                assert isinstance(skip, nn.Conv2d)
                h = F.conv2d(joined, torch.cat((layer.weight, skip.weight), 1), layer.bias, padding=1)
        return h
