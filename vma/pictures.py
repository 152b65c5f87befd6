"""One-shot samples as a picture: each drawing, framed, and beside it what the model makes of it (Figure 4A)."""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vma.errors import InputError
from vma.protocol import Model

CELL = 84  # pixels of the picture that an image is to take, at least; it is enlarged by a whole number
FRAME = (200, 60, 30)


@torch.no_grad()
def one_shot(
    model: Model, drawings: Float[Tensor, "R C H W"], n: int, generator: torch.Generator | None = None
) -> Float[Tensor, "R n C H W"]:
    """Bernoulli means of n draws from p(x|M) for each drawing, which is alone in memory. The model's mode is kept.

    Raises:
        InputError: for a model that takes no memory: a plain VAE, or one that has learned its own.
    """
    training = model.training
    model.eval()
    means = []
    for drawing in drawings:
        encoded = model.encode_memory(drawing[None])
        if encoded is None:
            raise InputError(f"{type(model).__name__} passes over its memory: give a model that reads one")
        means.append(model.sample(encoded, n, generator=generator).means)
    model.train(training)
    return torch.stack(means)


@torch.no_grad()
def unconditional(
    model: Model, rows: int, n: int, generator: torch.Generator | None = None
) -> Float[Tensor, "R n C H W"]:
    """Bernoulli means of draws from p(x), for a model that takes no memory, in as many rows. Its mode is kept."""
    training = model.training
    model.eval()
    means = model.sample(model.encode_memory(None), rows * n, generator=generator).means
    model.train(training)
    return means.unflatten(0, (rows, n))


def sheet(
    samples: Float[Tensor, "R n C H W"], drawings: Float[Tensor, "R C H W"] | None = None, columns: int | None = None
) -> Image.Image:
    """A row for each drawing: the drawing in a frame on the left, its samples right of it, ink dark on white.

    Args:
        samples: ink from 0 to 1, of one channel.
        drawings: likewise; None if the samples are of no drawing.
        columns: samples in a line; those of a drawing go on in a further line below. By default all stand in one.
    """
    rows, n, _, height, width = samples.shape
    columns = min(columns or n, n)
    lines = -(-n // columns)
    scale = -(-CELL // max(height, width))
    gap = CELL // 12
    step_y, step_x = height * scale + gap, width * scale + gap
    between = gap if lines > 1 else 0  # so that the lines of one drawing stand closer together
    block = lines * step_y + between
    left = 0 if drawings is None else step_x + 2 * gap
    page = Image.new("RGB", (left + columns * step_x + gap, rows * block - between + gap), "white")
    for r in range(rows):
        top = gap + r * block
        for k in range(n):
            page.paste(_ink(samples[r, k, 0], scale), (left + gap + k % columns * step_x, top + k // columns * step_y))
        if drawings is not None:
            middle = top + (lines - 1) * step_y // 2
            edge = Image.new("RGB", (width * scale + 4, height * scale + 4), FRAME)
            page.paste(edge, (gap - 2, middle - 2))
            page.paste(_ink(drawings[r, 0], scale), (gap, middle))
    return page


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _ink(image: Float[Tensor, "H W"], scale: int) -> Image.Image:
    grey = (255 * (1 - image.float())).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return Image.fromarray(np.kron(grey, np.ones((scale, scale), dtype=np.uint8)))
