"""What tests of several files share: small sizes, images, models and draws of a seed; gradients; refusals in a line."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from vma import ConvSizes, MLPSizes, Terms
from vma.errors import InputError
from vma.networks import Family

CPU = torch.device("cpu")
MLP = MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3)
CONV = ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=None, latent=2, embedding=4)
HIDDEN = ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=3, embedding=4)

Made = TypeVar("Made")


def seeded(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def made(make: Callable[[], Made], seed: int = 0) -> Made:
    """What is made from a seed, which leaves torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def far(model: nn.Module) -> nn.Module:
    """The model far from the tame initial weights, with no layer dead."""
    for p in model.parameters():
        p.data = 0.5 * torch.rand_like(p) if p.dim() == 1 else p + 0.5 * torch.randn_like(p) / p[0].numel() ** 0.5
    return model


def uneven(model: nn.Module, scale: float) -> nn.Module:
    """The model with weights for which q(a|x) is uneven and the posterior is not the prior; positive biases, so that no
    layer is dead.
    """
    for p in model.parameters():
        p.data = scale * (torch.rand_like(p) if p.dim() == 1 else torch.randn_like(p) * math.sqrt(2 / p[0].numel()))
    return model


def binary(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randint(0, 2, shape, generator=seeded(seed)).to(dtype)


def noise(K: int, B: int, sizes: Family, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(K, B, sizes.latent, generator=seeded(seed), dtype=dtype)


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """Of each parameter by its name; zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def assert_same(one: Terms, other: Terms, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(one.tensors, other.tensors, rtol=tolerance, atol=tolerance)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Bit for bit."""
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def python(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """A Python of its own, with what it says and its exit code."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command has said, which is an error in one line."""
    said = capsys.readouterr().err
    assert said.startswith("error: "), said
    assert len(said.splitlines()) == 1, said
    return said


@contextmanager
def refused(message: str, error: type[Exception] = InputError) -> Iterator[None]:
    """What is done within is refused in one line, in which the pattern is found."""
    with pytest.raises(error, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
