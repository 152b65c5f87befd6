"""Every number of the paper has a claim, every claim finds its cells, and verdicts follow the committed thresholds."""

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import ORIGIN

from benchmarks.declare.experiments import EXPERIMENTS, smoke
from benchmarks.record.store import append_rows
from reports import findings
from reports.findings import Finding
from reports.outcomes import QUOTED, assess, assess_recipe, in_digits
from reports.results import PAPER as NUMBERS
from reports.results import paper_numbers, read_results
from reports.rules import CLAIMS
from reports.verdicts import VERDICTS, Outcome, Worse, judge

METRICS = ("nll", "kl_a", "kl_z", "entropy_pa", "p_exact", "accuracy", "seconds_per_update")
PAPER = paper_numbers()


def invented(experiment: str, small: bool = False, **changes: Any) -> list[dict[str, Any]]:
    """A row for each metric of each declared cell of an experiment: the value 2, stderr 0.1."""
    declared = EXPERIMENTS[experiment]()
    cells = (smoke(declared) if small else declared).cells
    return [
        {
            **ORIGIN,
            **cell.row(),
            **{"experiment": experiment, "updates": cell.updates or 0, "targets": "all", "metric": metric},
            **{"value": 2.0, "stderr": 0.1, "n": 10, "train_id": cell.train.train_id, "eval_id": cell.eval.eval_id},
            **({"rule": rule} if rule else {}),
            **changes,
        }
        for cell in cells
        for metric in METRICS
        for rule in (("address", "likelihood", "shifted") if metric == "accuracy" else (None,))
    ]


def outcomes(folder: Path, *parts: list[dict[str, Any]]) -> dict[str, Outcome]:
    for rows in parts:
        append_rows(folder / f"{rows[0]['experiment']}.jsonl", rows)
    return {outcome.id: outcome for outcome in assess(read_results(folder))}


def only(rows: list[dict[str, Any]], **keys: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in keys.items())]


def changed(rows: list[dict[str, Any]], changes: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    """The rows, those with these keys changed."""
    for row in only(rows, **keys):
        row |= changes
    return rows


def test_every_number_of_the_paper_is_a_claim_or_quoted() -> None:
    quoted = set(PAPER[PAPER.model.isin(QUOTED)].id)
    assert {name for name in CLAIMS if not name.startswith("table1.gmn.")} == set(PAPER.id) - quoted
    assert {name for name in PAPER.id if name.startswith("table1.gmn.")} <= set(CLAIMS)
    assert all(claim.reason and "\n" not in claim.reason for claim in CLAIMS.values())


@pytest.mark.parametrize("small", [False, True])
def test_every_claim_and_all_that_stands_beside_it_finds_its_cells_among_the_declared_ones(
    tmp_path: Path, small: bool
) -> None:
    found = outcomes(tmp_path, *(invented(name, small) for name in EXPERIMENTS))
    assert list(found) == list(PAPER.id)
    for name, claim in CLAIMS.items():
        outcome = found[name]
        assert not outcome.missing
        assert outcome.rows
        beside = [*claim.beside]
        if outcome.recipe == "suite":  # by which no memory grows, and one soft attention alone is trained
            others = (
                "grown",
                "reading images",
                *(() if small else ("trained on",)),
            )  # a smoke run's are all of 2 classes
            beside = ["the paper's recipe", *(label for label in beside if not any(other in label for other in others))]
        assert [part.label for part in outcome.beside] == beside, name
        if not small and claim.judge is None:
            assert outcome.verdict == judge(claim.worse, outcome.difference or 0.0, outcome.stderr)
    assert {outcome.verdict for outcome in found.values()} <= ({"other data", "quoted"} if small else set(VERDICTS))
    assert all("--smoke" in outcome.command for outcome in found.values() if outcome.verdict == "other data")


@pytest.mark.parametrize(
    ("worse", "difference", "stderr", "verdict"),
    [
        ("higher", 1.0, None, "reproduced"),
        ("higher", 1.01, None, "near"),
        ("higher", 1.01, 0.6, "reproduced"),
        ("higher", 3.0, 0.0, "near"),
        ("higher", 3.01, 0.0, "not reproduced"),
        ("higher", 3.01, 2.0, "reproduced"),
        ("higher", -50.0, 0.0, "reproduced"),
        ("lower", -1.5, 0.0, "near"),
        ("lower", 50.0, 0.0, "reproduced"),
        ("either", -1.5, 0.0, "near"),
        ("either", 3.5, 0.0, "not reproduced"),
    ],
)
def test_thresholds(worse: Worse, difference: float, stderr: float | None, verdict: str) -> None:
    assert judge(worse, difference, stderr) == verdict


def test_what_is_not_run_is_named(tmp_path: Path) -> None:
    rows = [row for row in invented("table1") if (row["classes"], row["shots"]) != (4, 5)]
    found = outcomes(tmp_path, rows)
    assert found["table1.vma.4.4"].rows
    missing = found["table1.vma.4.5"]
    assert missing.verdict == "not run"
    assert missing.ours == ""
    assert "classes 4" in missing.missing
    assert "shots 5" in missing.missing
    assert found["recall.nll"].missing == "no row of recall"
    assert found["recall.nll"].command == "python -m benchmarks.run recall"


def test_of_a_claim_over_several_cells_each_missing_one_is_named(tmp_path: Path) -> None:
    rows = [row for row in invented("fewshot") if row["shots"] not in (2, 8)]
    missing = outcomes(tmp_path, rows)["fewshot.best"].missing
    assert "shots 2," in missing
    assert "shots 8," in missing
    assert "shots 4," not in missing


@pytest.mark.parametrize(
    ("dataset", "option", "verdict"),
    [
        ("mnist_gmn", "--stand-ins", "reproduced"),  # another draw of the same digits
        ("folder:mine", "--dataset folder:mine", "other data"),
    ],
)
def test_other_data_are_shown_and_not_judged(tmp_path: Path, dataset: str, option: str, verdict: str) -> None:
    outcome = outcomes(tmp_path, invented("recall", dataset=dataset))["recall.nll"]
    assert outcome.verdict == verdict
    assert outcome.stand_in == dataset
    assert outcome.ours == "2.00 ± 0.10"
    assert outcome.command == f"python -m benchmarks.run recall {option}"


def test_what_is_quoted_of_gmn_is_judged_once_it_was_run(tmp_path: Path) -> None:
    rows = invented("table1")
    without = outcomes(tmp_path / "without", [row for row in rows if row["model"] != "gmn"])["table1.gmn.1.19"]
    assert (without.verdict, without.paper, without.ours) == ("quoted", "45.8", "")
    assert "variant gmn-own" in without.missing
    found = outcomes(tmp_path / "with", rows)["table1.gmn.1.19"]
    assert (found.verdict, found.value) == ("reproduced", 2.0)


def test_seeds_are_averaged_shown_and_named_in_the_command(tmp_path: Path) -> None:
    rows = invented("table1")
    second = [{**row, "train_seed": 1, "train_id": "1" * 12, "value": 3.0} for row in rows]
    outcome = outcomes(tmp_path, rows + second)["table1.vma.1.1"]
    assert outcome.value == 2.5
    assert outcome.seeds == ((0, 2.0), (1, 3.0))
    assert outcome.stderr == pytest.approx(math.sqrt(0.1**2 + 0.5 / 2))
    assert outcome.command.endswith("--seeds 0 1")


def test_accuracies_are_compared_in_points(tmp_path: Path) -> None:
    outcome = outcomes(tmp_path, invented("classification", value=0.9, stderr=0.005))["classification.5.1"]
    assert outcome.ours == "90.0 ± 0.5"
    assert outcome.difference == pytest.approx(-1)
    assert outcome.verdict == "reproduced"


def test_a_row_of_a_dirty_tree_marks_its_claims_alone(tmp_path: Path) -> None:
    found = outcomes(tmp_path, changed(invented("ablations"), {"dirty": True}, variant="tied"))
    assert found["ablation.tied"].dirty
    assert not found["ablation.flat_prior"].dirty


def test_an_ablation_is_the_change_from_the_control(tmp_path: Path) -> None:
    rows = invented("ablations")
    for variant, value in (("inner", 1.5), ("cosine", 0.5), ("tied", 4.0)):
        changed(rows, {"value": value}, variant=variant)
    found = outcomes(tmp_path, rows)
    assert found["ablation.similarity"].value == -1.5  # cosine, better than the control
    assert found["ablation.similarity"].verdict == "near"
    assert found["ablation.tied"].value == 2.0
    assert found["ablation.tied"].stderr == pytest.approx(math.hypot(0.1, 0.1))
    assert found["ablation.flat_prior"].verdict == "reproduced"


@pytest.mark.parametrize(
    ("more", "excess", "verdict"),
    [(math.log(144) + 1.5, 1.5, "near"), (0.0, -math.log(144), "not reproduced")],  # it ignores its memory
)
def test_what_scaling_costs_is_the_excess_over_the_optimum(
    tmp_path: Path, more: float, excess: float, verdict: str
) -> None:
    rows = changed(invented("scaling"), {"value": 2.0 + more}, classes=144, model="vma")
    outcome = outcomes(tmp_path, rows)["scaling.excess"]
    assert outcome.value == pytest.approx(excess)
    assert outcome.verdict == verdict


def test_differences_are_taken_after_equal_numbers_of_updates(tmp_path: Path) -> None:
    found = outcomes(tmp_path, changed(invented("ablations"), {"updates": 12_000}, variant="tied"))
    assert found["ablation.tied"].verdict == "not run"
    assert "after equal numbers of updates" in found["ablation.tied"].missing
    assert found["ablation.flat_prior"].verdict == "reproduced"


def test_learned_addresses_are_judged_by_the_median_of_the_sizes(tmp_path: Path) -> None:
    rows = invented("learned-omniglot")
    for size, short in {64: 0.1, 128: 0.2, 256: 0.3, 512: 0.4, 1024: 0.5, 2048: 5.0}.items():
        changed(rows, {"value": math.log(size) - short}, metric="kl_a", model="vma", memory_size=size)
    outcome = outcomes(tmp_path, rows)["learned-omniglot.kl_a"]
    assert outcome.value == pytest.approx(-0.3)
    assert outcome.paper == "≈ log|M|"
    assert outcome.verdict == "reproduced"


def test_that_a_model_overfits_is_missed_by_a_lower_nll(tmp_path: Path) -> None:
    found = outcomes(tmp_path, invented("learned-omniglot", value=120.0))
    assert found["learned-omniglot.test"].verdict == "not reproduced"
    assert found["learned-omniglot.train"].verdict == "not reproduced"
    assert found["learned-omniglot.train"].difference == 40


@pytest.mark.parametrize(("train", "verdict"), [(79.0, "reproduced"), (82.0, "near"), (170.0, "not reproduced")])
def test_a_model_that_has_learned_nothing_does_not_overfit(tmp_path: Path, train: float, verdict: str) -> None:
    rows = changed(invented("learned-omniglot", value=170.0), {"value": train}, split="train")
    outcome = outcomes(tmp_path, rows)["learned-omniglot.test"]
    assert outcome.verdict == verdict
    assert outcome.value == 170.0


def test_a_comparison_of_models_says_after_how_many_updates_each(tmp_path: Path) -> None:
    rows = only(invented("table1"), recipe="paper")
    differs = [part.differs for part in outcomes(tmp_path, rows)["table1.vma.1.1"].beside]
    assert differs == ["", " (soft after 30,000, vma after 60,000 updates)"]


def test_no_run_has_failed_before_it_had_its_updates(tmp_path: Path) -> None:
    assert outcomes(tmp_path, invented("recall", updates=30_000))["recall.fails"].verdict == "not run"


@pytest.mark.parametrize(
    ("failed", "verdict"), [((), "near"), ((2048,), "reproduced"), ((1024, 2048), "not reproduced")]
)
def test_sometimes_is_neither_always_nor_never(tmp_path: Path, failed: tuple[int, ...], verdict: str) -> None:
    rows = changed(invented("recall"), {"value": 0.7}, metric="p_exact")
    for size in failed:
        changed(rows, {"value": 0.01}, metric="p_exact", memory_size=size)
    outcome = outcomes(tmp_path, rows)["recall.fails"]
    assert outcome.verdict == verdict
    assert outcome.ours == f"{len(failed)} of 2 runs"
    assert outcome.difference is None


@pytest.mark.parametrize(
    ("faster_from", "shown", "verdict"),
    [
        (16, "≤ 16", "reproduced"),
        (48, "39", "reproduced"),
        (128, "91", "near"),
        (512, "362", "not reproduced"),
        (10_000, "at none up to 4096", "not reproduced"),
    ],
)
def test_the_crossover_may_be_at_twice_the_papers_size(
    tmp_path: Path, faster_from: int, shown: str, verdict: str
) -> None:
    rows = invented("wallclock")
    for row in only(rows, model="vma"):
        row["value"] = 1.0 if row["memory_size"] >= faster_from else 4.0  # soft attention takes 2 seconds at each size
    outcome = outcomes(tmp_path, rows)["wallclock.crossover"]
    assert outcome.ours == shown
    assert outcome.verdict == verdict


def test_the_crossover_is_of_the_last_setting_and_of_whole_gradients(tmp_path: Path) -> None:
    rows = invented("wallclock", created="2026-01-01T00:00:00+00:00")
    sampled = [row | {"variant": "sampled-gradient", "value": 0.1} for row in only(rows, model="vma")]
    later = [row | {"dtype": "bfloat16", "created": "2026-01-02T00:00:00+00:00"} for row in rows]
    changed(later, {"value": 1.0}, model="vma")
    assert outcomes(tmp_path, rows + sampled)["wallclock.crossover"].ours == "at none up to 4096"
    assert outcomes(tmp_path / "later", rows + later)["wallclock.crossover"].ours == "≤ 16"


def test_a_finding_is_filled_in_and_speaks_for_the_rows_of_its_runs_alone(tmp_path: Path) -> None:
    found = list(outcomes(tmp_path, invented("table1", value=90.0), invented("recall")).values())
    row = next(outcome for outcome in found if outcome.id == "table1.vma.1.1").rows[0]
    run, updates = row["train_id"], row["updates"]
    text = "{difference of table1.vma.1.1} or {range of difference of table1.vma.1.*}; {ours of table1.vma.*.19}"
    text += ", {protocol gmn of table1.vma.2.1}"
    every = Finding(("table1.vma.*",), {run: updates, "another": 1}, text)
    filled = findings.notes(found, [every])
    assert set(filled) == {f"table1.vma.{c}.{n}" for c in (1, 2, 4, 16) for n in (1, 2, 3, 4, 5, 10, 19)}
    assert filled["table1.vma.1.1"] == "3.5 or 3.5 to 16.1; 90.0, 90.0, 90.0 and 90.0, 90.0"
    assert findings.notes(found, [Finding(("table1.*",), {run: updates - 1}, text)]) == {}
    assert findings.notes(found, [Finding(("table1.*",), {"another": updates}, text)]) == {}
    assert list(findings.notes(found, [Finding(("recall.nll", "fewshot.*"), {}, "")])) == ["recall.nll"]


def test_the_findings_of_the_project_are_of_the_rows_shown() -> None:
    """One whose runs are trained further is written anew."""
    results = read_results(NUMBERS.parent)
    by_recipe = [assess_recipe(of) for of in results.recipes.values()]
    every = pd.concat([results.rows, results.suite])
    for finding in findings.read():
        notes = [note for outcomes in by_recipe for note in findings.notes(outcomes, [finding]).values()]
        assert notes, f"{finding.claims}: no rows of {finding.runs}"
        assert not [note for note in notes if "{" in note or "-," in note]
        assert finding.runs or not re.search(r"\d\.\d|\d (nats|%)", finding.text), "numbers need their runs"
        for run, updates in finding.runs.items():
            rows, log = every[every.train_id == run], results.training_log(run)
            last = int(rows.updates.max()) if len(rows) else int(log["update"].max()) if log is not None else 0
            assert last == updates, f"{finding.claims}: {run} has now made {last} updates"


def test_measured_numbers_are_shown_to_the_digits_that_matter() -> None:
    assert in_digits(96.619, 1.73) == "96.6 ± 1.7"
    assert in_digits(2.513, 0.03) == "2.51 ± 0.03"
    assert in_digits(-0.5) == "-0.50"
