"""Generative Matching Networks: a VAE whose prior, posterior and decoder each read a set of objects by attention in
several hops (Bartunov and Vetrov, "Few-shot Generative Modelling with Generative Matching Networks", AISTATS 2018).

What the text leaves out is from the release (github.com/sbos/gmn, commit b7d6ec5).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.gmn_networks import GMNSizes, linear, normalised, prelu, uniform
from vma.addressing import SIMILARITIES
from vma.errors import InputError
from vma.networks import (
    Family,
    Samples,
    Sizes,
    at_least_float32,
    draw_images,
    log_bernoulli,
    log_normal,
    log_normal_at,
)
from vma.objectives import Terms

PROTOTYPE = 288  # numbers that stand for an object where it is read; the own networks' last level
STATE = 200  # of a reader; its keys and queries have as many
STRENGTHS = ("softplus", "clipped")


@dataclass(frozen=True)
class Contents:
    """What a reader keeps of M objects: M + 1 entries, its pseudo-input first."""

    keys: Float[Tensor, "entries E"]
    prototypes: Float[Tensor, "entries P"]


@dataclass(frozen=True)
class GMNEncoded:
    """What the model keeps of a memory of M objects."""

    memory: Float[Tensor, "M C H W"] | None
    features: Float[Tensor, "M F"]
    shared: Contents  # of the reader that q(z|x, X) and p(x|z, X) share
    prior: Contents
    skips: list[Tensor]  # additions to each decoder layer (M, ...), of a model that has them


@dataclass(frozen=True)
class Read:
    """What N rows have read, and how, hop by hop."""

    content: Float[Tensor, "N content"]  # r and h joined
    weights: list[Tensor]  # (N, entries)
    strengths: list[Tensor]  # (N, 1)


class Question(nn.Module):
    """What a reader in the state h looks for, given what it is asked, and how sharply.

    Args:
        asked: how many numbers it is asked with.
        strength: "softplus", which starts at 1; or "clipped" to [1e-10, 10], as in the release. That starts within
            some thousandths of 0 and has no gradient where it is clipped, with half of the seeds from the start.
    """

    def __init__(self, asked: int, strength: str) -> None:
        super().__init__()
        inputs = STATE + asked
        self.query = normalised(linear(inputs, STATE, math.sqrt(1 / inputs)))
        strength_of = linear(STATE, 1, math.sqrt(1 / STATE))
        self.clipped = strength == "clipped"
        if not self.clipped:
            nn.init.constant_(strength_of.bias, math.log(math.e - 1))
        self.strength_of = normalised(strength_of)

    def forward(self, h: Float[Tensor, "N E"], asked: Float[Tensor, "N A"]) -> Float[Tensor, "N E"]:
        return at_least_float32(self.query(torch.cat((h, asked), -1)))

    def strength(self, h: Float[Tensor, "N E"]) -> Float[Tensor, "N 1"]:
        value = at_least_float32(self.strength_of(h))
        return value.clamp(1e-10, 10) if self.clipped else F.softplus(value)


class SetReader(nn.Module):
    """Reads a set of objects in hops: h_0 is learned, a_j = softmax_j s(h) S(k_j, u(h)), r = sum_j a_j psi_j,
    h = GRU([r, h], h). The set always has one pseudo-input, whose key and prototype are learned.

    The text lets keys depend on h (its eq. 6); in the release the query alone does.
    """

    def __init__(self, prototype: int, similarity: str) -> None:
        super().__init__()
        self.similarity = SIMILARITIES[similarity]
        self.key = nn.Sequential(linear(prototype, STATE, math.sqrt(2 / prototype)), prelu(STATE))
        self.pseudo_prototype = uniform(1, prototype, most=1 / PROTOTYPE)
        self.pseudo_key = uniform(1, STATE, most=1 / PROTOTYPE)
        self.start = uniform(1, STATE, most=1 / PROTOTYPE)
        inputs = prototype + 2 * STATE  # h comes twice, as state and within the input [r, h]
        self.gates = linear(inputs, 2 * STATE, math.sqrt(1 / inputs))
        self.candidate = normalised(linear(inputs, STATE, math.sqrt(2 / inputs)))
        self.slope = prelu(STATE, spread=0.02)

    def contents(self, prototypes: Float[Tensor, "M P"]) -> Contents:
        """What is kept of M objects with these prototypes; M may be 0."""
        keys = at_least_float32(self.key(prototypes))
        return Contents(torch.cat((self.pseudo_key, keys)), torch.cat((self.pseudo_prototype, prototypes)))

    def forward(
        self,
        question: Question,
        asked: Float[Tensor, "N A"],
        contents: Contents,
        hops: int,
        visible: Bool[Tensor, "N M"] | None = None,
    ) -> Read:
        """What N rows read, each of the objects that it sees: all of them where `visible` is None.

        With 0 hops it is the plain average, the text's variant without attention: one hop of strength 0.
        """
        h = self.start.expand(len(asked), -1)
        hidden = None if visible is None else F.pad(~visible, (1, 0))  # the pseudo-input never is
        weights, strengths = [], []
        for _ in range(max(1, hops)):
            s = question.strength(h) if hops else at_least_float32(h[:, :1] * 0)
            scores = s * self.similarity(contents.keys, question(h, asked))
            a = (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(-1)
            r = a @ contents.prototypes
            h = self._next(r, h)
            weights.append(a)
            strengths.append(s)
        return Read(torch.cat((r, h), -1), weights, strengths)

    def _next(self, r: Float[Tensor, "N P"], h: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
        """A gated recurrent unit with a PReLU in the place of tanh, which torch's cannot have."""
        reset, update = self.gates(torch.cat((r, h, h), -1)).sigmoid().chunk(2, -1)
        candidate = self.slope(self.candidate(torch.cat((r, h, reset * h), -1)))
        return update * h + (1 - update) * candidate


class GenerativeMatchingNetwork(nn.Module):
    """p(x, z|X) = p(z|X) p(x|z, X) with the posterior q(z|x, X), each of which reads the set X; Gaussians are diagonal.

    One pyramid serves targets and memory. On the model's own networks, `GMNSizes`, it is the release's: 1,534,160
    parameters. On those of `vma.networks` it is the same memory on the networks of the other models, for comparison.

    Args:
        sizes: the network family.
        hops: of q(z|x, X) and p(x|z, X), which share a reader.
        prior_hops: of p(z|X).
        similarity: "inner", the release's; "cosine", the text's; or "paper", eq. 5 of VMA.
        strength: of attention, see `Question`.
        skips: the decoder adds the average of the objects' skip connections, weighed as in the last hop, as that of
            `SoftAttentionVAE(read="features")` does; the pseudo-input has none.
        pixel_mean: mean of the training pixels, where the decoder's output starts; that of `GMNSizes` cannot.

    Raises:
        InputError: for an unknown similarity or strength, or skips on networks that have none.
    """

    def __init__(
        self,
        sizes: Family,
        *,
        hops: int = 4,
        prior_hops: int = 1,
        similarity: str = "inner",
        strength: str = "softplus",
        skips: bool = False,
        pixel_mean: float = 0.5,
    ) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise InputError(f"similarity is {similarity!r}, must be one of {', '.join(SIMILARITIES)}")
        if strength not in STRENGTHS:
            raise InputError(f"strength is {strength!r}, must be 'softplus' or 'clipped'")
        if skips and not isinstance(sizes, Sizes):
            raise InputError("skips are given for network gmn, which has none: leave them out, or take another network")
        self.sizes, self.hops, self.prior_hops = sizes, hops, prior_hops
        own, features, latent = isinstance(sizes, GMNSizes), sizes.features(), sizes.latent
        prototype = features if own else PROTOTYPE
        read = prototype + STATE
        self.pyramid = sizes.pyramid(sizes.image)
        self.prototype = nn.Identity() if own else linear(features, prototype, math.sqrt(1 / features))
        self.shared, self.prior = SetReader(prototype, similarity), SetReader(prototype, similarity)
        self.ask_posterior = Question(prototype, strength)
        self.ask_likelihood = Question(latent, strength)
        self.ask_prior = Question(0, strength)
        self.posterior_head = sizes.head(2 * latent, beside=read)
        self.prior_head = nn.Sequential(
            normalised(linear(read, STATE, math.sqrt(2 / read))),
            prelu(STATE),
            linear(STATE, 2 * latent, math.sqrt(1 / STATE)),
        )
        family: Any = sizes  # a dataclass, which the protocol does not say
        if skips:
            self.decoder = family.decoder(pixel_mean, conditioned=True)
            self.vector = linear(read, latent, math.sqrt(1 / read))  # in the place of the vector of m
            self.skips = family.conditioner(sizes.image).skips
        else:
            self.decoder = replace(family, latent=latent + read).decoder(pixel_mean, conditioned=False)
            self.skips = None

    def encode_memory(self, memory: Float[Tensor, "M C H W"] | None) -> GMNEncoded:
        """Keys and prototypes of a memory, once for all targets; None is that of the pseudo-input alone."""
        if memory is None:  # as one of no object
            memory = next(self.parameters()).new_empty(0, *self.sizes.image)
        levels = self.pyramid(memory)
        features = levels[-1].flatten(1)
        prototypes = self.prototype(features)
        skips = [] if self.skips is None else [s(x) for s, x in zip(self.skips, reversed(levels), strict=True)]
        shared, prior = self.shared.contents(prototypes), self.prior.contents(prototypes)
        return GMNEncoded(memory, features, shared, prior, skips)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: GMNEncoded,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
        chunk: int | None = None,
        visible: Bool[Tensor, "B M"] | None = None,
    ) -> Terms:
        """The terms of K = `num_samples` draws z_k ~ q(z|x, X) for each target, of which at most `chunk` are decoded at
        a time. `visible` says which objects a target sees, if not all.
        """
        p_mean, p_log_std = self._gaussian(self.prior_head(self._read_prior(encoded, visible).content))
        features = self._features(x, encoded)
        read = self._read_posterior(features, encoded, visible)
        q_mean, q_log_std = self._gaussian(self.posterior_head(torch.cat((features, read.content), -1)))
        if noise is None:
            noise = torch.randn((num_samples, *q_mean.shape), generator=generator, device=x.device)
        z = q_mean + q_log_std.exp() * noise
        K, B = z.shape[:2]
        log_px = []
        for rows in torch.arange(K * B, device=z.device).split(K * B if chunk is None else chunk):
            seen = None if visible is None else visible[rows % B]
            logits = self.decode(z.flatten(0, 1)[rows], encoded, seen)
            log_px.append(log_bernoulli(x[rows % B], logits[None])[0])
        none = z.new_zeros(K, B)
        return Terms(
            log_px=torch.cat(log_px).view(K, B),
            log_rz=log_normal(z, p_mean.expand_as(z), p_log_std.expand_as(z))
            - log_normal_at(noise, q_log_std.expand_as(z)),
            log_pa=none,
            log_qa=none,
            kl_a=none[0],
        )

    def decode(
        self, z: Float[Tensor, "N Z"], encoded: GMNEncoded, visible: Bool[Tensor, "N M"] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """Logits of p(x|z, X)."""
        read = self._read_likelihood(z, encoded, visible)
        if self.skips is None:
            return self.decoder(torch.cat((z, read.content), -1))
        # the vector is a row's own: it comes with z, and what each object adds to it is empty
        dtype = encoded.skips[0].dtype
        condition = [encoded.skips[0].new_empty(len(encoded.features), 0), *encoded.skips]
        z = torch.cat((z, self.vector(read.content)), -1)
        return self.decoder(z, condition, read.weights[-1][:, 1:].to(dtype))

    def sample(self, encoded: GMNEncoded, n: int, *, generator: torch.Generator | None = None) -> Samples:
        """n draws from p(x|X): z ~ p(z|X), x ~ p(x|z, X)."""
        mean, log_std = self._gaussian(self.prior_head(self._read_prior(encoded, None).content))
        noise = torch.randn(n, mean.shape[1], generator=generator, device=mean.device, dtype=mean.dtype)
        return draw_images(self.decode(mean + log_std.exp() * noise, encoded), None, generator)

    @torch.no_grad()
    def attention(
        self, x: Float[Tensor, "B C H W"], encoded: GMNEncoded, *, visible: Bool[Tensor, "B M"] | None = None
    ) -> dict[str, float]:
        """The mean strength of attention and the entropy of its weights, in nats, over targets and hops: of q(z|x, X)
        `strength_q` and `entropy_q`, of p(x|z, X) at the mean of q `_x`, of p(z|X) `_z`.
        """
        features = self._features(x, encoded)
        q = self._read_posterior(features, encoded, visible)
        z, _ = self._gaussian(self.posterior_head(torch.cat((features, q.content), -1)))
        reads = {"q": q, "x": self._read_likelihood(z, encoded, visible), "z": self._read_prior(encoded, visible)}
        found = {}
        for name, read in reads.items():
            found[f"strength_{name}"] = torch.stack(read.strengths).mean().item()
            found[f"entropy_{name}"] = torch.special.entr(torch.stack(read.weights)).sum(-1).mean().item()
        return found

    def _features(self, x: Float[Tensor, "B C H W"], encoded: GMNEncoded) -> Float[Tensor, "B F"]:
        """The pyramid's last level; known already where the targets are the memory, as those of a sequence are."""
        return encoded.features if x is encoded.memory else self.pyramid(x)[-1].flatten(1)

    def _read_posterior(
        self, features: Float[Tensor, "B F"], encoded: GMNEncoded, visible: Bool[Tensor, "B M"] | None
    ) -> Read:
        return self.shared(self.ask_posterior, self.prototype(features), encoded.shared, self.hops, visible)

    def _read_likelihood(
        self, z: Float[Tensor, "N Z"], encoded: GMNEncoded, visible: Bool[Tensor, "N M"] | None
    ) -> Read:
        return self.shared(self.ask_likelihood, z, encoded.shared, self.hops, visible)

    def _read_prior(self, encoded: GMNEncoded, visible: Bool[Tensor, "B M"] | None) -> Read:
        """One row for all targets where they see the same."""
        nothing = encoded.prior.keys.new_empty(1 if visible is None else len(visible), 0)
        return self.prior(self.ask_prior, nothing, encoded.prior, self.prior_hops, visible)

    @staticmethod
    def _gaussian(parameters: Float[Tensor, "N two_Z"]) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N Z"]]:
        """Mean and log standard deviation, which is a softplus of what is within +-10."""
        mean, spread = at_least_float32(parameters).chunk(2, -1)
        return mean, F.softplus(spread.clamp(-10, 10)).log()
