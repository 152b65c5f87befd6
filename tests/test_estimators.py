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
from test_objectives import TINY_MLP, binary_images, random_model, random_terms
from torch import Tensor

from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae, vimco
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
from vma.networks import log_normal

LEADS = (5.0, 15.0, 30.0, 100.0)
Baseline = Callable[[Tensor], Tensor]
Surrogate = Callable[[Terms], Tensor]
each_baseline = pytest.mark.parametrize("baseline", [leave_one_out, geometric_leave_one_out])


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


@pytest.mark.parametrize("K", [2, 3, 7])
def test_leave_one_out_is_the_loop(K: int) -> None:
    log_w = random_terms(K).log_w
    for k, b in itertools.product(range(K), range(log_w.shape[1])):
        others = [log_w[j, b].exp() for j in range(K) if j != k]
        torch.testing.assert_close(leave_one_out(log_w)[k, b], (sum(others) / torch.tensor(K - 1)).log())


@pytest.mark.parametrize("K", [2, 3, 7])
def test_geometric_leave_one_out_is_the_loop(K: int) -> None:
    """VIMCO's own paper puts the others' geometric mean in the place of w_k."""
    log_w = random_terms(K).log_w
    for k, b in itertools.product(range(K), range(log_w.shape[1])):
        others = [log_w[j, b].exp() for j in range(K) if j != k]
        mean = torch.stack(others).prod() ** (1 / (K - 1))
        torch.testing.assert_close(geometric_leave_one_out(log_w)[k, b], ((sum(others) + mean) / K).log())


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


# --- known answers: three addresses, no z; all tuples (sets) enumerated

LOGITS = f64((0.5, -0.3, 0.1))
LOG_P = f64((0.5, 0.3, 0.2)).log()
LOG_PX = f64((-2.0, -0.5, -1.0))
Q = LOGITS.softmax(0)
BOUNDS = {1: -1.409653884, 2: -1.303074548, 3: -1.253125632, 4: -1.224568777}

SINGLE = (-0.251099489, 0.266447779, -0.015348290)  # the gradient of L_1, B
GRADIENTS = {  # A
    1: SINGLE,
    2: (-0.165054192, 0.209380236, -0.044326045),
    3: (-0.121519591, 0.165092621, -0.043573030),
    4: (-0.095003113, 0.133641756, -0.038638643),
}
WAKE = {
    2: (-0.106767238, 0.109817735, -0.003050498),
    4: (-0.181122247, 0.212600236, -0.031477989),
}
INCLUSIVE = (-0.262410285, 0.351005096, -0.088594810)  # C


def tuples(K: int) -> tuple[Tensor, Tensor]:
    """All K draws (K, 3^K) and their probabilities."""
    a = torch.tensor([*itertools.product(range(3), repeat=K)]).mT
    return a, Q[a].prod(0)


def sets(K: int) -> tuple[Tensor, Tensor]:
    """All sets of K (K, n) and their probabilities, by the sum over their orders."""
    members = [*itertools.combinations(range(3), K)]

    def in_order(order: Sequence[int]) -> float:
        return math.prod(float(Q[s] / (1 - Q[list(order[:i])].sum())) for i, s in enumerate(order))

    return torch.tensor(members).mT, f64([sum(map(in_order, itertools.permutations(S))) for S in members])


def toy(a: Tensor, logits: Tensor, weighted: str | None = None) -> Terms:
    log_q = logits.log_softmax(-1)
    log_qa = log_q.expand(a.shape[1], -1).gather(1, a.mT).mT
    log_omega = {"set": lambda: set_weights(log_qa)[0].log(), "all": lambda: log_qa.detach(), None: lambda: None}
    zero = torch.zeros(a.shape, dtype=torch.float64)
    return Terms(LOG_PX[a], zero, LOG_P[a], log_qa, zero[0], log_omega=log_omega[weighted]())


def moments(surrogate: Surrogate, a: Tensor, probability: Tensor, weighted: str | None = None) -> tuple[Tensor, float]:
    """Mean and trace of the covariance of the gradient in the logits."""
    logits = LOGITS.expand(a.shape[1], -1).clone().requires_grad_()
    log_q = logits.log_softmax(-1)
    terms = toy(a, LOGITS, weighted)
    terms = replace(terms, log_qa=log_q.gather(1, a.mT).mT)
    (gradient,) = torch.autograd.grad(surrogate(terms).sum(), logits)
    mean = probability @ gradient
    return mean, float(probability @ (gradient - mean).square().sum(1))


INDEPENDENT = [
    ("vimco", vimco, {K: GRADIENTS[K] for K in (2, 3, 4)}, {2: 0.305405, 3: 0.206694, 4: 0.156430}),
    (
        "geometric",
        partial(vimco, baseline=geometric_leave_one_out),
        {K: GRADIENTS[K] for K in (2, 3, 4)},
        {2: 0.305405, 3: 0.158831, 4: 0.109773},
    ),
    (
        "ovis, gamma 0",
        partial(ovis, gamma=0.0),
        {K: GRADIENTS[K] for K in (2, 3, 4)},
        {2: 0.270538, 3: 0.078418, 4: 0.030722},
    ),
    (
        "ovis, gamma 1",
        partial(ovis, gamma=1.0),
        {2: (-0.271821429, 0.319197972, -0.047376542)},
        {2: 0.391991, 3: 0.233642, 4: 0.151630},
    ),
    ("wake", partial(wake, centred=False), WAKE, {2: 0.430265, 3: 0.318177, 4: 0.246119}),
    ("wake, centred", wake, WAKE, {2: 0.057913, 3: 0.065814, 4: 0.059773}),
    ("rloo", rloo, dict.fromkeys((2, 3, 4), SINGLE), {2: 0.335016, 3: 0.151494, 4: 0.095658}),
]


@pytest.mark.parametrize(("surrogate", "means", "variances"), [case[1:] for case in INDEPENDENT], ids=lambda c: "")
def test_independent_draws_have_the_known_mean_and_variance(
    surrogate: Surrogate, means: dict[int, tuple[float, ...]], variances: dict[int, float]
) -> None:
    for K in means.keys() | variances.keys():
        mean, variance = moments(surrogate, *tuples(K))
        if K in means:
            torch.testing.assert_close(mean, f64(means[K]), rtol=0, atol=1e-9)
        assert variance == pytest.approx(variances[K], abs=1e-6)


@pytest.mark.parametrize(("K", "variance"), [(1, 0.238930), (2, 0.783846), (3, 0.867279), (4, 0.897125)])
def test_nvil_has_the_known_mean_and_variance(K: int, variance: float) -> None:
    """With the best baseline that does not know the draws, E L; and without bias with any."""
    a, probability = tuples(K)
    assert probability @ iwae(toy(a, LOGITS)) == pytest.approx(BOUNDS[K], abs=1e-9)
    mean, found = moments(nvil_with(BOUNDS[K]), a, probability)
    torch.testing.assert_close(mean, f64(GRADIENTS[K]), rtol=0, atol=1e-9)
    assert found == pytest.approx(variance, abs=1e-6)
    torch.testing.assert_close(moments(nvil_with(3.0), a, probability)[0], mean)


def test_sets_have_the_known_probabilities_weights_and_bound() -> None:
    S, probability = sets(2)
    torch.testing.assert_close(probability, f64((0.316241058, 0.500644862, 0.183114080)), rtol=0, atol=1e-9)
    omega, beta = set_weights(toy(S, LOGITS).log_qa)
    known = f64(((0.598687660, 0.401312340), (0.564165586, 0.435834414), (0.464580778, 0.535419222)))
    torch.testing.assert_close(omega.mT, known, rtol=0, atol=1e-9)
    torch.testing.assert_close(beta[:, 0, :], torch.stack((Q[S[0]], 1 - Q[S[1]])))  # q_s f_s + (1 - q_s) f_j
    assert probability @ iwae(toy(S, LOGITS, "set")) == pytest.approx(-1.237306944, abs=1e-9)


@pytest.mark.parametrize(("K", "variance"), [(1, 1.118898), (2, 0.172660), (3, 0.0)])
def test_the_score_of_a_set_has_the_known_mean_and_variance(K: int, variance: float) -> None:
    """With one member, without a baseline, it is REINFORCE; with all it is enumeration, which has no noise."""
    surrogate = score_of_set if K > 1 else _without_baseline
    mean, found = moments(surrogate, *sets(K), "set")
    torch.testing.assert_close(mean, f64(SINGLE), rtol=0, atol=1e-9)
    assert found == pytest.approx(variance, abs=1e-6)


def _without_baseline(terms: Terms) -> Tensor:
    omega = terms.log_omega.exp()
    return ((omega * terms.log_w).detach() * terms.log_qa).sum(0)


def test_a_baseline_takes_noise_away_from_the_score_of_a_set() -> None:
    mean, variance = moments(_without_baseline, *sets(2), "set")
    torch.testing.assert_close(mean, f64(SINGLE), rtol=0, atol=1e-9)
    assert variance == pytest.approx(0.223694, abs=1e-6)


def test_wake_on_sets_and_on_all_addresses_has_the_known_mean() -> None:
    for centred in (True, False):
        surrogate = partial(wake, centred=centred)
        known = f64((-0.186471343, 0.180684490, 0.005786853))
        torch.testing.assert_close(moments(surrogate, *sets(2), "set")[0], known, rtol=0, atol=1e-9)
    mean, variance = moments(wake, *sets(3), "all")
    torch.testing.assert_close(mean, f64(INCLUSIVE), rtol=0, atol=1e-9)
    assert variance == pytest.approx(0)
    log_p = (LOG_P + LOG_PX).logsumexp(0)
    assert float(log_p) == pytest.approx(-1.129475512, abs=1e-9)
    torch.testing.assert_close(iwae(toy(sets(3)[0], LOGITS, "all")), log_p[None])


def test_the_score_of_all_addresses_is_that_of_the_whole_set() -> None:
    mean, variance = moments(score_of_all, *sets(3), "all")
    torch.testing.assert_close(mean, f64(SINGLE), rtol=0, atol=1e-9)
    assert variance == pytest.approx(0)
    for surrogate in (wake, score_of_set):
        one, other = (moments(surrogate, *sets(3), kind)[0] for kind in ("set", "all"))
        torch.testing.assert_close(one, other)


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
    generator = torch.Generator().manual_seed(0)
    log_q = (2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)).log_softmax(1)
    log_qa = log_q.mT if kind == "all" else log_q.mT[:3]
    log_omega = {"set": set_weights(log_qa)[0].log(), "all": log_qa, None: None}[kind]
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
        assert (wake_in_logits(terms, log_q, kind) <= math.sqrt(2)).all()


def wake_in_logits(terms: Terms, log_q: Tensor, kind: str | None) -> Tensor:
    wbar = (terms.log_w + (0 if terms.log_omega is None else terms.log_omega)).softmax(0)
    labels = torch.zeros_like(log_q)
    labels[:, : len(wbar)] = wbar.mT
    return (labels - log_q.exp()).norm(dim=1)


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
    a, log_omega = draw_set(log_q, 2, torch.Generator().manual_seed(0))
    assert (a[0] != a[1]).all()
    S, probability = sets(2)
    counts = torch.stack([((a == s[0]).any(0) & (a == s[1]).any(0)).sum() for s in S.mT])
    torch.testing.assert_close(counts / counts.sum(), probability.float(), rtol=0, atol=0.02)
    torch.testing.assert_close(log_omega.double(), set_weights(log_q.gather(1, a.mT).mT)[0].log(), rtol=0, atol=1e-5)
    again, _ = draw_set(log_q, 2, torch.Generator().manual_seed(0))
    assert torch.equal(a, again)
    assert torch.equal(draw_set(log_q[:5], 3, None)[0].sort(0).values, torch.arange(3)[:, None].expand(3, 5))


@pytest.mark.parametrize("gap", [5.0, 20.0, 80.0])
def test_a_sets_weights_are_right_where_hardly_anything_is_left(gap: float) -> None:
    """Against float64 by the definition's orders; the rest is far below float32's resolution of 1."""
    log_q = (f64((0.0, -1.0, -1.5, -2.0, -2.5)) * gap).log_softmax(0)
    K, q = 3, log_q.exp()
    _, log_omega = draw_set(log_q[None].float(), K, torch.Generator().manual_seed(1))
    a = draw_set(log_q[None].float(), K, torch.Generator().manual_seed(1))[0][:, 0].tolist()

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

GROUPS = (
    "addressing.embed_memory",
    "addressing.embed_query",
    "addressing.prior_query",
    "posterior",
    "memory_pyramid",
    "prior_head",
    "conditioner",
    "decoder",
)
TINY_CONV = ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=2, embedding=4)
ENUMERATED = [(TINY_MLP, M, K) for M in (1, 2, 3, 4) for K in (2, 3, 4)] + [(TINY_CONV, 3, 3)]
MULTI = {
    "vimco": vimco,
    "geometric": partial(vimco, baseline=geometric_leave_one_out),
    "ovis, gamma 0": partial(ovis, gamma=0.0),
    "nvil": nvil_with(-7.0),
}


@pytest.mark.parametrize("name", MULTI)
@pytest.mark.parametrize(("sizes", "M", "K"), ENUMERATED)
def test_expected_gradient_is_that_of_the_expected_bound(
    sizes: ConvSizes | MLPSizes, M: int, K: int, name: str
) -> None:
    """A: E_{a ~ q} grad of the surrogate = grad E_{a ~ q} log 1/K sum_k w_k for every parameter; each tuple a_1..a_K is
    a target.
    """
    model = random_model(sizes, seed=10 * M + K)
    tuples = torch.tensor(list(itertools.product(range(M), repeat=K))).mT  # [K, M^K]
    x = binary_images(1, sizes.image[1], seed=1).expand(tuples.shape[1], -1, -1, -1)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(K, 1, sizes.latent, generator=generator, dtype=torch.float64).expand(-1, tuples.shape[1], -1)
    encoded = model.encode_memory(binary_images(M, sizes.image[1], seed=3))
    terms = model(x, encoded, K, addresses=tuples, noise=noise)
    probability = terms.log_qa.sum(0).exp()
    torch.testing.assert_close(probability.sum(), torch.ones((), dtype=torch.float64))

    names, parameters = zip(*model.named_parameters(), strict=True)
    assert {group for group in GROUPS for name in names if name.startswith(group)} == set(GROUPS)

    def gradient(value: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return dict(zip(names, found, strict=True))

    exact = gradient((probability * iwae(terms)).sum())
    estimate = gradient((probability.detach() * MULTI[name](terms)).sum())
    largest = max(g.abs().max().item() for g in exact.values())
    for parameter in names:
        scale = exact[parameter].abs().max().item()
        torch.testing.assert_close(estimate[parameter], exact[parameter], rtol=0, atol=1e-9 * scale + 1e-14 * largest)
        if M > 1:
            assert scale > 1e-6 * largest, f"{parameter} hardly has a gradient: the test has no force"

    if M > 1:  # the score term is needed: without it the addressing module's gradient is another
        without = gradient((probability.detach() * iwae(terms)).sum())
        parameter = (
            "addressing.embed_query.head.weight"
            if isinstance(sizes, MLPSizes)
            else "addressing.embed_query.head.2.weight"
        )
        assert (without[parameter] - exact[parameter]).norm() > 0.1 * exact[parameter].norm()


def brute_sets(M: int, K: int) -> Tensor:
    return torch.tensor([*itertools.combinations(range(M), K)]).mT


def set_probability(log_qa: Tensor) -> Tensor:
    """P(S) of each set (K, n), by the sum over its orders."""
    total = torch.zeros_like(log_qa[0])
    for order in itertools.permutations(range(len(log_qa))):
        q = log_qa[list(order)].exp()
        gone = torch.cat((torch.zeros_like(q[:1]), q[:-1].cumsum(0)))
        total = total + (q / (1 - gone)).prod(0)
    return total


OTHERS = [("rloo", 3), ("wake", 3), ("set-score", 2), ("set-score", 3), ("set-score", 4), ("set-wake", 2)]
OTHERS += [("all-score", 4), ("all-wake", 4)]


@pytest.mark.parametrize(("name", "K"), OTHERS)
@pytest.mark.parametrize("sizes", [TINY_MLP, TINY_CONV], ids=["mlp", "conv"])
def test_expected_gradient_is_that_of_its_own_target(sizes: ConvSizes | MLPSizes, name: str, K: int) -> None:
    """B and C: q(a|x) by its own target, everything else by the bound that the draws give.

    The noise of z is the same for all samples, so that R_a = log w at a is a number, and the targets are sums over
    addresses: B sum_a q_a R_a; C sum_a p(a|x) log q_a with all of them, and by its own labels with fewer.
    """
    surrogate, kind = WEIGHTED[name]
    M = 4
    model = random_model(sizes, seed=K)
    a = torch.tensor([*itertools.product(range(M), repeat=K)]).mT if kind is None else brute_sets(M, K)
    n = a.shape[1]
    x = binary_images(1, sizes.image[1], seed=1).expand(n, -1, -1, -1)
    one = torch.randn(1, 1, sizes.latent, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    encoded = model.encode_memory(binary_images(M, sizes.image[1], seed=3))

    def draw(log_q: Tensor, num_samples: int, generator: object) -> tuple[Tensor, Tensor | None]:
        log_qa = log_q.gather(1, a.mT).mT.detach()
        return a, {"set": lambda: set_weights(log_qa)[0].log(), "all": lambda: log_qa, None: lambda: None}[kind]()

    terms = model(x, encoded, K, noise=one.expand(K, n, -1), draw=draw)
    probability = (set_probability(terms.log_qa) if kind else terms.log_qa.sum(0).exp()).detach()
    assert float(probability.sum()) == pytest.approx(1)
    everything = torch.arange(M)[:, None]
    log_w = model(x[:1], encoded, M, noise=one.expand(M, 1, -1), addresses=everything)
    R, log_q = log_w.log_w.detach()[:, 0], log_w.log_qa[:, 0]

    omega = torch.full_like(terms.log_qa, 1 / K).detach() if terms.log_omega is None else terms.log_omega.exp()
    log_weights = terms.log_px + terms.log_rz + terms.log_pa - terms.log_qa.detach() + omega.log()
    exact = (probability * log_weights.logsumexp(0)).sum()
    if name.endswith("wake"):
        labels = torch.zeros(M, dtype=torch.float64).index_add(
            0, a.flatten(), (probability * (log_weights.softmax(0).detach())).flatten()
        )
        if name == "all-wake":
            torch.testing.assert_close(labels, (R + log_q.detach()).softmax(0))
        exact = exact + labels @ log_q
    else:
        exact = exact + log_q.exp() @ R

    names, parameters = zip(*model.named_parameters(), strict=True)
    found, expected = (
        torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        for value in ((probability * surrogate(terms)).sum(), exact)
    )
    largest = max(g.abs().max().item() for g in expected)
    for parameter, one_of, other in zip(names, found, expected, strict=True):
        scale = other.abs().max().item()
        assert scale > 1e-6 * largest, f"{parameter} hardly has a gradient: the test has no force"
        torch.testing.assert_close(one_of, other, rtol=0, atol=1e-8 * scale + 1e-13 * largest, msg=parameter)


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


@pytest.mark.parametrize("z_gradient", Z_GRADIENTS)
@pytest.mark.parametrize("sizes", [TINY_MLP, TINY_CONV], ids=["mlp", "conv"])
def test_gradients_of_z_change_the_posteriors_alone(z_gradient: str, sizes: ConvSizes | MLPSizes) -> None:
    """At the same draws values and all other gradients are those of IWAE; the posterior's are the sums of one sample's
    D_k J_k with the weights that the name says.
    """
    K, B, M = 3, 2, 4
    plain = random_model(sizes, seed=5)
    model = VariationalMemoryAddressing(sizes, z_gradient=z_gradient).double()
    model.load_state_dict(plain.state_dict())
    path = VariationalMemoryAddressing(sizes, z_gradient="stl").double()
    path.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(K, B, sizes.latent, generator=generator, dtype=torch.float64)
    a = torch.tensor([[0, 3], [1, 3], [1, 0]])  # a pair that repeats
    x, memory = binary_images(B, sizes.image[1], 1), binary_images(M, sizes.image[1], 2)

    def terms_of(one: VariationalMemoryAddressing) -> Terms:
        return one(x, one.encode_memory(memory), K, addresses=a, noise=noise)

    def gradients(one: VariationalMemoryAddressing, value: Tensor) -> dict[str, Tensor]:
        names, parameters = zip(*one.named_parameters(), strict=True)
        found = torch.autograd.grad(value, parameters, materialize_grads=True, retain_graph=True)
        return dict(zip(names, found, strict=True))

    terms, expected = terms_of(model), terms_of(plain)
    for name, value in expected.tensors.items():
        torch.testing.assert_close(getattr(terms, name), value)
    found, exact = gradients(model, vimco(terms).mean()), gradients(plain, vimco(expected).mean())
    log_w, wbar = terms_of(path).log_w, expected.log_w.softmax(0).detach()
    weights = {"stl": wbar, "dreg": wbar**2, "single": torch.full_like(wbar, 1 / K)}
    paths = gradients(path, (weights[z_gradient] * log_w).sum(0).mean()) if z_gradient in weights else exact
    for name, value in found.items():
        known = paths if name.startswith("posterior.") else exact
        torch.testing.assert_close(value, known[name], rtol=1e-8, atol=1e-12, msg=name)
    with torch.no_grad():
        assert not terms_of(model).log_w.requires_grad


def test_a_target_that_does_not_count_has_no_gradient() -> None:
    for z_gradient in Z_GRADIENTS:
        terms, *parameters = one_z(z_gradient, torch.randn(3, 2))
        for gradient in torch.autograd.grad(iwae(terms)[0], parameters):
            assert gradient[0] != 0
            assert gradient[1] == 0


def test_the_single_sample_path_needs_independent_draws() -> None:
    model = VariationalMemoryAddressing(TINY_MLP, z_gradient="single")
    x = binary_images(2, 4, 0).float()
    with pytest.raises(ValueError, match="z_gradient is single, which needs independent draws"):
        model(x, model.encode_memory(x), 2, draw=draw_set)


# --- straight-through Gumbel addresses


@pytest.mark.parametrize("sizes", [TINY_MLP, TINY_CONV], ids=["mlp", "conv"])
def test_gumbel_addresses_are_hard_and_have_the_gradient_of_relaxed_ones(sizes: ConvSizes | MLPSizes) -> None:
    K, B, M = 3, 2, 4
    plain = random_model(sizes, seed=7)
    model = GumbelAddressing(sizes).double()
    model.load_state_dict(plain.state_dict())
    x, memory = binary_images(B, sizes.image[1], 1), binary_images(M, sizes.image[1], 2)
    noise = torch.randn(K, B, sizes.latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = model(x, model.encode_memory(memory), K, generator=torch.Generator().manual_seed(1), noise=noise)

    encoded = plain.encode_memory(memory)
    log_q, _ = plain.address(x, encoded)
    waiting = torch.empty(K, B, M, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    relaxed = ((log_q.detach() - waiting.log()) / TEMPERATURE).softmax(-1)
    expected = plain(x, encoded, K, addresses=relaxed.argmax(-1), noise=noise)
    for name, value in expected.tensors.items():
        torch.testing.assert_close(getattr(terms, name), value)

    names, parameters = zip(*plain.named_parameters(), strict=True)
    for name, one, other in zip(
        names,
        torch.autograd.grad(pathwise(terms).mean(), [*model.parameters()], retain_graph=True),
        torch.autograd.grad(pathwise(expected).mean(), parameters),
        strict=True,
    ):
        if "embed" in name:  # q(a|x) has the path through the relaxed addresses too
            assert (one - other).norm() > 1e-3 * one.norm(), name
        elif "prior_query" not in name:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)


def test_gumbel_addresses_are_the_base_class_without_gradient() -> None:
    model = GumbelAddressing(TINY_MLP)
    plain = VariationalMemoryAddressing(TINY_MLP)
    plain.load_state_dict(model.state_dict())
    x = binary_images(3, 4, 0).float()
    with torch.no_grad():
        one, other = (
            m(x, m.encode_memory(x), 5, generator=torch.Generator().manual_seed(0)).log_w for m in (model, plain)
        )
    assert torch.equal(one, other)
