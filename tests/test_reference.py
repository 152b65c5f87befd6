"""The fast path against the reference path: exactly in float64, and in bfloat16 within its precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import CONV, HIDDEN, MLP, gradients, noise, seeded
from torch import nn

from vma import ConvSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.networks import Sizes
from vma.reference import ReferenceAddressing

B, K, M = 3, 4, 5
CASES: dict[str, tuple[Sizes, dict[str, Any]]] = {
    "conv, even": (CONV, {}),
    "conv, odd": (ConvSizes(image=(1, 9, 6), widths=(3, 4, 5, 6, 7, 8), hidden=8, latent=2, embedding=4), {}),
    "conv, tied": (replace(HIDDEN, latent=2), {"tied": True}),
    "mlp": (MLP, {"prior": "flat"}),
    "mlp, learned": (MLP, {"learned_entries": M, "memory_shape": (7,)}),
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
    return (torch.rand(n, *sizes.image, generator=seeded(n)) < 0.3).to(dtype)


def terms_of(model: nn.Module, sizes: Sizes, **fixed: Any) -> Terms:
    dtype = next(model.parameters()).dtype
    memory = None if model.memory is not None else images(M, sizes, dtype)
    return model(images(B, sizes, dtype), model.encode_memory(memory), K, **fixed)


def gradients_of(model: nn.Module, terms: Terms) -> dict[str, torch.Tensor]:
    return gradients(model, -vimco(terms).mean())


@each
def test_both_paths_are_one_model(sizes: Sizes, options: dict[str, Any]) -> None:
    fast, plain = make_pair(sizes, options)
    a = torch.tensor([[0, 1, 4], [2, 2, 2], [2, 0, 2], [0, 1, 4]])  # entries and pairs that repeat
    one, other = (terms_of(model, sizes, addresses=a, noise=noise(K, B, sizes)) for model in (fast, plain))
    torch.testing.assert_close(one.tensors, other.tensors)
    found, expected = gradients_of(fast, one), gradients_of(plain, other)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@each
def test_both_paths_draw_the_same(sizes: Sizes, options: dict[str, Any]) -> None:
    one, other = (terms_of(model, sizes, generator=seeded(3)).log_w for model in make_pair(sizes, options))
    torch.testing.assert_close(one, other)


@each
def test_chunks_change_nothing(sizes: Sizes, options: dict[str, Any]) -> None:
    for model in make_pair(sizes, options):
        with torch.no_grad():
            whole, parts = (terms_of(model, sizes, generator=seeded(3), chunk=chunk) for chunk in (None, 2))
        torch.testing.assert_close(whole.tensors, parts.tensors)


def test_mixed_precision_agrees_with_float64() -> None:
    """At fixed addresses and noise: the bound of every target within 0.05 %, the gradient of all weights together
    within 1 % of its length.
    """
    sizes = ConvSizes(image=(1, 26, 26), widths=(16,) * 6, hidden=None, latent=8, embedding=16)
    exact, _ = make_pair(sizes, {})
    mixed = VariationalMemoryAddressing(sizes).to(memory_format=torch.channels_last)
    mixed.load_state_dict(exact.state_dict())
    a, eps = torch.randint(M, (K, B), generator=seeded(1)), noise(K, B, sizes, seed=1, dtype=torch.float32)
    expected = terms_of(exact, sizes, addresses=a, noise=eps.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(mixed, sizes, addresses=a, noise=eps)
    assert iwae(found).dtype == torch.float32
    off = ((iwae(found) - iwae(expected)) / iwae(expected)).abs().max().item()
    assert off < BOUND_TOLERANCE, off
    one = torch.cat([g.flatten() for g in gradients_of(mixed, found).values()])
    other = torch.cat([g.flatten() for g in gradients_of(exact, expected).values()])
    error = ((one - other).norm() / other.norm()).item()
    assert error < GRADIENT_TOLERANCE, error
