"""What became of every number of the paper: ours beside it, the verdict, and the rows behind both."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pandas as pd

from reports import findings
from reports.declared import STAND_INS
from reports.finding import Finder, Missing
from reports.results import SUITE, Results
from reports.rules import CLAIMS, Claim
from reports.verdicts import JUDGED, Beside, Outcome, Verdict, judge, span

QUOTED = ("gmn", "iwae2", "rbm")  # models of others; of gmn, which is trained here too, until that was run


def assess(results: Results) -> list[Outcome]:
    """What became of every number of the paper, in the order of results/paper.csv: by the suite's recipe where that was
    run, the paper's beside it, else by the paper's.

    Raises:
        KeyError: an id that neither a claim nor a quotation speaks for.
    """
    parts = [assess_recipe(of) for of in results.recipes.values()]
    notes = [findings.notes(part) for part in parts]
    noted = [[replace(o, note=note.get(o.id, "")) for o in part] for part, note in zip(parts, notes, strict=True)]
    return [_by_either(*one) for one in zip(*noted, strict=True)]


def assess_recipe(results: Results) -> list[Outcome]:
    """What became of every number by the recipe that `results` are of alone, without notes."""
    find = cache(partial(Finder, results))
    return [_outcome(results, row, find) for row in results.paper.to_dict("records")]


def _by_either(paper: Outcome, suite: Outcome | None = None) -> Outcome:
    if suite is None or not suite.ours:
        return paper
    suite = replace(suite, recipe=SUITE)
    if not paper.ours:
        return suite
    if paper.note and not suite.note:
        suite = replace(suite, note=f"By the paper's recipe: {paper.note}")
    beside = Beside("the paper's recipe", paper.ours, paper.rows, f" ({paper.verdict}, {paper.updates} updates)")
    return replace(suite, beside=(beside, *suite.beside))


def _outcome(results: Results, paper: Mapping[Any, Any], finder: Callable[[str], Finder]) -> Outcome:
    def text(key: str) -> str:
        return "" if pd.isna(paper[key]) else str(paper[key])

    name = text("id")
    claim = CLAIMS.get(name)
    if claim is None and text("model") not in QUOTED:
        raise KeyError(f"{name} is a number of the paper that no claim speaks for")
    outcome = Outcome(
        id=name,
        where=text("where"),
        setting=_setting(paper),
        model=text("model"),
        experiment=claim.experiment if claim else name.split(".")[0],
        dataset=text("dataset"),
        metric=text("metric"),
        unit=text("unit"),
        paper=_papers(paper),
        verdict="quoted",
    )
    if claim is None:
        return outcome
    find = finder(claim.experiment)
    outcome = replace(outcome, reason=claim.reason, command=_command(find, ()))
    not_run: Verdict = "quoted" if text("model") in QUOTED else "not run"
    if find.rows.empty:
        return replace(outcome, verdict=not_run, missing=f"no row of {claim.experiment}")
    try:
        found = claim.compute(find)
    except Missing as missing:
        return replace(outcome, verdict=not_run, missing=str(missing))
    value, stderr = found.value * claim.scale, None if found.stderr is None else found.stderr * claim.scale
    reference = float(pd.to_numeric(paper["value"], errors="coerce")) if claim.reference is None else claim.reference
    difference = value - reference
    if find.stand_in and find.stand_in not in JUDGED:
        verdict: Verdict = "other data"
    else:
        verdict = claim.judge(found) if claim.judge else judge(claim.worse, difference, stderr)
    return replace(
        outcome,
        verdict=verdict,
        command=_command(find, [seed for seed, _ in found.seeds]),
        ours=found.shown or in_digits(value, stderr),
        value=None if math.isnan(value) else value,
        stderr=stderr,
        difference=None if claim.judge or math.isnan(difference) else difference,
        n=found.n,
        updates=updates_of(results, found.rows),
        seeds=tuple((seed, one * claim.scale) for seed, one in found.seeds),
        stand_in=find.stand_in,
        dirty=any(row["dirty"] for row in found.rows),
        beside=tuple(_beside(find, claim, found.n)),
        rows=found.rows,
    )


def _beside(find: Finder, claim: Claim, n: int | None) -> Iterable[Beside]:
    """What stands beside a number over n targets."""
    for label, compute in claim.beside.items():
        try:
            found = compute(find)
        except Missing:
            continue
        stderr = None if found.stderr is None else found.stderr * claim.scale
        words = found.shown or in_digits(found.value * claim.scale, stderr)
        others = f" ({found.n:,} targets)" if found.n and found.n != n and not found.shown else ""
        yield Beside(label, words, found.rows, f"{others}{_unequal_updates(find.results, found.rows)}")


def _unequal_updates(results: Results, rows: Iterable[Mapping[str, Any]]) -> str:
    """How long the models of a comparison were trained, where not for equally long."""
    updates = {row["model"]: results.updates_in_all(row) for row in rows}
    if len(set(updates.values())) < 2:
        return ""
    return f" ({', '.join(f'{model} after {count:,}' for model, count in updates.items())} updates)"


def _setting(paper: Mapping[Any, Any]) -> str:
    shots, classes = paper["shots"], paper["classes"]
    memory = [] if pd.isna(classes) else [f"C\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{classes:.0f}"]
    if pd.notna(shots):
        memory.append(f"{shots:.0f} example{'s' * (shots > 1)} {'in all' if paper['model'] == 'gmn' else 'per class'}")
    return "; ".join([*([", ".join(memory)] if memory else []), str(paper["setting"])])


def _papers(paper: Mapping[Any, Any]) -> str:
    relation = {"=": "", "~": "≈ "}.get(paper["relation"], f"{paper['relation']} ")
    is_text = pd.isna(pd.to_numeric(paper["value"], errors="coerce")) and paper["value"] != "log|M|"
    return str(paper["value"]) if is_text else f"{relation}{paper['value']}"


def _command(find: Finder, seeds: Iterable[int]) -> str:
    command = f"python -m benchmarks.run {find.experiment}"
    if find.results.smoke:
        command += " --smoke"
    elif find.stand_in in STAND_INS.values():
        command += " --stand-ins"
    elif find.stand_in:
        command += f" --dataset {find.stand_in}"
    distinct = sorted(set(seeds))
    return command if distinct in ([], [0]) else f"{command} --seeds {' '.join(map(str, distinct))}"


def in_digits(value: float, stderr: float | None = None) -> str:
    """A number with its error, to the digits that matter."""
    digits = 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}" if stderr is None else f"{value:.{digits}f} ± {stderr:.{digits}f}"


def updates_of(results: Results, rows: Iterable[Mapping[str, Any]]) -> str:
    """The fewest and the most updates of the runs behind rows, those that they began from among them."""
    distinct = sorted({results.updates_in_all(row) for row in rows} - {0})  # 0 where nothing is trained
    return span([f"{updates:,}" for updates in distinct])
