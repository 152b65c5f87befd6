"""PNG images: every form is read as it is meant, and no header is believed before the pixels are counted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vma.data.download import BadContent
from vma.data.png import read_png

START = b"\x89PNG\r\n\x1a\n"
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
RGB, GREY, INDEXED = 2, 0, 3


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, colour: int = GREY, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(*chunks: bytes) -> bytes:
    return START + b"".join(chunks) + chunk(b"IEND")


def rows(pixels: np.ndarray) -> bytes:
    """Each row of (H, W) bits or (H, W, channels) bytes as it lies in a file, without a filter."""
    packed = np.packbits(pixels, axis=1) if pixels.dtype == bool else pixels.reshape(len(pixels), -1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
DATA = chunk(b"IDAT", zlib.compress(rows(PIXELS)))
GOOD = png(header(28, 28), DATA)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_is_read(mode: str) -> None:
    array = PIXELS.astype(np.uint16) * 200 if mode == "I;16" else PIXELS
    image = Image.fromarray(array) if mode == "I;16" else Image.fromarray(array).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    read = read_png(file.getvalue(), 28)
    assert (read.mode, read.size) == (image.mode, image.size)
    assert np.array_equal(np.asarray(read), np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (5, 4), (8, 8), (9, 17), (28, 28)])
@pytest.mark.parametrize("colour", ["bits", "grey", "rgb"])
def test_interlaced_is_the_same_image(size: tuple[int, int], colour: str) -> None:
    generator = np.random.default_rng(size)
    width, height = size
    if colour == "bits":
        pixels, form = generator.random((height, width)) < 0.5, (1, GREY)
    else:
        shape = (height, width, 3) if colour == "rgb" else (height, width)
        pixels, form = generator.integers(0, 256, shape, np.uint8), (8, RGB if colour == "rgb" else GREY)
    parts = [pixels[top::down, left::across] for left, top, across, down in PASSES]
    data = zlib.compress(b"".join(rows(part) for part in parts if part.size))
    assert np.array_equal(np.asarray(read_png(png(header(*size, *form, 1), chunk(b"IDAT", data)), 28)), pixels)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7))),
        chunk(b"pHYs"),
        chunk(b"acTL", struct.pack(">II", 2**31, 0))
        + chunk(b"fcTL", struct.pack(">5I2H2B", 0, 1, 1, 5, 5, 1, 1, 0, 0)),
    ],
    ids=["text", "profile", "resolution", "animation"],
)
def test_what_makes_no_pixels_is_not_looked_at(extra: bytes) -> None:
    assert np.array_equal(np.asarray(read_png(png(header(28, 28), extra, DATA), 28)), PIXELS)
    assert np.array_equal(np.asarray(read_png(png(header(28, 28), DATA, extra), 28)), PIXELS)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "not a PNG image"),
        (GOOD[:28], "not a PNG image"),
        (b"GIF89a" + GOOD, "not a PNG image"),
        (png(header(29, 28), DATA), "29x28 pixels, not between 1x1 and 28x28"),
        (png(header(28, 0), DATA), "28x0 pixels"),
        (png(header(28, 28, depth=3), DATA), "a header that no PNG image has"),
        (png(header(28, 28, colour=5), DATA), "a header that no PNG image has"),
        (png(header(28, 28, interlace=2), DATA), "a header that no PNG image has"),
        (png(header(28, 28), header(28, 28), DATA), "two headers"),
        (png(header(28, 28), DATA, header(28, 28)), "two headers"),
        (png(header(28, 28, colour=INDEXED), DATA), "no palette"),
        (png(header(28, 28, colour=INDEXED), DATA, chunk(b"PLTE", bytes(768))), "no palette"),
        (png(header(28, 28)), "0 bytes of pixels or more, not 812"),
        (png(header(14, 28), DATA), "421 bytes of pixels or more, not 420"),
        (png(header(28, 27), DATA), "784 bytes of pixels or more, not 783"),
        (png(header(28, 28, colour=RGB), DATA), "812 bytes of pixels or more, not 2,380"),
        (png(header(28, 28), chunk(b"IDAT", zlib.compress(rows(PIXELS[:27])))), "783 bytes of pixels or more, not 812"),
        (png(header(28, 28), chunk(b"IDAT", zlib.compress(rows(PIXELS))[:-1])), "bytes of pixels or more"),
        (png(header(28, 28), chunk(b"IDAT", b"no stream")), "damaged"),
        (png(header(28, 28), chunk(b"IDAT", zlib.compress(b"\x09" * 812))), "damaged"),
        (png(header(28, 28), chunk(b"tRNS"), DATA), "damaged"),
        (GOOD[:-12], "cut short"),
        (GOOD.replace(DATA, DATA[:-1] + bytes([DATA[-1] ^ 1])), "a checksum that is wrong"),
        (png(header(28, 28), *[chunk(b"IDAT")] * 10_000, DATA), "more than 10,000 chunks"),
    ],
    ids=range(24),
)
def test_what_is_no_whole_image_is_refused(raw: bytes, cause: str) -> None:
    with pytest.raises(BadContent, match=cause) as caught:
        read_png(raw, 28)
    assert "\n" not in str(caught.value)
