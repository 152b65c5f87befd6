"""The MLP family of section 4.1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vma.networks.family import SMALL, Condition, Encoder, Levels, he_, linear, logit
from vma.networks.kernels import added


@dataclass(frozen=True)
class MLPSizes:
    """Two-layer MLPs (section 4.1): an encoder of 256 and 128 hidden units, a decoder of 128 and 256, |z| = 32.

    Memory entries have any shape and are flattened. Beside the skip connections a linear path leads from m to the pixel
    logits: the text does not say how m enters the decoder, and without a path of that width no model recalls an image
    from memory.
    """

    image: tuple[int, int, int] = (1, 28, 28)
    widths: tuple[int, int] = (256, 128)
    latent: int = 32
    embedding: int = 128

    def pyramid(self, shape: tuple[int, ...]) -> nn.Module:
        return MLPPyramid(math.prod(shape), self.widths)

    def features(self) -> int:
        return self.widths[-1]

    def head(self, outputs: int, beside: int = 0) -> nn.Module:
        return linear(self.features() + beside, outputs, gain=SMALL)

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Encoder(self.pyramid(shape), self.head(outputs))

    def conditioner(self, shape: tuple[int, ...]) -> nn.Module:
        return MLPConditioner(self, math.prod(shape))

    def decoder(self, pixel_mean: float, conditioned: bool) -> nn.Module:
        return MLPDecoder(self, pixel_mean, conditioned)

    def pair_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(self.image) + math.prod(shape),)

    def join(self, x: Tensor, memory: Tensor) -> Tensor:
        return torch.cat((x.flatten(1), memory.flatten(1)), 1)


class MLPPyramid(nn.Module):
    """Fully connected ReLU layers; the levels are their activations, preceded by the flattened input itself."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(i, o) for i, o in zip((inputs, *widths), widths, strict=False))

    def forward(self, images: Float[Tensor, "N *image"]) -> Levels:
        levels = [images.flatten(1)]
        for layer in self.layers:
            levels.append(F.relu(layer(levels[-1]), inplace=True))
        return levels


class MLPConditioner(nn.Module):
    """Levels of m to the vector of m and the decoder's additions."""

    def __init__(self, sizes: MLPSizes, inputs: int) -> None:
        super().__init__()
        first, second = sizes.widths
        self.vector = linear(second, sizes.latent)
        skips = [
            nn.Linear(second, second, bias=False),
            nn.Linear(first, first, bias=False),
            nn.Linear(inputs, math.prod(sizes.image), bias=False),
        ]
        he_(skips[0].weight, second + 2 * sizes.latent)
        he_(skips[1].weight, first + second)
        he_(skips[2].weight, first + inputs, SMALL)
        self.skips = nn.ModuleList(skips)

    def forward(self, levels: Levels) -> Condition:
        entry, first, second = levels
        return [
            self.vector(second),
            *(skip(level) for skip, level in zip(self.skips, (second, first, entry), strict=True)),
        ]


class MLPDecoder(nn.Module):
    """z and the conditions of m, if there are any, to Bernoulli logits."""

    def __init__(self, sizes: MLPSizes, pixel_mean: float, conditioned: bool) -> None:
        super().__init__()
        first, second = sizes.widths
        pixels = math.prod(sizes.image)
        self.image = sizes.image
        inputs = 2 * sizes.latent if conditioned else sizes.latent
        layers = [
            linear(inputs, second, fan_in=inputs + second * conditioned),
            linear(second, first, fan_in=second + first * conditioned),
            linear(first, pixels, fan_in=first + pixels * conditioned, gain=SMALL),
        ]
        nn.init.constant_(layers[-1].bias, logit(pixel_mean))
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        z: Float[Tensor, "N Z"],
        condition: Condition | None = None,
        mix: Float[Tensor, "N U"] | None = None,
    ) -> Float[Tensor, "N C H W"]:
        h = z
        if condition is not None:
            h = torch.cat((z, condition[0] if mix is None else mix @ condition[0]), -1)
        for i, layer in enumerate(self.layers):
            h = layer(h if i == 0 else F.relu(h, inplace=True))
            if condition is not None:
                h = added(h, condition[i + 1], mix)
        return h.unflatten(1, self.image)
