"""The bound (eq. 7) and the VIMCO surrogate (eq. 8), exactly: addresses enumerated, z by fixed noise or quadrature."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.objectives import geometric_leave_one_out, leave_one_out

LEADS = (5.0, 15.0, 30.0, 100.0)
Baseline = Callable[[Tensor], Tensor]
each_baseline = pytest.mark.parametrize("baseline", [leave_one_out, geometric_leave_one_out])


def random_terms(K: int, B: int = 3, seed: int = 0) -> Terms:
    """Five leaves of the size that they have in practice, in float64."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(20 * torch.randn(K, B, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(5)]
    return Terms(*parts, kl_a=torch.zeros(B, dtype=torch.float64))


def random_model(sizes: ConvSizes | MLPSizes, seed: int, scale: float = 0.6) -> VariationalMemoryAddressing:
    """In float64, with weights far from the tame initial ones: q(a|x) is uneven and the posterior is not the prior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VariationalMemoryAddressing(sizes).double()
        for p in model.parameters():
            # positive biases, so that no layer is dead
            p.data = scale * (torch.rand_like(p) if p.dim() == 1 else torch.randn_like(p) * math.sqrt(2 / p[0].numel()))
    return model


def binary_images(n: int, size: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (n, 1, size, size), generator=torch.Generator().manual_seed(seed)).double()


# --- the functions themselves


@pytest.mark.parametrize("K", [1, 2, 5])
def test_iwae_is_eq_7(K: int) -> None:
    terms = random_terms(K)
    w = (terms.log_px + terms.log_pz + terms.log_pa - terms.log_qa - terms.log_qz).exp()
    torch.testing.assert_close(iwae(terms), (w.sum(0) / K).log())
    torch.testing.assert_close(terms.kl_z, (terms.log_qz - terms.log_pz).mean(0))


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


def test_two_samples_make_the_arithmetic_and_the_geometric_leave_one_out_equal() -> None:
    """The mean of one is that one."""
    terms = random_terms(2)
    torch.testing.assert_close(leave_one_out(terms.log_w), geometric_leave_one_out(terms.log_w))
    torch.testing.assert_close(leave_one_out(terms.log_w), terms.log_w.flip(0))
    torch.testing.assert_close(vimco(terms), vimco(terms, geometric_leave_one_out))
    more = random_terms(3)
    assert not torch.isclose(leave_one_out(more.log_w), geometric_leave_one_out(more.log_w)).any()


@each_baseline
@pytest.mark.parametrize("K", [2, 4])
@pytest.mark.parametrize("lead", LEADS)
def test_a_leading_weight_costs_no_precision(lead: float, K: int, baseline: Baseline) -> None:
    log_w = random_terms(K).log_w.detach() / 20 - 90
    log_w[1] += lead
    torch.testing.assert_close(baseline(log_w.float()).double(), baseline(log_w), rtol=0, atol=1e-4)

    log_px, log_qa = log_w.float().requires_grad_(), torch.full_like(log_w, -2.0).float().requires_grad_()
    zero = torch.zeros_like(log_px)
    surrogate = vimco(Terms(log_px, zero, zero, log_qa.detach(), log_qa, zero[0]), baseline)
    gradients = torch.autograd.grad(surrogate.sum(), (log_px, log_qa))
    assert all(value.isfinite().all() for value in (surrogate, *gradients))


@each_baseline
def test_vimco_refuses_one_sample(baseline: Baseline) -> None:
    with pytest.raises(ValueError, match="VIMCO needs at least 2 samples per target, got 1"):
        vimco(random_terms(1), baseline)


def test_vimco_has_the_papers_baseline_unless_told() -> None:
    terms = random_terms(4)
    assert torch.equal(vimco(terms), vimco(terms, leave_one_out))


@each_baseline
@pytest.mark.parametrize("K", [2, 3, 6])
def test_vimco_is_eq_8(K: int, baseline: Baseline) -> None:
    """Value: the bound and the score term. Gradient for log q(a_k|x): L - L_{-k} - wbar_k, for all else that of L."""
    terms = random_terms(K)
    signal = (iwae(terms) - baseline(terms.log_w)).detach()
    torch.testing.assert_close(vimco(terms, baseline) - (signal * terms.log_qa).sum(0), iwae(terms))

    leaves = [terms.log_qa, terms.log_px, terms.log_pz, terms.log_pa, terms.log_qz]
    score, *others = torch.autograd.grad(vimco(terms, baseline).sum(), leaves)
    torch.testing.assert_close(score, signal - terms.log_w.softmax(0))
    for found, expected in zip(others, torch.autograd.grad(iwae(terms).sum(), leaves[1:]), strict=True):
        torch.testing.assert_close(found, expected)


# --- the estimator is unbiased: all address tuples enumerated, the noise of z fixed

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
TINY_MLP = MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3)
TINY_CONV = ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=2, embedding=4)
ENUMERATED = [(TINY_MLP, M, K) for M in (1, 2, 3, 4) for K in (2, 3, 4)] + [(TINY_CONV, 3, 3)]


@each_baseline
@pytest.mark.parametrize(("sizes", "M", "K"), ENUMERATED)
def test_expected_vimco_gradient_is_that_of_the_expected_bound(
    sizes: ConvSizes | MLPSizes, M: int, K: int, baseline: Baseline
) -> None:
    """E_{a ~ q} grad vimco = grad E_{a ~ q} log 1/K sum_k w_k for every parameter; each tuple a_1..a_K is a target."""
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
    estimate = gradient((probability.detach() * vimco(terms, baseline)).sum())
    largest = max(g.abs().max().item() for g in exact.values())
    for name in names:
        scale = exact[name].abs().max().item()
        torch.testing.assert_close(estimate[name], exact[name], rtol=0, atol=1e-9 * scale + 1e-14 * largest)
        if M > 1:
            assert scale > 1e-6 * largest, f"{name} hardly has a gradient: the test has no force"

    if M > 1:  # the score term is needed: without it the addressing module's gradient is another
        without = gradient((probability.detach() * iwae(terms)).sum())
        name = (
            "addressing.embed_query.head.weight"
            if isinstance(sizes, MLPSizes)
            else "addressing.embed_query.head.2.weight"
        )
        assert (without[name] - exact[name]).norm() > 0.1 * exact[name].norm()


# --- the bound is one: addresses enumerated, a one-dimensional z integrated


@pytest.mark.parametrize("seed", range(6))
def test_expected_bound_rises_with_samples_and_stays_below_log_p(seed: int) -> None:
    """L(K=1) < L(K=2) < log p(x), strictly for a random model; log p(x) is integrated over the prior by the submodules.

    The decoder has kinks (ReLU), for which a fine even grid of the noise beats Gauss-Hermite nodes.
    """
    M, sizes = 3, replace(TINY_MLP, latent=1)
    model = random_model(sizes, seed, scale=0.5).requires_grad_(False)
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    log_mass = (-0.5 * grid**2).log_softmax(0)
    x, memory = binary_images(1, 4, seed), binary_images(M, 4, seed + 100)
    encoded = model.encode_memory(memory)
    log_q, log_p = model.address(x, encoded)

    addresses = torch.arange(M).repeat_interleave(len(grid))[:, None]
    log_w = model(x, encoded, len(addresses), addresses=addresses, noise=grid.repeat(M)[:, None, None]).log_w.flatten()
    mass = (log_q[0][:, None] + log_mass).exp().flatten()  # q(a|x) q(z|m_a, x) on the grid
    bound_1 = mass @ log_w
    bound_2 = mass @ (torch.logaddexp(log_w[:, None], log_w) - math.log(2)) @ mass

    levels = model.memory_pyramid(memory)
    mean, log_std = model.prior_head(levels[-1]).unbind(1)
    z = mean[:, None] + log_std.exp()[:, None] * grid  # [M, grid]
    condition = [c.repeat_interleave(len(grid), 0) for c in model.conditioner(levels)]
    logits = model.decoder(z.reshape(-1, 1), condition)
    log_px = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").flatten(1).sum(1)
    log_evidence = (log_p[:, None] + log_mass + log_px.unflatten(0, (M, -1))).flatten().logsumexp(0)

    torch.testing.assert_close((mass.log() + log_w).logsumexp(0), log_evidence, rtol=0, atol=1e-4)  # E_q[w] = p(x)
    assert bound_1 + 1e-2 < bound_2 < log_evidence - 1e-2
