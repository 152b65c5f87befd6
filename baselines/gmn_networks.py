"""The networks of Generative Matching Networks as a family beside those of `vma.networks`, without skip connections.

Sizes and initialisation are those of the release (github.com/sbos/gmn, commit b7d6ec5); the text has neither (Bartunov
and Vetrov, "Few-shot Generative Modelling with Generative Matching Networks", AISTATS 2018).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from vma.errors import InputError
from vma.networks import Encoder, Levels

LEAST_SIZE = 12  # pixels, of which the last level is one


@dataclass(frozen=True)
class GMNSizes:
    """Three sections down, to 3x3 maps of 28x28 images, and three up again; |z| = 50.

    `channels`, `kernels` and `blocks` are, section by section on the way down, the maps that it gives, the side of its
    kernel with stride 2, and that of its residual block's.
    """

    image: tuple[int, int, int] = (1, 28, 28)
    latent: int = 50
    channels: tuple[int, ...] = (16, 32, 32)
    kernels: tuple[int, ...] = (4, 3, 2)
    blocks: tuple[int, ...] = (3, 3, 2)

    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the input and of each level: (28, 28), (13, 13), (6, 6), (3, 3)."""
        sizes = [self.image[1:]]
        for kernel in self.kernels:
            sizes.append(((sizes[-1][0] - kernel) // 2 + 1, (sizes[-1][1] - kernel) // 2 + 1))
        return sizes

    def features(self) -> int:
        return self.channels[-1] * math.prod(self.level_sizes()[-1])

    def pyramid(self, shape: tuple[int, ...]) -> nn.Module:
        if min(self.image[1:]) < LEAST_SIZE:
            raise InputError(f"image_size is {min(self.image[1:])}, must be {LEAST_SIZE} or more for network gmn")
        return GMNPyramid(self, shape[0])

    def head(self, outputs: int, beside: int = 0) -> nn.Module:
        """Mean and spread of a Gaussian, in the release one layer each: outputs / 2 numbers."""
        inputs = self.features() + beside
        return linear(inputs, outputs, math.sqrt(6 / (inputs + outputs / 2)))

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        return Encoder(self.pyramid(shape), self.head(outputs))

    def decoder(self, pixel_mean: float, conditioned: bool) -> nn.Module:
        """The logits have no bias, which `pixel_mean` would set.

        Raises:
            InputError: if it is to be conditioned.
        """
        if conditioned:
            raise InputError("network gmn has no skip connections: it is for gmn without skips, and for vae")
        return GMNDecoder(self)


class GMNPyramid(nn.Module):
    """Sections down; the levels are their outputs."""

    def __init__(self, sizes: GMNSizes, inputs: int) -> None:
        super().__init__()
        channels = (inputs, *sizes.channels)
        self.sections = nn.ModuleList(
            Down(*section) for section in zip(channels, sizes.channels, sizes.kernels, sizes.blocks, strict=False)
        )

    def forward(self, images: Float[Tensor, "N C H W"]) -> Levels:
        levels = [images]
        for section in self.sections:
            levels.append(section(levels[-1]))
        return levels[1:]


class GMNDecoder(nn.Module):
    """z, and what is joined to it, to Bernoulli logits."""

    def __init__(self, sizes: GMNSizes) -> None:
        super().__init__()
        level_sizes = sizes.level_sizes()
        self.base_shape = (sizes.channels[-1], *level_sizes[-1])
        self.base = linear(sizes.latent, sizes.features(), math.sqrt(1 / sizes.latent))
        outputs = (sizes.channels[0], *sizes.channels)  # the way down's, and as many maps before the last layer
        self.sections = nn.ModuleList(
            Up(outputs[i + 1], outputs[i], sizes.kernels[i], sizes.blocks[i], level_sizes[i + 1], level_sizes[i])
            for i in reversed(range(len(sizes.kernels)))
        )
        self.pixels = convolution(outputs[0], sizes.image[0], 1, gain=1.0)

    def forward(self, z: Float[Tensor, "N Z"]) -> Float[Tensor, "N C H W"]:
        h = self.base(z).unflatten(1, self.base_shape).contiguous(memory_format=torch.channels_last)
        for section in self.sections:
            h = section(h)
        return self.pixels(h)


class Down(nn.Module):
    """A convolution with stride 2, a residual block of one convolution, and a pooled shortcut around both."""

    def __init__(self, inputs: int, outputs: int, kernel: int, block: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.first = convolution(inputs, outputs, kernel, stride=2)
        self.first_slope = prelu(outputs)
        self.block = residual(outputs, block)
        self.block_slope = prelu(outputs)
        self.shortcut = normalised(convolution(inputs, outputs, 1))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        h = self.first_slope(self.first(x))
        h = self.block_slope(h + self.block(h))
        # the release pools after its 1x1 convolution, which is linear: the same with fewer products
        return h + self.shortcut(F.avg_pool2d(x, self.kernel, 2))


class Up(nn.Module):
    """`Down` with a transposed convolution, and a shortcut that is resized."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, block: int, before: tuple[int, int], after: tuple[int, int]
    ) -> None:
        super().__init__()
        self.size = after
        # rows and columns that the way down has left out; 28x28 has none
        rows, columns = (now - 2 * (old - 1) - kernel for old, now in zip(before, after, strict=True))
        self.first = nn.ConvTranspose2d(inputs, outputs, kernel, 2, output_padding=(rows, columns), bias=False)
        truncated_normal_(self.first.weight, math.sqrt(2 / (inputs * kernel**2)))
        self.first_slope = prelu(outputs)
        self.block = residual(outputs, block)
        self.block_slope = prelu(outputs)
        self.shortcut = normalised(convolution(inputs, outputs, 1))

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D H W"]:
        h = self.first_slope(self.first(x))
        h = self.block_slope(h + self.block(h))
        # the release samples from the corner of a pixel, not its centre: a fraction of a pixel beside this
        return h + F.interpolate(self.shortcut(x), self.size, mode="bilinear", align_corners=False)


def truncated_normal_(weight: Tensor, std: float) -> None:
    """Normal, drawn again beyond two standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """A layer whose weights have this standard deviation before truncation, and biases 0."""
    layer = nn.Linear(inputs, outputs)
    truncated_normal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, gain: float = 2.0
) -> nn.Conv2d:
    """A convolution without bias whose weights have the variance gain / fan_in: 2 before a PReLU, else 1."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    truncated_normal_(layer.weight, math.sqrt(gain / (inputs * kernel**2)))
    return layer


def residual(channels: int, kernel: int) -> nn.Module:
    """A normalised convolution that leaves the size. For an even kernel the images get a row and a column after their
    last, as in the release.
    """
    layer = normalised(convolution(channels, channels, kernel, padding=(kernel - 1) // 2))
    return layer if kernel % 2 else nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), layer)


def prelu(channels: int, spread: float = 0.01) -> nn.PReLU:
    """A slope for each channel, uniform around 0."""
    layer = nn.PReLU(channels)
    nn.init.uniform_(layer.weight, -spread, spread)
    return layer


class WholeNorm(nn.Module):
    """A tensor of weights by its norm over all entries, times a learned scalar that starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return weight * (self.scale / weight.norm())


def normalised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer with weights under `WholeNorm`."""
    return parametrize.register_parametrization(layer, "weight", WholeNorm())


def uniform(*shape: int, most: float) -> nn.Parameter:
    """Parameters uniform in +-most."""
    return nn.Parameter(torch.empty(shape).uniform_(-most, most))
