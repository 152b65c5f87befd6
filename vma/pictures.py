"""Drawings in pictures: each in a frame, and beside it samples of it (Figure 4A) or what it looks up (Figure 3)."""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vma.errors import InputError
from vma.protocol import Model

CELL = 84  # pixels of the picture that an image is to take, at least; it is enlarged by a whole number
GAP = 7
FRAME = (200, 60, 30)
FONT_SIZE = 16
FONT = ImageFont.load_default(FONT_SIZE)


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
    scale = _scale(samples)
    step_y, step_x = height * scale + GAP, width * scale + GAP
    between = GAP if lines > 1 else 0  # so that the lines of one drawing stand closer together
    block = lines * step_y + between
    left = GAP if drawings is None else step_x + 3 * GAP
    page = Image.new("RGB", (left + columns * step_x, rows * block - between + GAP), "white")
    for r in range(rows):
        top = GAP + r * block
        for k in range(n):
            page.paste(_ink(samples[r, k, 0], scale), (left + k % columns * step_x, top + k // columns * step_y))
        if drawings is not None:
            middle = top + (lines - 1) * step_y // 2
            edge = Image.new("RGB", (width * scale + 4, height * scale + 4), FRAME)
            page.paste(edge, (GAP - 2, middle - 2))
            page.paste(_ink(drawings[r, 0], scale), (GAP, middle))
    return page


def lookup(
    drawing: Float[Tensor, "C H W"], entries: Float[Tensor, "M C H W"], q: Float[Tensor, " M"], most: int = 8
) -> Image.Image:
    """A drawing in a frame, and right of it the likeliest entries of memory with their q(a|x) below (Figure 3)."""
    order = q.argsort(descending=True)[:most]
    row = sheet(entries[order][None], drawing[None])
    page = Image.new("RGB", (row.width, row.height + FONT_SIZE + GAP), "white")
    page.paste(row)
    step = drawing.shape[-1] * _scale(drawing) + GAP
    for k, p in enumerate(q[order].tolist()):
        at = (step + 3 * GAP + (k + 0.5) * step, row.height)
        ImageDraw.Draw(page).text(at, f"{p:.2f}", fill="black", font=FONT, anchor="mt")
    return page


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _scale(images: Tensor) -> int:
    return -(-CELL // max(images.shape[-2:]))


def _ink(image: Float[Tensor, "H W"], scale: int) -> Image.Image:
    grey = (255 * (1 - image.float())).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return Image.fromarray(np.kron(grey, np.ones((scale, scale), dtype=np.uint8)))
