"""The fast path against the reference path: exactly in float64, and in bfloat16 within its precision."""

from typing import Any

import pytest
import torch
from torch import nn

from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.networks import Sizes
from vma.reference import ReferenceAddressing

B, K, M = 3, 4, 5
CASES: dict[str, tuple[Sizes, dict[str, Any]]] = {
    "conv, even": (ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=None, latent=2, embedding=4), {}),
    "conv, odd": (ConvSizes(image=(1, 9, 6), widths=(3, 4, 5, 6, 7, 8), hidden=8, latent=2, embedding=4), {}),
    "conv, tied": (ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=2, embedding=4), {"tied": True}),
    "mlp": (MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3), {"prior": "flat"}),
    "mlp, learned": (
        MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3),
        {"learned_entries": M, "memory_shape": (7,)},
    ),
}
each = pytest.mark.parametrize(("sizes", "options"), CASES.values(), ids=CASES)
# bfloat16 keeps 8 bits: one rounding is off by up to 0.4 %. The bound sums some hundred terms whose errors differ in
# sign; a gradient goes through twelve layers and back.
BOUND_TOLERANCE, GRADIENT_TOLERANCE = 0.0005, 0.01


def make_pair(sizes: Sizes, options: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """A model and its reference path with the same weights, in float64."""
    torch.manual_seed(0)
    fast = VariationalMemoryAddressing(sizes, **options).double().to(memory_format=torch.channels_last)
    plain = ReferenceAddressing(sizes, **options).double()
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def images(n: int, sizes: Sizes, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.rand(n, *sizes.image, generator=torch.Generator().manual_seed(n)) < 0.3).to(dtype)


def terms_of(model: nn.Module, sizes: Sizes, **fixed: Any) -> Terms:
    dtype = next(model.parameters()).dtype
    memory = None if model.memory is not None else images(M, sizes, dtype)
    return model(images(B, sizes, dtype), model.encode_memory(memory), K, **fixed)


def gradients(model: nn.Module, terms: Terms) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(-vimco(terms).mean(), parameters, allow_unused=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


@each
def test_both_paths_are_one_model(sizes: Sizes, options: dict[str, Any]) -> None:
    fast, plain = make_pair(sizes, options)
    a = torch.tensor([[0, 1, 4], [2, 2, 2], [2, 0, 2], [0, 1, 4]])  # entries and pairs that repeat
    noise = torch.randn(K, B, sizes.latent, dtype=torch.float64)
    one, other = (terms_of(model, sizes, addresses=a, noise=noise) for model in (fast, plain))
    for name, value in vars(one).items():
        torch.testing.assert_close(value, getattr(other, name), msg=name)
    found, expected = gradients(fast, one), gradients(plain, other)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@each
def test_both_paths_draw_the_same(sizes: Sizes, options: dict[str, Any]) -> None:
    one, other = (
        terms_of(model, sizes, generator=torch.Generator().manual_seed(3)).log_w for model in make_pair(sizes, options)
    )
    torch.testing.assert_close(one, other)


@each
def test_chunks_change_nothing(sizes: Sizes, options: dict[str, Any]) -> None:
    for model in make_pair(sizes, options):
        with torch.no_grad():
            whole, parts = (
                terms_of(model, sizes, generator=torch.Generator().manual_seed(3), chunk=c) for c in (None, 2)
            )
        for name, value in vars(whole).items():
            torch.testing.assert_close(value, getattr(parts, name), msg=name)


def test_mixed_precision_agrees_with_float64() -> None:
    """At fixed addresses and noise: the bound of every target within 0.05 %, the gradient of all weights together
    within 1 % of its length.
    """
    sizes = ConvSizes(image=(1, 26, 26), widths=(16,) * 6, hidden=None, latent=8, embedding=16)
    exact, _ = make_pair(sizes, {})
    mixed = VariationalMemoryAddressing(sizes).to(memory_format=torch.channels_last)
    mixed.load_state_dict(exact.state_dict())
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(M, (K, B), generator=generator)
    noise = torch.randn(K, B, sizes.latent, generator=generator)
    expected = terms_of(exact, sizes, addresses=a, noise=noise.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(mixed, sizes, addresses=a, noise=noise)
    assert iwae(found).dtype == torch.float32
    off = ((iwae(found) - iwae(expected)) / iwae(expected)).abs().max().item()
    assert off < BOUND_TOLERANCE, off
    one = torch.cat([g.flatten() for g in gradients(mixed, found).values()])
    other = torch.cat([g.flatten() for g in gradients(exact, expected).values()])
    error = ((one - other).norm() / other.norm()).item()
    assert error < GRADIENT_TOLERANCE, error
