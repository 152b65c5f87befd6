"""Variational memory addressing: the generative model (eq. 1), its posterior (eq. 3) and sampling from p(x|M)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vma.addressing import Addressing, Keys, draw_addresses, kl_categorical
from vma.errors import InputError
from vma.networks import (
    Condition,
    Levels,
    Samples,
    Sizes,
    at_least_float32,
    draw_images,
    log_bernoulli,
    log_normal,
    log_normal_at,
    one_hot,
    split_gaussian,
    take_rows,
)
from vma.objectives import Terms

FEW_ENTRIES = 32  # up to here a product with the selection is quicker than a gather, without gradient too


@dataclass(frozen=True)
class Encoded:
    """What a model keeps of a memory of M entries: the entries, and the keys and the prior of their addresses."""

    memory: Float[Tensor, "M *entry"]
    keys: Keys
    levels: Levels | None = None  # of the entries, where their pyramid has run for the keys


class VariationalMemoryAddressing(nn.Module):
    """p(x|M) = sum_a p(a|M) int p(z|m_a) p(x|z, m_a) dz (eq. 1) with the posterior q(a|x) q(z|m_a, x) (eq. 3).

    Memory is an argument of any size M, or `learned_entries` parameters. The pyramid of m is shared by p(z|m) and
    p(x|m, z) and runs once for each distinct address that was drawn.

    Args:
        sizes: the network family, `ConvSizes` or `MLPSizes`.
        memory_shape: shape of one entry; by default that of an image. The convolutional family needs the image's height
            and width.
        learned_entries: number of entries of a learned memory (section 4.1); None if the memory is an argument.
        similarity: "paper" (eq. 5), "inner" or "cosine".
        prior: "learned" p(a) or "flat".
        tied: one pyramid serves h(m_a) and h^q(x) (eq. 6) beside p(z|m) and p(x|m, z), each with a head of its own.
            Section 4.2 ties the last two and says of the embedding networks that tying "them" neither helped nor
            harmed. It does not say to what; the pyramid is what it calls tied before, and one for all is the strongest
            form of it. The posterior q(z|m, x) takes pairs and keeps its own.
        pixel_mean: mean of the training pixels, where the decoder's output starts.

    Raises:
        InputError: for an unknown similarity or prior, or tied networks for entries of another shape than images.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        memory_shape: tuple[int, ...] | None = None,
        learned_entries: int | None = None,
        similarity: str = "paper",
        prior: str = "learned",
        tied: bool = False,
        pixel_mean: float = 0.5,
    ) -> None:
        super().__init__()
        shape = sizes.image if memory_shape is None else memory_shape
        if tied and shape != sizes.image:
            raise InputError(f"tied networks need entries of the image's shape {sizes.image}, got {shape}")
        self.sizes = sizes
        self.tied = tied
        self.addressing = Addressing(sizes, shape, similarity, prior, tied)
        self.posterior = sizes.encoder(sizes.pair_shape(shape), 2 * sizes.latent)
        self.memory_pyramid = sizes.pyramid(shape)
        self.prior_head = sizes.head(2 * sizes.latent)
        self.conditioner = sizes.conditioner(shape)
        self.decoder = sizes.decoder(pixel_mean, conditioned=True)
        # of spread 1: with 0.3 fewer entries were used (KL_a 2.5, not 2.9, of 4.2 nats on digits after 3,000 updates)
        self.memory = None if learned_entries is None else nn.Parameter(torch.randn(learned_entries, *shape))

    def encode_memory(
        self, memory: Float[Tensor, "M *entry"] | None, e_a: Float[Tensor, "M E"] | None = None
    ) -> Encoded:
        """Keys and address prior of a memory, once for all its targets.

        Args:
            memory: the entries; None if the model has learned ones.
            e_a: what `embed` gives for the entries, if that is known already.

        Raises:
            InputError: if there is no memory, or one beside a learned memory.
        """
        if (memory is None) == (self.memory is None):
            raise InputError("give a memory, unless the model has a learned one: then pass None")
        entries = self.memory if memory is None else memory
        assert entries is not None
        levels = None
        if e_a is None:
            levels, features = self._features(entries)
            e_a = self.addressing.embed(features)
        return Encoded(entries, self.addressing.keys(e_a), levels)

    def embed(self, memory: Float[Tensor, "M *entry"]) -> Float[Tensor, "M E"]:
        """h(m_a) of each entry (eq. 6), which does not depend on the others."""
        return self.addressing.embed(self._features(memory)[1])

    def address(
        self, x: Float[Tensor, "B C H W"], encoded: Encoded
    ) -> tuple[Float[Tensor, "B M"], Float[Tensor, " M"]]:
        """log q(a|x) of each target (eq. 4) and log p(a)."""
        return self.addressing.log_posterior(self._features(x)[1], encoded.keys), encoded.keys.log_p

    def _features(self, images: Float[Tensor, "N *image"]) -> tuple[Levels | None, Float[Tensor, "N *feature"]]:
        """What addressing embeds: the last level of a tied pyramid, all of whose levels come first, or the images."""
        if not self.tied:
            return None, images
        levels = self.memory_pyramid(images)
        return levels, levels[-1].flatten(1)

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
    ) -> Terms:
        """The terms of K = `num_samples` draws (a_k, z_k) ~ q(a|x) q(z|m_a, x) for each target.

        `addresses` and `noise` fix the draws; they are for tests and for models that are enumerated. At most `chunk`
        images go through a network at a time.
        """
        log_q, log_p = self.address(x, encoded)
        a = draw_addresses(log_q, num_samples, generator) if addresses is None else addresses
        return self._terms(x, encoded, log_q, log_p, a, generator, noise, chunk)

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
        """The terms at addresses a, whose distributions are log_q and log_p."""
        K, B, M = *a.shape, len(log_p)
        chunk = a.numel() if chunk is None else chunk

        # q(z|m, x) depends on the pair (x, m_a) alone, p(z|m) and the conditions on m_a alone: each runs once for what
        # is distinct
        pair, pair_of = distinct(torch.arange(B, device=x.device) * M + a, B * M)
        entry, entry_of = distinct(a, M)
        parameters = [
            self.posterior(self.sizes.join(x[part // M], encoded.memory[part % M])) for part in pair.split(chunk)
        ]
        q_mean, q_log_std = split_gaussian(_joined(parameters)[pair_of])
        eps = torch.randn(q_mean.shape, generator=generator, device=x.device) if noise is None else noise.flatten(0, 1)
        z = q_mean + q_log_std.exp() * eps

        heads, conditions = [], []
        for part in entry.split(chunk):
            if encoded.levels is None:
                levels = self.memory_pyramid(encoded.memory[part])
            else:
                levels = [take_rows(level, part) for level in encoded.levels]
            heads.append(self.prior_head(levels[-1].flatten(1)))
            conditions.append(self.conditioner(levels))
        p_mean, p_log_std = split_gaussian(_joined(heads)[entry_of])
        condition = [_joined(same) for same in zip(*conditions, strict=True)]

        log_px = []
        for rows in torch.arange(K * B, device=x.device).split(chunk):
            logits = self._decode(z[rows], condition, entry_of[rows])
            log_px.append(log_bernoulli(x[rows % B], logits[None])[0])
        return Terms(
            log_px=_joined(log_px).unflatten(0, (K, B)),
            log_pz=log_normal(z, p_mean, p_log_std).unflatten(0, (K, B)),
            log_qz=log_normal_at(eps, q_log_std).unflatten(0, (K, B)),
            log_pa=log_p[a],
            log_qa=log_q.gather(1, a.mT).mT,
            kl_a=kl_categorical(log_q, log_p),
        )

    def _decode(
        self, z: Float[Tensor, "N Z"], condition: Condition, entry_of: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C H W"]:
        """Logits of each z, conditioned on the row of `condition` that is its own."""
        z = z.to(condition[0].dtype)
        if torch.is_grad_enabled() or len(condition[0]) <= FEW_ENTRIES:
            return self.decoder(z, condition, one_hot(entry_of, len(condition[0]), z.dtype))
        return self.decoder(z, [c[entry_of] for c in condition])

    def reconstruct(
        self, x: Float[Tensor, "B C H W"], encoded: Encoded, *, addresses: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """Bernoulli means of p(x | m_a, z) with z at the mean of q(z | m_a, x), for each target at its address."""
        entries = encoded.memory[addresses]
        z, _ = split_gaussian(self.posterior(self.sizes.join(x, entries)))
        return at_least_float32(self.decoder(z, self.conditioner(self.memory_pyramid(entries)))).sigmoid()

    def sample(
        self,
        encoded: Encoded,
        n: int,
        *,
        generator: torch.Generator | None = None,
        addresses: Int[Tensor, " n"] | None = None,
    ) -> Samples:
        """n draws from p(x|M): a ~ p(a), z ~ p(z|m_a), x ~ p(x|z, m_a). `addresses` fixes a (Figures 2B, 4A)."""
        if addresses is None:
            addresses = draw_addresses(encoded.keys.log_p[None], n, generator)[:, 0]
        levels = self.memory_pyramid(encoded.memory[addresses])
        mean, log_std = split_gaussian(self.prior_head(levels[-1].flatten(1)))
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
        return draw_images(self.decoder(z, self.conditioner(levels)), addresses, generator)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def distinct(index: Int[Tensor, "*shape"], bound: int) -> tuple[Int[Tensor, " U"], Int[Tensor, " KB"]]:
    """The distinct values below `bound`, padded with the first to a multiple of 16, and the place of each flattened
    element among them.

    The padding keeps the number of different shapes small: a convolution library plans each shape anew. On CUDA devices
    they are not looked for, since their number would have to be known on the host: it is all values below `bound`, or
    as many as there are elements.
    """
    if index.is_cuda:
        if bound <= index.numel():
            return torch.arange(bound, device=index.device), index.flatten()
        return index.flatten(), torch.arange(index.numel(), device=index.device)
    values, place = index.flatten().unique(return_inverse=True)
    missing = min(16 * math.ceil(len(values) / 16), index.numel()) - len(values)
    return torch.cat((values, values[:1].expand(missing))), place
