"""What README and docs/ show of the rows: numbers, tables, pictures. `python -m reports --readme README.md` writes them
anew.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reports import drawing, figures, findings, inputs
from reports.aggregate import per_target
from reports.command import one_line
from reports.frames import once
from reports.outcomes import assess_recipe, updates_of
from reports.results import SUITE, InputError, Results
from reports.tables import TABLES, markdown, title
from reports.verdicts import VERDICTS, Outcome, span

COLOURS_OF_A_PICTURE = 128  # which keep a PNG below 300 kB
# Pictures: the name of the file, the figure that it is, and of which recipe (a key of `Results.recipes`).
PICTURES = {
    "samples": ("4a", f"-{SUITE}"),
    "lookup": ("3", f"-{SUITE}"),
    "scaling": ("5a", ""),
    "table1": ("table1", f"-{SUITE}"),
    "wallclock": ("wallclock", ""),
}

# Where it stands: what, and the ids of the numbers of the paper that it is.
STANDS = (
    ("Table 1: NLL, 1, 2, 4 and 16 classes, 1 to 19 examples", r"table1\.vma\..*"),
    ("Figure 2A: recall, 256 entries, NLL", r"recall\.nll"),
    ("Section 4.1: learned memory on digits, KL_a", r"learned-mnist\..*"),
    ("Section 4.2: learned memory on Omniglot, NLL", r"learned-omniglot\.regularised"),
    ("Figure 4B: few-shot, best NLL", r"fewshot\.best"),
    ("Figure 4B: plain VAE, NLL", r"fewshot\.vae"),
    ("Figure 5A: 144 classes in memory, NLL above the optimum", r"scaling\..*"),
    ("Figure 5A: soft attention, 1 or 2 classes, NLL", r"fewshot\.soft"),
    ("Section 4.2: classification, %", r"classification\..*"),
    ("Section 4.2: ablations, NLL minus the control's", r"ablation\..*"),
    ("Section 5: hard attention is faster from |M|", r"wallclock\..*"),
)


def stands(results: Results) -> str:
    """One row an experiment: the paper's number, ours by its recipe and by the suite's; and the verdict, updates and
    seeds, by the suite's recipe where that was run.
    """
    ours, *suite = _outcomes(results).values()
    by_suite = suite[0] if suite else []
    either = [two if two.ours else one for one, two in zip(ours, by_suite or ours, strict=True)]
    lines = []
    for what, pattern in STANDS:
        by_paper, suites, those = (
            [one for one in found if re.fullmatch(pattern, one.id)] for found in (ours, by_suite, either)
        )
        counts = {verdict: sum(one.verdict == verdict for one in those) for verdict in VERDICTS}
        several = len(those) > 1
        verdict = ", ".join(f"{name} ({count})" if several else name for name, count in counts.items() if count)
        run = [one for one in those if one.ours]
        seeds = max((len(one.seeds) or 1 for one in run), default="")
        made = updates_of(results, (row for one in run for row in one.rows))
        numbers = [
            [one.paper for one in those],
            *([one.ours for one in part if one.ours] for part in (by_paper, suites)),
        ]
        lines.append([what, *map(_span, numbers), verdict, made, str(seeds)])
    head = ["", "paper", "ours, the paper's recipe", "ours, the suite's recipe", "verdict", "updates", "seeds"]
    return markdown(pd.DataFrame(lines, columns=head))


def _span(numbers: Sequence[str]) -> str:
    """One number as it is, of several the least and the most."""
    if len(set(numbers)) < 2:
        return next(iter(numbers), "")
    found = {number: re.search(r"-?\d+(\.\d+)?", number) for number in numbers}
    words = [number for number, known in found.items() if not known]
    values = sorted((known[0] for known in found.values() if known), key=float)
    return "; ".join(filter(None, [*words, span(values)]))


MARK = re.compile(r"(<!-- fill: (?P<what>[^>]+?) -->)(?P<shown>.*?)(<!-- end -->)", re.DOTALL)
CURVES_AT = (1000, 2000, 4000, 6000, 8000, 9000, 12_000, 20_000, 30_000, 60_000)  # updates


@once
def _outcomes(results: Results) -> dict[str, list[Outcome]]:
    return {recipe: assess_recipe(of) for recipe, of in results.recipes.items()}


def filled(text: str, results: Results) -> str:
    """The text with what stands between each `<!-- fill: WHAT -->` and the next `<!-- end -->` made anew from the rows.

    WHAT is one of:
    - stands: where each experiment stands, see `stands`.
    - table NAME: a table of the report under its title; csv FILE: a file of the folder of results. What follows chooses
      lines and columns: `; COLUMN = TEXT; columns = COLUMN / COLUMN`.
    - curves TRAIN_ID ...: validation NLL in the logs of training.
    - note CLAIM: what was found where a number misses (findings.toml).
    - first N of CLAIM: our number over the first N targets, as commands with `--targets N` have it.
    - a field of a finding, see `findings.Finding`: `ours of fewshot.vae`, `range of difference of table1.vma.*`.

    All are of the paper's recipe, or with `-suite` behind NAME or CLAIM of the suite's.

    Raises:
        InputError: naming a mark that is none of these, or that the rows have nothing for.
    """

    def fill(mark: re.Match[str]) -> str:
        what, *choices = (part.strip() for part in mark["what"].split(";"))
        recipe = f"-{SUITE}" if what.endswith(f"-{SUITE}") else ""
        kind, _, names = what.removesuffix(recipe).partition(" ")
        try:
            if kind == "stands":
                shown = "\n" + stands(results)
            elif kind == "table":
                shown = "\n" + _table(results.recipes[recipe], names, choices)
            elif kind == "csv":
                shown = "\n" + markdown(_chosen(_csv(results.folder / names), choices))
            elif kind == "curves":
                shown = "\n" + markdown(_curves(results, names.split()))
            elif kind == "note":
                shown = f"\n{findings.notes(_outcomes(results)[recipe])[names]}\n"
            elif kind == "first":
                shown = _first(results.recipes[recipe], _outcomes(results)[recipe], *names.split(" of "))
            else:
                shown = _field(_outcomes(results)[recipe], what.removesuffix(recipe))
        except (LookupError, ValueError, OSError) as error:
            raise InputError(f"<!-- fill: {mark['what']} --> cannot be filled: {one_line(str(error))}") from None
        return f"{mark[1]}{shown}{mark[4]}"

    return MARK.sub(fill, text)


def _table(results: Results, name: str, choices: Sequence[str]) -> str:
    frame = TABLES[name].frame(results)
    grid = _chosen(TABLES[name].grid(frame), choices)
    return markdown(grid, title(results, name, frame))


def _chosen(grid: pd.DataFrame, choices: Sequence[str]) -> pd.DataFrame:
    """The lines and columns of a grid that are chosen, see `filled`, without columns that are empty.

    Raises:
        LookupError: if there is no such column or no such line.
    """
    for choice in choices:
        column, _, value = choice.partition(" = ")
        grid = grid[value.split(" / ")] if column == "columns" else grid[grid[column] == value].drop(columns=column)
    if grid.empty:
        raise LookupError("there is no such line")
    return grid.loc[:, (grid != "").any()]


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))


def _curves(results: Results, runs: Sequence[str]) -> pd.DataFrame:
    """A line a run: the validation NLL in its log (its bound, negated) after CURVES_AT updates.

    Raises:
        LookupError: if a run has no log.
    """
    lines = []
    for run in runs:
        log = results.training_log(run)
        if log is None:
            raise LookupError(f"{run} has no log")
        bounds = log.set_index("update").validation_bound.reindex(list(CURVES_AT))
        lines.append([results.training_logs(run)[0].stem, *("" if b != b else f"{-b:.1f}" for b in bounds)])
    return pd.DataFrame(lines, columns=["run", *(f"{update:,}" for update in CURVES_AT)])


def _first(results: Results, outcomes: Sequence[Outcome], n: str, claim: str) -> str:
    """A number of ours over the first n targets of its rows, the mean over seeds.

    Raises:
        LookupError: if its values at so many targets are not there.
    """
    found = per_target(results, {outcome.id: outcome for outcome in outcomes}[claim].rows)
    if found is None or len(found.x_index) < int(n):
        raise LookupError(f"{claim} has no values of {n} targets")
    return f"{np.mean([values[: int(n)] for values in found.values.values()]):.1f}"


def _field(outcomes: Sequence[Outcome], field: str) -> str:
    """A field of a finding, filled in.

    Raises:
        LookupError: if it is no field, or a number in it is not there.
    """
    shown = findings.filled(f"{{{field}}}", outcomes)
    if shown.startswith("{") or not all(part.strip("-") for part in re.split(", | and | to ", shown)):
        raise LookupError("there is no such number")
    return shown


def files(readme: Path) -> list[Path]:
    """README and the texts in docs/ beside it, which are filled together."""
    return [readme, *sorted((readme.parent / "docs").glob("*.md"))]


def pictures(results: Results, folder: Path) -> list[Path]:
    """Draw README's pictures as PNG, with the hash of their rows inside; return the paths of those that can be drawn.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (key, recipe) in PICTURES.items():
        spec, path = figures.FIGURES[key], folder / f"{name}.png"
        part = results.recipes.get(recipe, results)
        rows = inputs.of_rows(part, spec.experiments)
        if path.exists() and rows_of(path) == rows:
            paths.append(path)
        elif (figure := spec.draw(part)) is not None:
            paths.append(path)
            path.write_bytes(_small(drawing.png(figure), rows))
    return paths


def rows_of(picture: Path) -> str:
    """The hash of the rows that a picture was drawn from."""
    with Image.open(picture) as image:
        return str(image.info.get("rows"))


def _small(png: bytes, rows: str) -> bytes:
    made_of, small = PngInfo(), io.BytesIO()
    made_of.add_text("rows", rows)
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(COLOURS_OF_A_PICTURE, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True, pnginfo=made_of)
    return small.getvalue()
