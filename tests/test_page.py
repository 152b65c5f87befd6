"""The page is one file that leads with the claims and hides nothing; the command writes all or nothing."""

import base64
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.record.store import append_rows, read_rows
from reports import __main__ as command
from reports import figures, page, tables
from reports.outcomes import assess
from reports.results import InputError, Results, paper_numbers, read_results

# figures are drawn, and looked at, elsewhere
DRAWINGS = dict.fromkeys(figures.FIGURES, "<svg xmlns='http://www.w3.org/2000/svg'/>")


class Page(HTMLParser):
    """What the tests ask of a page: tags with their attributes, and the texts between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.texts = html, [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(key) == value for key, value in wanted.items())]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def rendered(results: Results, drawings: Mapping[str, str] = DRAWINGS) -> Page:
    return Page(page.render(results, assess(results), drawings))


@pytest.fixture(scope="module")
def real(made: Results) -> Page:
    return rendered(made)


@pytest.fixture
def small(made: Results, tmp_path: Path) -> Path:
    """Rows of two experiments, without arrays or logs."""
    for name in ("ablations.jsonl", "classification.jsonl"):
        append_rows(tmp_path / "few" / name, read_rows(made.folder / name))
    return tmp_path / "few"


def test_nothing_is_loaded_from_anywhere(real: Page) -> None:
    places = [a[key] or "" for _, a in real.tags for key in ("src", "href", "srcset", "action", "data") if a.get(key)]
    assert places
    assert all(place.startswith(("#", "data:")) for place in places)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest", real.html)
    (policy,) = real.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in str(policy["content"])


def test_links_on_the_page_lead_somewhere(real: Page) -> None:
    ids = [a["id"] for _, a in real.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in real.all("a")} <= set(ids)


def test_what_holds_comes_first_an_experiment_a_row_and_quoted_numbers_last(real: Page) -> None:
    sections = ["claims", "table1", "figures", "lookup", "tables", "provenance"]
    assert [a.get("id") for a in real.all("section")] == sections
    verdicts = [str(a["data-verdict"]) for a in real.all("tr") if a.get("data-verdict")]
    paper = paper_numbers()
    assert len(verdicts) == len(paper)
    first_quoted = verdicts.index("quoted")
    assert set(verdicts[first_quoted:]) == {"quoted"}
    judged = verdicts[:first_quoted]
    for verdict, words in (("reproduced", "are reproduced"), ("near", "are near"), ("not reproduced", "are not rep")):
        assert f"{judged.count(verdict)} {words}" in real.text
    rows = [str(a["id"]) for a in real.all("details") if a.get("class") == "experiment"]
    assert len(rows) == 9
    row = re.search(r'<details class="experiment" id="experiment-table1">.*?</summary>', real.html, re.DOTALL)
    lines = [line for line in real.all("tr") if str(line.get("id", "")).startswith("claim-table1.")]
    assert row[0].count("<i class=") == sum(line["data-verdict"] != "quoted" for line in lines)
    assert re.search(r"\d+ not reproduced \(\+\d+\.\d to \+\d+\.\d nats\)", Page(row[0]).text)


def test_table_1_is_one_grid_of_ours_over_the_papers_by_verdict(real: Page, made: Results) -> None:
    grid = re.search(r'<table class="grid">.*?</table>', real.html, re.DOTALL)
    cells = re.findall(r'<td class="([\w-]+)" title="([\w ]+)"><a [^>]*>([\d.]+)</a><small>([\d.]+)</small>', grid[0])
    found = {outcome.id: outcome for outcome in assess(made)}
    wanted = [found[f"table1.vma.{c}.{n}"] for c in (1, 2, 4, 16) for n in (1, 2, 3, 4, 5, 10, 19)]
    assert cells == [(o.verdict.replace(" ", "-"), o.verdict, f"{o.value:.1f}", o.paper) for o in wanted]


def test_a_claim_has_its_number_error_difference_seeds_and_command(real: Page) -> None:
    row = re.search(r'<tr id="claim-fewshot\.nll\.first".*?</tr>', real.html, re.DOTALL)
    for part in ("75.1", " ± ", "2 seeds: ", "n = 40", "K = 1000", "K = 1000 minus K = 4"):
        assert part in Page(row[0]).text
    pattern = r'<details class="experiment" id="experiment-fewshot">.*?</table>.*?</p>'
    experiment = re.search(pattern, real.html, re.DOTALL)
    assert "60,000 updates" in Page(experiment[0]).text
    assert "python -m benchmarks.run fewshot --seeds 0 1" in Page(experiment[0]).text


def test_each_number_leads_to_rows_with_their_provenance_and_specs(real: Page) -> None:
    article = re.search(r'<article id="from-table1\.vma\.1\.1">.*?</article>', real.html, re.DOTALL)
    fields = re.findall(r"<dt>(\w+)</dt><dd>(?:<a [^>]*>)?([^<]*)", article[0])
    found = dict(reversed(fields))
    for name in ("commit", "dirty", "device", "dtype", "threads", "n", "data_sha256", "train_commits", "created"):
        assert found[name]
    spec = re.search(rf'<pre id="spec-{found["train_id"]}">(.*?)</pre>', real.html, re.DOTALL)
    assert json.loads(spec[1].replace("&#34;", '"'))["dataset"] == "omniglot_gmn"


def test_rows_of_a_dirty_tree_are_marked(real: Page) -> None:
    assert "Some rows of ablations were made by code that differs from any commit" in real.text


def test_a_smoke_page_says_so_in_title_banner_and_watermark_and_judges_nothing(smoke: Results, real: Page) -> None:
    found = rendered(smoke)
    assert re.search("<title>SMOKE RUN", found.html)
    assert found.all("body", **{"class": "smoke"})
    assert "Smoke run:" in found.text
    assert {a["data-verdict"] for a in found.all("tr") if a.get("data-verdict")} == {"other data", "quoted"}
    assert "SMOKE RUN" not in re.sub(r"<style>.*?</style>", "", real.html, flags=re.DOTALL)
    assert not real.all("body", **{"class": "smoke"})


def test_data_that_stand_in_are_named(small: Path) -> None:
    for path in small.iterdir():
        rows = [{**row, "dataset": "folder:mine"} for row in read_rows(path)]
        path.unlink()
        append_rows(path, rows)
    text = rendered(read_results(small)).text
    assert "Not the paper's data in places (folder:mine)" in text
    assert "on folder:mine" in text
    assert "No number has been measured on the paper's data" in text


def test_what_is_missing_is_named(small: Path) -> None:
    found = rendered(read_results(small), {})
    assert "figures are not drawn" in found.text
    assert "Missing: no row of recall" in found.text
    assert "Not drawn: recall: not run (28 cells)" in found.text
    assert "Nothing to choose from: lookup: not run" in found.text


def test_text_of_rows_is_escaped(small: Path) -> None:
    rows = [{**row, "device": "<script>alert(1)</script>"} for row in read_rows(small / "ablations.jsonl")]
    append_rows(small / "ablations.jsonl", rows)
    html = rendered(read_results(small)).html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_lookups_are_packed_without_loss(made: Results) -> None:
    arrays = made.arrays(made.of("lookup").iloc[0])
    packed = page.lookups(made)
    assert "<" not in packed
    data = json.loads(packed)
    targets, entries, height, width = arrays["memory"].shape
    assert [data["entries"], data["height"], data["width"]] == [entries, height, width]

    def decoded(name: str) -> np.ndarray[Any, Any]:
        return np.frombuffer(base64.b64decode(data[name]), np.uint8)

    bits = np.unpackbits(decoded("memory").reshape(targets * entries, -1), axis=1)[:, : height * width]
    assert np.array_equal(bits.reshape(arrays["memory"].shape), arrays["memory"])
    assert np.array_equal(decoded("samples").reshape(arrays["samples"].shape), arrays["samples"])
    assert np.allclose([target["q"] for target in data["targets"]], arrays["q"], atol=1e-5)
    assert [target["top"] for target in data["targets"]] == arrays["top"].tolist()


def test_the_command_writes_tables_figures_and_the_page(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main(["--results", str(small), "--out", str(out)]) == 0
    written, both = [Path(line) for line in capsys.readouterr().out.splitlines()], ("ablations", "classification")
    assert written[-1] == out / "index.html"
    assert {path.name for path in written} == {
        # the figure of ablations needs values of each target
        *(f"{name}{recipe}.{end}" for name in both for recipe in ("", "-suite") for end in ("md", "csv", "tex")),
        *(f"classification{recipe}.{end}" for recipe in ("", "-suite") for end in ("svg", "pdf", "png")),
        *("inputs.json", "index.html"),
    }
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of one figure and no tables, whose page says nothing: what is written, not what is in it."""
    monkeypatch.setattr(tables, "TABLES", {})
    monkeypatch.setattr(figures, "FIGURES", {"classification": figures.FIGURES["classification"]})
    monkeypatch.setattr(page, "render", lambda *_: "page")


def test_figures_and_tables_that_are_no_more_are_removed_and_other_files_kept(small: Path, tmp_path: Path) -> None:
    stale = [tmp_path / "out" / "figures" / "2a.svg", tmp_path / "out" / "tables" / "recall.csv"]
    other = tmp_path / "out" / "figures" / "mine.svg"
    for path in (*stale, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old", encoding="utf-8")
    command.write(read_results(small), tmp_path / "out")
    assert not any(path.exists() for path in stale)
    assert other.exists()


@pytest.mark.usefixtures("quick")
def test_a_figure_is_drawn_again_where_what_it_is_made_of_has_changed(small: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "out" / "figures" / "classification.svg"
    first = command.write(read_results(small), out)
    path.write_text("kept", encoding="utf-8")
    assert command.write(read_results(small), out) == first
    assert path.read_text(encoding="utf-8") == "kept"
    rows = small / "classification.jsonl"
    append_rows(rows, [read_rows(rows)[0] | {"value": 0.5, "low": 0.4, "high": 0.6}])
    command.write(read_results(small), out)
    assert path.read_text(encoding="utf-8") != "kept"
    (out / "figures" / "classification.pdf").unlink()
    (out / "figures" / "inputs.json").write_text("no JSON", encoding="utf-8")
    assert command.write(read_results(small), out) == first


@pytest.mark.parametrize("error", [InputError("an artifact is damaged"), OSError(28, "No space left on device")])
def test_an_error_leaves_no_folder_that_was_not_there(
    error: Exception, small: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> str:
        raise error

    monkeypatch.setattr(page, "render", broken)
    assert command.main(["--results", str(small), "--out", str(tmp_path / "new" / "out")]) > 0
    assert not (tmp_path / "new").exists()


def test_every_table_and_figure_has_its_place(real: Page) -> None:
    ids = {a["id"] for _, a in real.tags if a.get("id")}
    assert {f"figure-{name}" for name in figures.FIGURES} <= ids
    assert {f"table-{name}" for name in tables.TABLES if name != tables.OWN} <= ids
