"""Encoders and decoders shared by all models: the convolutional family of section 4.2 and the MLP family of section
4.1.

A family is a frozen dataclass of sizes whose methods build modules. Both families know the same four pieces:

- a *pyramid* maps N images to its levels, the activations of its layers from first to last;
- an *encoder* is a pyramid with a head of its own: N images to N vectors;
- a *conditioner* turns the levels of memory entries into what the decoder adds at each layer. It is linear in every
  level, so a skip connection (the concatenation of a level and the decoder's activations before a layer) is computed
  once for each memory entry rather than once for each sample that reads it;
- a *decoder* maps N latent vectors, and N rows of such conditions, to N images of Bernoulli logits. It takes the
  conditions of U entries and a matrix `mix` (N, U) too, whose rows weigh them: one-hot rows where a sample reads one
  entry, the weights of attention where it reads all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

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


def _linear(inputs: int, outputs: int, fan_in: int | None = None, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    he_(layer.weight, fan_in or inputs, gain)
    nn.init.zeros_(layer.bias)
    return layer


# gain of last layers: distributions start near N(0, I), the flat address and the data's mean; KL_z takes off early
SMALL = 0.1


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
        return _linear(self.features() + beside, outputs, gain=SMALL)

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


class Encoder(nn.Module):
    """A pyramid and a head on its last level: N images to N vectors."""

    def __init__(self, pyramid: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = head

    def forward(self, images: Float[Tensor, "N *image"]) -> Float[Tensor, "N out"]:
        return self.head(self.pyramid(images)[-1].flatten(1))


class MLPPyramid(nn.Module):
    """Fully connected ReLU layers; the levels are their activations, preceded by the flattened input itself."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear(i, o) for i, o in zip((inputs, *widths), widths, strict=False))

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
        self.vector = _linear(second, sizes.latent)
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
            _linear(inputs, second, fan_in=inputs + second * conditioned),
            _linear(second, first, fan_in=second + first * conditioned),
            _linear(first, pixels, fan_in=first + pixels * conditioned, gain=SMALL),
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
            return _linear(inputs, outputs, gain=SMALL)
        return nn.Sequential(_linear(inputs, self.hidden), nn.ReLU(), _linear(self.hidden, outputs, gain=SMALL))

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


class UpConv(nn.Module):
    """A 3x3 transposed convolution with stride 2 and padding 1 to an output of `size`, computed as plain convolutions.

    Output pixel 2r reads input r through the kernel's middle tap; pixel 2r + 1 reads inputs r and r + 1 through the
    taps 2 and 0. The four phases of a pixel pair are thus convolutions with kernels of 1x1, 1x2, 2x1 and 2x2.
    `forward` gives these *phases*, `interleaved` turns them into an image: what is elementwise can be done on either.
    Equal to `torch.nn.functional.conv_transpose2d` and an order of magnitude faster on CPUs, where that one leaves the
    fast path.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], bias: bool) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(inputs, outputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, h: Float[Tensor, "N C h w"]) -> Float[Tensor, "N phases h w"]:
        """The phases; their channels are (row phase, column phase, output channel)."""
        taps = self.weight.transpose(0, 1).flip(2, 3)  # in the order of the inputs that they read
        phases = [
            F.conv2d(F.pad(h, (0, column, 0, row)), taps[:, :, 1 - row :: 2, 1 - column :: 2], self.bias)
            for row in range(2)
            for column in range(2)
        ]
        return torch.cat(phases, 1)

    def interleaved(self, phases: Float[Tensor, "N phases h w"]) -> Float[Tensor, "N D H W"]:
        """The image of `size` that phases make."""
        n, _, h, w = phases.shape
        # [N, h, w, row phase, column phase and channel] to [N, h, row phase, w, ...]: long runs of memory move in
        # channels-last format
        pairs = phases.permute(0, 2, 3, 1).unflatten(-1, (2, -1)).transpose(2, 3)
        out = pairs.reshape(n, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)
        return out[:, :, : self.size[0], : self.size[1]]


class PixelConv(nn.Conv2d):
    """A 3x3 convolution with padding 1 to few channels, which also takes its input as the phases of an `UpConv`.

    From phases it is a product: each block of 2x2 pixels contributes to a window of 4x4 pixels around it. That is far
    quicker than a convolution of one output channel, and the image with all channels is never put together.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)
        self.windows: Tensor
        reaches = torch.zeros(3, 2, 4)  # [kernel tap, phase of the pixel in its block, pixel of the window]
        for phase in range(2):
            for tap in range(3):
                reaches[tap, phase, phase + 2 - tap] = 1
        self.register_buffer("windows", _both_axes(reaches), persistent=False)

    def from_phases(self, phases: Float[Tensor, "N phases h w"]) -> Float[Tensor, "N D H W"]:
        """The convolution of the image of size (2h, 2w) that phases make, in at least float32."""
        n, _, h, w = phases.shape
        kernel = (self.weight.flatten(2) @ self.windows).unflatten(2, (2, 2, 4, 4))
        kernel = kernel.permute(2, 3, 1, 0, 4, 5).flatten(0, 2).flatten(1)  # [phases, D and window]
        windows = at_least_float32(phases.permute(0, 2, 3, 1) @ kernel)
        # pixel o = 2s + t of the window of block r is pixel t of block r + s - 1 of the sum, counted from the border
        parts = windows.unflatten(-1, (-1, 2, 2, 2, 2)).permute(0, 3, 1, 5, 2, 7, 4, 6)  # [N, D, h, t, w, v, s, u]
        canvas = sum(F.pad(parts[..., i, j], (0, 0, j, 1 - j, 0, 0, i, 1 - i)) for i in range(2) for j in range(2))
        assert isinstance(canvas, Tensor)
        image = canvas.reshape(n, -1, 2 * h + 2, 2 * w + 2)[:, :, 1:-1, 1:-1]
        return image if self.bias is None else image + self.bias[:, None, None]


def _both_axes(table: Float[Tensor, "tap phase place"]) -> Float[Tensor, "taps entries"]:
    """A table for rows and columns from that for one of them: [row and column tap, (row phase, column phase, row place,
    column place)].
    """
    return torch.einsum("apx,bqy->abpqxy", table, table).flatten(2).flatten(0, 1)


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
        self.base = _linear(sizes.latent * (1 + conditioned), sizes.features())
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


def added(
    h: Float[Tensor, "N *rest"], table: Float[Tensor, "U *rest"], mix: Float[Tensor, "N U"] | None, relu: bool = False
) -> Float[Tensor, "N *rest"]:
    """h + mix @ table, where a row of `mix` weighs the rows of the table; without it h + table, row by row. With `relu`
    the positive part of that.
    """
    if h.dim() == 4:  # rows in channels-last order, as they lie in memory
        flat = added(h.permute(0, 2, 3, 1).flatten(1), table.permute(0, 2, 3, 1).flatten(1), mix, relu)
        return flat.unflatten(1, (*h.shape[2:], h.shape[1])).permute(0, 3, 1, 2)
    if mix is None:
        total = h + table
    elif h.dtype == table.dtype:
        total = torch.addmm(h, mix.to(table.dtype), table)
    else:  # logits of a higher precision than the networks'
        total = h + mixed(mix, table)
    return F.relu(total, inplace=True) if relu else total  # in place here: of a view autograd would make copies


def logit(mean: float) -> float:
    """log(mean / (1 - mean)).

    Raises:
        ValueError: unless 0 < mean < 1.
    """
    if not 0 < mean < 1:
        raise ValueError(f"pixel_mean is {mean}, must lie strictly between 0 and 1")
    return math.log(mean / (1 - mean))


def one_hot(index: Int[Tensor, " N"], U: int, dtype: torch.dtype) -> Float[Tensor, "N U"]:
    """Rows that select: `one_hot(index, U, dtype) @ table` is table[index]. A product's backward sums in float32 and is
    far quicker than a scatter.
    """
    return F.one_hot(index, U).to(dtype)


def take_rows(table: Float[Tensor, "U *rest"], index: Int[Tensor, " N"]) -> Float[Tensor, "N *rest"]:
    """table[index], under autograd as a product."""
    if table.requires_grad:
        return mixed(one_hot(index, len(table), table.dtype), table)
    if table.dim() == 4:  # keep channels last, if that is how the table lies
        return table.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return table.index_select(0, index)


def mixed(mix: Float[Tensor, "N U"], table: Float[Tensor, "U *rest"]) -> Float[Tensor, "N *rest"]:
    """mix @ table, where a row of `mix` weighs the rows of the table."""
    if table.dim() == 4:  # rows in channels-last order, as they lie in memory
        rows = table.permute(0, 2, 3, 1)
        return mixed(mix, rows.flatten(1)).unflatten(1, rows.shape[1:]).permute(0, 3, 1, 2)
    return mix.to(table.dtype) @ table


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor in the precision of the bound's arithmetic: bfloat16 becomes float32, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def split_gaussian(parameters: Float[Tensor, "N two_Z"]) -> tuple[Float[Tensor, "N Z"], Float[Tensor, "N Z"]]:
    """Mean and log standard deviation from a head's outputs, in float32 if the head computed in less."""
    mean, log_std = at_least_float32(parameters).chunk(2, -1)
    return mean, log_std


def log_normal(
    z: Float[Tensor, "*N Z"], mean: Float[Tensor, "*N Z"], log_std: Float[Tensor, "*N Z"]
) -> Float[Tensor, "*N"]:
    """log N(z; mean, diag exp(log_std)^2), summed over Z, in nats."""
    return (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_normal_at(noise: Float[Tensor, "*N Z"], log_std: Float[Tensor, "*N Z"]) -> Float[Tensor, "*N"]:
    """log N(z; mean, diag exp(log_std)^2) at z = mean + exp(log_std) * noise, summed over Z, in nats.

    Where exp(log_std) is small beside the mean, z has lost the noise to rounding, and `log_normal` would be off.
    """
    return (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_bernoulli(x: Float[Tensor, "B C H W"], logits: Float[Tensor, "K B C H W"]) -> Float[Tensor, "K B"]:
    """log p(x | logits), summed over pixels in at least float32, in nats."""
    logits = at_least_float32(logits)
    return (
        -F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype).expand_as(logits), reduction="none")
        .flatten(2)
        .sum(-1)
    )


@dataclass(frozen=True)
class Samples:
    """n draws from p(x|M): Bernoulli means, images drawn from them, and the addresses where the model has them."""

    means: Float[Tensor, "n C H W"]
    images: Float[Tensor, "n C H W"]
    addresses: Int[Tensor, " n"] | None


def draw_images(
    logits: Float[Tensor, "n C H W"], addresses: Int[Tensor, " n"] | None, generator: torch.Generator | None
) -> Samples:
    """x ~ p(x | logits), with the addresses that the logits came from."""
    means = at_least_float32(logits).sigmoid()
    return Samples(means, torch.bernoulli(means, generator=generator), addresses)
