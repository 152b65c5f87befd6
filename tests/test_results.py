"""Reading a results folder: which rows count, what is missing, and one clear line for whatever cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import refused
from made_results import ROW

from benchmarks.declare.experiments import EXPERIMENTS
from benchmarks.record.store import ROW_KEYS, append_rows, record_arrays, record_specs
from reports import targets
from reports.declared import DECLARED
from reports.results import NUMBERS, TEXT, Results, missing_cells, read_results, select, stand_ins
from reports.targets import Key


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    for row in rows:
        whole = ROW | row
        append_rows(folder / f"{whole['experiment']}.jsonl", [whole])
    return folder


def test_every_promised_key_is_a_column() -> None:
    assert set(ROW_KEYS) <= {*TEXT, *NUMBERS, "dirty"}


def test_a_whole_folder_has_every_declared_cell_once(made: Results) -> None:
    assert not made.smoke
    assert made.left_out == ()
    assert set(DECLARED) == set(EXPERIMENTS)
    for name in EXPERIMENTS:
        assert missing_cells(made, name) == []
        rows = made.of(name)
        rows = rows[~rows.metric.str.startswith("snr_")]  # of a cell of these there is a row for each estimator
        covered = {index for cell in DECLARED[name].cells for index in select(rows, **cell).index}
        assert covered == set(rows.index), name


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {}))
    lines = missing_cells(results, "scaling")
    assert len(lines) == len(DECLARED["scaling"].cells) - 1
    assert "scaling: vma, classes 2, shots 4, K 4" not in lines
    assert "scaling: vma, classes 144, shots 19, K 1000" in lines
    assert missing_cells(results, "recall") == ["recall: not run (28 cells)"]


WHICH_COUNT: dict[str, tuple[tuple[dict[str, Any], ...], list[float], str]] = {
    "the last of each seed": (({"value": 1.0}, {"value": 2.0}, {"train_seed": 1, "value": 3.0}), [2.0, 3.0], ""),
    "that of the most targets": (
        ({"value": 1.0, "n": 1000}, {"value": 2.0, "n": 1000}, {"value": 3.0, "n": 2}),
        [2.0],
        "since there are rows of the same cells over more targets",
    ),
    "that of the most updates, not the best": (
        ({"updates": 50, "value": 1.0}, {"updates": 100, "value": 9.0}, {"updates": 60, "train_seed": 1}),
        [9.0],
        "scaling: 2 rows with updates 50, 60 do not count",
    ),
    "a declared recipe's": (({}, {"recipe": "fast", "updates": 999, "value": 1.0}), [80.0], "recipe fast"),
    "the paper's data's": (({}, {"dataset": "strokes", "value": 1.0}), [80.0], "dataset strokes"),
    "one of those that a report cannot tell apart": (
        ({"learning_rate": 1e-4, "train_id": "t1"}, {"learning_rate": 3e-4, "value": 3.0}),
        [3.0],
        "train_id t1",
    ),
}


@pytest.mark.parametrize("which", WHICH_COUNT)
def test_of_a_cell_one_row_of_each_seed_counts_and_what_is_left_out_is_named(which: str, tmp_path: Path) -> None:
    rows, values, left_out = WHICH_COUNT[which]
    results = read_results(write(tmp_path, *rows))
    assert sorted(results.rows.value) == values
    assert len(results.left_out) == (left_out != "")
    assert all(left_out in line for line in results.left_out)
    assert stand_ins(results.rows) == []


def test_rows_of_the_suites_recipe_stand_apart(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {}, {"recipe": "suite", "updates": 7, "value": 1.0}))
    assert list(results.rows.value) == [80.0]
    assert list(results.suite.value) == [1.0]
    assert results.left_out == ()


def test_without_the_papers_data_the_last_rows_count_and_are_stand_ins(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"dataset": "folder:/a"}, {"dataset": "strokes"}))
    assert list(results.rows.dataset) == ["strokes"]
    assert stand_ins(results.rows) == ["strokes"]


@pytest.mark.parametrize(("dirty", "marked"), [(True, True), (False, False), (None, True)])
def test_rows_of_a_dirty_or_unknown_tree_are_kept_and_marked(dirty: bool | None, marked: bool, tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"dirty": dirty}))
    assert list(results.rows.dirty) == [marked]


def test_smoke_rows_stand_alone_or_not_at_all(smoke: Results, tmp_path: Path) -> None:
    assert smoke.smoke
    assert missing_cells(smoke, "fewshot") == []
    write(tmp_path, {}, {"experiment": "ablations", "recipe": "smoke-ablation"})
    with refused(r"mixes rows of smoke runs \(ablations\) with real ones"):
        read_results(tmp_path)


def test_an_old_row_takes_its_weight_decay_from_its_spec(tmp_path: Path) -> None:
    write(tmp_path, {})
    record_specs(tmp_path / "specs.jsonl", {"t0": {"weight_decay": 3e-4}, "e0": {"targets": 10}})
    results = read_results(tmp_path)
    assert list(results.rows.weight_decay) == [3e-4]
    assert results.specs["e0"] == {"targets": 10}


def _text(path: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text(text) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder.rmdir(), "there is no folder"),
        (lambda folder: None, "holds no rows"),
        (_text("scaling.jsonl", 'nonsense\n{"a": 1}\n'), r"scaling.jsonl, line 1, is no JSON object"),
        (_text("scaling.jsonl", json.dumps({**ROW, "value": None}) + "\n"), r"line 1, has no value"),
        (_text("scaling.jsonl", json.dumps({**ROW, "value": "low"}) + "\n"), r"text where a number belongs"),
        (_text("scaling.jsonl", json.dumps({**ROW, "model": 3}) + "\n"), r"line 1, has no text as model"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_in_one_line(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    spoil(folder)
    with refused(message):
        read_results(folder)


def test_arrays_are_found_by_their_row(made: Results) -> None:
    row = made.of("learned-mnist", metric="nll", model="vma").iloc[0]
    arrays = made.arrays(row)
    assert arrays["nll"].mean() == pytest.approx(row.value, abs=1e-4)
    assert arrays["log_pa"].shape == (row.memory_size,)
    assert made.arrays({**row, "eval_id": "none"}) is None


@pytest.mark.parametrize(("kind", "spoil"), [("parquet", "text"), ("npz", "cut"), ("npz", "pickled")])
def test_a_damaged_file_of_arrays_is_named(kind: str, spoil: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    key = Key("t0", 100, "e0")
    record_arrays(tmp_path, "scaling", {key: {"nll": np.random.default_rng(0).normal(size=99), "x": np.zeros((99, 2))}})
    pictures = kind == "npz"
    path = targets.pictures_path(tmp_path, "scaling", key) if pictures else targets.path(tmp_path, "scaling")
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-60])
    elif spoil == "text":
        path.write_text("no archive")
    else:
        np.savez_compressed(path, nll=np.array([{}]))
    results = read_results(tmp_path)
    with refused(rf"scaling.*\.{kind} is damaged"):
        results.arrays(results.rows.iloc[0])


def test_a_rows_training_log_ends_at_its_updates(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"updates": 200}))
    assert results.training_log("t0") is None
    (tmp_path / "training").mkdir()
    lines = [{"update": u, "bound": -u, "kl_a": 0.0, "kl_z": 1.0, "seconds": 1.0} for u in (100, 200, 300)]
    lines[1]["validation_bound"] = -5.0
    (tmp_path / "training" / "vma-t0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, until = results.training_log("t0"), results.training_log(results.rows.iloc[0])
    assert list(whole["update"]) == [100, 200, 300]
    assert list(until["update"]) == [100, 200]
    assert until.validation_bound.dropna().tolist() == [-5.0]


def test_an_empty_training_log_has_no_lines_but_its_columns(smoke: Results) -> None:
    log = smoke.training_log(smoke.of("fewshot").iloc[0])
    assert len(log) == 0
    assert "validation_bound" in log
