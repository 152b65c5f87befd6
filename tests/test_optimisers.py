"""Muon: steps of orthogonal matrices, Adam for the rest. Exact resumption is in test_checkpoint."""

import pytest
import torch
from helpers import seeded
from torch import nn

from vma.optimisers import Muon, orthogonalised


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (5, 20), (20, 5), (1, 9)])
def test_a_step_keeps_singular_vectors_and_brings_singular_values_near_one(rows: int, columns: int) -> None:
    matrix = torch.randn(3, rows, columns, dtype=torch.float64, generator=seeded())
    step = orthogonalised(matrix)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = U.mT @ step @ Vh.mT
    assert torch.allclose(inside, torch.diag_embed(inside.diagonal(dim1=1, dim2=2)), atol=1e-10)
    well_conditioned = S / torch.linalg.matrix_norm(matrix)[:, None] > 0.03
    values = inside.diagonal(dim1=1, dim2=2)[well_conditioned]
    assert values.min() > 0.5
    assert values.max() < 1.3


def make() -> tuple[nn.Module, Muon]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    return model, Muon(matrices, others, lr=0.02, adam_lr=1e-2, weight_decay=0.1)


def steps(model: nn.Module, optimizer: Muon, numbers: range) -> None:
    for number in numbers:
        x = torch.randn(5, 1, 6, 6, generator=seeded(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_vectors_change_as_by_adam() -> None:
    model, optimizer = make()
    other, _ = make()
    adam = torch.optim.Adam([p for p in other.parameters() if p.dim() == 1], lr=1e-2)
    steps(model, optimizer, range(1))
    x = torch.randn(5, 1, 6, 6, generator=seeded())
    other(x).square().mean().backward()
    adam.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs) == (mine.dim() == 1)


def test_nothing_changes_after_a_bound_that_broke() -> None:
    model, optimizer = make()
    steps(model, optimizer, range(2))
    before = [p.clone() for p in model.parameters()]
    moments = [s["momentum_buffer"].clone() for s in optimizer.state.values() if "momentum_buffer" in s]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    after = [s["momentum_buffer"] for s in optimizer.state.values() if "momentum_buffer" in s]
    assert all(torch.equal(m, old) for m, old in zip(after, moments, strict=True))
