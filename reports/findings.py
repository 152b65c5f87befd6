"""What was found where a claim misses, in words: findings.toml, whose numbers are filled in from outcomes."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from reports.verdicts import Outcome

PATH = Path(__file__).with_name("findings.toml")


@dataclass(frozen=True)
class Finding:
    """What was found.

    - claims: patterns of the ids that it speaks for.
    - runs: by train_id, the updates after which a run had the numbers that are typed in the text.
    - text: with fields `{NAME of PATTERN}`: NAME of each claim's outcome that fits, "84, 94 and 64"; or `{range of NAME
      of PATTERN}`, "2.4 to 3.3". NAME is ours, paper, difference, updates or the label of what stands beside it.
    """

    claims: tuple[str, ...]
    runs: Mapping[str, int]
    text: str


def read(path: Path = PATH) -> list[Finding]:
    """The findings of a file."""
    parts = tomllib.loads(path.read_text(encoding="utf-8"))["finding"]
    return [Finding(tuple(part["claims"]), part.get("runs", {}), " ".join(part["text"].split())) for part in parts]


def notes(outcomes: Sequence[Outcome], known: Sequence[Finding] | None = None) -> dict[str, str]:
    """The finding that speaks for each claim, by id, filled in. It speaks for claims whose rows are of its runs alone,
    with as many updates.
    """
    found = {}
    for finding in read() if known is None else known:
        for outcome in outcomes:
            runs = {row["train_id"]: row["updates"] for row in outcome.rows}
            same = [finding.runs[run] == updates for run, updates in runs.items() if run in finding.runs]
            speaks = fits(outcome.id, finding.claims)
            if speaks and outcome.rows and all(same) and (same or not finding.runs):
                found[outcome.id] = filled(finding.text, outcomes)
    return found


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether an id is one of those that the patterns mean."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def filled(text: str, outcomes: Sequence[Outcome]) -> str:
    """The text with its fields filled in, see `Finding`; "-" stands for a number that is not there.

    Raises:
        LookupError: for a field whose pattern no outcome fits.
    """

    def fill(field: re.Match[str]) -> str:
        numbers = [_number(one, field["name"]) for one in outcomes if fits(one.id, [field["pattern"]])]
        if not numbers:
            raise LookupError(f"{field['pattern']} fits no claim")
        if field["range"]:
            ends = sorted(numbers, key=float)
            return f"{ends[0]} to {ends[-1]}"
        return " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))

    return re.sub(r"\{(?P<range>range of )?(?P<name>[^{}]+) of (?P<pattern>[^{} ]+)\}", fill, text)


def _number(outcome: Outcome, name: str) -> str:
    if name == "difference":
        return "-" if outcome.difference is None else f"{outcome.difference:.1f}"
    words = {"ours": outcome.ours, "paper": outcome.paper, "updates": outcome.updates}
    words |= {part.label: part.ours for part in outcome.beside}
    return words.get(name, "-").split(" ± ")[0]
