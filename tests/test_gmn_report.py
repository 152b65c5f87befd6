"""The report on GMN: every line that was evaluated beside what is quoted, on shared targets where there are any."""

from dataclasses import replace

import pandas as pd
import pytest

from reports import frames, gmn
from reports.figures import FIGURES
from reports.results import Results, select


def test_each_line_has_its_cells(made: Results) -> None:
    found = gmn.frame(made)
    assert set(found.line) == set(gmn.LINES.values())
    for line in gmn.LINES.values():
        part = select(found, line=line, targets="all")
        none = len(part[part.shots == 0])
        assert none == (line not in ("VMA", "VMA, trained under protocol gmn", "Soft attention (features)")), line
        if not line.startswith("Plain VAE"):
            protocols = 1 if "trained under" in line else 2
            assert len(part) - none == protocols * 28, line
    assert set(select(found, line="GMN", protocol="gmn").targets) == {"all", "duplicated", "new"}
    assert set(select(found, line="GMN", protocol="per_class").targets) == {"all"}


def test_numbers_are_those_of_the_rows_and_quoted_ones_stand_where_they_belong(made: Results) -> None:
    found = gmn.frame(made)
    own = select(found, line="GMN", protocol="gmn", targets="all", classes=2).set_index("shots")
    row = made.of("table1", metric="nll", variant="gmn-own", protocol="gmn", targets="all", classes=2, shots=10)
    assert own.value[10] == row.value.item()
    assert own.quoted[10] == 71.4
    assert select(found, line="VMA", protocol="per_class", classes=1, shots=19).quoted.item() == 73.9
    quoted = found[found.quoted.notna()]
    assert set(zip(quoted.line, quoted.protocol, quoted.targets, strict=True)) == {
        ("GMN", "gmn", "all"),
        ("VMA", "per_class", "all"),
    }
    vma = select(found, line="VMA", protocol="gmn", targets="all", classes=2).set_index("shots")
    assert own.minus_vma[10] == pytest.approx(own.value[10] - vma.value[10], abs=1e-4)
    assert own.minus_vma_stderr[10] < 0.5 * own.stderr[10]  # paired
    assert vma.minus_vma.isna().all()


def test_the_table_has_both_protocols_and_what_is_quoted(made: Results) -> None:
    grid = gmn.grid(gmn.frame(made))
    assert list(grid.columns)[3:11] == ["0", "1", "2", "3", "4", "5", "10", "19"]
    assert (grid.model == "quoted in Table 1").sum() == 3 + 4
    [first] = grid.index[grid.model == "in GMN's first text"][:1]
    assert grid.loc[first].tolist()[3:11] == ["89.3", "83.4", "79.6", "77.2", "75.3", "-", "-", "-"]
    assert not grid.map(lambda text: "nan" in text).any(axis=None)


def test_without_gmn_there_is_nothing_and_table_1_is_as_it_was(made: Results) -> None:
    without = replace(made, rows=made.rows[made.rows.model != "gmn"])
    assert gmn.frame(without).empty
    assert FIGURES["gmn"].draw(without) is None
    assert FIGURES["gmn-matching"].draw(without) is None
    for protocol in ("per_class", "gmn"):
        pd.testing.assert_frame_equal(frames.table1(made, protocol), frames.table1(without, protocol))
