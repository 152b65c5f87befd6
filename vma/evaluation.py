"""The one evaluator: bounds at any K in bounded memory, KLs, reconstruction and few-shot classification, target by
target.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vma.addressing import draw_addresses, kl_categorical
from vma.data.episodes import Episode
from vma.errors import InputError
from vma.objectives import NonFiniteBound, Terms, check_finite
from vma.protocol import AddressModel, EmbeddingModel, Model, check_model, has_address
from vma.statistics import clustered_stderr

METRICS = ("nll", "kl_a", "kl_z", "log_px")


@dataclass(frozen=True)
class Scores:
    """One value a target, in nats per image; `clusters` are what targets of one cluster share (their class, or their
    image).
    """

    nll: np.ndarray  # the negative bound (eq. 7) with K samples
    kl_a: np.ndarray  # KL(q(a|x) || p(a)), the exact sum over memory
    kl_z: np.ndarray  # E_q KL(q(z|a,x) || p(z|a)), by the K samples
    log_px: np.ndarray  # E_q log p(x|z, m_a), by the K samples
    x_index: np.ndarray
    x_class: np.ndarray
    duplicated: np.ndarray  # whether the very target was in memory

    def __len__(self) -> int:
        return len(self.nll)

    def where(self, mask: np.ndarray) -> "Scores":
        """The scores of the targets that a boolean mask selects."""
        return Scores(*(getattr(self, field.name)[mask] for field in fields(self)))

    def summary(self, metric: str, by_class: bool) -> tuple[float, float]:
        """Mean and standard error, clustered by class or by image (targets that repeat are no new evidence)."""
        values = getattr(self, metric)
        return float(values.mean()), clustered_stderr(values, self.x_class if by_class else self.x_index)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each part of the model has the mode that it had before."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def evaluate(
    model: Model,
    episodes: Callable[[int], Episode],
    steps: Iterable[int],
    num_samples: int,
    *,
    seed: int = 0,
    chunk: int = 256,
    dtype: torch.dtype = torch.float32,
    encode: Callable[[Episode], Any] | None = None,
) -> Scores:
    """The bound with K = `num_samples` and its parts for every target of the episodes `steps`.

    The model is in evaluation mode meanwhile, and in its own one afterwards. Memory is encoded once an episode, and
    what depends on an entry or on a target and an entry alone is computed once for all K samples; at most `chunk`
    images go through a network at a time. The random draws of an episode depend on `seed` and its step alone, not on
    which other episodes are evaluated.

    Args:
        encode: gives what the model keeps of an episode's memory where that is known already; by default its
            `encode_memory` does.

    Raises:
        InputError: for a model that lacks a part of `vma.protocol.Model`.
        NonFiniteBound: naming the episode, if a bound is not finite.
    """
    check_model(model)
    if encode is None:

        def encode(episode: Episode) -> Any:
            return model.encode_memory(episode.memory)

    parts: list[Scores] = []
    with evaluating(model):
        for step in steps:
            parts += _episode_scores(model, episodes(step), encode, num_samples, seed, step, chunk, dtype)
    return join(parts)


def _episode_scores(
    model: Model,
    episode: Episode,
    encode: Callable[[Episode], Any],
    num_samples: int,
    seed: int,
    step: int,
    chunk: int,
    dtype: torch.dtype,
) -> Iterator[Scores]:
    device = episode.x.device
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        encoded = encode(episode)
        for rows in torch.arange(len(episode.x), device=device).split(max(1, chunk // num_samples)):
            terms = model(episode.x[rows], encoded, num_samples, generator=generator, chunk=chunk, **episode.seen(rows))
            yield _scores(terms, episode, rows, f"evaluation episode {step}, seed {seed}")


def evaluate_memories(
    model: Model,
    episodes: Sequence[Callable[[int], Episode]],
    steps: Iterable[int],
    num_samples: int,
    *,
    seed: int = 0,
    chunk: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Iterator[list[Scores]]:
    """For each step the scores of one target under several memories, by a model with an address.

    All `episodes` are of one set of images, have the same single target at a step and differ in memory. Given (x, m_a)
    the draws of z do not depend on the rest of memory, so the j-th draw at an entry is decoded once and serves every
    memory whose addresses ask for a j-th draw there. Within one memory the K samples are independent draws from
    q(a, z|x), as in `evaluate`; across memories they are shared, which makes the comparison paired. Under many nested
    memories this decodes several times fewer samples. An image is embedded once, however many memories of however many
    steps it is in.

    Raises:
        InputError: for a model without an address, or one that does not embed entries one by one.
        ValueError: if the targets of a step differ, or are not one.
        NonFiniteBound: naming the episode, if a bound is not finite.
    """
    if not isinstance(model, EmbeddingModel):
        raise InputError(f"{type(model).__name__} does not embed entries one by one: use evaluate")
    embeddings = _Embeddings(model, chunk)
    for step in steps:
        cells = [draw(step) for draw in episodes]
        x, x_index = cells[0].x, cells[0].x_index
        if len(x) != 1 or any(cell.memory is None or not torch.equal(cell.x_index, x_index) for cell in cells):
            raise ValueError(f"step {step}: evaluate_memories needs the same single target under every memory")
        generator = torch.Generator(x.device).manual_seed(seed * 1_000_003 + step)
        # step by step: between two steps the model is the caller's
        with evaluating(model), torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            where = f"evaluation episode {step}, seed {seed}"
            scores = _memories_scores(model, embeddings, cells, num_samples, generator, chunk, where)
        yield scores


class _Embeddings:
    """The embeddings of memory images by their index, each computed when it is first asked for."""

    def __init__(self, model: EmbeddingModel, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        device = next(model.parameters()).device
        self.index = torch.empty(0, dtype=torch.int64, device=device)  # in the order in which they were asked for
        self.e_a: list[Tensor] = []

    def __call__(self, index: Int[Tensor, " M"], images: Float[Tensor, "M C H W"]) -> Float[Tensor, "M E"]:
        """The embeddings of distinct images."""
        new = ~torch.isin(index, self.index)
        if new.any():
            self.index = torch.cat((self.index, index[new]))
            self.e_a += [self.model.embed(part) for part in images[new].split(self.chunk)]
        order = self.index.argsort()
        return torch.cat(self.e_a)[order[torch.searchsorted(self.index, index, sorter=order)]]


def _memories_scores(
    model: EmbeddingModel,
    embeddings: _Embeddings,
    cells: list[Episode],
    num_samples: int,
    generator: torch.Generator,
    chunk: int,
    where: str,
) -> list[Scores]:
    x = cells[0].x
    indices = [cell.memory_index for cell in cells if cell.memory_index is not None]
    memories = [cell.memory for cell in cells if cell.memory is not None]
    union, place = torch.cat(indices).unique(return_inverse=True)
    slots = place.split([len(i) for i in indices])  # of each memory, as entries of the union
    everything = torch.empty(len(union), *x.shape[1:], device=x.device)
    everything[place] = torch.cat(memories)

    encoded = model.encode_memory(everything, embeddings(union, everything))
    log_q_union, log_p_union = model.address(x, encoded)

    # a softmax over a part of the entries is the renormalised softmax over all
    log_q = [log_q_union[0, slot].log_softmax(-1) for slot in slots]
    log_p = [log_p_union[slot].log_softmax(-1) for slot in slots]
    addresses = [draw_addresses(q[None], num_samples, generator)[:, 0] for q in log_q]
    entries = [slot[a] for slot, a in zip(slots, addresses, strict=True)]
    draws = [_occurrence(e) for e in entries]
    counts = torch.stack([torch.bincount(e, minlength=len(union)) for e in entries]).amax(0)
    first = counts.cumsum(0) - counts
    needed = torch.arange(len(union), device=x.device).repeat_interleave(counts)
    terms = model(x, encoded, len(needed), generator=generator, addresses=needed[:, None], chunk=chunk)

    scores = []
    for cell, q, p, a, entry, draw in zip(cells, log_q, log_p, addresses, entries, draws, strict=True):
        k = first[entry] + draw
        part = Terms(
            log_px=terms.log_px[k],
            log_rz=terms.log_rz[k],
            log_pa=p[a][:, None],
            log_qa=q[a][:, None],
            kl_a=kl_categorical(q[None], p),
        )
        scores.append(_scores(part, cell, slice(None), where))
    return scores


def _occurrence(values: Tensor) -> Tensor:
    """For each element how many equal ones stand before it."""
    order = values.argsort(stable=True)
    ordered = values[order]
    start = torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(values), device=values.device) - start
    return rank


def _scores(terms: Terms, episode: Episode, rows: Any, where: str) -> Scores:
    """The scores of the episode's targets `rows`, whose terms with all their samples these are.

    Raises:
        NonFiniteBound: naming `where`, if a bound or a part of it is not finite: of a sample that has no weight in the
            bound, its other parts may be.
    """
    check_finite(terms, where)
    scores = Scores(
        nll=(math.log(len(terms.log_px)) - terms.log_w.double().logsumexp(0)).cpu().numpy(),
        kl_a=terms.kl_a.double().cpu().numpy(),
        kl_z=terms.kl_z.double().cpu().numpy(),
        log_px=terms.log_px.mean(0).double().cpu().numpy(),
        x_index=episode.x_index[rows].cpu().numpy(),
        x_class=episode.x_class[rows].cpu().numpy(),
        duplicated=episode.duplicated[rows].cpu().numpy(),
    )
    broken = [metric for metric in METRICS if not np.isfinite(getattr(scores, metric)).all()]
    if broken:
        raise NonFiniteBound(f"{', '.join(broken)} of the bound is not finite at {where}")
    return scores


def join(parts: Sequence[Scores]) -> Scores:
    """The scores of all targets together."""
    return Scores(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Scores)))


@dataclass(frozen=True)
class Classification:
    """log p(c|x) of B targets over the C classes in memory, in ascending order of their index, by both rules of section
    4.2.
    """

    classes: Tensor  # (C,)
    feed_forward: Float[Tensor, "B C"]  # sum over a in c of q(a|x)
    # sum over a in c of p(a) E_q[p(x|z, m_a) p(z|m_a) / q(z|m_a, x)], normalised over c; None without samples
    likelihood: Float[Tensor, "B C"] | None

    def correct(self, log_p: Float[Tensor, "B C"], x_class: Tensor) -> Tensor:
        """(B,) bool: whether the likeliest class is the target's."""
        return self.classes[log_p.argmax(1)] == x_class


def classify(
    model: Model,
    episode: Episode,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
    chunk: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Classification:
    """Few-shot classification of the episode's targets by a model with an address, with `num_samples` draws of z for
    each entry; with 0 by q(a|x) alone.

    At most `chunk` samples are decoded at a time. The paper prints the second rule without the division by
    q(z|m_a, x), which importance sampling needs.

    Raises:
        InputError: for a model without an address.
        ValueError: if the episode has no memory.
        NonFiniteBound: if a probability is not finite.
    """
    if not has_address(model):
        raise InputError(f"{type(model).__name__} has no address to tell classes by: give a model that has")
    memory_class = episode.memory_class
    if memory_class is None:
        raise ValueError("classification needs a memory with classes")
    classes = memory_class.unique()
    member = memory_class == classes[:, None]  # [C, M]

    def by_class(log_weights: Tensor) -> Tensor:
        log_p = log_weights[:, None].masked_fill(~member, -torch.inf).logsumexp(-1).log_softmax(-1)
        if not log_p.isfinite().all():
            raise NonFiniteBound("log p(c|x) of a classification is not finite")
        return log_p

    log_q, log_weights = _by_address(model, episode, num_samples, generator, chunk, dtype)
    return Classification(classes, by_class(log_q), None if log_weights is None else by_class(log_weights))


def _by_address(
    model: AddressModel,
    episode: Episode,
    num_samples: int,
    generator: torch.Generator | None,
    chunk: int,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"] | None]:
    """log q(a|x), and log p(a) p(x|m_a) by `num_samples` draws of z for each entry; None without samples."""
    with evaluating(model), torch.autocast(episode.x.device.type, dtype, enabled=dtype != torch.float32):
        encoded = model.encode_memory(episode.memory)
        log_q, log_p = model.address(episode.x, encoded)
        if num_samples == 0:
            return log_q, None
        everywhere = torch.arange(len(log_p), device=log_p.device).repeat_interleave(num_samples)[:, None]
        log_weights = []
        for x in episode.x.split(chunk):
            addresses = everywhere.expand(-1, len(x))
            terms = model(x, encoded, len(everywhere), generator=generator, addresses=addresses, chunk=chunk)
            log_w_given_a = (terms.log_px + terms.log_rz).unflatten(0, (-1, num_samples))
            log_weights.append(log_p + log_w_given_a.logsumexp(1).mT - math.log(num_samples))
    return log_q, torch.cat(log_weights)


def address_divergences(
    model: AddressModel,
    episode: Episode,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
    chunk: int = 256,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """KL(p(a|x) || q(a|x)) and KL(q(a|x) || p(a|x)) of each target in nats, over all entries, by a model with an
    address. p(a|x) is that of `num_samples` draws of z for each entry: their noise makes it sharper than it is.

    Raises:
        ValueError: if the episode has no memory, or without samples.
        NonFiniteBound: if a divergence is not finite.
    """
    if episode.memory is None:
        raise ValueError("divergences of addresses need a memory")
    log_q, log_weights = _by_address(model, episode, num_samples, generator, chunk, dtype)
    if log_weights is None:
        raise ValueError(f"num_samples is {num_samples}, must be 1 or more")
    log_q, log_p = log_q.double(), log_weights.double().log_softmax(-1)
    inclusive, exclusive = ((a.exp() * (a - b)).sum(-1) for a, b in ((log_p, log_q), (log_q, log_p)))
    if not (inclusive.isfinite() & exclusive.isfinite()).all():
        raise NonFiniteBound("a divergence between p(a|x) and q(a|x) is not finite")
    return inclusive, exclusive


def own_entry_probability(model: Model, episode: Episode, dtype: torch.dtype = torch.float32) -> Float[Tensor, " B"]:
    """q(a|x) of the entries that are the very target, summed, by a model with an address: 1 where it recalls (section
    4.1).

    Raises:
        InputError: for a model without an address.
        ValueError: if the episode has no memory.
        NonFiniteBound: if a probability is not finite.
    """
    if not has_address(model):
        raise InputError(f"{type(model).__name__} has no address to recall by: give a model that has")
    if episode.memory_index is None:
        raise ValueError("recall needs a memory")
    with evaluating(model), torch.autocast(episode.x.device.type, dtype, enabled=dtype != torch.float32):
        encoded = model.encode_memory(episode.memory)
        log_q, _ = model.address(episode.x, encoded)
    if not log_q.isfinite().all():
        raise NonFiniteBound("log q(a|x) is not finite")
    return log_q.exp().masked_fill(episode.x_index[:, None] != episode.memory_index, 0).sum(1)
