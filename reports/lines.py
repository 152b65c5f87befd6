"""Files of JSON objects, one a line: which of their bytes count after a crash, and what these hold."""

import json
from pathlib import Path
from typing import Any

from vma.errors import InputError

# The first byte of lines that are being appended together, until all of them are on the disk; JSON has no such byte.
UNFINISHED = b"\0"


def parse(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The objects of the file at `path`, which has these bytes, without lines whose appending was cut off (see
    `sound_length`).

    Raises:
        InputError: if another line is no JSON object; names file and line.
    """
    found = []
    for number, line in enumerate(data[: sound_length(data)].split(b"\n")[:-1], start=1):
        value = _value(line)
        if value is None:
            raise InputError(f"{path}, line {number}, is no JSON object: correct or delete the line")
        found.append(value)
    return found


def sound_length(data: bytes) -> int:
    """How many bytes of a file are left once what a crash left unfinished is cut off: lines that were appended together
    and whose first still begins with `UNFINISHED`, or a last line that has no newline or is no JSON object.
    """
    start = data.rfind(b"\n" + UNFINISHED) + 1
    if data.startswith(UNFINISHED, start):
        first = data[start + 1 :].partition(b"\n")[0]
        # A byte that a bad disk has zeroed in the middle of a file is not taken for it: nothing else fits then.
        if _value(b"{" + first) is not None:
            return start
    end = data.rfind(b"\n") + 1
    if end < len(data):
        return end
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return start if _value(data[start:end]) is None else end


def _value(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")  # which Python's reader would let through
