"""The command `python -m reports`: tables, figures and the one page from a folder of results."""

import contextlib
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reports import drawing, figures, inputs, page, readme, runs, tables
from reports.command import check_folder, one_line, parse, print_anything
from reports.outcomes import assess
from reports.results import SUITE, InputError, Results, read_results

INPUTS = "inputs.json"  # beside the figures: what each was drawn from, see `reports.inputs`
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """Tables (Markdown, CSV, LaTeX), figures (SVG, PDF, PNG) and one self-contained page from a folder of results.

    Reads files alone: trains and evaluates nothing.
    """

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = ROOT / "results"
    """Folder of results: rows (*.jsonl) and what lies beside them."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = ROOT / "reports" / "out"
    """Folder to write to: index.html, tables/ and figures/."""
    readme: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write anew what is made of the rows: the numbers and tables between the marks of this file (README.md) and
    of docs/*.md beside it, the pictures in docs/images, and runs.csv in the folder of results."""


def write(results: Results, out: Path) -> list[Path]:
    """Write everything, each file whole or not at all and the page last; remove what earlier results left there.

    Raises:
        InputError: if an artifact is damaged; nothing is written.
        OSError: if the folder cannot be written.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=out) as new:
            return _write(results, out, Path(new))
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # it is not there, or it is not empty
                path.rmdir()
        raise


def _write(results: Results, out: Path, new: Path) -> list[Path]:
    """`write`, by way of a folder for what is not whole yet. A figure whose inputs have not changed stays as it is."""
    paths, known, made_of, drawings = [], _inputs(out), {}, {}
    for recipe, part in results.recipes.items():
        paths += [path for table in tables.TABLES for path in tables.save(part, new / "tables", table, recipe)]
        for spec in figures.FIGURES.values():
            name, of = spec.name + recipe, inputs.of_figure(part, spec.experiments)
            files = [out / "figures" / f"{name}.{suffix}" for suffix in drawing.FORMATS]
            if known.get(name) != of or not all(file.exists() for file in files):
                figure = spec.draw(part)
                files = [] if figure is None else drawing.save(figure, new / "figures", name)
            if files:
                made_of[name] = of
                drawings[name] = files[0].read_text(encoding="utf-8")
                paths += files
    for path, text in (
        (new / "figures" / INPUTS, json.dumps(made_of, indent=1)),
        (new / "index.html", page.render(results, assess(results), drawings)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    whole = {out / path.relative_to(new) if path.is_relative_to(new) else path for path in paths}
    for folder, names, suffixes in (
        (out / "tables", tables.TABLES, ("md", "tex", "csv")),
        (out / "figures", figures.FIGURES, drawing.FORMATS),
    ):
        folder.mkdir(exist_ok=True)
        for name, suffix, recipe in itertools.product(names, suffixes, ("", f"-{SUITE}")):
            stale = folder / f"{name}{recipe}.{suffix}"
            if stale not in whole:
                stale.unlink(missing_ok=True)
    return [path.replace(out / path.relative_to(new)) if path.is_relative_to(new) else path for path in paths]


def _inputs(out: Path) -> dict[str, str]:
    """By figure the hash of what an earlier report drew it from; nothing where that cannot be read."""
    try:
        return dict(json.loads((out / "figures" / INPUTS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _replace_text(path: Path, text: str) -> None:
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        new = Path(folder) / path.name
        new.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, new)
        new.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    print_anything()
    try:
        options = parse(Options, "reports", argv)
        check_folder("--out", options.out)
        results = read_results(options.results)
        files = [] if options.readme is None else readme.files(options.readme)
        texts = {path: readme.filled(path.read_text(encoding="utf-8"), results) for path in files}
        paths = write(results, options.out)
        if options.readme is not None:
            for path, text in texts.items():
                _replace_text(path, text)
            paths += [*texts, *readme.pictures(results, options.readme.parent / "docs" / "images")]
            paths.append(results.folder / runs.NAME)
            _replace_text(paths[-1], runs.table(results).to_csv(index=False))
    except InputError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        # a write that is cut short names no file
        what = f"cannot write or read {error.filename or options.out}: {error.strerror or error}"
        print(one_line(f"error: {what}; free space there or mend permissions"), file=sys.stderr)
        return 1
    for line in results.left_out:
        print(f"left out: {line}")
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
