"""Estimators of the gradient for q(a|x): VIMCO (eq. 8) and its rivals, each a surrogate to maximise.

A surrogate has the value of its bound up to terms that matter to the gradient alone. All but `vimco` and `pathwise` are

    bound(log w, log q(a_k|x) held fixed in it) + sum_k c_k log q(a_k|x),    c_k held fixed,

where the bound trains p and, by its samples of z, q(z|m, x), and the sum trains q(a|x) alone. They differ in c_k, and
in how the addresses are drawn (`Draw`): the weights omega_k of a draw are part of `Terms`. Three targets are not to be
mixed up:

A. the gradient of the K-sample bound (VIMCO, OVIS with gamma 0, NVIL);
B. that of the bound with one sample, -KL(q(a, z|x) || p(a, z|x)) + log p(x), mode-seeking (`rloo`, `score_of_set`,
   `score_of_all`);
C. that of -KL(p(a|x) || q(a|x)), mass-covering (`wake`).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vma.networks import at_least_float32
from vma.objectives import Terms, iwae

MOST_IN_SET = 10  # members of an unordered set, which has 2^K subsets

# --- from independent draws


def leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} = log 1/(K-1) sum_{k' != k} w_k' (eq. 8), by a masked logsumexp.

    Subtracting w_k from the sum instead would cancel: it is infinite in float32 once one weight leads by 15 nats.

    Raises:
        ValueError: with fewer than two samples.
    """
    rows, own = _rows(log_w)
    return rows.masked_fill(own, -math.inf).logsumexp(1) - math.log(len(log_w) - 1)


def geometric_leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """L_{-k} with the geometric mean of the other weights in the place of w_k: log 1/K (sum_{k' != k} w_k' + exp(mean
    over k' != k of log w_k')), as VIMCO had it first (Mnih and Rezende, ICML 2016).

    Raises:
        ValueError: with fewer than two samples.
    """
    rows, own = _rows(log_w)
    mean = rows.masked_fill(own, 0).sum(1) / (len(log_w) - 1)
    return torch.where(own, mean[:, None], rows).logsumexp(1) - math.log(len(log_w))


def _rows(log_w: Float[Tensor, "K B"]) -> tuple[Float[Tensor, "K K B"], Bool[Tensor, "K K 1"]]:
    """All weights once for each k, [k, k', B], and where k' = k.

    Raises:
        ValueError: with fewer than two samples.
    """
    K = len(log_w)
    if K < 2:
        raise ValueError(
            f"VIMCO needs at least 2 samples per target, got {K}: raise num_samples or use the iwae objective"
        )
    return log_w.expand(K, *log_w.shape), torch.eye(K, dtype=torch.bool, device=log_w.device)[:, :, None]


def vimco(terms: Terms, baseline: Callable[[Tensor], Tensor] = leave_one_out) -> Float[Tensor, " B"]:
    """A surrogate with the value of `iwae` shifted by a constant, whose gradient is the VIMCO estimate (eq. 8).

    The score term is sum_k (L - L_{-k} - wbar_k) grad log q(a_k | x). The part - wbar_k grad log q(a_k | x) comes by
    itself from log q(a_k | x) inside log w_k, so only the detached learning signal L - L_{-k} is added here.

    Args:
        baseline: L_{-k} of the log weights (K, B): `leave_one_out`, the paper's, or `geometric_leave_one_out`. The
            gradient is unbiased with each, since neither depends on a_k.

    Raises:
        ValueError: with fewer than two samples, for which the leave-one-out bound L_{-k} is undefined; for draws that
            are not independent.
    """
    _check_independent(terms)
    bound = iwae(terms)
    signal = (bound - baseline(terms.log_w)).detach()
    return bound + (signal * terms.log_qa).sum(0)  # eq. 8


def ovis(terms: Terms, gamma: float) -> Float[Tensor, " B"]:
    """OVIS~ (Lievin et al., NeurIPS 2020, eq. 17): c_k = -log(1 - wbar_k) - wbar_k + gamma (wbar_k + log(1 - 1/K)).

    With gamma 0 it is VIMCO less the constant log(1 - 1/K) in every c_k, unbiased for A; with gamma 1 it is VIMCO plus
    `wake`, to the digit.

    Raises:
        ValueError: as `vimco`.
    """
    _check_independent(terms)
    bound, log_w = _bound(terms)
    shift, wbar = math.log1p(-1 / len(log_w)) if len(log_w) > 1 else 0.0, log_w.softmax(0)
    # -log(1 - wbar_k) by the others' sum: from the difference only 16 nats would be left in float32
    surprise = iwae(terms).detach() - leave_one_out(log_w) - shift
    return _surrogate(terms, bound, surprise - wbar + gamma * (wbar + shift))


def rloo(terms: Terms) -> Float[Tensor, " B"]:
    """REINFORCE with the others' mean as baseline, c_k = (log w_k - mean_{j != k} log w_j) / K: unbiased for B.

    Raises:
        ValueError: as `vimco`.
    """
    _check_independent(terms)
    bound, log_w = _bound(terms)
    if len(log_w) < 2:
        raise ValueError(f"RLOO needs at least 2 samples per target, got {len(log_w)}: raise num_samples")
    return _surrogate(terms, bound, (log_w - log_w.mean(0)) / (len(log_w) - 1))


class NVIL(nn.Module):
    """Neural variational inference and learning (Mnih and Gregor, ICML 2014): c_k = L - mean - b(x) - wbar_k, with a
    running mean of L over minibatches and a network b that is fitted to what is left of it; unbiased for A, whatever b.

    With one sample c = log w - mean - b(x). All samples of a target share one signal: it cannot tell them apart.

    As a module it is part of the model (its attribute `baseline`), whose forward puts b(x) into `Terms.baseline`: so
    an optimiser of the model trains b, and a checkpoint of the model keeps b and the mean.

    Args:
        embedding: |e|, the size of e^q.
        hidden: units of the one hidden layer.
        momentum: of the running mean.
    """

    mean: Tensor
    started: Tensor

    def __init__(self, embedding: int, hidden: int = 100, momentum: float = 0.9) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))

    def forward(self, e_q: Float[Tensor, "B E"]) -> Float[Tensor, " B"]:
        """b of each target; no gradient reaches e^q."""
        return at_least_float32(self.net(e_q.detach()))[:, 0]

    def surrogate(self, terms: Terms) -> Float[Tensor, " B"]:
        """The surrogate for q(a|x) and everything else, less half the squared error of b. It updates the running mean,
        after it is used: a mean that knows the sample would bias the gradient. The very first minibatch, which has no
        mean before it, takes its own.

        Raises:
            ValueError: for terms without `baseline`, or draws that are not independent.
        """
        _check_independent(terms)
        if terms.baseline is None:
            raise ValueError("the terms have no baseline: give the model this module as its `baseline`")
        bound, log_w = _bound(terms)
        L = bound.detach()
        mean = torch.where(self.started > 0, self.mean, L.mean())
        centred = L - mean
        c = (centred - terms.baseline.detach()).expand_as(log_w)
        if len(log_w) > 1:
            c = c - log_w.softmax(0)
        with torch.no_grad():
            self.mean.copy_(self.momentum * mean + (1 - self.momentum) * L.mean())
            self.started.fill_(1.0)
        return _surrogate(terms, bound, c) - 0.5 * (centred - terms.baseline) ** 2


# --- from draws of any kind


def wake(terms: Terms, centred: bool = True) -> Float[Tensor, " B"]:
    """Wake-phi of reweighted wake-sleep (Bornschein and Bengio, ICLR 2015) for the address: c_k = wbar_k - omega_k,
    with wbar_k the weights omega_k w_k normalised over k; for C, with a bias of order 1/K.

    z stays reparameterised. In the logits of q(a|x) it is cross entropy to a soft label, of length sqrt 2 at most.

    Args:
        centred: whether omega_k is subtracted, which changes no expectation and takes most of the noise away.

    Raises:
        ValueError: with one sample, whose label is itself.
    """
    bound, log_w = _bound(terms)
    if len(log_w) < 2:
        raise ValueError(f"wake-phi needs at least 2 samples per target, got {len(log_w)}: raise num_samples")
    return _surrogate(terms, bound, log_w.softmax(0) - _omega(terms) * centred)


# --- without replacement: an unordered set of K addresses


def draw_set(
    log_q: Float[Tensor, "B M"], num_samples: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "K B"], Float[Tensor, "K B"]]:
    """K different addresses, drawn one after the other without replacement (the largest of log q + Gumbel noise), and
    log omega_k of the set, whatever its order (Kool et al., ICLR 2020).

    Raises:
        ValueError: for more addresses than there are, or than `MOST_IN_SET`.
    """
    M = log_q.shape[1]
    if not 1 <= num_samples <= min(M, MOST_IN_SET):
        raise ValueError(f"a set of {num_samples} addresses of {M}: it can have 1 to {min(M, MOST_IN_SET)}")
    log_q = log_q.detach()
    waiting = torch.empty_like(log_q).exponential_(generator=generator)
    a = (log_q - waiting.log()).topk(num_samples, 1).indices
    rest = log_q.double().scatter(1, a, -math.inf).logsumexp(1).exp()
    omega, _ = set_weights(log_q.gather(1, a).mT, rest)
    return a.mT, omega.log().to(log_q.dtype)


def set_weights(
    log_qa: Float[Tensor, "K B"], rest: Float[Tensor, " B"] | None = None
) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K K B"]]:
    """omega_s = q_s P(S without s | s drawn first) / P(S) of the members of each set, and the weights of the baseline
    b_s = sum_j beta_sj f(a_j), in which f(a_s) counts no more than it has to (Kool et al., ICLR 2020). Both in float64,
    each sums to 1.

    P is the probability of a set under draws without replacement, in any order. In it each member's q is a factor of
    every order, and cancels: what is left is A(T), the sum over the orders of T of the product of 1 / (the probability
    that was not drawn before), for all that is not in T being drawn. Then omega_s = A(S - s) / A(S), and
    beta_sj = A(S - s - j) / A(S - s).

    Args:
        rest: the probability outside of each set; by default 1 less that of its members, which loses what is below
            float32's resolution.
    """
    K = len(log_qa)
    q = log_qa.detach().double().exp()
    rest = (1 - q.sum(0)).clamp(min=0) if rest is None else rest
    A: dict[tuple[int, ...], Any] = {(): torch.ones_like(rest)}
    for size in range(1, K + 1):
        for T in combinations(range(K), size):
            orders = sum(A[_without(T, t)] for t in T)
            A[T] = orders / (rest + sum(q[t] for t in T))
    S = tuple(range(K))
    omega = torch.stack([A[_without(S, s)] for s in S]) / A[S]
    beta = [[q[s] if j == s else A[_without(S, s, j)] / A[_without(S, s)] for j in S] for s in S]
    return omega, torch.stack([torch.stack(row) for row in beta])


def _without(members: tuple[int, ...], *left_out: int) -> tuple[int, ...]:
    return tuple(member for member in members if member not in left_out)


def score_of_set(terms: Terms) -> Float[Tensor, " B"]:
    """The unordered set estimator with its built-in baseline, c_k = omega_k (log w_k - b_k): unbiased for B, of a set
    that `draw_set` drew. With all of memory it is `score_of_all`.

    Raises:
        ValueError: for draws that are independent, or as many as no set can have; for one, which has no others to make
            a baseline of.
    """
    omega = _check_weighted(terms, "draw_set")
    if not 2 <= len(omega) <= MOST_IN_SET:
        raise ValueError(f"a set of {len(omega)} addresses: this estimator needs 2 to {MOST_IN_SET}")
    log_w = terms.log_w.detach()
    _, beta = set_weights(terms.log_qa)
    b = (beta.to(log_w.dtype) * log_w).sum(1)
    return _surrogate(terms, _bound(terms)[0], omega * (log_w - b))


# --- all addresses


def draw_all(
    log_q: Float[Tensor, "B M"], num_samples: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "M B"], Float[Tensor, "M B"]]:
    """Every address once, with omega_a = q(a|x), whatever `num_samples` and `generator`."""
    B, M = log_q.shape
    return torch.arange(M, device=log_q.device)[:, None].expand(M, B), log_q.detach().mT


def score_of_all(terms: Terms) -> Float[Tensor, " B"]:
    """B summed over all addresses that `draw_all` gave, c_a = q_a (log w_a - sum_a' q_a' log w_a'): without noise but
    that of z.

    Raises:
        ValueError: for draws that are independent.
    """
    omega = _check_weighted(terms, "draw_all")
    log_w = terms.log_w.detach()
    return _surrogate(terms, _bound(terms)[0], omega * (log_w - (omega * log_w).sum(0)))


# --- relaxed addresses


def pathwise(terms: Terms) -> Float[Tensor, " B"]:
    """The bound with one sample, its KL(q(a|x) || p(a)) exact (Jang et al., ICLR 2017): for terms whose samples have a
    gradient in q(a|x) themselves (`vma.gumbel`). All parameters are trained by it.
    """
    return (terms.log_px + terms.log_rz).mean(0) - terms.kl_a


# --- what they share


def _bound(terms: Terms) -> tuple[Float[Tensor, " B"], Float[Tensor, "K B"]]:
    """The bound with log q(a|x) held fixed in its weights, and log (omega_k w_k), held fixed, up to a constant."""
    held = replace(terms, log_qa=terms.log_qa.detach())
    log_w = held.log_w.detach()
    return iwae(held), log_w if terms.log_omega is None else log_w + terms.log_omega


def _surrogate(terms: Terms, bound: Float[Tensor, " B"], c: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
    return bound + (c.detach() * terms.log_qa).sum(0)


def _omega(terms: Terms) -> Float[Tensor, "#K #B"]:
    if terms.log_omega is None:
        return torch.full_like(terms.log_qa[:1, :1], 1 / len(terms.log_qa)).detach()
    return terms.log_omega.exp()


def _check_independent(terms: Terms) -> None:
    if terms.log_omega is not None:
        raise ValueError("the addresses are no independent draws, which this estimator needs: take another draw")


def _check_weighted(terms: Terms, draw: str) -> Float[Tensor, "K B"]:
    """omega_k."""
    if terms.log_omega is None:
        raise ValueError(f"the addresses are independent draws, and this estimator needs those of {draw}")
    return terms.log_omega.exp()
