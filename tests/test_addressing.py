"""Similarities (eq. 5), q(a|x) (eqs. 4, 6), p(a), and the draws from them."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from vma import Addressing, MLPSizes, VariationalMemoryAddressing
from vma.addressing import SIMILARITIES, draw_addresses, kl_categorical
from vma.errors import InputError

SIZES = MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3)
DEFINITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of one memory entry and one query
    "paper": lambda e_a, e_q: (e_a * e_q).sum() / (e_a**2).sum().sqrt(),
    "inner": lambda e_a, e_q: (e_a * e_q).sum(),
    "cosine": lambda e_a, e_q: (e_a * e_q).sum() / (e_a**2).sum().sqrt() / (e_q**2).sum().sqrt(),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def addressing(similarity: str = "paper", prior: str = "learned", tied: bool = False) -> Addressing:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Addressing(SIZES, (7,), similarity, prior, tied).double().requires_grad_(False)
        for p in module.parameters():  # far from the flat start
            p.data = torch.rand_like(p) if p.dim() == 1 else torch.randn_like(p)
    return module


def by_definition(name: str, e_a: Tensor, e_q: Tensor) -> Tensor:
    return torch.stack([torch.stack([DEFINITIONS[name](m, q) for m in e_a]) for q in e_q])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_is_eq_5(name: str) -> None:
    e_a, e_q = randn(5, 3), randn(4, 3, seed=1)
    torch.testing.assert_close(SIMILARITIES[name](e_a, e_q), by_definition(name, e_a, e_q))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity_is_not_rounded_under_bfloat16(name: str) -> None:
    e_a, e_q = randn(5, 3).float(), 10 * randn(4, 3, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = SIMILARITIES[name](e_a, e_q)
    assert torch.equal(rounded, SIMILARITIES[name](e_a, e_q))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_posterior_is_eq_4_and_shares_its_keys_with_the_prior(name: str) -> None:
    module, memory, x = addressing(name), randn(5, 7), randn(4, 1, 4, 4, seed=1)
    keys = module.keys(module.embed(memory))
    log_q = module.log_posterior(x, keys)
    torch.testing.assert_close(keys.e_a, module.embed_memory(memory))
    torch.testing.assert_close(log_q, by_definition(name, keys.e_a, module.embed_query(x)).log_softmax(1))
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(keys.log_p, by_definition(name, keys.e_a, module.prior_query).log_softmax(1)[0])
    assert log_q.std() > 0.1
    assert keys.log_p.std() > 0.1


@pytest.mark.parametrize("M", [1, 2, 7])
def test_flat_prior_is_exact(M: int) -> None:
    module = addressing(prior="flat")
    assert "prior_query" not in dict(module.named_parameters())
    log_p = module.keys(module.embed(randn(M, 7))).log_p
    torch.testing.assert_close(log_p, torch.full((M,), -math.log(M), dtype=torch.float64), rtol=0, atol=1e-15)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="similarity is 'dot', must be one of paper, inner, cosine"):
        VariationalMemoryAddressing(SIZES, similarity="dot")
    with pytest.raises(InputError, match="prior is 'uniform', must be 'learned' or 'flat'"):
        VariationalMemoryAddressing(SIZES, prior="uniform")


def test_kl_is_exact() -> None:
    log_q, log_p = randn(4, 6).mul(3).log_softmax(1), randn(6, seed=1).log_softmax(0)
    expected = kl_divergence(Categorical(logits=log_q), Categorical(logits=log_p))
    torch.testing.assert_close(kl_categorical(log_q, log_p), expected)
    assert torch.equal(kl_categorical(torch.zeros(3, 1), torch.zeros(1)), torch.zeros(3))


def test_addresses_are_drawn_from_q() -> None:
    log_q = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.01, 0.01, 0.97, 0.01], [1.0, 0.0, 0.0, 0.0]]).log()
    draws = draw_addresses(log_q.requires_grad_(), 20_000, torch.Generator().manual_seed(0))
    assert draws.shape == (20_000, 3)
    assert not draws.requires_grad
    assert (draws[:, 2] == 0).all()
    for b in (0, 1):
        counts = torch.bincount(draws[:, b], minlength=4)
        assert chisquare(counts, 20_000 * log_q[b].detach().double().softmax(0)).pvalue > 1e-3
    joint = torch.bincount(4 * draws[:-1, 0] + draws[1:, 0], minlength=16)  # of successive draws: independent
    q = log_q[0].detach().double().softmax(0)
    assert chisquare(joint, 19_999 * torch.outer(q, q).flatten()).pvalue > 1e-3


def test_addresses_of_what_is_not_finite_are_any() -> None:
    """The bound says that it broke; a sampler's own error would not say where."""
    log_q = torch.tensor([[math.nan] * 4, [0.0, -math.inf, -math.inf, -math.inf]])
    draws = draw_addresses(log_q, 50, torch.Generator().manual_seed(0))
    assert ((draws >= 0) & (draws < 4)).all()
    assert (draws[:, 1] == 0).all()
