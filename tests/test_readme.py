"""The numbers on README's first screen are those of the committed rows, and are written by the command alone."""

import shutil
from pathlib import Path

import pytest
from made_results import make_results

from reports import readme
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
    assert text.index("<!-- verdicts -->") < text.index("<!-- table1 -->") < text.index("<!-- figure5a -->")
    assert text.index("<!-- figure5a -->") < text.index("## Two commands")


def test_every_cell_of_the_first_screen_is_filled(made: Path) -> None:
    results = read_results(made)
    table = readme.table1(results)
    assert table.count("| VMA, C = ") == 4
    assert table.count(" / ") == 1 + 4 * 7
    assert "Plain VAE: " in table
    assert "over 28 cells" in table
    figure = readme.figure5a(results).splitlines()
    ours = [line for line in figure if "examples each" in line]
    assert len(ours) == 2 * (3 + 2 + 2)  # of each K: the examples of VMA, and of two of soft attention
    # one class alone is the yardstick of VMA, and has a difference of its own where it is another model's
    assert all(line.count("(+") + line.count("(-") == 4 + line.startswith("| Soft attention") for line in ours)
    assert any(line.startswith("| Soft attention (features, trained on 8 classes), 16 examples each") for line in ours)
    verdicts = readme.verdicts(results)
    assert verdicts.startswith("**Of 60 numbers of the paper, so far:** ")
    assert verdicts.index("not reproduced") < verdicts.index("near")


def test_the_command_replaces_what_stands_between_the_marks(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    marked = [f"<!-- {name} -->\nold\n<!-- end of {name} -->" for name in readme.BLOCKS]
    path.write_text("\n\n".join(("before", *marked, "after")), encoding="utf-8")
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
    assert "--readme has no block verdicts" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "nothing to fill"
    assert not (tmp_path / "out").exists()
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(tmp_path / "none.md")]) == 1
    assert "none.md" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            "table1.jsonl",
            "--readme needs all of VMA's cells of Table 1, has none of C = 1, 1 examples: run table1 first",
        ),
        ("scaling.jsonl", "--readme needs scaling with 1, 2, 8, 32, 144 classes: run scaling first"),
        ("artifacts", "--readme needs the per-target values of scaling, VMA, 4 examples, K = 4: restore artifacts/"),
    ],
)
def test_results_that_leave_gaps_are_refused(
    broken: str, said: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(made, results, ignore=shutil.ignore_patterns(broken))
    path = tmp_path / "README.md"
    path.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    assert main(["--results", str(results), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert path.read_bytes() == README.read_bytes()


def test_a_file_that_is_no_text_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"\xff\xfe")
    assert main(["--results", str(made), "--out", str(tmp_path / "out"), "--readme", str(path)]) == 2
    assert "is no text in UTF-8: give README.md" in capsys.readouterr().err
