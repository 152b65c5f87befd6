"""Tables as pure functions of rows: what stands where, what is missing, paired differences from per-target values."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import ROW

from reports import frames, tables, timing
from reports.results import InputError, Results, only, select

BASE = ROW | {"experiment": "table1", "dataset": "omniglot_gmn", "train_protocol": "per_class", "stderr": 0.5, "n": 4}


def row(model: str, classes: int | None, shots: int | None, value: float, **more: object) -> dict[str, object]:
    names = {"train_id": f"t-{model}", "eval_id": f"e{classes}-{shots}"}
    return {**BASE, **names, "model": model, "classes": classes, "shots": shots, "value": value, **more}


def test_ours_stands_beside_the_papers_with_the_difference(tmp_path: Path) -> None:
    rows = [
        row("vma", 1, 19, 75.0),
        row("vae", None, None, 99.0, protocol="none", train_protocol="none"),
        row("vma", 1, 19, 3.0, metric="kl_a"),
    ]
    frame = frames.table1(only(tmp_path, rows), "per_class")
    cell = frame[frame.model == "vma"].iloc[0]
    assert (cell.value, cell.paper) == (75.0, 73.9)
    assert cell.difference == pytest.approx(1.1)
    text = tables.text(tables.table1_grid(frame), "T")
    for words in ("75.0 ± 0.5", "+1.1", "99.0 ± 0.5"):
        assert words in text


def test_a_missing_cell_is_a_gap(tmp_path: Path) -> None:
    grid = tables.table1_grid(frames.table1(only(tmp_path, [row("vma", 2, 1, 80.0)]), "per_class"))
    ours = grid[(grid.model == "VMA") & (grid.C == "2")].iloc[0]
    assert (ours["1"], ours["19"]) == ("80.0 ± 0.5", "-")


def test_markdown_and_latex_escape_what_they_must() -> None:
    grid = pd.DataFrame([["a_b", "1 ± 2"]], columns=["|M|", "50%"])
    assert tables.markdown(grid, "T").splitlines()[2] == r"| \|M\| | 50% |"
    latex = tables.latex(grid, "T")
    assert r"a\_b" in latex
    assert r"$\pm$" in latex
    assert r"50\%" in latex


def title(results: Results, name: str) -> str:
    return tables.title(results, name, tables.TABLES[name].frame(results))


@pytest.mark.parametrize("name", [name for name in tables.TABLES if name != tables.OWN])
def test_every_table_is_written_in_three_forms(name: str, made: Results, smoke: Results, tmp_path: Path) -> None:
    for results, mark in ((made, tables.TABLES[name].title), (smoke, "SMOKE RUN, NOT RESULTS")):
        paths = tables.save(results, tmp_path, name)
        assert [path.name for path in paths] == [f"{name}.md", f"{name}.tex", f"{name}.csv"]
        page, latex, sheet = (path.read_text(encoding="utf-8") for path in paths)
        assert page.startswith(mark)
        assert r"\toprule" in latex
        frame = pd.read_csv(paths[-1])
        assert ({"n", "updates", "seeds", "dirty"} if tables.TABLES[name].experiments else {"dirty"}) <= set(frame)
        assert "nan" not in page
        assert len(frame) > 0
        assert sheet.count("\n") == len(frame) + 1


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_without_rows_is_not_written(name: str, made: Results, tmp_path: Path) -> None:
    its = tables.TABLES[name].experiments
    rows, suite = (frame[~frame.experiment.isin(its)] for frame in (made.rows, made.suite))
    results = replace(made, rows=rows, suite=suite, folder=tmp_path / "without timings")
    assert tables.save(results, tmp_path, name) == []
    assert list(tmp_path.iterdir()) == []


def test_vma_trained_under_gmns_protocol_has_a_table_of_its_own(made: Results) -> None:
    apart, own = (frames.table1(made, "gmn", trained) for trained in ("per_class", "gmn"))
    assert set(own.model) == {"vma"}
    one, other = (select(f, model="vma", targets="all", classes=2, shots=5).value.item() for f in (apart, own))
    assert other == pytest.approx(one + 2, abs=0.5)
    assert "paper" not in apart


def test_the_optimum_is_the_nll_with_one_class_and_log_c_and_the_excess_is_paired(made: Results) -> None:
    frame = select(frames.scaling(made), model="vma", shots=19, num_samples=4).set_index("classes")
    assert frame.optimum[16] == pytest.approx(frame.nll[1] + np.log(16))
    assert frame.excess[16] == pytest.approx(frame.nll[16] - frame.optimum[16], abs=1e-5)
    assert frame.excess[1] == 0
    # targets differ far more than what a memory does to them
    assert frame.excess_stderr[16] < 0.2 * frame.nll_stderr[16]
    assert frame.excess_low[16] < frame.excess[16] < frame.excess_high[16]


def test_the_optimum_of_vma_is_the_yardstick_of_soft_attention_too(made: Results) -> None:
    frame = select(frames.scaling(made), shots=16, num_samples=4)
    vma, soft = (select(frame, model=model).set_index("classes") for model in ("vma", "soft"))
    soft = soft[soft.train_classes == 2]
    assert soft.optimum[32] == vma.optimum[32] == pytest.approx(vma.nll[1] + np.log(32))
    assert soft.excess[32] == pytest.approx(soft.nll[32] - vma.optimum[32], abs=1e-5)
    assert soft.excess[1] == pytest.approx(soft.nll[1] - vma.nll[1], abs=1e-5)


def test_without_shared_targets_there_is_no_excess(made: Results, tmp_path: Path) -> None:
    bare = replace(made, folder=tmp_path)
    frame = frames.scaling(bare)
    assert frame.excess.isna().all()
    assert "-" in set(tables.TABLES["scaling"].grid(frame)["NLL - optimum"])


def test_ablations_are_differences_to_the_control_and_dirty_rows_are_marked(made: Results) -> None:
    frame = frames.ablations(made)
    cosine = select(frame, variant="cosine", num_samples=4)
    assert cosine.difference.item() == pytest.approx(4.1, abs=0.5)
    assert cosine.paper.item() == "no better"
    nll = select(frame, num_samples=4).set_index("variant").nll
    assert cosine.difference_seeds.item() == pytest.approx((nll["cosine"] - nll["control"],), abs=1e-4)
    grid = tables.TABLES["ablations"].grid(frame)
    assert grid.variant.iloc[0] == "control"
    assert dict(zip(grid.variant, grid[""], strict=True))["inner"] == "*"
    assert (grid[""] == "*").sum() == 2
    assert "* made by code" in title(made, "ablations")
    assert "* made by code" not in title(made, "scaling")


def test_the_papers_other_numbers_stand_beside_their_cells(made: Results) -> None:
    accuracy = select(frames.classification(made), classes=20, shots=1).set_index("rule")
    assert accuracy.paper["address"] == 0.77
    assert np.isnan(accuracy.paper["likelihood"])
    omniglot = frames.learned_omniglot(made)
    assert select(omniglot, memory_size=2048, split="train").paper.tolist() == [80.0]
    assert select(omniglot, weight_decay=3e-4, model="vma", num_samples=5000).paper.item() == 103.6
    recall = select(frames.recall(made), memory_size=2048, train_memory_size=256, num_samples=4)
    assert set(recall.paper) == {7.625}
    assert select(frames.shots(made), model="vae", num_samples=4).paper.item() == 90.8


def test_crossovers_are_of_the_medians(made: Results) -> None:
    found = frames.crossovers(made).set_index(["read", "train_num_samples"]).memory_size
    # 55 + 0.3 M against 36 + 0.7 M milliseconds
    assert found["images", 1] == pytest.approx(19 / 0.4, abs=1)
    assert found["images", 4] == 16
    assert frames.crossovers(replace(made, rows=made.rows[made.rows.model != "soft"])).empty


def test_a_crossover_has_an_interval_where_the_seconds_of_its_rounds_are_there(made: Results) -> None:
    found = select(frames.crossovers(made), read="images", train_num_samples=1).iloc[0]
    assert found.low < found.memory_size < found.high
    slower = made.rows.assign(value=2 * made.rows.value)  # whose arrays are of another machine then
    found = select(frames.crossovers(replace(made, rows=slower)), read="images", train_num_samples=1).iloc[0]
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_machines_and_precisions_are_timed_apart(made: Results) -> None:
    rows = made.rows[(made.rows.experiment == "wallclock") & (made.rows.train_memory_size != 48)]
    rows = rows.assign(device="another", dtype="bfloat16", value=rows.value / 10)
    both = replace(made, rows=pd.concat([made.rows, rows], ignore_index=True))
    frame = frames.wallclock(both)
    assert list(frame.setting.unique()) == ["made up, 2 threads, float32", "another, 2 threads, bfloat16"]
    assert frame.equals(pd.concat([frames.wallclock(made), frame[frame.setting != frame.setting[0]]]))
    assert list(frames.crossovers(both).setting.unique()) == list(frame.setting.unique())


def test_ratios_stand_with_what_they_mean_and_what_is_wanted(made: Results) -> None:
    frame = timing.ratios(made)
    assert list(frame.name) == ["update-vs-plain", "flops-vs-matmul", "evaluate-vs-loop", "graph-vs-eager"]
    assert frame.wanted.tolist()[:3] == [2.2, 0.6, 5.0]
    assert frame.meaning.str.len().min() > 20
    grid = tables.TABLES["timing-ratios"].grid(frame)
    assert grid.iloc[0, 1:4].tolist() == ["4.50", "0.40 to 5.00", "at least 2.2"]
    assert grid[""].tolist() == ["", "", "", "*"]
    assert "* made by code" in title(made, "timing-ratios")
    assert "±" not in title(made, "timing-ratios")


def test_seconds_of_evaluation_are_of_one_target(made: Results) -> None:
    frame = timing.evaluations(made).set_index("B")
    assert frame["median"].to_dict() == {1: 0.4, 8: 0.05}
    assert tables.TABLES["timing-evaluation"].grid(timing.evaluations(made))["peak, MiB"].tolist() == ["", "1,024"]


@pytest.mark.parametrize(("name", "read"), [("ratios.csv", timing.ratios), ("update.json", timing.updates)])
def test_a_damaged_file_of_timings_is_named(
    name: str, read: Callable[[Results], object], made: Results, tmp_path: Path
) -> None:
    (tmp_path / "timing").mkdir()
    (tmp_path / "timing" / name).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"{name} is (no table|damaged)"):
        read(replace(made, folder=tmp_path))


def test_titles_of_table_1_speak_of_the_rows_below_them_alone(made: Results) -> None:
    trained_gmn = (made.rows.experiment == "table1") & (made.rows.train_protocol == "gmn")
    rows = made.rows.assign(updates=made.rows.updates.mask(trained_gmn, 777))
    titles = {name: title(replace(made, rows=rows), name) for name in ("table1", "table1-gmn-trained")}
    assert "VMA: 777 updates, seeds: 1" in titles["table1-gmn-trained"]
    assert "soft attention" not in titles["table1-gmn-trained"]
    assert "777" not in titles["table1"]
    assert "soft attention: 30,000 updates, seeds: 1" in titles["table1"]


def test_stand_ins_are_said_in_the_title(made: Results) -> None:
    rows = made.rows.assign(dataset=made.rows.dataset.replace("mnist_larochelle", "mnist_gmn"))
    assert title(replace(made, rows=rows), "recall").startswith("NOT THE PAPER'S DATA (mnist_gmn)")
