"""The convolutional family of section 4.2."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vma.networks.family import SMALL, Condition, Encoder, Levels, he_, linear, logit
from vma.networks.kernels import PixelConv, UpConv, added


@dataclass(frozen=True)
class ConvSizes:
    """Convolutional en- and decoders (section 4.2): six 3x3 layers, every second with stride 2, and an MLP head with
    one hidden layer.

    The text says "48 or 64 feature maps each": 48 in the two layers that work at the full size and at its first
    halving, 64 in the others. The decoder mirrors the pyramid layer by layer with transposed convolutions.
    `hidden=None` leaves the hidden layer out.
    """

    image: tuple[int, int, int] = (1, 26, 26)
    widths: tuple[int, ...] = (48, 48, 64, 64, 64, 64)
    hidden: int | None = 256
    latent: int = 64
    embedding: int = 128

    def strides(self) -> tuple[int, ...]:
        return tuple(1 + i % 2 for i in range(len(self.widths)))

    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the input and of each pyramid level: (26, 26), (26, 26), (13, 13), (13, 13), (7, 7), (7, 7), (4,
        4).
        """
        sizes = [self.image[1:]]
        for stride in self.strides():
            sizes.append(((sizes[-1][0] - 1) // stride + 1, (sizes[-1][1] - 1) // stride + 1))
        return sizes

    def features(self) -> int:
        h, w = self.level_sizes()[-1]
        return self.widths[-1] * h * w

    def pyramid(self, shape: tuple[int, ...]) -> nn.Module:
        return ConvPyramid(shape[0], self.widths, self.strides())

    def head(self, outputs: int, beside: int = 0) -> nn.Module:
        inputs = self.features() + beside
        if self.hidden is None:
            return linear(inputs, outputs, gain=SMALL)
        return nn.Sequential(linear(inputs, self.hidden), nn.ReLU(), linear(self.hidden, outputs, gain=SMALL))

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Encoder(self.pyramid(shape), self.head(outputs))

    def conditioner(self, shape: tuple[int, ...]) -> nn.Module:
        return ConvConditioner(self)

    def decoder(self, pixel_mean: float, conditioned: bool) -> nn.Module:
        return ConvDecoder(self, pixel_mean, conditioned)

    def pair_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.image[0] + shape[0], *self.image[1:])

    def join(self, x: Tensor, memory: Tensor) -> Tensor:
        return torch.cat((x, memory), 1)

    def mirrored(self, layer: int, conditioned: bool, bias: bool) -> "nn.Conv2d | UpConv":
        """The mirror of pyramid layer `layer`: from its output's shape back to its input's."""
        inputs, stride = self.widths[layer], self.strides()[layer]
        outputs, size = self.widths[layer - 1] if layer else self.image[0], self.level_sizes()[layer]
        convolution: nn.Conv2d | UpConv
        if stride == 2:
            convolution = UpConv(inputs, outputs, size, bias)
        elif layer == 0:
            convolution = PixelConv(inputs, outputs, bias)
        else:
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        # each output sees 9 / stride^2 of the kernel's positions, and with skip connections as many inputs again
        he_(convolution.weight, inputs * 9 / stride**2 * (1 + conditioned), 1.0 if layer else SMALL)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        return convolution


class ConvPyramid(nn.Module):
    """3x3 convolutions with ReLU; the levels are their activations."""

    def __init__(self, inputs: int, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, o, stride in zip((inputs, *widths), widths, strides, strict=False):
            layer = nn.Conv2d(i, o, 3, stride, padding=1)
            he_(layer.weight, 9 * i)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            self.layers.append(layer)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Levels:
        levels = [images]
        for layer in self.layers:
            levels.append(F.relu(layer(levels[-1]), inplace=True))
        return levels[1:]


class ConvConditioner(nn.Module):
    """Levels of m to the vector of m and the decoder's additions, by transposed convolutions (skip connections); those
    to an `UpConv` are phases.
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        self.vector = sizes.head(sizes.latent)
        self.skips = nn.ModuleList(sizes.mirrored(i, True, bias=False) for i in reversed(range(len(sizes.widths))))

    def forward(self, levels: Levels) -> Condition:
        return [
            self.vector(levels[-1].flatten(1)),
            *(skip(level) for skip, level in zip(self.skips, reversed(levels), strict=True)),
        ]


class ConvDecoder(nn.Module):
    """z and the conditions of m, if there are any, to Bernoulli logits: the pyramid's mirror."""

    def __init__(self, sizes: ConvSizes, pixel_mean: float, conditioned: bool) -> None:
        super().__init__()
        self.base_shape = (sizes.widths[-1], *sizes.level_sizes()[-1])
        self.base = linear(sizes.latent * (1 + conditioned), sizes.features())
        layers = [sizes.mirrored(i, conditioned, bias=True) for i in reversed(range(len(sizes.widths)))]
        assert layers[-1].bias is not None
        nn.init.constant_(layers[-1].bias, logit(pixel_mean))
        self.layers = nn.ModuleList(layers)
        # the layer before the last is an UpConv, whose phases fill images of even height and width alone
        self.pixels_from_phases = len(layers) > 1 and not any(size % 2 for size in sizes.image[1:])

    def forward(
        self,
        z: Float[Tensor, "N Z"],
        condition: Condition | None = None,
        mix: Float[Tensor, "N U"] | None = None,
    ) -> Float[Tensor, "N C H W"]:
        if condition is not None:
            z = torch.cat((z, condition[0] if mix is None else mix @ condition[0]), -1)
        h = self.base(z).unflatten(1, self.base_shape).contiguous(memory_format=torch.channels_last)
        h = F.relu(h, inplace=True)
        *inner, last = self.layers
        for i, layer in enumerate(inner):
            h = layer(h)
            h = F.relu(h, inplace=True) if condition is None else added(h, condition[i + 1], mix, relu=True)
            if isinstance(layer, UpConv) and not (layer is inner[-1] and self.pixels_from_phases):
                h = layer.interleaved(h)
        h = last.from_phases(h) if self.pixels_from_phases else last(h)  # type: ignore[operator]
        return h if condition is None else added(h, condition[-1], mix)
