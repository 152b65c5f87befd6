"""Images out of files that may be damaged or lie about their size, by Pillow."""

import io
import warnings
from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageOps, UnidentifiedImageError

from vma.data.download import BadContent

# What Pillow knows and yet cannot decode by itself: EPS runs another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def formats() -> dict[str, str]:
    """Pillow's name of the format by the ending of a file's name, ".png", of all that it decodes."""
    named = Image.registered_extensions()
    return {ending: name for ending, name in named.items() if name in Image.OPEN and name not in _NOT_DECODED}


def read_image(raw: bytes, max_side: int, allowed: Iterable[str] | None = None) -> Image.Image:
    """The image in `raw`, decoded, no wider or higher than `max_side` pixels; of several frames the first.

    Args:
        allowed: Pillow's names of the formats that it may have, whatever its file is called; all that Pillow decodes
            where that is None.

    Raises:
        BadContent: it is larger, damaged, or of no such format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what it makes do with
            image = Image.open(io.BytesIO(raw), formats=sorted(set(allowed or formats().values())))
            width, height = image.size
            if 0 < width <= max_side and 0 < height <= max_side:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)  # as viewers show it
                return image
    except UnidentifiedImageError:
        raise BadContent("no image that can be read") from None
    except Exception as error:  # no list of what its decoders raise would be whole
        raise BadContent(f"damaged ({error})") from error
    raise BadContent(f"{width}x{height} pixels, not between 1x1 and {max_side}x{max_side}")
