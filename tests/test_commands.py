"""The commands as a user types them: a whole run on built-in characters, its files, and one line for each mistake."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import error_line

from benchmarks import memory_size, run, scaling, table1
from benchmarks.declare import experiments
from benchmarks.plan import cli
from benchmarks.plan.cli import run_command
from benchmarks.record import store
from reports import results
from vma.data import DataSet, load
from vma.errors import DataUnavailable

TINY = ["--image-size", "8", "--updates", "2", "--targets", "3", "--threads", "1"]
BUILT_IN = "BUILT-IN CHARACTERS (strokes), NOT THE PAPER'S DATA"


def call(module, *arguments: str) -> int:
    return run_command(module.Options, module.run, module.__name__, list(arguments))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "TABLE1_NUM_SAMPLES", 6)


@pytest.mark.parametrize("recipe", ["paper", "suite"])
def test_table1_runs_through_and_says_what_it_ran_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    out = tmp_path / "out"
    assert call(table1, "--recipe", recipe, "--dataset", "strokes", "--out", str(out), *TINY) == 0
    printed = capsys.readouterr().out
    assert f"Trained by the {recipe}'s recipe" in printed
    assert printed.splitlines()[0].startswith(BUILT_IN)
    assert printed.splitlines()[-1].startswith(BUILT_IN)
    assert f"Table 1. {BUILT_IN}" in printed
    rows = store.read_rows(out / "table1.jsonl")
    nll = [row for row in rows if row["metric"] == "nll"]
    assert len(nll) == 28 + 4 + 1, "soft attention at the corners"
    assert {row["updates"] for row in rows} == {2}
    assert {row["dataset"] for row in rows} == {"strokes"}
    assert all(tuple(row)[: len(store.ROW_KEYS)] == store.ROW_KEYS for row in rows)
    assert (out / "table1.md").read_text().count("| VMA |") == 4
    assert (out / "table1.csv").read_text().startswith("model,")
    assert r"\toprule" in (out / "table1.tex").read_text()
    specs = {json.loads(line)["id"] for line in (out / "specs.jsonl").read_text().splitlines()}
    assert {row["train_id"] for row in rows} | {row["eval_id"] for row in rows} == specs


def test_table1_is_compared_with_committed_rows_target_by_target(tmp_path: Path) -> None:
    for name, targets in (("committed", "4"), ("ours", "3")):
        tiny = [*TINY[:-4], "--targets", targets, *TINY[-2:]]
        assert call(table1, "--dataset", "strokes", "--out", str(tmp_path / name), *tiny, "--models", "vma", "vae") == 0
    ours, committed = (results.read_results(tmp_path / name) for name in ("ours", "committed"))
    found = table1.beside(ours, committed)
    assert len(found) == 28 + 1
    assert found.minus_committed.abs().max() < 1e-3
    nll = ours.rows[ours.rows.metric == "nll"].value
    assert np.allclose(sorted(found.committed), sorted(nll), atol=1e-3)
    assert table1.beside(ours, replace(committed, rows=committed.rows.assign(updates=3))).empty, "other weights"


def test_scaling_evaluates_one_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "strokes", "--classes", "5", "--shots", "19", "--out", str(tmp_path), *TINY]
    assert call(scaling, *arguments) == 0
    (row,) = [row for row in store.read_rows(tmp_path / "scaling.jsonl") if row["metric"] == "nll"]
    assert (row["classes"], row["shots"], row["memory_size"], row["n"]) == (5, 19, 95, 3)
    assert capsys.readouterr().out.splitlines()[-1].startswith(BUILT_IN)


MISTAKES = {  # some of those that tests/faults makes at random, and what it has no data for
    "an unknown flag": (table1, ["--targts", "3"], "Unrecognized options: --targts"),
    "a number out of range": (table1, ["--targets", "1"], "--targets is 1"),
    "an unknown data set": (table1, ["--dataset", "cifar"], "no such data set"),
    "an empty folder": (table1, ["--dataset", "folder:{tmp}", "--image-size", "8"], "at least 3 are needed"),
    "no checkpoint": (memory_size, [], "--checkpoint is needed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, arguments, words = MISTAKES[mistake]
    out = tmp_path / "out"
    assert call(module, *(a.format(tmp=tmp_path) for a in arguments), "--out", str(out)) == 2
    assert words in error_line(capsys)
    assert not out.exists()


FULL = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(FULL)])
def test_a_full_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(table1, "here", full)
    assert call(table1, "--dataset", "strokes", "--out", str(tmp_path / "out"), *TINY) == 1
    assert error_line(capsys).startswith("error: the memory is full: give smaller numbers")
    assert not (tmp_path / "out").exists()


def test_the_sampled_gradients_of_wallclock_have_no_reference_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused at the start, and not by a job of the sweep."""
    arguments = ["wallclock", "--smoke", "--reference", "--out", str(tmp_path / "out")]
    assert run.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --reference has no gradients for a sample of the entries")
    assert not (tmp_path / "out").exists()


def test_the_fallback_is_taken_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str, **options: Any) -> DataSet:
        if name != "strokes":
            raise DataUnavailable(f"{name} is nowhere", ("cache: not there", "https://host/file: no network"))
        return load(name, **options)

    monkeypatch.setattr(cli, "load", find)
    arguments = ["--fallback", "strokes", "--models", "vae", "--out", str(tmp_path), *TINY]
    assert call(table1, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(BUILT_IN)
    assert "omniglot_gmn is nowhere" in lines[0]
    assert {row["dataset"] for row in store.read_rows(tmp_path / "table1.jsonl")} == {"strokes"}


def test_the_reference_path_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "strokes", *TINY, "--classes", "2", "--shots", "1", "--out", str(tmp_path)]
    assert call(scaling, *arguments, "--reference") == 0
    specs = [line["spec"] for line in store.read_rows(tmp_path / "specs.jsonl")]
    assert {(spec.get("path"), spec["dtype"]) for spec in specs if "model" in spec} == {("reference", "float32")}
    capsys.readouterr()
    assert call(scaling, *arguments, "--reference", "--dtype", "bfloat16") == 2
    assert "float32" in capsys.readouterr().err


@pytest.mark.parametrize(("load", "threads"), [(0.0, 4), (0.9, 4), (2.2, 2), (9.5, 1)])
def test_there_is_a_thread_for_each_idle_core(load: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(cli, "CORES", 4)
    assert cli.resolve_threads(cli.EvaluationOptions()) == threads
    assert cli.resolve_threads(cli.EvaluationOptions(threads=3)) == 3
