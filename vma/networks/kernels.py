"""What is there for speed alone: layers and row selections that equal plain ones, and are quicker."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vma.networks.densities import at_least_float32


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


def distinct(index: Int[Tensor, "*shape"], bound: int) -> tuple[Int[Tensor, " U"], Int[Tensor, " KB"]]:
    """The distinct values below `bound`, padded with the first to a multiple of 16, and the place of each flattened
    element among them.

    The padding keeps the number of different shapes small: a convolution library plans each shape anew. On CUDA devices
    they are not looked for, since their number would have to be known on the host: it is all values below `bound`, or
    as many as there are elements.
    """
    if index.is_cuda:
        if bound <= index.numel():
            return torch.arange(bound, device=index.device), index.flatten()
        return index.flatten(), torch.arange(index.numel(), device=index.device)
    values, place = index.flatten().unique(return_inverse=True)
    missing = min(16 * math.ceil(len(values) / 16), index.numel()) - len(values)
    return torch.cat((values, values[:1].expand(missing))), place


def of_distinct(
    compute: Callable[[Tensor], list[Tensor]], index: Int[Tensor, "*shape"], bound: int, chunk: int
) -> tuple[list[Tensor], Int[Tensor, " N"]]:
    """Tables of what `compute` gives for the distinct values of an index below `bound`, a row each, and the row of each
    of its N flattened elements; `in_chunks`.
    """
    values, row = distinct(index, bound)
    return in_chunks(compute, values, chunk), row


def in_chunks(compute: Callable[[Tensor], list[Tensor]], index: Int[Tensor, " N"], chunk: int) -> list[Tensor]:
    """compute(index), a row for each element in each tensor, computed for at most `chunk` elements at a time."""
    parts = [compute(part) for part in index.split(chunk)]
    return parts[0] if len(parts) == 1 else [torch.cat(rows) for rows in zip(*parts, strict=True)]
