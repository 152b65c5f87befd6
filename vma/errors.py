"""The one exception family that commands turn into a single line and exit code 2, and the checks of values that raise
it.
"""

import math
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the cause and the remedy."""


class DataUnavailable(InputError):
    """A data set could be had from nowhere. `attempts` lists, in order, each place that was tried and why it failed."""

    def __init__(self, message: str, attempts: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Refuse what is no whole number from `least` to `most`; True and False are none.

    Raises:
        InputError: naming it and what is allowed.
    """
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} is {reprlib.repr(value)}, must be {least} or more, a whole number up to {most:,}")


def check_number(name: str, value: object, most: float, *, zero: bool = False) -> None:
    """Refuse what is no number above 0, or from 0 with `zero`, up to `most`.

    Raises:
        InputError: naming it and what is allowed.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (0 < number <= most or (zero and number == 0)):
        least = "0 or more" if zero else "above 0"
        raise InputError(f"{name} is {reprlib.repr(value)}, must be {least}, a number up to {most:g}")


def check_pixels(name: str, images: "Tensor") -> None:
    """Refuse images that are no probabilities of ink, from 0 (paper) to 1 (ink): their bound would mean nothing.

    Raises:
        InputError: naming them and the values that they have.
    """
    low, high = (value.item() for value in images.aminmax()) if images.numel() else (0, 1)
    if not (low >= 0 and high <= 1):  # NaN too
        raise InputError(
            f"{name} have pixels from {low:g} to {high:g}, must be from 0 (paper) to 1 (ink): "
            "divide 0 to 255 by 255, or binarise them"
        )


def check_name(name: str, value: object, allowed: Sequence[str], none: str | None = None) -> None:
    """Refuse what is none of the names that are allowed. `none` says what None stands for, where that is allowed too.

    Raises:
        InputError: naming it and them.
    """
    if value not in allowed:
        names = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
        otherwise = "" if none is None else f", or None for {none}"
        raise InputError(f"{name} is {reprlib.repr(value)}, must be {names}{otherwise}")
