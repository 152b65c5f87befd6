"""What README shows of the rows, numbers and pictures: `python -m reports --readme README.md` writes them anew."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reports import drawing, figures, inputs
from reports.outcomes import assess_recipe
from reports.results import InputError, Results
from reports.tables import markdown
from reports.verdicts import VERDICTS

COLOURS_OF_A_PICTURE = 128  # which keep a PNG below 300 kB
# Pictures: the name of the file, and the figure that it is.
PICTURES = {"samples": "4a", "lookup": "3", "scaling": "5a", "table1": "table1"}

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
    """One row an experiment: the paper's number, ours by its recipe and by the suite's, the verdict, updates, seeds."""
    ours, *suite = (assess_recipe(of) for of in results.recipes.values())
    by_suite = suite[0] if suite else []
    lines = []
    for what, pattern in STANDS:
        those, suites = ([one for one in found if re.fullmatch(pattern, one.id)] for found in (ours, by_suite))
        counts = {verdict: sum(one.verdict == verdict for one in those) for verdict in VERDICTS}
        several = len(those) > 1
        verdict = ", ".join(f"{name} ({count})" if several else name for name, count in counts.items() if count)
        run = [one for one in those if one.ours]
        updates = sorted({int(row["updates"]) for one in run for row in one.rows} - {0})
        seeds = max((len(one.seeds) or 1 for one in run), default="")
        made = " to ".join(f"{u:,}" for u in dict.fromkeys((*updates[:1], *updates[-1:])))
        numbers = [[one.paper for one in those], *([one.ours for one in part if one.ours] for part in (run, suites))]
        lines.append([what, *map(_span, numbers), verdict, made, str(seeds)])
    head = ["", "paper", "ours, the paper's recipe", "ours, the suite's recipe", "verdict", "updates", "seeds"]
    return markdown(pd.DataFrame(lines, columns=head))


def _span(numbers: Sequence[str]) -> str:
    """One number as it is, of several the least and the most."""
    if len(set(numbers)) < 2:
        return next(iter(numbers), "")
    found = [re.search(r"-?\d+(\.\d+)?", number) for number in numbers]
    words = [number for number, known in zip(numbers, found, strict=True) if not known]
    values = sorted((known[0] for known in found if known), key=float)
    return "; ".join(dict.fromkeys([*words, " to ".join(dict.fromkeys((*values[:1], *values[-1:])))])).removesuffix(
        "; "
    )


MARKS = ("<!-- stands -->\n", "<!-- end of stands -->")


def filled(text: str, results: Results) -> str:
    """The text with the table of where it stands made anew, between its marks.

    Raises:
        InputError: if it has no such marks.
    """
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not last:
        raise InputError("--readme has no block stands: put <!-- stands --> and <!-- end of stands --> into it")
    return f"{before}{first}{stands(results)}{last}{after}"


def pictures(results: Results, folder: Path) -> list[Path]:
    """Draw README's pictures as PNG, with the hash of their rows inside; return the paths of those that can be drawn.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, key in PICTURES.items():
        spec, path = figures.FIGURES[key], folder / f"{name}.png"
        rows = inputs.of_rows(results, spec.experiments)
        if path.exists() and rows_of(path) == rows:
            paths.append(path)
        elif (figure := spec.draw(results)) is not None:
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
