"""How a number of ours is judged beside the paper's, and what became of it.

The thresholds were set before any experiment but Table 1 was run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

TOLERANCE = 1.0  # nats, or points of accuracy: two sound implementations of an underspecified text differ by as much
NEAR = 3.0  # nats, or points of accuracy
STANDARD_ERRORS = 2.0  # these or TOLERANCE, whichever is larger, is still "reproduced"

# The same digits as the paper's, binarised by another draw: what is claimed of them does not hang on the draw.
JUDGED = ("mnist_gmn",)

Verdict = Literal["not reproduced", "near", "reproduced", "other data", "not run", "quoted"]
# In the order in which pages list them
VERDICTS: tuple[Verdict, ...] = ("not reproduced", "near", "reproduced", "other data", "not run", "quoted")
MEANINGS: dict[Verdict, str] = {
    "not reproduced": f"worse than the paper's by more than {NEAR:g} nats (points of accuracy)",
    "near": f"worse by at most {NEAR:g} nats (points)",
    "reproduced": f"no worse than the larger of {STANDARD_ERRORS:g} standard errors and {TOLERANCE:g} nat (point)",
    "other data": "measured on other data than the paper's: shown, not judged, unless of the same digits",
    "not run": "rows are missing, and the claim names them",
    "quoted": "a figure of other people's models, which the paper quotes: not ours to judge, or not run yet",
}

# The side on which ours would be worse; "either" where the text states a size, not a mark to beat.
Worse = Literal["higher", "lower", "either"]


def judge(worse: Worse, difference: float, stderr: float | None) -> Verdict:
    """The verdict on ours minus the paper's, in nats or points."""
    excess = {"higher": difference, "lower": -difference, "either": abs(difference)}[worse]
    if excess <= max(TOLERANCE, STANDARD_ERRORS * (stderr or 0.0)):
        return "reproduced"
    return "near" if excess <= NEAR else "not reproduced"


def span(ascending: Sequence[str]) -> str:
    """The first and the last of some numbers, "2.4 to 3.3"; one alone where there is no other."""
    return " to ".join(dict.fromkeys((*ascending[:1], *ascending[-1:])))


@dataclass(frozen=True)
class Beside:
    """A number of ours that is shown beside a claim's: another K, recipe or split."""

    label: str
    ours: str
    rows: tuple[Mapping[str, Any], ...]
    differs: str = ""  # in what else, in words


@dataclass(frozen=True)
class Outcome:
    """A claim and what became of it; `difference` is ours minus the paper's, in `unit`.

    What does not apply is None or empty: `missing` names rows that are not there, `stand_in` the data set in the place
    of the paper's.
    """

    id: str
    where: str
    setting: str
    model: str
    experiment: str
    dataset: str
    metric: str
    unit: str
    paper: str
    verdict: Verdict
    recipe: str = "paper"
    command: str = ""
    reason: str = ""
    ours: str = ""
    value: float | None = None
    stderr: float | None = None
    difference: float | None = None
    n: int | None = None
    updates: str = ""
    seeds: tuple[tuple[int, float], ...] = ()
    missing: str = ""
    stand_in: str = ""
    dirty: bool = False
    note: str = ""
    beside: tuple[Beside, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
