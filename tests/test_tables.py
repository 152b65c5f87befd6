"""Tables as pure functions of rows: what stands where, what is missing, paired differences from per-target values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.store import write_artifact
from reports import tables
from vma.evaluation import clustered_stderr

BASE = {
    "dataset": "omniglot_gmn",
    "protocol": "per_class",
    "targets": "all",
    "metric": "nll",
    "stderr": 0.5,
    "n": 3,
    "updates": 7,
}


def row(model: str, classes: int | None, shots: int | None, value: float, **more: object) -> dict[str, object]:
    names = {"train_id": f"t-{model}", "eval_id": f"e{classes}-{shots}"}
    return {**BASE, **names, "model": model, "classes": classes, "shots": shots, "value": value, **more}


def test_ours_stands_beside_the_papers_with_the_difference(tmp_path: Path) -> None:
    rows = [
        row("vma", 1, 19, 75.0),
        row("vae", None, None, 99.0, protocol="none"),
        row("vma", 1, 19, 3.0, metric="kl_a"),
    ]
    frame = tables.table1(rows, tables.paper_numbers(), "per_class", tmp_path)
    cell = frame[frame.model == "vma"].iloc[0]
    assert (cell.value, cell.paper) == (75.0, 73.9)
    assert cell.difference == pytest.approx(1.1)
    text = tables.text(tables.table1_grid(frame, tables.paper_numbers()), "T")
    assert "75.0 ± 0.5" in text
    assert "+1.1" in text
    assert "99.0 ± 0.5" in text


def test_a_missing_cell_is_a_gap_and_the_last_row_of_a_cell_counts(tmp_path: Path) -> None:
    frame = tables.table1(
        [row("vma", 2, 1, 90.0), row("vma", 2, 1, 80.0)], tables.paper_numbers(), "per_class", tmp_path
    )
    grid = tables.table1_grid(frame, tables.paper_numbers())
    ours = grid[(grid.model == "VMA") & (grid.C == "2")].iloc[0]
    assert ours["1"] == "80.0 ± 0.5"
    assert ours["19"] == "-"


def test_the_papers_vma_figures_do_not_stand_beside_another_protocol(tmp_path: Path) -> None:
    frame = tables.table1([row("vma", 1, 1, 80.0, protocol="gmn")], tables.paper_numbers(), "gmn", tmp_path)
    assert "paper" not in frame


def test_soft_attention_is_paired_with_vma_on_the_same_targets(tmp_path: Path) -> None:
    vma, soft = np.array([70.0, 80.0, 90.0, 60.0]), np.array([73.0, 84.0, 92.0, 65.0])
    classes, index = np.array([0, 0, 1, 2]), np.arange(4)
    for model, nll, x_index in (("vma", vma, index), ("soft", soft, index)):
        arrays = {"nll": nll.astype(np.float32), "x_index": x_index, "x_class": classes}
        write_artifact(tmp_path / f"t-{model}-7-e1-1.npz", arrays)
    frame = tables.table1(
        [row("vma", 1, 1, vma.mean()), row("soft", 1, 1, soft.mean())], tables.paper_numbers(), "per_class", tmp_path
    )
    cell = frame[frame.model == "soft"].iloc[0]
    assert cell.minus_vma == pytest.approx(3.5)
    assert cell.minus_vma_stderr == pytest.approx(clustered_stderr(soft - vma, classes))

    write_artifact(tmp_path / "t-soft-7-e1-1.npz", {"nll": soft, "x_index": index[::-1], "x_class": classes})
    assert tables.paired_difference(pd.Series(row("soft", 1, 1, 0.0)), pd.Series(row("vma", 1, 1, 0.0)), tmp_path) == {}


def test_markdown_and_latex_escape_what_they_must(tmp_path: Path) -> None:
    grid = pd.DataFrame([["a_b", "1 ± 2"]], columns=["|M|", "50%"])
    assert tables.markdown(grid, "T").splitlines()[2] == r"| \|M\| | 50% |"
    latex = tables.latex(grid, "T")
    assert r"a\_b" in latex
    assert r"$\pm$" in latex
    assert r"50\%" in latex
