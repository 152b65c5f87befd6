"""Variational memory addressing: the generative model (eq. 1), its posterior (eq. 3) and sampling from p(x|M)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vma.addressing import Addressing, Draw, Keys, draw_addresses, draw_independent, kl_categorical
from vma.errors import InputError, check_name
from vma.networks import (
    Condition,
    Levels,
    Samples,
    Sizes,
    at_least_float32,
    draw_images,
    log_bernoulli,
    log_normal,
    split_gaussian,
)
from vma.networks.kernels import in_chunks, of_distinct, one_hot, take_rows
from vma.objectives import Terms
from vma.z_gradient import Z_GRADIENTS, z_terms

FEW_ENTRIES = 32  # up to here a product with the selection is quicker than a gather, without gradient too


@dataclass(frozen=True)
class Encoded:
    """What a model keeps of a memory of M entries: the entries, and the keys and the prior of their addresses."""

    memory: Float[Tensor, "M *entry"]
    keys: Keys
    levels: Levels | None = None  # of the entries, where their pyramid has run for the keys


@dataclass(frozen=True)
class Read:
    """What samples read of the entries that they drew: the decoder's conditions on U distinct ones, and the row that is
    each sample's own.
    """

    condition: Condition
    row: Int[Tensor, " KB"]


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
        z_gradient: the gradient of the bound for the parameters of q(z|m, x); values and all other gradients are the
            same. With D_k = d log w_k / d z_k, where log q(z_k|m, x) has z_k alone to move, J_k = d z_k / d those
            parameters, and wbar_k the weights normalised over k:

            - "iwae": sum_k wbar_k (D_k J_k - the score of z_k), the bound's gradient as it stands;
            - "stl": sum_k wbar_k D_k J_k, without the score (Roeder et al., NeurIPS 2017); biased for K > 1;
            - "dreg": sum_k wbar_k^2 D_k J_k, unbiased (Tucker et al., ICLR 2019);
            - "single": sum_k D_k J_k / K, that of the bound with one sample, as PIWAE has it (Rainforth et al., ICML
              2018). It needs independent draws of addresses.

    Raises:
        InputError: for an unknown similarity, prior or z_gradient, or tied networks for entries of another shape than
            images.
    """

    # gives `Terms.baseline`, b(x), from e^q; where an estimator of q(a|x)'s gradient needs one, it is set to that
    baseline: nn.Module | None

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
        z_gradient: str = "iwae",
    ) -> None:
        super().__init__()
        shape = sizes.image if memory_shape is None else memory_shape
        if tied and shape != sizes.image:
            raise InputError(f"tied networks need entries of the image's shape {sizes.image}, got {shape}")
        check_name("z_gradient", z_gradient, Z_GRADIENTS)
        self.sizes = sizes
        self.tied = tied
        self.z_gradient = z_gradient
        self.addressing = Addressing(sizes, shape, similarity, prior, tied)
        self.posterior = sizes.encoder(sizes.pair_shape(shape), 2 * sizes.latent)
        self.memory_pyramid = sizes.pyramid(shape)
        self.prior_head = sizes.head(2 * sizes.latent)
        self.conditioner = sizes.conditioner(shape)
        self.decoder = sizes.decoder(pixel_mean, conditioned=True)
        # of spread 1: with 0.3 fewer entries were used (KL_a 2.5, not 2.9, of 4.2 nats on digits after 3,000 updates)
        self.memory = None if learned_entries is None else nn.Parameter(torch.randn(learned_entries, *shape))
        self.baseline = None

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
        draw: Draw = draw_independent,
    ) -> Terms:
        """The terms of K = `num_samples` draws (a_k, z_k) ~ q(a|x) q(z|m_a, x) for each target, or of addresses that
        `draw` draws another way.

        `addresses` and `noise` fix the draws; they are for tests and for models that are enumerated. At most `chunk`
        images go through a network at a time.

        Raises:
            ValueError: with z_gradient "single", for draws that are not independent.
        """
        e_q = self.addressing.queries(self._features(x)[1])
        log_q, log_p = self.addressing.log_posterior_of(e_q, encoded.keys), encoded.keys.log_p
        a, log_omega = draw(log_q, num_samples, generator) if addresses is None else (addresses, None)
        terms = self._terms(x, encoded, log_q, log_p, a, generator, noise, chunk)
        return self._completed(terms, e_q, log_omega)

    def _completed(self, terms: Terms, e_q: Float[Tensor, "B E"], log_omega: Float[Tensor, "K B"] | None) -> Terms:
        """The terms with the weights of their addresses and, while it is trained, with the baseline of the targets."""
        if self.z_gradient == "single" and log_omega is not None:
            raise ValueError("z_gradient is single, which needs independent draws of addresses")
        has_baseline = self.baseline is not None and torch.is_grad_enabled()
        return replace(terms, log_omega=log_omega, baseline=self.baseline(e_q) if has_baseline else None)  # type: ignore[misc]

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
        chunk = a.numel() if chunk is None else chunk
        q_mean, q_log_std = self._posterior(x, encoded, a, chunk)
        eps = torch.randn(q_mean.shape, generator=generator, device=x.device) if noise is None else noise.flatten(0, 1)
        z = q_mean + q_log_std.exp() * eps  # eq. 3: z ~ q(z|m_a, x), where a ~ q(a|x)
        (p_mean, p_log_std), read = self._prior(encoded, a, chunk)
        log_px = self._log_likelihood(x, z, read, chunk).view(a.shape)
        log_pz = log_normal(z, p_mean, p_log_std).view(a.shape)
        log_px, log_rz = z_terms(self.z_gradient, z, eps, q_log_std, log_px, log_pz)
        return Terms(
            log_px=log_px,
            log_rz=log_rz,
            log_pa=log_p[a],
            log_qa=log_q.gather(1, a.mT).mT,
            kl_a=kl_categorical(log_q, log_p),
        )

    def _posterior(
        self, x: Float[Tensor, "B C H W"], encoded: Encoded, a: Int[Tensor, "K B"], chunk: int
    ) -> tuple[Float[Tensor, "KB Z"], Float[Tensor, "KB Z"]]:
        """Mean and log standard deviation of q(z|m_a, x). It depends on the pair (x, m_a) alone, so it runs once for
        each distinct pair.
        """
        B, M = len(x), len(encoded.memory)

        def of_pairs(pair: Tensor) -> list[Tensor]:
            return [self.posterior(self.sizes.join(x[pair // M], encoded.memory[pair % M]))]

        (parameters,), row = of_distinct(of_pairs, torch.arange(B, device=x.device) * M + a, B * M, chunk)
        return split_gaussian(parameters[row])

    def _prior(
        self, encoded: Encoded, a: Int[Tensor, "K B"], chunk: int
    ) -> tuple[tuple[Float[Tensor, "KB Z"], Float[Tensor, "KB Z"]], Read]:
        """Mean and log standard deviation of p(z|m_a), and what p(x|z, m_a) reads of m_a. Both depend on m_a alone, so
        they run once for each distinct entry.
        """

        def of_entries(entry: Tensor) -> list[Tensor]:
            if encoded.levels is None:
                levels = self.memory_pyramid(encoded.memory[entry])
            else:
                levels = [take_rows(level, entry) for level in encoded.levels]
            return [self.prior_head(levels[-1].flatten(1)), *self.conditioner(levels)]

        (parameters, *condition), row = of_distinct(of_entries, a, len(encoded.memory), chunk)
        return split_gaussian(parameters[row]), Read(condition, row)

    def _log_likelihood(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "KB Z"], read: Read, chunk: int
    ) -> Float[Tensor, " KB"]:
        """log p(x|z, m_a) of each sample."""

        def of_samples(k: Tensor) -> list[Tensor]:
            logits = self._decode(z[k], Read(read.condition, read.row[k]))
            return [log_bernoulli(x[k % len(x)], logits[None])[0]]

        (log_px,) = in_chunks(of_samples, torch.arange(len(z), device=x.device), chunk)
        return log_px

    def _decode(self, z: Float[Tensor, "N Z"], read: Read) -> Float[Tensor, "N C H W"]:
        """Logits of p(x|z, m_a) for each z."""
        condition, row = read.condition, read.row
        U, z = len(condition[0]), z.to(condition[0].dtype)
        if torch.is_grad_enabled() or U <= FEW_ENTRIES:
            return self.decoder(z, condition, one_hot(row, U, z.dtype))
        return self.decoder(z, [c[row] for c in condition])

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
        logits = self.decoder(z, self.conditioner(levels))
        return draw_images(logits, addresses, generator)  # eq. 1: x ~ p(x|z, m_a), where z ~ p(z|m_a), a ~ p(a|M)
