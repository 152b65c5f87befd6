"""Reading a results folder: which rows count, what is missing, and one clear line for whatever cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import make_results

from benchmarks.declare.experiments import EXPERIMENTS
from benchmarks.record.store import ROW_KEYS, append_rows, record_arrays, record_specs
from reports import targets
from reports.declared import DECLARED
from reports.results import NUMBERS, TEXT, InputError, missing_cells, read_results, select, stand_ins
from reports.targets import Key

ROW = {
    "experiment": "scaling",
    "model": "vma",
    "recipe": "paper",
    "dataset": "omniglot45_5",
    "targets": "all",
    "train_seed": 0,
    "updates": 100,
    "train_classes": 8,
    "classes": 2,
    "shots": 4,
    "num_samples": 4,
    "metric": "nll",
    "value": 80.0,
    "stderr": 1.0,
    "n": 10,
    "train_id": "t0",
    "eval_id": "e0",
    "dirty": False,
}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    for row in rows:
        whole = ROW | row
        append_rows(folder / f"{whole['experiment']}.jsonl", [whole])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("smoke"), smoke=True)


def test_every_promised_key_is_a_column() -> None:
    assert set(ROW_KEYS) <= {*TEXT, *NUMBERS, "dirty"}


def test_a_whole_folder_has_every_declared_cell_once(made: Path) -> None:
    results = read_results(made)
    assert not results.smoke
    assert results.left_out == ()
    assert set(DECLARED) == set(EXPERIMENTS)
    for name in EXPERIMENTS:
        assert missing_cells(results, name) == []
        rows = results.of(name)
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


def test_of_a_cell_the_last_row_of_each_seed_counts(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"value": 1.0}, {"value": 2.0}, {"train_seed": 1, "value": 3.0}))
    assert sorted(results.rows.value) == [2.0, 3.0]
    assert results.left_out == ()


def test_of_a_cell_the_row_of_the_most_targets_counts(tmp_path: Path) -> None:
    results = read_results(
        write(tmp_path, {"value": 1.0, "n": 1000}, {"value": 2.0, "n": 1000}, {"value": 3.0, "n": 2})
    )
    assert list(results.rows.value) == [2.0]
    [line] = results.left_out
    assert line.endswith("since there are rows of the same cells over more targets")


def test_the_largest_number_of_updates_counts_not_the_best_value(tmp_path: Path) -> None:
    rows = {"updates": 50, "value": 1.0}, {"updates": 100, "value": 9.0}, {"updates": 60, "train_seed": 1, "value": 2.0}
    results = read_results(write(tmp_path, *rows))
    assert list(results.rows.value) == [9.0]
    [line] = results.left_out
    assert line.startswith("scaling: 2 rows with updates 50, 60 do not count")


def test_a_recipe_that_is_not_declared_does_not_count_and_is_named(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {}, {"recipe": "fast", "updates": 999, "value": 1.0}))
    assert list(results.rows.recipe) == ["paper"]
    assert "recipe fast" in results.left_out[0]


def test_rows_of_the_suites_recipe_stand_apart(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {}, {"recipe": "suite", "updates": 7, "value": 1.0}))
    assert list(results.rows.value) == [80.0]
    assert list(results.suite.value) == [1.0]
    assert results.left_out == ()


def test_the_papers_data_go_before_stand_ins(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {}, {"dataset": "strokes", "value": 1.0}))
    assert list(results.rows.dataset) == ["omniglot45_5"]
    assert "dataset strokes" in results.left_out[0]
    assert stand_ins(results.rows) == []


def test_without_the_papers_data_the_last_rows_count_and_are_stand_ins(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"dataset": "folder:/a"}, {"dataset": "strokes"}))
    assert list(results.rows.dataset) == ["strokes"]
    assert stand_ins(results.rows) == ["strokes"]


def test_cells_that_a_report_cannot_tell_apart_do_not_both_count(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"learning_rate": 1e-4, "train_id": "t1"}, {"learning_rate": 3e-4}))
    assert list(results.rows.learning_rate) == [3e-4]
    assert "train_id t1" in results.left_out[0]


@pytest.mark.parametrize(("dirty", "marked"), [(True, True), (False, False), (None, True)])
def test_rows_of_a_dirty_or_unknown_tree_are_kept_and_marked(dirty: bool | None, marked: bool, tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"dirty": dirty}))
    assert list(results.rows.dirty) == [marked]


def test_smoke_rows_stand_alone_or_not_at_all(smoke: Path, tmp_path: Path) -> None:
    results = read_results(smoke)
    assert results.smoke
    assert missing_cells(results, "fewshot") == []
    write(tmp_path, {}, {"experiment": "ablations", "recipe": "smoke-ablation"})
    with pytest.raises(InputError, match=r"mixes rows of smoke runs \(ablations\) with real ones") as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)


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
        (_text("scaling.jsonl", ""), "holds no rows"),
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
    with pytest.raises(InputError, match=message) as error:
        read_results(folder)
    assert "\n" not in str(error.value)


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, {})
    with open(tmp_path / "scaling.jsonl", "a") as file:
        file.write('{"experiment": "sca')
    assert len(read_results(tmp_path).rows) == 1
    with open(tmp_path / "scaling.jsonl", "a") as file:
        file.write("\n")
    assert len(read_results(tmp_path).rows) == 1


def test_arrays_are_found_by_their_row(made: Path) -> None:
    results = read_results(made)
    row = results.of("learned-mnist", metric="nll", model="vma").iloc[0]
    arrays = results.arrays(row)
    assert arrays is not None
    assert arrays["nll"].mean() == pytest.approx(row.value, abs=1e-4)
    assert arrays["log_pa"].shape == (row.memory_size,)
    assert results.arrays({**row, "eval_id": "none"}) is None


@pytest.mark.parametrize("spoil", ["cut", "text", "pickled"])
@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_damaged_file_of_arrays_is_named(kind: str, spoil: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    key = Key("t0", 100, "e0")
    record_arrays(tmp_path, "scaling", {key: {"nll": np.random.default_rng(0).normal(size=99), "x": np.zeros((99, 2))}})
    pictures = kind == "npz"
    path = targets.pictures_path(tmp_path, "scaling", key) if pictures else targets.path(tmp_path, "scaling")
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-60])
    elif spoil == "text" or not pictures:
        path.write_text("no archive")
    else:
        np.savez_compressed(path, nll=np.array([{}]))
    results = read_results(tmp_path)
    with pytest.raises(InputError, match=rf"scaling.*\.{kind} is damaged") as error:
        results.arrays(results.rows.iloc[0])
    assert "\n" not in str(error.value)


def test_a_rows_training_log_ends_at_its_updates(tmp_path: Path) -> None:
    results = read_results(write(tmp_path, {"updates": 200}))
    assert results.training_log("t0") is None
    (tmp_path / "training").mkdir()
    lines = [{"update": u, "bound": -u, "kl_a": 0.0, "kl_z": 1.0, "seconds": 1.0} for u in (100, 200, 300)]
    lines[1]["validation_bound"] = -5.0
    (tmp_path / "training" / "vma-t0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, until = results.training_log("t0"), results.training_log(results.rows.iloc[0])
    assert whole is not None
    assert until is not None
    assert list(whole["update"]) == [100, 200, 300]
    assert list(until["update"]) == [100, 200]
    assert until.validation_bound.dropna().tolist() == [-5.0]


def test_an_empty_training_log_has_no_lines_but_its_columns(smoke: Path) -> None:
    results = read_results(smoke)
    log = results.training_log(results.of("fewshot").iloc[0])
    assert log is not None
    assert len(log) == 0
    assert "validation_bound" in log


def test_the_papers_numbers_come_with_the_results(made: Path) -> None:
    paper = read_results(made).paper.set_index("id")
    assert paper.number["fewshot.vae"] == 90.8
    assert paper.value["recall.fails"] == "sometimes"
    assert np.isnan(paper.number["recall.fails"])
