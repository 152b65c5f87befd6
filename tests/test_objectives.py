"""The bound (eq. 7), exactly: addresses enumerated, z by quadrature."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae
from vma.errors import InputError

TINY_MLP = MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3)


def random_terms(K: int, B: int = 3, seed: int = 0) -> Terms:
    """Four leaves of the size that they have in practice, in float64."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(20 * torch.randn(K, B, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(4)]
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
