"""Numbers, tables and pictures of README and docs/ are those of the committed rows, written by the command alone."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.declare.experiments import FINISHING
from reports import figures, inputs, readme, runs
from reports.__main__ import main
from reports.results import PAPER, InputError, Results, read_results
from reports.rules import CLAIMS
from reports.tables import TABLES

README = PAPER.parents[1] / "README.md"


TEXTS = readme.files(README)
BLOCKS = ("stands", "table ", "csv ", "curves ", "note ")
RUN = re.compile(r"`([0-9a-f]{12})`, ([\d,]+) updates")
MEASURED = re.compile(r"\d\.\d+\)? (nats|%|points|ms|GB)\b|\d ms\b|± \d")


@pytest.fixture(scope="module")
def committed() -> Results:
    return read_results(PAPER.parent)


def typed(text: str) -> str:
    """The text without what is filled in and without code."""
    return re.sub(r"^```.*?^```", "", readme.MARK.sub("", text), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_numbers_are_those_of_the_committed_rows(path: Path, committed: Results) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == readme.filled(text, committed), "python -m reports --readme README.md writes it anew"
    assert text.count("<!-- fill: ") == len(readme.MARK.findall(text)), "a mark without its end"
    for mark in readme.MARK.finditer(text):
        # a comment at the start of a line ends a paragraph
        assert text[mark.start() - 1] != "\n" or mark["what"].startswith(BLOCKS), mark[0]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_numbers_that_are_typed_name_their_run_and_updates_or_commit(path: Path, committed: Results) -> None:
    text = typed(path.read_text(encoding="utf-8"))
    rows = pd.concat([committed.rows, committed.suite])
    assert len(re.findall(r"`[0-9a-f]{12}`", text)) == len(RUN.findall(text)), "a run goes with its updates"
    for run, updates in RUN.findall(text):
        log = committed.training_log(run)
        last = {*rows[rows.train_id == run].updates, *([] if log is None else log["update"].tail(1))}
        assert last == {int(updates.replace(",", ""))}, f"{path.name}: {run} is shown after {last} updates"
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        named = RUN.search(section) or re.search(r"commit `[0-9a-f]{7}`", section)
        assert named or not MEASURED.search(section), section


def test_what_reports_say_in_words_has_no_measured_number(committed: Results) -> None:
    words = [spec.title + spec.caption for spec in figures.FIGURES.values()]
    words += [claim.reason for claim in CLAIMS.values()] + [spec.title for spec in TABLES.values()]
    assert not [text for text in words if MEASURED.search(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (path.parent / link.partition("#")[0]).exists()]


def test_what_lies_beside_the_readme_is_of_the_committed_rows(committed: Results) -> None:
    results = committed
    for name, (key, recipe) in readme.PICTURES.items():
        picture = README.parent / "docs" / "images" / f"{name}.png"
        assert picture.stat().st_size <= 300_000
        shown = inputs.of_rows(results.recipes[recipe], figures.FIGURES[key].experiments)
        assert readme.rows_of(picture) == shown, picture
    written = (PAPER.parent / runs.NAME).read_text(encoding="utf-8")
    assert written == runs.table(results).to_csv(index=False)
    known = pd.read_csv(io.StringIO(written))
    shown = pd.concat([results.rows, results.suite])
    assert set(known.train_id) == set(shown[shown.updates > 0].train_id)
    assert known.run.is_unique
    for place in (*known.weights.dropna(), *known.log.dropna()):
        assert (PAPER.parent / place).is_file()


def test_where_it_stands_has_a_row_an_experiment(made: Results) -> None:
    lines = readme.stands(made).splitlines()[2:]
    assert len(lines) == len(readme.STANDS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table1 = next(line for line in cells if line[0].startswith("Table 1"))
    assert table1[1] == "73.9 to 89.6"
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", table1[3])
    start, updates = FINISHING["table1"]
    assert table1[5:] == [f"{int(start.rpartition('-')[2]) + updates:,}", "1"], "of the suite's recipe"
    assert sum(map(int, re.findall(r"\((\d+)\)", table1[4]))) == 28
    vae = next(line for line in cells if "plain VAE" in line[0])
    assert vae[1] == "90.8"
    assert " ± " in vae[2]
    table1 = readme.stands(replace(made, suite=made.suite.iloc[:0])).splitlines()[2]
    assert table1.endswith("| 60,000 | 1 |")


FILLED = """{stands}
vae <!-- fill: ours of fewshot.vae -->old<!-- end -->,
<!-- fill: range of difference of table1.vma.* -->old<!-- end -->,
<!-- fill: first 10 of table1.vma.1.1 -->old<!-- end -->; after"""


def test_the_command_fills_what_stands_between_the_marks_of_readme_and_docs(
    made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.__main__.write", lambda *_: [])  # the page, which has tests of its own
    path, other = tmp_path / "README.md", tmp_path / "docs" / "other.md"
    other.parent.mkdir()
    path.write_text(FILLED.format(stands="before <!-- fill: stands -->\nold\n<!-- end -->"), encoding="utf-8")
    chosen = "table scaling; C = 144; N = 4; K = 1,000; columns = model / NLL"
    other.write_text(
        f"<!-- fill: {chosen} -->\n<!-- end -->\n<!-- fill: csv timing/ratios.csv; columns = name -->\n<!-- end -->",
        encoding="utf-8",
    )
    assert main(["--results", str(made.folder), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 0
    text, table = path.read_text(encoding="utf-8"), other.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after")
    assert "old" not in text
    assert text == readme.filled(text, made)
    assert "| model | NLL |\n| --- | --- |\n| VMA | " in table
    assert "| name |\n| --- |\n| evaluate-vs-loop" in table
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "what",
    [
        *("nonsense", "table none", "table scaling; C = 145", "table scaling; D = 1", "csv none.csv"),
        *("curves 0123456789ab", "note none", "first 10 of none", "first 10000 of table1.vma.1.1"),
        *("ours of none", "none of fewshot.vae", "difference of wallclock.crossover"),
    ],
)
def test_a_mark_that_cannot_be_filled_is_named(what: str, made: Results) -> None:
    with pytest.raises(InputError, match=re.escape(f"<!-- fill: {what} --> cannot be filled: ")):
        readme.filled(f"<!-- fill: {what} --><!-- end -->", made)


def test_a_mistake_leaves_all_as_it_is(made: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_text("<!-- fill: none of none --><!-- end -->", encoding="utf-8")
    assert main(["--results", str(made.folder), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 2
    assert "<!-- fill: none of none --> cannot be filled" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "<!-- fill: none of none --><!-- end -->"
    assert not (tmp_path / "out").exists()
