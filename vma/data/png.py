"""PNG images out of files that may be damaged or lie about their size."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from vma.data.download import BadContent

_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MAX_CHUNKS = 10_000
# By type of colour: how many numbers a pixel has, and of how many bits each.
_FORMS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
# The first column and row, and the steps, of the passes of an image: one, or the seven of Adam7.
_PASSES = (
    ((0, 0, 1, 1),),
    ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def read_png(raw: bytes, max_side: int) -> Image.Image:
    """The image in `raw`, decoded, no wider or higher than `max_side` pixels.

    Raises:
        BadContent: it is larger, damaged, or has fewer or more pixels than its header says. What does not make pixels
            (profiles, texts, the frames of an animation) is not looked at.
    """
    if not raw.startswith(_START) or len(raw) < 33:
        raise BadContent("not a PNG image")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", raw[16:29])
    if not (0 < width <= max_side and 0 < height <= max_side):
        raise BadContent(f"{width}x{height} pixels, not between 1x1 and {max_side}x{max_side}")
    channels, depths = _FORMS.get(colour, (0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise BadContent("a header that no PNG image has")
    chunks = _chunks(raw)
    kinds = [kind for kind, _ in chunks]
    if kinds.count(b"IHDR") != 1:
        raise BadContent("two headers")
    palette_bytes = len(chunks[1][1]) - 12  # three bytes a colour
    if colour == 3 and (kinds[1] != b"PLTE" or palette_bytes not in range(3, 3 * 256 + 1, 3)):
        raise BadContent("no palette")
    expected = 0
    for left, top, across, down in _PASSES[interlace]:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns:  # each row has one byte more, which names its filter
            expected += rows * (1 + -(-columns * channels * depth // 8))
    stream = zlib.decompressobj()
    try:
        found = len(stream.decompress(b"".join(chunk[8:-4] for kind, chunk in chunks if kind == b"IDAT"), expected + 1))
        if found != expected or not stream.eof:
            raise BadContent(f"{found:,} bytes of pixels or more, not {expected:,}")
        # Only what makes pixels is handed on.
        plain = raw[:8] + b"".join(chunk for _, chunk in chunks)
        image = Image.open(io.BytesIO(plain), formats=("PNG",))
        image.load()
        if colour == 3 and 3 * int(np.asarray(image).max()) >= palette_bytes:
            raise BadContent("colours that are not in its palette")
    except BadContent:
        raise
    except (zlib.error, OSError, SyntaxError, ValueError) as error:
        raise BadContent(f"damaged ({error})") from error
    return image


def _chunks(raw: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, whole chunk) of those that make pixels, up to the last; the checksums of all are verified."""
    kept, start = [], 8
    for _ in range(_MAX_CHUNKS):
        kind = raw[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(raw[start : start + 4])
        if len(raw) < end or zlib.crc32(raw[start + 4 : end - 4]) != int.from_bytes(raw[end - 4 : end]):
            raise BadContent("cut short, or a checksum that is wrong")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append((kind, raw[start:end]))
        if kind == b"IEND":
            return kept
        start = end
    raise BadContent(f"more than {_MAX_CHUNKS:,} chunks")
