"""What the tests in tests/faults count: how much in the short form and in the full one, and the page of their sums."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

# `tox -e faults` runs the short form, `tox -e faults-full` the full one.
FULL = os.environ.get("VMA_FAULTS") == "full"

# What is counted, and what it is that could be lost.
_SAME = "runs whose final weights or rows are not those of an undisturbed one"
KINDS = {
    "kills (SIGKILL) while training": _SAME,
    "kills (SIGKILL) while saving a checkpoint": _SAME,
    "kills (SIGKILL) while evaluating": _SAME,
    "kills (SIGKILL) while recording rows": _SAME,
    "kills (SIGKILL) of whole processes": _SAME,
    "stops by SIGTERM and Ctrl-C": "updates, or the promised exit code",
    "faults injected on write": "files that are neither the old nor the new one, or the error's one line",
    "rows written by processes at once": "rows lost or doubled",
    "hostile checkpoints": "accepted, or refused by more than a line",
    "hostile archives, images and servers": "accepted, cached, or refused by more than a line",
    "specs of any values": "neither run nor refused by a line",
    "command lines of any flags": "neither run nor refused by a line, or a partial output folder",
    "numbers at the edge": "bounds that are not finite, or differ between precisions",
    "jobs of sweeps in which others die": "not finished",
}

Counts = dict[str, tuple[int, int]]  # tried and lost, by kind

_BEGIN, _END = "<!-- counts: written by tox -e faults-full -->\n", "<!-- end of counts -->"


def amount(short: int, full: int) -> int:
    """How many to try."""
    return full if FULL else short


def table(counts: Mapping[str, tuple[int, int]], seconds: float) -> str:
    """The sums as a table in Markdown."""
    lines = ["| tried | how many | lost | what would be lost |", "| --- | --- | --- | --- |"]
    lines += [f"| {k} | {counts[k][0]:,} | {counts[k][1]:,} | {what} |" for k, what in KINDS.items() if k in counts]
    form = "full" if FULL else "short"
    return "\n".join([*lines, "", f"The {form} form took {seconds:,.0f} seconds of tests, all processes together."])


def write_counts(path: Path, counts: Mapping[str, tuple[int, int]], seconds: float) -> None:
    """Put the table between the marks of a page."""
    text = path.read_text(encoding="utf-8")
    marked = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    assert marked.search(text), f"{path} has no marks for the counts"
    path.write_text(marked.sub(lambda _: f"{_BEGIN}{table(counts, seconds)}\n{_END}", text), encoding="utf-8")
