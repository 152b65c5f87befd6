"""Soft attention over features whose gradient reaches a sample of the entries: every value is exact, the gradient
unbiased.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.soft_attention import SoftAttentionVAE, SoftEncoded
from baselines.vae import standard_normal_terms
from vma.addressing import similarity
from vma.networks import Condition, Sizes, at_least_float32
from vma.networks.kernels import mixed
from vma.objectives import Terms
from vma.sampled import CHUNK, check_gradient_entries, sample_entries, without_gradient


@dataclass(frozen=True)
class SampledEncoded(SoftEncoded):
    """`SoftEncoded` without gradient, and the memory that it is of."""

    memory: Float[Tensor, "M C H W"]


class SampledGradientSoftAttention(SoftAttentionVAE):
    """`SoftAttentionVAE` over features whose update encodes a sample of the entries with gradient, all entries without
    gradient and in bounded memory; weights can be loaded from one into the other.

    The read r = sum_j w_j c_j of one sample z has the differential sum_j w_j dc_j + sum_j w_j (c_j - r) ds_j through
    the entries' features c and similarities s. All entries, held fixed, give the read and its gradient through z; both
    sums are estimated by n draws in proportion to the mean of w over the minibatch. It is unbiased.

    Without gradient it is the base class, and so it is for memories of at most n entries.

    Args:
        sizes: the network family.
        gradient_entries: n.
        options: those of the base class but `read`.

    Raises:
        InputError: for fewer than one entry.
    """

    def __init__(self, sizes: Sizes, *, gradient_entries: int, **options: Any) -> None:
        check_gradient_entries(gradient_entries)
        super().__init__(sizes, read="features", **options)
        self.gradient_entries = gradient_entries

    def encode_memory(self, memory: Float[Tensor, "M C H W"] | None) -> SoftEncoded:
        if memory is None or not torch.is_grad_enabled() or len(memory) <= self.gradient_entries:
            return super().encode_memory(memory)
        encode = super().encode_memory
        with without_gradient(memory.device):
            encoded = SoftEncoded.join([encode(part) for part in memory.split(CHUNK)])
        return SampledEncoded(encoded.e_a, encoded.entries, memory)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: SoftEncoded,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
        chunk: int | None = None,
    ) -> Terms:
        if not isinstance(encoded, SampledEncoded) or not torch.is_grad_enabled():
            return super().forward(x, encoded, num_samples, generator=generator, noise=noise, chunk=chunk)

        def decode(z: Tensor) -> Tensor:
            return self.decoder(z, self._read(z, encoded, generator))

        return standard_normal_terms(x, self.posterior(x), decode, num_samples, generator, noise, chunk)

    def _read(self, z: Float[Tensor, "N Z"], encoded: SampledEncoded, generator: torch.Generator | None) -> Condition:
        """The averages over memory of each z, which condition its decoder."""
        e_z = at_least_float32(self.embed_z(z))
        weights = similarity(encoded.e_a, e_z).softmax(-1)
        w = weights.detach()
        entries, times, _ = sample_entries(self.proposal(w), self.gradient_entries, z.new_empty(0).long(), generator)
        sampled = super().encode_memory(encoded.memory[entries])

        w_sampled = w[:, entries] * times
        s = similarity(sampled.e_a, e_z.detach())
        ds = w_sampled * (s - s.detach())
        # sum_j w_j (c_j - r) ds_j as one sum over all c: what each ds_j adds to w_j, less its part in every other
        weights = weights + torch.zeros_like(w).index_add(1, entries, ds) - ds.sum(1, keepdim=True) * w
        return [
            mixed(weights, all_features) + mixed(w_sampled, features - features.detach())
            for all_features, features in zip(encoded.entries, sampled.entries, strict=True)
        ]

    @staticmethod
    def proposal(weights: Float[Tensor, "N M"]) -> Float[Tensor, " M"]:
        """What entries are drawn in proportion to: their part in the reads."""
        return weights.mean(0)
