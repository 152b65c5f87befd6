"""What every command does with its command line: parse it, and say in one line what is wrong."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

from reports.results import InputError

Options = TypeVar("Options")
LONGEST = 1000  # characters of a line
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes: what systems take, less the names of files in a folder


def print_anything() -> None:
    """Have a terminal without UTF-8 show question marks for what it lacks, and not end a run at its last line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def parse(options: type[Options], prog: str, argv: Sequence[str] | None) -> Options:
    """The options on the command line.

    Raises:
        InputError: naming the option and what is wrong with it, in one line instead of tyro's box; also for an empty
            value, and text that no path and no file can hold.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for i, argument in enumerate(arguments):
        if re.fullmatch("(--[^=]*=)?", argument):  # a variable of a shell that is not set; as a path it is the folder .
            option = next((one for one in arguments[i::-1] if one.startswith("--")), "an argument")
            raise InputError(f"{option.rstrip('=')} is empty: give a value, or leave it out")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(options, prog=f"python -m {prog}", args=arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_cause(options, said.getvalue())}; python -m {prog} --help lists the options") from None
    except AssertionError as error:  # of an option of tyro's own for completion in a shell
        raise InputError(f"{error}; python -m {prog} --help lists the options") from None
    for field in fields(parsed):
        for part in _parts(getattr(parsed, field.name)):
            if isinstance(part, str | Path):
                _check_text(f"--{field.name.replace('_', '-')}", part)
    return parsed


def _parts(value: Any) -> list[Any]:
    return [part for one in value for part in _parts(one)] if isinstance(value, tuple) else [value]


def _cause(options: type[Any], said: str) -> str:
    # tyro frames its words: a heading, a rule where the terminal has no box characters, the cause, a rule, hints
    lines = [line.strip("│| \t") for line in said.strip().splitlines()[1:]]
    lines = list(itertools.dropwhile(_is_rule, lines))
    cause = " ".join(" ".join(itertools.takewhile(lambda line: not _is_rule(line), lines)).split()).rstrip(".")
    # and speaks of Python's types and functions
    wrong = re.fullmatch(r"Error parsing (--\S+): .*?(?:from |arguments: |base 10: |float: )\[?(.*?)\]?", cause)
    if wrong is None:
        return cause or " ".join(said.split())
    kind = str(get_type_hints(options)[wrong[1].lstrip("-").replace("-", "_")])
    number = "number" if "float" in kind else "whole number"
    what = f"{number}s" if "tuple" in kind else f"a {number}"
    return f"{wrong[1]} is {wrong[2]}, must be {what}"


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")


def _check_text(option: str, value: str | Path) -> None:
    text = os.fspath(value)
    try:
        # a path may have any bytes, which Python has as lone surrogates; all else is printed and written as UTF-8
        encoded = os.fsencode(text) if isinstance(value, Path) else text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{option} is {text!r}, must be text in UTF-8: give another") from None
    if b"\0" in encoded:
        raise InputError(f"{option} is {text!r}, must be without NUL characters: give another")
    if isinstance(value, Path) and (len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME):
        raise InputError(
            f"{option} is {text!r}, must be of {LONGEST_PATH:,} bytes at most and of {LONGEST_NAME} in each name"
        )


def check_folder(option: str, folder: Path) -> None:
    """Refuse what is there and no folder, or lies below a file.

    Raises:
        InputError: naming the option.
    """
    there = nearest(folder)
    if not there.is_dir():
        raise InputError(f"{option} {folder} cannot be a folder, since {there} is none: give another")


def nearest(folder: Path) -> Path:
    """The folder itself, or the one above it that is there already."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def one_line(message: str) -> str:
    """A message as one line of what a terminal can show, whatever the names in it are made of."""
    # shown as Python writes them: line ends, control characters and halves of characters
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
