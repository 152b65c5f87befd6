"""Addressing whose gradient reaches a sample of the entries: every value is exact, the gradient unbiased."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vma.addressing import Draw, draw_independent
from vma.errors import InputError
from vma.model import Encoded, VariationalMemoryAddressing
from vma.networks import Sizes
from vma.networks.kernels import distinct
from vma.objectives import Terms

CHUNK = 256  # entries that go through a network at a time without gradient


class SampledGradientAddressing(VariationalMemoryAddressing):
    """`VariationalMemoryAddressing` whose update embeds with gradient the entries that were drawn and a sample of the
    others, all entries without gradient and in bounded memory; weights can be loaded from one into the other.

    With s_bj = S(m_j, x_b), the gradient of log q(a|x_b) = s_ba - log sum_j exp s_bj through the embeddings of entries
    is that of s_ba - sum_j q_bj s_bj with q held fixed. The keys of all entries give every value, and the gradients
    through e^q and e^p. The sum's gradient through the embeddings is exact for the entries that were drawn, which are
    embedded for their own similarities anyway, and estimated by n draws for the others; that of log p(a) is alike.
    Given the addresses it is unbiased, and so is VIMCO's. KL(q(a|x) || p(a)), which is reported alone, has no gradient
    through the embeddings.

    Without gradient it is the base class, and so it is for memories of at most n entries.

    Args:
        sizes: the network family.
        gradient_entries: n.
        options: those of the base class.

    Raises:
        InputError: for fewer than one entry; for tied networks, whose pyramid runs for all entries anyway; for a
            learned memory, which is a parameter. As the base class.
    """

    def __init__(self, sizes: Sizes, *, gradient_entries: int, **options: Any) -> None:
        check_gradient_entries(gradient_entries)
        super().__init__(sizes, **options)
        if self.tied or self.memory is not None:
            what = "tied networks" if self.tied else "a learned memory"
            raise InputError(f"gradient_entries is given for {what}: leave it out")
        self.gradient_entries = gradient_entries

    def encode_memory(
        self, memory: Float[Tensor, "M *entry"] | None, e_a: Float[Tensor, "M E"] | None = None
    ) -> Encoded:
        if torch.is_grad_enabled() and memory is not None and e_a is None and len(memory) > self.gradient_entries:
            with without_gradient(memory.device):
                e_a = torch.cat([self.embed(part) for part in memory.split(CHUNK)])
        return super().encode_memory(memory, e_a)

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
        if encoded.keys.e_a.requires_grad or not torch.is_grad_enabled():
            return super().forward(
                x, encoded, num_samples, generator=generator, addresses=addresses, noise=noise, chunk=chunk, draw=draw
            )
        similarity, e_q, log_p = self.addressing.similarity, self.addressing.queries(x), encoded.keys.log_p
        log_q = self.addressing.log_posterior_of(e_q, encoded.keys)
        a, log_omega = draw(log_q, num_samples, generator) if addresses is None else (addresses, None)
        terms = self._terms(x, encoded, log_q, log_p, a, generator, noise, chunk)
        terms = self._completed(terms, e_q, log_omega)

        q, p = log_q.detach().exp(), log_p.detach().exp()
        entries, weight, place = sample_entries(self.proposal(q, p), self.gradient_entries, a.flatten(), generator)
        e_a = self.addressing.embed(encoded.memory[entries])
        place = place.view_as(a)
        log_qa = _through_entries(similarity(e_a, e_q.detach()), q[:, entries] * weight)
        terms = replace(terms, log_qa=terms.log_qa + log_qa.gather(1, place.mT).mT)
        if self.addressing.prior_query is not None:
            e_p = self.addressing.prior_query.detach()
            log_pa = _through_entries(similarity(e_a, e_p), (p[entries] * weight)[None])
            terms = replace(terms, log_pa=terms.log_pa + log_pa[0, place])
        return terms

    @staticmethod
    def proposal(q: Float[Tensor, "B M"], p: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """What entries are drawn in proportion to: the sum of the parts that they have in the gradients of log q(a|x)
        and log p(a), which have about the same weight in the bound's.
        """
        return q.mean(0) + p


def _through_entries(s: Float[Tensor, "#B m"], mass: Float[Tensor, "#B m"]) -> Float[Tensor, "#B m"]:
    """Zeros with the gradient of s - sum_j mass_j s_j."""
    t = s - (mass * s).sum(-1, keepdim=True)
    return t - t.detach()


def sample_entries(
    proposal: Float[Tensor, " M"], n: int, always: Int[Tensor, " A"], generator: torch.Generator | None
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"], Int[Tensor, " A"]]:
    """The entries `always` and n draws from the others in proportion to `proposal`: their indices, their weights, and
    the place of each of `always` among them.

    The sum over them of weight times f has the expectation sum_j f_j over all M, whatever f, as long as f is zero where
    the proposal is. One draw falls into each n-th of the distribution, which has no more variance than independent
    draws. Nothing here asks a CUDA device for a value.
    """
    known = torch.zeros_like(proposal).index_fill_(0, always, 1)
    others = (proposal * (1 - known)).double()
    cumulative = others.cumsum(0)
    u = torch.rand(n, generator=generator, device=others.device, dtype=others.dtype)
    u = (torch.arange(n, device=others.device) + u) / n * cumulative[-1]
    drawn = torch.searchsorted(cumulative, u, right=True).clamp_(max=len(others) - 1)
    # where nothing is left to draw from, or by rounding, a draw may fall on an entry of no probability: it counts none
    expected = n * others[drawn] / cumulative[-1]
    counts = torch.where(others[drawn] > 0, 1 / expected, 0).to(proposal.dtype)
    weight = known.index_add(0, drawn, counts)

    entries, place = distinct(torch.cat((always, drawn)), len(proposal))
    copies = torch.zeros_like(weight).index_add_(0, entries, weight.new_ones(()).expand(len(entries)))
    return entries, weight[entries] / copies[entries], place[: len(always)]


@contextmanager
def without_gradient(device: torch.device) -> Iterator[None]:
    """No gradient, and no cache of the weights that mixed precision has cast: cast here, they would be taken for those
    that have one later on.
    """
    kind = device.type
    mixed = torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )
    with torch.no_grad(), mixed:
        yield


def check_gradient_entries(n: int) -> None:
    """Refuse a sample without entries.

    Raises:
        InputError: unless n is 1 or more.
    """
    if n < 1:
        raise InputError(f"gradient_entries is {n}, must be 1 or more")
