"""What the network families have in common: their pieces, and how layers start."""

import math
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

Levels = list[Tensor]  # one activation tensor per pyramid layer, each (N, ...)
Condition = list[Tensor]  # the vector of m and the additions to each decoder layer, each (N, ...)


@runtime_checkable
class Family(Protocol):
    """What a network family offers to models without skip connections. `image` is (C, H, W); `latent` is |z|;
    `features()` is the length of a pyramid's flattened last level, which a head takes, with `beside` numbers joined to
    it.
    """

    @property
    def image(self) -> tuple[int, int, int]: ...
    @property
    def latent(self) -> int: ...
    def features(self) -> int: ...
    def pyramid(self, shape: tuple[int, ...]) -> nn.Module: ...
    def head(self, outputs: int, beside: int = 0) -> nn.Module: ...
    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module: ...
    def decoder(self, pixel_mean: float, conditioned: bool) -> nn.Module: ...


@runtime_checkable
class Sizes(Family, Protocol):
    """What a network family offers to all models. `embedding` is |e|."""

    @property
    def embedding(self) -> int: ...
    def conditioner(self, shape: tuple[int, ...]) -> nn.Module: ...
    def pair_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...
    def join(self, x: Tensor, memory: Tensor) -> Tensor: ...


def he_(weight: Tensor, fan_in: int | float, gain: float = 1.0) -> None:
    """He initialisation in place: normal with variance 2 / fan_in, times gain^2."""
    nn.init.normal_(weight, std=gain * math.sqrt(2 / fan_in))


def linear(inputs: int, outputs: int, fan_in: int | None = None, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    he_(layer.weight, fan_in or inputs, gain)
    nn.init.zeros_(layer.bias)
    return layer


# gain of last layers: distributions start near N(0, I), the flat address and the data's mean; KL_z takes off early
SMALL = 0.1


class Encoder(nn.Module):
    """A pyramid and a head on its last level: N images to N vectors."""

    def __init__(self, pyramid: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = head

    def forward(self, images: Float[Tensor, "N *image"]) -> Float[Tensor, "N out"]:
        return self.head(self.pyramid(images)[-1].flatten(1))


def logit(mean: float) -> float:
    """log(mean / (1 - mean)).

    Raises:
        ValueError: unless 0 < mean < 1.
    """
    if not 0 < mean < 1:
        raise ValueError(f"pixel_mean is {mean}, must lie strictly between 0 and 1")
    return math.log(mean / (1 - mean))
