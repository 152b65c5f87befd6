"""The addressing module: similarities (eqs. 5, 6), the address posterior q(a|x) (eq. 4) and the address prior p(a)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vma.errors import InputError
from vma.networks import Sizes, at_least_float32


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without mixed precision: a similarity rounded to bfloat16 is off by some hundredths of a nat."""
    return torch.autocast(tensor.device.type, enabled=False)


# Floor on ||e_a||. A blank image embeds to zero while biases are zero, where the gradient 1 / ||e_a|| has no bound: one
# such image in memory would swamp all others, in Adam's moments for long.
MIN_NORM = 1e-3


def _normalised(e: Float[Tensor, "N E"]) -> Float[Tensor, "N E"]:
    return nn.functional.normalize(e, dim=-1, eps=MIN_NORM)


def similarity(e_a: Float[Tensor, "M E"], e_q: Float[Tensor, "B E"]) -> Float[Tensor, "B M"]:
    """S(m_a, x) = <e_a, e^q> / ||e_a||: only the memory's embedding is normalised (eq. 5)."""
    with full_precision(e_a):
        return e_q @ _normalised(e_a).mT  # eq. 5


def inner_product(e_a: Float[Tensor, "M E"], e_q: Float[Tensor, "B E"]) -> Float[Tensor, "B M"]:
    """<e_a, e^q>, the first alternative of section 2."""
    with full_precision(e_a):
        return e_q @ e_a.mT


def cosine(e_a: Float[Tensor, "M E"], e_q: Float[Tensor, "B E"]) -> Float[Tensor, "B M"]:
    """<e_a, e^q> / (||e_a|| ||e^q||), the second alternative of section 2."""
    return similarity(e_a, _normalised(e_q))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "paper": similarity,
    "inner": inner_product,
    "cosine": cosine,
}


@dataclass(frozen=True)
class Keys:
    """What addressing keeps of a memory of M entries, reused by every target and sample."""

    e_a: Float[Tensor, "M E"]  # embeddings h(m_a), eq. 6
    log_p: Float[Tensor, " M"]  # log p(a)


class Addressing(nn.Module):
    """Distributions over the addresses of a memory that is an argument, of any size M >= 1.

    Args:
        sizes: the network family; two encoders of it embed memory entries (h) and queries (h^q), untied (eq. 6).
        memory_shape: shape of one memory entry.
        similarity: "paper" (eq. 5), "inner" or "cosine".
        prior: "learned" (a query point e^p that shares h with q(a|x)) or "flat", p(a) = 1/M.
        tied: h and h^q are heads alone, on the pyramid of the model that this module is a part of: where methods take
            memory entries or images they then take the flattened last level of that pyramid for them.
    """

    def __init__(
        self,
        sizes: Sizes,
        memory_shape: tuple[int, ...],
        similarity: str = "paper",
        prior: str = "learned",
        tied: bool = False,
    ) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise InputError(f"similarity is {similarity!r}, must be one of {', '.join(SIMILARITIES)}")
        if prior not in ("learned", "flat"):
            raise InputError(f"prior is {prior!r}, must be 'learned' or 'flat'")
        self.similarity = SIMILARITIES[similarity]
        if tied:
            self.embed_memory, self.embed_query = sizes.head(sizes.embedding), sizes.head(sizes.embedding)
        else:
            self.embed_memory = sizes.encoder(memory_shape, sizes.embedding)
            self.embed_query = sizes.encoder(sizes.image, sizes.embedding)
        # near zero, where p(a) is flat; not zero, where the cosine has no gradient
        self.prior_query = nn.Parameter(0.01 * torch.randn(1, sizes.embedding)) if prior == "learned" else None

    def embed(self, memory: Float[Tensor, "M *entry"]) -> Float[Tensor, "M E"]:
        """e_a = h(m_a) of each entry (eq. 6), which does not depend on the others."""
        return at_least_float32(self.embed_memory(memory))  # eq. 6

    def keys(self, e_a: Float[Tensor, "M E"]) -> Keys:
        """The keys of a memory whose entries have these embeddings."""
        if self.prior_query is None:
            return Keys(e_a, e_a.new_full((len(e_a),), -math.log(len(e_a))))
        return Keys(e_a, self.similarity(e_a, self.prior_query)[0].log_softmax(-1))

    def log_posterior(self, x: Float[Tensor, "B *query"], keys: Keys) -> Float[Tensor, "B M"]:
        """log q(a|x) for every address (eq. 4)."""
        return self.log_posterior_of(self.queries(x), keys)

    def log_posterior_of(self, e_q: Float[Tensor, "B E"], keys: Keys) -> Float[Tensor, "B M"]:
        """log q(a|x) for every address, of targets with these queries (eq. 4)."""
        return self.similarity(keys.e_a, e_q).log_softmax(-1)  # eq. 4

    def queries(self, x: Float[Tensor, "B *query"]) -> Float[Tensor, "B E"]:
        """e^q = h^q(x) of each target (eq. 6)."""
        return at_least_float32(self.embed_query(x))  # eq. 6


def kl_categorical(log_q: Float[Tensor, "B M"], log_p: Float[Tensor, " M"]) -> Float[Tensor, " B"]:
    """KL(q || p) by the exact sum over M addresses, in nats."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def draw_addresses(
    log_q: Float[Tensor, "B M"], num_samples: int, generator: torch.Generator | None
) -> Int[Tensor, "K B"]:
    """a_k ~ q(a|x), K independent draws for each target; any addresses where q is not finite."""
    q = log_q.detach().exp()
    if not q.is_cuda:
        # torch would raise an error of its own; the bound, which breaks with q, says when and where
        q = torch.where(q.isfinite(), q, 1.0)
        return torch.multinomial(q, num_samples, replacement=True, generator=generator).mT
    # by the inverse of the distribution function, whose kernels can all be part of a CUDA graph
    cumulative = q.cumsum(-1)
    u = torch.rand(len(q), num_samples, generator=generator, device=q.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True).clamp_(max=q.shape[1] - 1).mT


# log q(a|x) (B, M), K and a generator to addresses (K, B) and the log of their weights omega_k (K, B), which make
# sum_k omega_k f(a_k) an estimate of sum_a q(a|x) f(a) without bias; None in their place stands for 1/K each.
Draw = Callable[[Tensor, int, torch.Generator | None], tuple[Tensor, Tensor | None]]


def draw_independent(
    log_q: Float[Tensor, "B M"], num_samples: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "K B"], None]:
    """`draw_addresses` as a `Draw`: the paper's, and that of every evaluation."""
    return draw_addresses(log_q, num_samples, generator), None
