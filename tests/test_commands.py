"""The commands as a user types them: a whole run on built-in characters, its files, and one line for each mistake."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import compare_paths, memory_size, run, scaling, table1
from benchmarks.declare import experiments
from benchmarks.declare.spec import TrainSpec
from benchmarks.plan.cli import run_command
from benchmarks.record import store
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from reports import results, tables
from vma.data import load
from vma.errors import DataUnavailable

TINY = ["--image-size", "8", "--updates", "2", "--targets", "3", "--threads", "1"]
BUILT_IN = "BUILT-IN CHARACTERS (strokes), NOT THE PAPER'S DATA"


def call(module, *arguments: str) -> int:
    return run_command(module.Options, module.run, module.__name__, list(arguments))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "TABLE1_NUM_SAMPLES", 6)


def test_table1_runs_through_and_says_what_it_ran_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(table1, "--dataset", "strokes", "--out", str(out), *TINY) == 0
    printed = capsys.readouterr().out
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


def test_cells_that_have_their_rows_are_not_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "strokes", "--out", str(tmp_path), *TINY, "--models", "vma", "vae"]
    assert call(table1, *arguments) == 0
    first = (tmp_path / "table1.jsonl").read_bytes()
    printed = capsys.readouterr().out
    assert call(table1, *arguments) == 0
    assert (tmp_path / "table1.jsonl").read_bytes() == first
    again = capsys.readouterr().out
    assert again.count("all cells have their rows") == 2
    assert again[again.index("Table 1.") :] == printed[printed.index("Table 1.") :]
    assert call(table1, *arguments, "--again") == 0
    assert len((tmp_path / "table1.jsonl").read_bytes()) > len(first)


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


def test_table1_under_gmn_sets_duplicated_targets_apart(tmp_path: Path) -> None:
    arguments = ["--dataset", "strokes", "--protocol", "gmn", "--models", "vma", "--out", str(tmp_path), *TINY]
    assert call(table1, *arguments) == 0
    rows = store.read_rows(tmp_path / "table1.jsonl")
    by_cell: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["metric"] == "nll":
            by_cell.setdefault(row["eval_id"], {})[row["targets"]] = row["n"]
    assert len(by_cell) == 28
    assert all(n["all"] == n.get("duplicated", 0) + n.get("new", 0) for n in by_cell.values())


def test_scaling_evaluates_one_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "strokes", "--classes", "5", "--shots", "19", "--out", str(tmp_path), *TINY]
    assert call(scaling, *arguments) == 0
    (row,) = [row for row in store.read_rows(tmp_path / "scaling.jsonl") if row["metric"] == "nll"]
    assert (row["classes"], row["shots"], row["memory_size"], row["n"]) == (5, 19, 95, 3)
    assert capsys.readouterr().out.splitlines()[-1].startswith(BUILT_IN)


@pytest.mark.parametrize("model", ["vma", "soft", "vae"])
def test_a_sweep_over_memory_sizes_takes_any_checkpoint(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = "features" if model == "soft" else None
    spec = TrainSpec(model=model, read=read, dataset="strokes", image_size=8, network="tiny", threads=1)
    train(spec, load("strokes", image_size=8), torch.device("cpu"), updates=1)
    checkpoint = run_folder(spec, torch.device("cpu")) / "checkpoint.safetensors"
    shared = ["--checkpoint", str(checkpoint), "--image-size", "8", "--out", str(tmp_path / "out")]
    shared += ["--targets", "3", "--threads", "1"]
    sweep = ["--classes", "2", "4", "--shots", "1", "3", "--memory-size", "4"]
    assert call(memory_size, *shared, *sweep) == 2
    wrong = "has no memory to sweep over" if model == "vae" else "--memory-size is 4, must lie between"
    assert wrong in capsys.readouterr().err  # 2 classes x 1 example are fewer than 4 entries
    assert not (tmp_path / "out").exists()
    sweep[4] = "2"
    assert call(memory_size, *shared, *(sweep if model != "vae" else [])) == 0
    nll = [row for row in store.read_rows(tmp_path / "out" / "memory-size.jsonl") if row["metric"] == "nll"]
    assert len(nll) == (1 if model == "vae" else 4)
    assert {row["memory_size"] for row in nll} == {None if model == "vae" else 4}
    assert {row["updates"] for row in nll} == {1}
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].endswith("memory-size.jsonl.")
    assert sum("±" in line and "standard error" not in line for line in printed) == len(nll)


def test_a_sweep_over_memory_sizes_needs_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (([], "--checkpoint is needed"), (["--checkpoint", str(tmp_path / "x")], "does not exist")):
        assert call(memory_size, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


MISTAKES = {
    "an unknown flag": (["--targts", "3"], "Unrecognized options: --targts"),
    "no number": (["--targets", "x"], "--targets"),
    "one target": (["--targets", "1"], "--targets is 1"),
    "no update": (["--updates", "0"], "--updates is 0"),
    "no time": (["--minutes", "0"], "--minutes is 0"),
    "an unknown data set": (["--dataset", "cifar"], "no such data set"),
    "an unknown protocol": (["--protocol", "recall"], "'per_class', 'gmn'"),
    "an unknown device": (["--dataset", "strokes", "--device", "tpu"], "must be auto, cpu or cuda"),
    "a device that is not there": (["--dataset", "strokes", "--device", "cuda:99"], "use --device cpu"),
    "an empty folder": (["--dataset", "folder:{tmp}", "--image-size", "8"], "at least 3 are needed"),
    "a data set without a name": (["--dataset", ""], "--dataset is empty: give a value, or leave it out"),
    "a folder without a name": (["--dataset", "folder:"], "--dataset is 'folder:', must name a folder"),
    "no model": (["--models"], "--models is empty, must be one or more of vma, soft, vae"),
    "endless training": (["--minutes", "inf"], "--minutes is inf, must be above 0, a number up to 525600"),
    "threads beyond any machine": (["--threads", "9999"], "--threads is 9999, must be 1 or more, a whole number up to"),
    "a word for a number": (["--minutes", "long"], "--minutes is 'long', must be a number"),
    "words for numbers": (["--seed", "1e3"], "--seed is '1e3', must be a whole number"),
    "a line end in a name": (["--dataset", "folder:no\nfolder", "--image-size", "8"], r"no\nfolder: not a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = MISTAKES[mistake]
    out = tmp_path / "out"
    assert call(table1, *(a.format(tmp=tmp_path) for a in arguments), "--out", str(out)) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    line = said.rstrip()
    assert line.startswith("error: ")
    assert words in line
    assert not out.exists()


def test_an_out_that_cannot_be_written_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(table1, "--dataset", "strokes", "--out", "/proc/out", *TINY) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write or read /")
    assert line.endswith("; free space there or mend permissions")


FULL = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(FULL)])
def test_a_full_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(table1, "here", full)
    assert call(table1, "--dataset", "strokes", "--out", str(tmp_path / "out"), *TINY) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the memory is full: give smaller numbers")
    assert not (tmp_path / "out").exists()


def test_other_errors_are_not_taken_for_a_full_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(table1, "here", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        call(table1, "--dataset", "strokes", "--out", str(tmp_path / "out"), *TINY)


def test_the_sampled_gradients_of_wallclock_have_no_reference_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused at the start, and not by a job of the sweep."""
    arguments = ["wallclock", "--smoke", "--reference", "--out", str(tmp_path / "out")]
    assert run.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --reference has no gradients for a sample of the entries")
    assert not (tmp_path / "out").exists()


def nothing_there(name: str, **_: object) -> None:
    raise DataUnavailable(f"{name} is nowhere", ("cache: not there", "https://host/file: no network"))


def test_without_data_the_error_lists_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.plan.cli.load", nothing_there)
    assert call(table1, "--out", str(tmp_path / "out")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "tried" in line] == [
        "  tried cache: not there",
        "  tried https://host/file: no network",
    ]
    assert lines[-1].endswith(f": python -m benchmarks.table1 --out {tmp_path / 'out'} --dataset strokes")


def test_the_fallback_is_taken_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vma.data import load

    monkeypatch.setattr(
        "benchmarks.plan.cli.load", lambda name, **k: load(name, **k) if name == "strokes" else nothing_there(name)
    )
    arguments = ["--fallback", "strokes", "--models", "vae", "--out", str(tmp_path), *TINY]
    assert call(table1, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(BUILT_IN)
    assert "omniglot_gmn is nowhere" in lines[0]
    assert {row["dataset"] for row in store.read_rows(tmp_path / "table1.jsonl")} == {"strokes"}


def test_the_papers_table_is_whole() -> None:
    paper = tables.paper_numbers()
    table = paper[paper["where"] == "Table 1"]
    assert len(table[table.model == "vma"]) == len(experiments.TABLE1_CLASSES) * len(experiments.TABLE1_SHOTS)
    assert tables.quoted_gmn(paper).loc[1, 19] == 45.8


def test_paths_compares_both_on_the_same_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In float32 both are one computation, and after two updates still one run."""
    arguments = ["--dataset", "strokes", *TINY, "--dtype", "float32", "--seeds", "0", "1", "--out", str(tmp_path)]
    assert call(compare_paths, *arguments) == 0
    frame = pd.read_csv(tmp_path / "paths.csv")
    assert frame.path.tolist() == ["fast", "reference"] * 2
    assert frame.seed.tolist() == [0, 0, 1, 1]
    assert set(frame.updates) == {2}
    assert set(frame.n) == {32}
    np.testing.assert_allclose(frame.nll[::2], frame.nll[1::2], atol=1e-2)
    printed = capsys.readouterr().out
    assert "| mean |" in printed
    assert "Standard deviation between seeds" in printed
    assert BUILT_IN in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--seeds", "1", "1"], "--seeds"), (["--updates", "0"], "--updates"), (["--reference"], "--reference")],
)
def test_paths_refuses_what_cannot_be(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(compare_paths, "--dataset", "strokes", "--out", str(tmp_path / "out"), *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_reference_path_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "strokes", *TINY, "--classes", "2", "--shots", "1", "--out", str(tmp_path)]
    assert call(scaling, *arguments, "--reference") == 0
    specs = [line["spec"] for line in store.read_rows(tmp_path / "specs.jsonl")]
    assert {(spec.get("path"), spec["dtype"]) for spec in specs if "model" in spec} == {("reference", "float32")}
    capsys.readouterr()
    assert call(scaling, *arguments, "--reference", "--dtype", "bfloat16") == 2
    assert "float32" in capsys.readouterr().err
