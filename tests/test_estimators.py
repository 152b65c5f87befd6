"""Estimators of q(a|x)'s gradient and of z's: known answers, identities, and a tiny model whose addresses are
enumerated.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import HIDDEN, MLP, binary, gradients, noise, seeded
from test_objectives import random_model, random_terms
from torch import Tensor

from vma import Terms, VariationalMemoryAddressing, iwae, vimco
from vma.estimators import (
    MOST_IN_SET,
    NVIL,
    draw_all,
    draw_set,
    geometric_leave_one_out,
    leave_one_out,
    ovis,
    pathwise,
    rloo,
    score_of_all,
    score_of_set,
    set_weights,
    wake,
)
from vma.gumbel import TEMPERATURE, GumbelAddressing
from vma.model import Z_GRADIENTS, z_terms
from vma.networks import Sizes, log_normal

LEADS = (5.0, 15.0, 30.0, 100.0)
CONV = replace(HIDDEN, latent=2)
Baseline = Callable[[Tensor], Tensor]
Surrogate = Callable[[Terms], Tensor]
BASELINES: dict[Baseline, Baseline] = {  # L_{-k}, and what it is of the weights of the others
    leave_one_out: lambda others: others.mean().log(),
    # VIMCO's own paper puts the others' geometric mean in the place of w_k
    geometric_leave_one_out: lambda w: torch.cat((w, w.prod()[None] ** (1 / len(w)))).mean().log(),
}
geometric = partial(vimco, baseline=geometric_leave_one_out)
each_baseline = pytest.mark.parametrize("baseline", BASELINES)
each_family = pytest.mark.parametrize("sizes", [MLP, CONV], ids=["mlp", "conv"])


def f64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nvil_with(b: float) -> Surrogate:
    """NVIL whose network and mean are known to say b, and whose mean is begun."""

    def surrogate(terms: Terms) -> Tensor:
        module = NVIL(3).double()
        module.started.fill_(1.0)
        return module.surrogate(replace(terms, baseline=torch.full_like(terms.kl_a, b)))

    return surrogate


# --- VIMCO


@each_baseline
@pytest.mark.parametrize("K", [2, 3, 7])
def test_a_baseline_is_the_loop(K: int, baseline: Baseline) -> None:
    log_w = random_terms(K).log_w
    for k, b in itertools.product(range(K), range(log_w.shape[1])):
        others = log_w[torch.arange(K) != k, b].exp()
        torch.testing.assert_close(baseline(log_w)[k, b], BASELINES[baseline](others))


@each_baseline
@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("lead", LEADS)
def test_a_leading_weight_costs_no_precision(lead: float, K: int, baseline: Baseline) -> None:
    log_w = random_terms(K).log_w.detach() / 20 - 90
    log_w[1] += lead
    torch.testing.assert_close(baseline(log_w.float()).double(), baseline(log_w), rtol=0, atol=1e-4)

    log_px, log_qa = log_w.float().requires_grad_(), torch.full_like(log_w, -2.0).float().requires_grad_()
    zero = torch.zeros_like(log_px)
    surrogate = vimco(Terms(log_px, zero, log_qa.detach(), log_qa, zero[0]), baseline)
    gradients = torch.autograd.grad(surrogate.sum(), (log_px, log_qa))
    assert all(value.isfinite().all() for value in (surrogate, *gradients))


@each_baseline
@pytest.mark.parametrize("K", [2, 3, 6])
def test_vimco_is_eq_8(K: int, baseline: Baseline) -> None:
    """Value: the bound and the score term. Gradient for log q(a_k|x): L - L_{-k} - wbar_k, for all else that of L."""
    terms = random_terms(K)
    signal = (iwae(terms) - baseline(terms.log_w)).detach()
    torch.testing.assert_close(vimco(terms, baseline) - (signal * terms.log_qa).sum(0), iwae(terms))

    leaves = [terms.log_qa, terms.log_px, terms.log_rz, terms.log_pa]
    score, *others = torch.autograd.grad(vimco(terms, baseline).sum(), leaves)
    torch.testing.assert_close(score, signal - terms.log_w.softmax(0))
    for found, expected in zip(others, torch.autograd.grad(iwae(terms).sum(), leaves[1:]), strict=True):
        torch.testing.assert_close(found, expected)


# --- known answers: three addresses, no z; all draws enumerated

LOGITS = f64((0.5, -0.3, 0.1))
LOG_P = f64((0.5, 0.3, 0.2)).log()
LOG_PX = f64((-2.0, -0.5, -1.0))
LOG_Q = LOGITS.log_softmax(0)
BOUNDS = {1: -1.409653884, 2: -1.303074548, 3: -1.253125632, 4: -1.224568777}

SINGLE = (-0.251099489, 0.266447779, -0.015348290)  # the gradient of L_1, B
GRADIENTS = {  # A
    2: (-0.165054192, 0.209380236, -0.044326045),
    3: (-0.121519591, 0.165092621, -0.043573030),
    4: (-0.095003113, 0.133641756, -0.038638643),
}
WAKE = {
    2: (-0.106767238, 0.109817735, -0.003050498),
    4: (-0.181122247, 0.212600236, -0.031477989),
}
INCLUSIVE = (-0.262410285, 0.351005096, -0.088594810)  # C
SET_WAKE = {2: (-0.186471343, 0.180684490, 0.005786853), 3: INCLUSIVE}


def all_sets(M: int, K: int) -> Tensor:
    return torch.tensor([*itertools.combinations(range(M), K)]).mT


def set_probability(log_qa: Tensor) -> Tensor:
    """P(S) of each set (K, n), by the sum over its orders."""
    total = torch.zeros_like(log_qa[0])
    for order in itertools.permutations(range(len(log_qa))):
        q = log_qa[list(order)].exp()
        gone = torch.cat((torch.zeros_like(q[:1]), q[:-1].cumsum(0)))
        total = total + (q / (1 - gone)).prod(0)
    return total


def log_omega_of(kind: str | None, log_qa: Tensor) -> Tensor | None:
    """Of independent draws, of sets, or of all addresses."""
    if kind is None:
        return None
    return set_weights(log_qa)[0].log() if kind == "set" else log_qa.detach()


def toy(K: int, kind: str | None = None) -> tuple[Terms, Tensor, Tensor]:
    """The terms of all draws of a kind, their probabilities, and the logits (n, 3) that they have a gradient in."""
    a = torch.tensor([*itertools.product(range(3), repeat=K)]).mT if kind is None else all_sets(3, K)
    logits = LOGITS.expand(a.shape[1], -1).clone().requires_grad_()
    log_qa = logits.log_softmax(-1).gather(1, a.mT).mT
    zero = torch.zeros(a.shape, dtype=torch.float64)
    terms = Terms(LOG_PX[a], zero, LOG_P[a], log_qa, zero[0], log_omega=log_omega_of(kind, log_qa))
    return terms, LOG_Q[a].sum(0).exp() if kind is None else set_probability(LOG_Q[a]), logits


def moments(surrogate: Surrogate, K: int, kind: str | None = None) -> tuple[Tensor, float]:
    """Mean and trace of the covariance of the gradient in the logits."""
    terms, probability, logits = toy(K, kind)
    (gradient,) = torch.autograd.grad(surrogate(terms).sum(), logits)
    mean = probability @ gradient
    return mean, float(probability @ (gradient - mean).square().sum(1))


Known = tuple[Surrogate, str | None, dict[int, tuple[float, ...]], dict[int, float]]
KNOWN: dict[str, Known] = {  # how it draws, and of each number of draws the mean and the variance
    "vimco": (vimco, None, GRADIENTS, {2: 0.305405, 3: 0.206694, 4: 0.156430}),
    "geometric": (geometric, None, GRADIENTS, {2: 0.305405, 3: 0.158831, 4: 0.109773}),
    "ovis, gamma 0": (partial(ovis, gamma=0.0), None, GRADIENTS, {2: 0.270538, 3: 0.078418, 4: 0.030722}),
    "ovis, gamma 1": (
        partial(ovis, gamma=1.0),
        None,
        {2: (-0.271821429, 0.319197972, -0.047376542)},
        {2: 0.391991, 3: 0.233642, 4: 0.151630},
    ),
    "wake": (partial(wake, centred=False), None, WAKE, {2: 0.430265, 3: 0.318177, 4: 0.246119}),
    "wake, centred": (wake, None, WAKE, {2: 0.057913, 3: 0.065814, 4: 0.059773}),
    "rloo": (rloo, None, dict.fromkeys((2, 3, 4), SINGLE), {2: 0.335016, 3: 0.151494, 4: 0.095658}),
    # with all members it is enumeration, which has no noise
    "set-score": (score_of_set, "set", dict.fromkeys((2, 3), SINGLE), {2: 0.172660, 3: 0.0}),
    "set-wake": (partial(wake, centred=False), "set", SET_WAKE, {}),
    "set-wake, centred": (wake, "set", SET_WAKE, {}),
    "all-score": (score_of_all, "all", {3: SINGLE}, {3: 0.0}),
    "all-score, as of a set": (score_of_set, "all", {3: SINGLE}, {3: 0.0}),
    "all-wake": (wake, "all", {3: INCLUSIVE}, {3: 0.0}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_estimator_has_the_known_mean_and_variance(name: str) -> None:
    surrogate, kind, means, variances = KNOWN[name]
    for K in means.keys() | variances.keys():
        mean, variance = moments(surrogate, K, kind)
        if K in means:
            torch.testing.assert_close(mean, f64(means[K]), rtol=0, atol=1e-9)
        if K in variances:
            assert variance == pytest.approx(variances[K], abs=1e-6 if variances[K] else 1e-12)


@pytest.mark.parametrize(("K", "variance"), [(1, 0.238930), (2, 0.783846), (3, 0.867279), (4, 0.897125)])
def test_nvil_has_the_known_mean_and_variance(K: int, variance: float) -> None:
    """With the best baseline that does not know the draws, E L; and without bias with any."""
    terms, probability, _ = toy(K)
    assert float(probability @ iwae(terms).detach()) == pytest.approx(BOUNDS[K], abs=1e-9)
    mean, found = moments(nvil_with(BOUNDS[K]), K)
    torch.testing.assert_close(mean, f64(GRADIENTS.get(K, SINGLE)), rtol=0, atol=1e-9)
    assert found == pytest.approx(variance, abs=1e-6)
    torch.testing.assert_close(moments(nvil_with(3.0), K)[0], mean)


def test_sets_have_the_known_probabilities_weights_and_bound() -> None:
    terms, probability, _ = toy(2, "set")
    torch.testing.assert_close(probability, f64((0.316241058, 0.500644862, 0.183114080)), rtol=0, atol=1e-9)
    omega, beta = set_weights(terms.log_qa)
    known = f64(((0.598687660, 0.401312340), (0.564165586, 0.435834414), (0.464580778, 0.535419222)))
    torch.testing.assert_close(omega.mT, known, rtol=0, atol=1e-9)
    q = terms.log_qa.exp()
    torch.testing.assert_close(beta[:, 0, :], torch.stack((q[0], 1 - q[1])))  # q_s f_s + (1 - q_s) f_j
    assert float(probability @ iwae(terms).detach()) == pytest.approx(-1.237306944, abs=1e-9)
    torch.testing.assert_close(set_weights(LOG_Q[None])[0], torch.ones(1, 3, dtype=torch.float64))  # of one member


def test_all_addresses_have_the_bound_log_p() -> None:
    log_p = (LOG_P + LOG_PX).logsumexp(0)
    assert float(log_p) == pytest.approx(-1.129475512, abs=1e-9)
    torch.testing.assert_close(iwae(toy(3, "all")[0]), log_p[None])


# --- identities, for every draw and not only on average


def coefficients(surrogate: Surrogate, terms: Terms) -> Tensor:
    """c_k: the gradient in log q(a_k|x)."""
    log_qa = terms.log_qa.detach().requires_grad_()
    (found,) = torch.autograd.grad(surrogate(replace(terms, log_qa=log_qa)).sum(), log_qa)
    return found


@pytest.mark.parametrize("K", [2, 3, 4, 7])
def test_ovis_is_vimco_with_a_constant_or_with_wake(K: int) -> None:
    terms = random_terms(K)
    plain = coefficients(vimco, terms)
    torch.testing.assert_close(coefficients(partial(ovis, gamma=0.0), terms), plain - math.log(1 - 1 / K))
    with_wake = plain + coefficients(partial(wake, centred=False), terms)
    torch.testing.assert_close(coefficients(partial(ovis, gamma=1.0), terms), with_wake)


@pytest.mark.parametrize("K", [2, 4])
def test_the_coefficients_are_the_formulas(K: int) -> None:
    terms = random_terms(K)
    log_w = terms.log_w.detach()
    wbar = log_w.softmax(0)
    others = torch.stack([log_w[torch.arange(K) != k].mean(0) for k in range(K)])
    torch.testing.assert_close(coefficients(rloo, terms), (log_w - others) / K)
    torch.testing.assert_close(coefficients(wake, terms), wbar - 1 / K)
    L = iwae(terms).detach()
    torch.testing.assert_close(coefficients(nvil_with(2.0), terms), L - 2.0 - wbar)


WEIGHTED = {
    "ovis": (partial(ovis, gamma=1.0), None),
    "rloo": (rloo, None),
    "nvil": (nvil_with(-40.0), None),
    "wake": (wake, None),
    "set-score": (score_of_set, "set"),
    "set-wake": (wake, "set"),
    "all-score": (score_of_all, "all"),
    "all-wake": (wake, "all"),
}


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("lead", LEADS)
def test_everything_but_q_of_a_is_trained_by_the_bound_at_any_lead(name: str, lead: float) -> None:
    """The gradient in log p(x|z) is the weights omega_k w_k, normalised; log q(a|x) gets c_k; float32 is float64."""
    surrogate, kind = WEIGHTED[name]
    generator = seeded()
    log_q = (2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)).log_softmax(1)
    log_qa = log_q.mT if kind == "all" else log_q.mT[:3]
    log_omega = log_omega_of(kind, log_qa)
    log_px = torch.randn(log_qa.shape, generator=generator, dtype=torch.float64) - 90
    log_px[1] += lead
    zero = torch.zeros_like(log_px)
    terms = Terms(log_px, zero, zero - 2, log_qa, zero[0], log_omega=log_omega)

    def gradients(terms: Terms) -> tuple[Tensor, ...]:
        leaves = [terms.log_px.clone().requires_grad_(), terms.log_qa.clone().requires_grad_()]
        return torch.autograd.grad(surrogate(replace(terms, log_px=leaves[0], log_qa=leaves[1])).sum(), leaves)

    bound, c = gradients(terms)
    log_weights = terms.log_w + (0 if log_omega is None else log_omega)
    torch.testing.assert_close(bound, log_weights.softmax(0))
    for found, expected in zip(gradients(terms.each(Tensor.float)), (bound, c), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-4)
    if name.endswith("wake"):  # in the logits at most sqrt 2
        labels = torch.zeros_like(log_q)
        labels[:, : len(log_qa)] = log_weights.softmax(0).mT
        assert ((labels - log_q.exp()).norm(dim=1) <= math.sqrt(2)).all()


def test_misuse_is_refused() -> None:
    weighted = replace(random_terms(3), log_omega=torch.zeros(3, 3, dtype=torch.float64))
    for surrogate in (vimco, partial(ovis, gamma=0.0), rloo, nvil_with(0.0)):
        with pytest.raises(ValueError, match="no independent draws"):
            surrogate(weighted)
    for surrogate in (score_of_set, score_of_all):
        with pytest.raises(ValueError, match="the addresses are independent draws"):
            surrogate(random_terms(3))
    for surrogate in (vimco, rloo, wake, partial(ovis, gamma=1.0)):
        with pytest.raises(ValueError, match="at least 2 samples per target, got 1"):
            surrogate(random_terms(1))
    with pytest.raises(ValueError, match="the terms have no baseline"):
        NVIL(3).surrogate(random_terms(2))
    with pytest.raises(ValueError, match="a set of 3 addresses of 2"):
        draw_set(torch.zeros(1, 2), 3, None)
    for members in (1, MOST_IN_SET + 1):
        terms = random_terms(members)
        with pytest.raises(ValueError, match=f"a set of {members} addresses: this estimator needs 2 to 10"):
            score_of_set(replace(terms, log_omega=torch.zeros_like(terms.log_w)))


# --- NVIL's own parts


def test_nvils_network_is_fitted_to_what_the_mean_leaves_and_nothing_else_sees_it() -> None:
    torch.manual_seed(0)
    module, e_q, terms = NVIL(3).double(), torch.randn(3, 3, dtype=torch.float64, requires_grad=True), random_terms(2)
    L = iwae(terms).detach()
    for before in (L.mean(), L.mean()):  # the first minibatch takes its own mean, the second the first's
        b = module(e_q)
        surrogate = module.surrogate(replace(terms, baseline=b))
        assert torch.autograd.grad(surrogate.sum(), e_q, retain_graph=True, allow_unused=True) == (None,)
        (found,) = torch.autograd.grad(surrogate.sum(), module.net[2].bias)
        torch.testing.assert_close(found, (L - before - b).sum()[None])
    terms = replace(terms, log_px=terms.log_px + 10)
    module.surrogate(replace(terms, baseline=module(e_q)))
    torch.testing.assert_close(module.mean, L.mean() + 1)  # momentum 0.9
    assert set(module.state_dict()) >= {"mean", "started"}


# --- draws


def test_sets_are_drawn_without_replacement_with_their_probabilities() -> None:
    log_q = LOGITS.log_softmax(0).expand(20_000, -1).float()
    a, log_omega = draw_set(log_q, 2, seeded())
    assert (a[0] != a[1]).all()
    S = all_sets(3, 2)
    counts = torch.stack([((a == s[0]).any(0) & (a == s[1]).any(0)).sum() for s in S.mT])
    torch.testing.assert_close((counts / counts.sum()).double(), set_probability(LOG_Q[S]), rtol=0, atol=0.02)
    torch.testing.assert_close(log_omega.double(), set_weights(log_q.gather(1, a.mT).mT)[0].log(), rtol=0, atol=1e-5)
    again, _ = draw_set(log_q, 2, seeded())
    assert torch.equal(a, again)
    assert torch.equal(draw_set(log_q[:5], 3, None)[0].sort(0).values, torch.arange(3)[:, None].expand(3, 5))


@pytest.mark.parametrize("gap", [5.0, 20.0, 80.0])
def test_a_sets_weights_are_right_where_hardly_anything_is_left(gap: float) -> None:
    """Against float64 by the definition's orders; the rest is far below float32's resolution of 1."""
    log_q = (f64((0.0, -1.0, -1.5, -2.0, -2.5)) * gap).log_softmax(0)
    K, q = 3, log_q.exp()
    drawn, log_omega = draw_set(log_q[None].float(), K, seeded(1))
    a = drawn[:, 0].tolist()

    def mass(gone: Sequence[int]) -> float:
        return math.fsum(float(q[i]) for i in range(5) if i not in gone)

    def probability(T: Sequence[int], gone: tuple[int, ...] = ()) -> float:
        if not T:
            return 1.0
        rest = ((t, [s for s in T if s != t]) for t in T)
        return math.fsum(float(q[t]) / mass(gone) * probability(others, (*gone, t)) for t, others in rest)

    expected = [math.log(float(q[s]) * probability([t for t in a if t != s], (s,)) / probability(a)) for s in a]
    assert log_omega[:, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_all_addresses_are_drawn_with_their_probabilities() -> None:
    log_q = torch.randn(5, 4).log_softmax(1)
    a, log_omega = draw_all(log_q, 2, None)
    assert torch.equal(a, torch.arange(4)[:, None].expand(4, 5))
    assert torch.equal(log_omega, log_q.mT)


# --- on a model, for every parameter: all tuples (sets) enumerated, the noise of z fixed

ENUMERATED = [(MLP, M, K) for M in (1, 2, 3, 4) for K in (2, 3, 4)] + [(CONV, 3, 3)]
MULTI = {
    "vimco": vimco,
    "geometric": geometric,
    "ovis, gamma 0": partial(ovis, gamma=0.0),
    "nvil": nvil_with(-7.0),
}


def target_and_memory(sizes: Sizes, n: int, M: int) -> tuple[Tensor, Tensor]:
    """One target, n times, and M entries."""
    return binary(1, *sizes.image, seed=1).expand(n, -1, -1, -1), binary(M, *sizes.image, seed=3)


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, force: bool = True
) -> None:
    """Within this part of a parameter's largest element; with `force` each parameter has to have a gradient."""
    largest = max(g.abs().max().item() for g in expected.values())
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        scale = g.abs().max().item()
        assert not force or scale > 1e-6 * largest, f"{name} hardly has a gradient: the test has no force"
        atol = tolerance * (scale + 1e-5 * largest)
        torch.testing.assert_close(found[name], g, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("name", MULTI)
@pytest.mark.parametrize(("sizes", "M", "K"), ENUMERATED)
def test_expected_gradient_is_that_of_the_expected_bound(sizes: Sizes, M: int, K: int, name: str) -> None:
    """A: E_{a ~ q} grad of the surrogate = grad E_{a ~ q} log 1/K sum_k w_k for every parameter; each tuple a_1..a_K is
    a target.
    """
    model = random_model(sizes, seed=10 * M + K)
    tuples = torch.tensor([*itertools.product(range(M), repeat=K)]).mT  # [K, M^K]
    x, memory = target_and_memory(sizes, M**K, M)
    eps = noise(K, 1, sizes, seed=2).expand(-1, M**K, -1)
    terms = model(x, model.encode_memory(memory), K, addresses=tuples, noise=eps)
    probability = terms.log_qa.sum(0).exp()
    torch.testing.assert_close(probability.sum(), torch.ones((), dtype=torch.float64))

    exact = gradients(model, (probability * iwae(terms)).sum())
    estimate = gradients(model, (probability.detach() * MULTI[name](terms)).sum())
    assert_same_gradients(estimate, exact, 1e-9, force=M > 1)
    if M > 1:  # the score term is needed: without it the addressing module's gradient is another
        without = gradients(model, (probability.detach() * iwae(terms)).sum())
        *_, last = (key for key in exact if key.startswith("addressing.embed_query.head") and key.endswith("weight"))
        assert (without[last] - exact[last]).norm() > 0.1 * exact[last].norm()


OTHERS = [("rloo", 3), ("wake", 3), ("set-score", 2), ("set-score", 3), ("set-score", 4), ("set-wake", 2)]
OTHERS += [("all-score", 4), ("all-wake", 4)]


@pytest.mark.parametrize(("name", "K"), OTHERS)
@each_family
def test_expected_gradient_is_that_of_its_own_target(sizes: Sizes, name: str, K: int) -> None:
    """B and C: q(a|x) by its own target, everything else by the bound that the draws give.

    The noise of z is the same for all samples, so that R_a = log w at a is a number, and the targets are sums over
    addresses: B sum_a q_a R_a; C sum_a p(a|x) log q_a with all of them, and by its own labels with fewer.
    """
    surrogate, kind = WEIGHTED[name]
    M = 4
    model = random_model(sizes, seed=K)
    a = torch.tensor([*itertools.product(range(M), repeat=K)]).mT if kind is None else all_sets(M, K)
    n = a.shape[1]
    x, memory = target_and_memory(sizes, n, M)
    encoded, one = model.encode_memory(memory), noise(1, 1, sizes, seed=2)

    def draw(log_q: Tensor, num_samples: int, generator: object) -> tuple[Tensor, Tensor | None]:
        return a, log_omega_of(kind, log_q.gather(1, a.mT).mT)

    terms = model(x, encoded, K, noise=one.expand(K, n, -1), draw=draw)
    probability = (set_probability(terms.log_qa) if kind else terms.log_qa.sum(0).exp()).detach()
    assert float(probability.sum()) == pytest.approx(1)
    each = model(x[:1], encoded, M, noise=one.expand(M, 1, -1), addresses=torch.arange(M)[:, None])
    R, log_q = each.log_w.detach()[:, 0], each.log_qa[:, 0]

    log_omega = -math.log(K) if terms.log_omega is None else terms.log_omega
    log_weights = terms.log_px + terms.log_rz + terms.log_pa - terms.log_qa.detach() + log_omega
    exact = (probability * log_weights.logsumexp(0)).sum()
    if name.endswith("wake"):
        weights = probability * log_weights.softmax(0).detach()
        labels = torch.zeros(M, dtype=torch.float64).index_add(0, a.flatten(), weights.flatten())
        if name == "all-wake":
            torch.testing.assert_close(labels, (R + log_q.detach()).softmax(0))
        exact = exact + labels @ log_q
    else:
        exact = exact + log_q.exp() @ R
    found = gradients(model, (probability * surrogate(terms)).sum())
    assert_same_gradients(found, gradients(model, exact), 1e-8)


# --- z: known answers by quadrature

MEAN, LOG_STD = 0.3, -0.2
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
Z_ANSWERS = {
    "iwae": ((0.159644450, -0.102416692), (1.126764, 1.126149)),
    "dreg": ((0.159644450, -0.102416692), (0.021578, 0.020644)),
    "stl": ((0.338928623, -0.244253633), (0.072744, 0.083976)),
}


def one_z(z_gradient: str, noise: Tensor, shift: Tensor | float = 0.0) -> tuple[Terms, Tensor, Tensor]:
    """p(z) = N(0, 1), p(x|z) = N(1; z, 1), q = N(MEAN, exp(LOG_STD)^2), for K samples of B targets; `shift` is added
    to log p(x|z).
    """
    K, B = noise.shape
    mean, log_std = (torch.full((B,), v, dtype=noise.dtype, requires_grad=True) for v in (MEAN, LOG_STD))
    flat, log_stds = noise.flatten()[:, None], log_std.repeat(K)[:, None]
    z = mean.repeat(K)[:, None] + log_stds.exp() * flat
    zero = torch.zeros_like(z)
    log_px = log_normal(torch.ones_like(z), z, zero).view(K, B) + shift
    log_px, log_rz = z_terms(z_gradient, z, flat, log_stds, log_px, log_normal(z, zero, zero).view(K, B))
    none = torch.zeros_like(log_px)
    return Terms(log_px, log_rz, none, none, none[0]), mean, log_std


@pytest.mark.parametrize("z_gradient", Z_ANSWERS)
def test_gradients_of_z_have_the_known_mean_and_variance(z_gradient: str) -> None:
    noise = f64(np.array([*itertools.product(NODES, repeat=2)])).mT
    probability = f64(np.outer(WEIGHTS, WEIGHTS).flatten() / (2 * np.pi))
    terms, mean, log_std = one_z(z_gradient, noise)
    assert float(probability @ iwae(terms).detach()) == pytest.approx(-1.540817260, abs=1e-8)
    found = torch.stack(torch.autograd.grad(iwae(terms).sum(), (mean, log_std)))
    average, known = found @ probability, Z_ANSWERS[z_gradient]
    torch.testing.assert_close(average, f64(known[0]), rtol=0, atol=1e-8)
    variance = (found - average[:, None]).square() @ probability
    torch.testing.assert_close(variance, f64(known[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lead", [0.0, 5.0, 30.0, 300.0])
def test_the_single_sample_path_counts_every_sample_alike(lead: float) -> None:
    """In float32, also where a sample has no weight left in the bound."""
    noise = torch.tensor([[0.3], [-1.2], [0.7]])
    shift = torch.tensor([[0.0], [lead], [0.0]])
    terms, *parameters = one_z("single", noise, shift)
    found = torch.autograd.grad(iwae(terms).sum(), parameters)
    terms, *parameters = one_z("stl", noise.double(), shift.double())
    expected = torch.autograd.grad(terms.log_w.mean(0).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def like(plain: VariationalMemoryAddressing, model: VariationalMemoryAddressing) -> VariationalMemoryAddressing:
    """The other model with the same weights."""
    model.to(next(plain.parameters()).dtype).load_state_dict(plain.state_dict())
    return model


@pytest.mark.parametrize("z_gradient", Z_GRADIENTS)
@each_family
def test_gradients_of_z_change_the_posteriors_alone(z_gradient: str, sizes: Sizes) -> None:
    """At the same draws values and all other gradients are those of IWAE; the posterior's are the sums of one sample's
    D_k J_k with the weights that the name says.
    """
    K, B, M = 3, 2, 4
    plain = random_model(sizes, seed=5)
    model, path = (like(plain, VariationalMemoryAddressing(sizes, z_gradient=name)) for name in (z_gradient, "stl"))
    a = torch.tensor([[0, 3], [1, 3], [1, 0]])  # a pair that repeats
    x, memory = binary(B, *sizes.image, seed=1), binary(M, *sizes.image, seed=2)

    def terms_of(one: VariationalMemoryAddressing) -> Terms:
        return one(x, one.encode_memory(memory), K, addresses=a, noise=noise(K, B, sizes))

    terms, expected = terms_of(model), terms_of(plain)
    torch.testing.assert_close(terms.tensors, expected.tensors)
    found, exact = gradients(model, vimco(terms).mean()), gradients(plain, vimco(expected).mean())
    log_w, wbar = terms_of(path).log_w, expected.log_w.softmax(0).detach()
    weights = {"stl": wbar, "dreg": wbar**2, "single": torch.full_like(wbar, 1 / K)}
    paths = gradients(path, (weights[z_gradient] * log_w).sum(0).mean()) if z_gradient in weights else exact
    known = {name: paths[name] if name.startswith("posterior.") else value for name, value in exact.items()}
    torch.testing.assert_close(found, known, rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        assert not terms_of(model).log_w.requires_grad


def test_a_target_that_does_not_count_has_no_gradient() -> None:
    for z_gradient in Z_GRADIENTS:
        terms, *parameters = one_z(z_gradient, torch.randn(3, 2))
        for gradient in torch.autograd.grad(iwae(terms)[0], parameters):
            assert gradient[0] != 0
            assert gradient[1] == 0


def test_the_single_sample_path_needs_independent_draws() -> None:
    model, x = VariationalMemoryAddressing(MLP, z_gradient="single"), binary(2, *MLP.image).float()
    with pytest.raises(ValueError, match="z_gradient is single, which needs independent draws"):
        model(x, model.encode_memory(x), 2, draw=draw_set)


# --- straight-through Gumbel addresses


@each_family
def test_gumbel_addresses_are_hard_and_have_the_gradient_of_relaxed_ones(sizes: Sizes) -> None:
    K, B, M = 3, 2, 4
    plain = random_model(sizes, seed=7)
    model = like(plain, GumbelAddressing(sizes))
    x, memory = binary(B, *sizes.image, seed=1), binary(M, *sizes.image, seed=2)
    eps = noise(K, B, sizes)
    terms = model(x, model.encode_memory(memory), K, generator=seeded(1), noise=eps)

    encoded = plain.encode_memory(memory)
    log_q, _ = plain.address(x, encoded)
    waiting = torch.empty(K, B, M, dtype=torch.float64).exponential_(generator=seeded(1))
    relaxed = ((log_q.detach() - waiting.log()) / TEMPERATURE).softmax(-1)
    expected = plain(x, encoded, K, addresses=relaxed.argmax(-1), noise=eps)
    torch.testing.assert_close(terms.tensors, expected.tensors)

    found, hard = gradients(model, pathwise(terms).mean()), gradients(plain, pathwise(expected).mean())
    for name, one in found.items():
        if "embed" in name:  # q(a|x) has the path through the relaxed addresses too
            assert (one - hard[name]).norm() > 1e-3 * one.norm(), name
        elif "prior_query" not in name:
            torch.testing.assert_close(one, hard[name], rtol=1e-8, atol=1e-10, msg=name)


def test_gumbel_addresses_are_the_base_class_without_gradient() -> None:
    model = GumbelAddressing(MLP)
    plain, x = like(model, VariationalMemoryAddressing(MLP)), binary(3, *MLP.image, seed=0).float()
    with torch.no_grad():
        one, other = (m(x, m.encode_memory(x), 5, generator=seeded()).log_w for m in (model, plain))
    assert torch.equal(one, other)
