"""The table and the pictures of README are those of the committed rows, and are written by the command alone."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_results import make_results

from reports import figures, inputs, readme, runs
from reports.__main__ import main
from reports.results import PAPER, read_results

README = PAPER.parents[1] / "README.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"))


def test_the_readme_shows_the_committed_rows() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == readme.filled(text, read_results(PAPER.parent)), (
        "python -m reports --readme README.md writes it anew"
    )
    assert text.index("<!-- stands -->") < text.index("## Two commands")


def test_what_lies_beside_the_readme_is_of_the_committed_rows() -> None:
    results = read_results(PAPER.parent)
    for name, key in readme.PICTURES.items():
        picture = README.parent / "docs" / "images" / f"{name}.png"
        assert picture.stat().st_size <= 300_000
        assert readme.rows_of(picture) == inputs.of_rows(results, figures.FIGURES[key].experiments), picture
    written = (PAPER.parent / runs.NAME).read_text(encoding="utf-8")
    assert written == runs.table(results).to_csv(index=False)
    known = pd.read_csv(io.StringIO(written))
    assert set(known.train_id) == set(results.rows[results.rows.updates > 0].train_id)
    assert known.run.is_unique
    for place in (*known.weights.dropna(), *known.log.dropna()):
        assert (PAPER.parent / place).is_file()


def test_where_it_stands_has_a_row_an_experiment(made: Path) -> None:
    results = read_results(made)
    lines = readme.stands(results).splitlines()[2:]
    assert len(lines) == len(readme.STANDS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table1 = next(line for line in cells if line[0].startswith("Table 1"))
    assert table1[1] == "73.9 to 89.6"
    assert table1[3] == ""
    assert table1[5:] == ["60,000", "1"]
    assert sum(map(int, re.findall(r"\((\d+)\)", table1[4]))) == 28
    vae = next(line for line in cells if "plain VAE" in line[0])
    assert vae[1] == "90.8"
    assert " ± " in vae[2]
    suite = results.rows[results.rows.experiment == "table1"].assign(value=80.0, updates=7)
    table1 = readme.stands(replace(results, suite=suite)).splitlines()[2]
    assert "| 80.0 |" in table1


def test_the_command_replaces_what_stands_between_the_marks(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before <!-- stands -->\nold\n<!-- end of stands --> after", encoding="utf-8")
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after")
    assert "old" not in text
    assert text == readme.filled(text, read_results(made))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_file_without_the_marks_is_left_as_it_is(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing to fill", encoding="utf-8")
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 2
    assert "--readme has no block stands" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "nothing to fill"
    assert not (tmp_path / "out").exists()
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(tmp_path / "none.md")]) == 1
    assert "none.md" in capsys.readouterr().err


def test_a_file_that_is_no_text_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"\xff\xfe")
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 2
    assert "is no text in UTF-8: give README.md" in capsys.readouterr().err
