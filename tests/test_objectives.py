"""The bound (eq. 7), exactly: addresses enumerated, z by quadrature."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch
from helpers import MLP, binary, made, seeded, uneven
from torch.nn import functional as F

from vma import Terms, VariationalMemoryAddressing, iwae
from vma.errors import InputError
from vma.networks import Sizes


def random_terms(K: int, B: int = 3) -> Terms:
    """Four leaves of the size that they have in practice, in float64."""
    generator = seeded()
    parts = [(20 * torch.randn(K, B, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(4)]
    return Terms(*parts, kl_a=torch.zeros(B, dtype=torch.float64))


def random_model(sizes: Sizes, seed: int, scale: float = 0.6) -> VariationalMemoryAddressing:
    """In float64, far from the tame initial weights."""
    return made(lambda: uneven(VariationalMemoryAddressing(sizes).double(), scale), seed)


# --- the functions themselves


@pytest.mark.parametrize("K", [1, 2, 5])
def test_iwae_is_eq_7(K: int) -> None:
    terms = random_terms(K)
    w = (terms.log_px + terms.log_rz + terms.log_pa - terms.log_qa).exp()
    torch.testing.assert_close(iwae(terms), (w.sum(0) / K).log())
    torch.testing.assert_close(terms.kl_z, -terms.log_rz.mean(0))
    weighted = replace(terms, log_omega=torch.full_like(terms.log_w, 1 / K).log())
    torch.testing.assert_close(iwae(weighted), iwae(terms))
    torch.testing.assert_close(weighted.kl_z, terms.kl_z)


def test_terms_of_other_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a mean over samples would be one over targets, and what is broadcast would count as each sample's own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of the tests
    terms = random_terms(3, 2)
    wrong = {"log_px": (2, 3), "log_rz": (2, 3), "log_qa": (1, 2), "kl_a": (3, 2), "baseline": (3,)}
    for name, shape in wrong.items():
        with pytest.raises(InputError, match=r"of Terms has shape .* must be .*: \(K, B\), or \(B,\) for kl_a"):
            replace(terms, **{name: torch.zeros(shape, dtype=torch.float64)})


def test_terms_are_joined_target_by_target() -> None:
    terms = replace(random_terms(3), baseline=torch.zeros(3, dtype=torch.float64))
    parts = [terms.each(lambda value: value[..., :1]), terms.each(lambda value: value[..., 1:])]
    joined = Terms.join(parts)
    assert joined.log_omega is None
    for name, value in vars(terms).items():
        assert value is None or torch.equal(getattr(joined, name), value)


# --- the bound is one: addresses enumerated, a one-dimensional z integrated


@pytest.mark.parametrize("seed", range(6))
def test_expected_bound_rises_with_samples_and_stays_below_log_p(seed: int) -> None:
    """L(K=1) < L(K=2) < log p(x), strictly for a random model; log p(x) is integrated over the prior by the submodules.

    The decoder has kinks (ReLU), for which a fine even grid of the noise beats Gauss-Hermite nodes.
    """
    M, sizes = 3, replace(MLP, latent=1)
    model = random_model(sizes, seed, scale=0.5).requires_grad_(False)
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    log_mass = (-0.5 * grid**2).log_softmax(0)
    x, memory = binary(1, *MLP.image, seed=seed), binary(M, *MLP.image, seed=seed + 100)
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
