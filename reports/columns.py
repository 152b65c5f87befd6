"""Columns of tables as data: each makes the cells of one, as text, from a tidy frame."""

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from reports.models import label

Column = Callable[[pd.DataFrame], Iterable[str]]


def text_of(key: str, names: Mapping[str, str] | None = None) -> Column:
    return lambda frame: frame[key] if names is None else frame[key].map(names)


def whole(key: str) -> Column:
    return lambda frame: ["" if pd.isna(number) else f"{number:,.0f}" for number in frame[key]]


def plain(key: str, digits: int = 1, scale: float = 1.0) -> Column:
    return lambda frame: ["" if pd.isna(number) else f"{scale * number:.{digits}f}" for number in frame[key]]


def value(metric: str, digits: int = 1, scale: float = 1.0, sign: str = "") -> Column:
    """A number and its standard error; `sign` as of `number`."""
    return lambda frame: [
        number(scale * v, scale * s, digits, sign)
        for v, s in zip(frame[metric], frame[f"{metric}_stderr"], strict=True)
    ]


def ends(low: str, high: str, digits: int = 1, scale: float = 1.0) -> Column:
    """An interval."""
    return lambda frame: [
        "" if pd.isna(a) else f"{scale * a:.{digits}f} to {scale * b:.{digits}f}"
        for a, b in zip(frame[low], frame[high], strict=True)
    ]


def models(frame: pd.DataFrame) -> Iterable[str]:
    return [label(*pair) for pair in zip(frame.model, frame["read"], strict=True)]


def models_of(frame: pd.DataFrame) -> Iterable[str]:
    return [label(model) for model in frame.model]


DIRTY: dict[str, Column] = {"": lambda frame: ["*" if dirty else "" for dirty in frame.dirty]}
# what the numbers rest on
MADE: dict[str, Column] = {"n": whole("n"), "updates": whole("updates"), "seeds": whole("seeds"), **DIRTY}


def compared(other: str) -> dict[str, Column]:
    """Columns of a bound and of its paired difference to another."""
    return {
        "NLL": value("nll"),
        f"minus {other}": value("difference", 2, sign="+"),
        "95 % interval": ends("difference_low", "difference_high", 2),
        "KL_a": value("kl_a", 2),
        "KL_z": value("kl_z"),
    }


def number(value: float | None, stderr: float | None = None, digits: int = 1, sign: str = "") -> str:
    """A number and its standard error, "-" where it is not there; with `sign` "+" one above 0 has a sign too."""
    if pd.isna(value):
        return "-"
    return f"{value:{sign}.{digits}f}" + ("" if pd.isna(stderr) else f" ± {stderr:.{digits}f}")
