"""What README shows of the rows, numbers and pictures: `python -m reports --readme README.md` writes them anew."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reports import drawing, figures, frames, inputs
from reports.declared import declared
from reports.models import label
from reports.outcomes import assess
from reports.results import InputError, Results, select
from reports.tables import markdown
from reports.verdicts import VERDICTS, Outcome

SHOWN_CLASSES = (1, 2, 8, 32, 144)  # of Figure 5A
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
    ours = assess(results)
    by_suite = assess(replace(results, rows=results.suite)) if len(results.suite) else []
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


def verdicts(results: Results) -> str:
    """How many of the paper's numbers came to what, by experiment; what is not reproduced first."""
    judged = [outcome for outcome in assess(results) if outcome.verdict != "quoted"]

    def those(*kinds: str) -> list[Outcome]:
        return [outcome for outcome in judged if outcome.verdict in kinds]

    def by_experiment(outcomes: Sequence[Outcome]) -> str:
        names = dict.fromkeys(outcome.experiment for outcome in outcomes)
        return ", ".join(f"{name} {sum(outcome.experiment == name for outcome in outcomes)}" for name in names)

    parts = []
    for kinds, words in (
        (("not reproduced",), "not reproduced"),
        (("near",), "near"),
        (("reproduced",), "reproduced"),
        (("not run", "other data"), "not run yet, or on other data than the paper's"),
    ):
        found = those(*kinds)
        parts.append(f"{len(found)} {words}" + (f" ({by_experiment(found)})" if found else ""))
    return f"**Of {len(judged)} numbers of the paper, so far:** {'; '.join(parts)}."


def table1(results: Results) -> str:
    """Table 1, ours / the paper's, and the baselines."""
    frame = frames.table1(results, "per_class")
    frame = frame[frame.targets == "all"]
    vma = select(frame, model="vma").set_index(["classes", "shots"])
    all_classes, all_shots = declared("table1", "classes"), declared("table1", "shots")
    lacking = [(c, n) for c in all_classes for n in all_shots if (c, n) not in vma.index]
    if lacking or "paper" not in vma:
        which = f"C = {lacking[0][0]}, {lacking[0][1]} examples" if lacking else "any cell on the paper's data"
        raise InputError(f"--readme needs all of VMA's cells of Table 1, has none of {which}: run table1 first")
    lines = [
        [f"VMA, C = {classes}"]
        + [f"{vma.value[classes, shots]:.1f} / {vma.paper[classes, shots]:.1f}" for shots in all_shots]
        for classes in all_classes
    ]
    head = ["Table 1, ours / the paper's", "1 example", *(str(shots) for shots in all_shots[1:])]
    errors = f"{vma.stderr.min():.1f} to {vma.stderr.max():.1f}"
    notes = [
        f"Test NLL in nats with 1 to 19 examples of each of C classes in memory, K = 1,000, n = {vma.n.min():,.0f} "
        f"targets that all cells share; standard errors between targets {errors}. VMA: {_made(vma)}."
    ]
    vae = select(frame, model="vae")
    if len(vae):
        notes.append(f"Plain VAE: {vae.value.iloc[0]:.1f} ± {vae.stderr.iloc[0]:.1f}, {_made(vae)}.")
    soft = select(frame, model="soft")
    apart = soft.minus_vma.dropna() if "minus_vma" in soft else pd.Series(dtype=float)
    if len(apart):
        notes.append(
            f"Soft attention (features) minus VMA on the same targets: {apart.min():+.1f} to {apart.max():+.1f} over "
            f"{len(apart)} cells, n from {soft.n.min():,.0f}, {_made(soft)}."
        )
    return markdown(pd.DataFrame(lines, columns=head)) + "\n" + " ".join(notes)


def figure5a(results: Results) -> str:
    """Figure 5A: NLL and what exceeds the optimum."""
    frame = frames.scaling(results)
    lines, made = [], []
    for key, part in frame.groupby(
        ["model", "read", "train_classes", "shots", "num_samples"], dropna=False, sort=False
    ):
        model, read, trained, shots, num_samples = key
        part = part.set_index("classes")
        if not set(SHOWN_CLASSES) <= set(part.index):
            continue
        name = label(str(model), read) + (f", trained on {trained:.0f} classes" if model == "soft" else "")
        own = model == "vma"  # whose optimum it is
        cells = [f"{part.nll[c]:.1f}" + f" ({_signed(part.excess[c])})" * (c > 1 or not own) for c in SHOWN_CLASSES]
        cells[-1] = cells[-1].removesuffix(")") + f" ± {part.excess_stderr[SHOWN_CLASSES[-1]]:.1f})"
        if part.excess[list(SHOWN_CLASSES)].isna().any():
            raise InputError(
                f"--readme needs the per-target values of scaling, {name}, {shots:.0f} examples, "
                f"K = {num_samples:.0f}: restore targets/, or evaluate again"
            )
        lines.append([f"{name}, {shots:.0f} examples each, K = {num_samples:,.0f}", *cells, f"{part.n.min():,.0f}"])
        made.append(f"{name}: {_made(part)}")
    if not lines:
        raise InputError(f"--readme needs scaling with {', '.join(map(str, SHOWN_CLASSES))} classes: run scaling first")
    lines.append(["VMA in the paper (its text has K = 4)", *["" if c == 1 else "(about 0)" for c in SHOWN_CLASSES], ""])
    head = ["Figure 5A, classes in memory:", *(str(c) for c in SHOWN_CLASSES), "n"]
    note = (
        "Test NLL in nats; in brackets what exceeds the optimum, VMA's NLL with the target's own class alone in memory "
        f"+ log C, on the same targets, which are those that K = 1,000 has. {'. '.join(dict.fromkeys(made))}."
    )
    return markdown(pd.DataFrame(lines, columns=head)) + "\n" + note


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-0.0", "+0.0")


def _made(part: pd.DataFrame) -> str:
    """The updates and the seeds behind rows."""
    updates = sorted(part.updates.unique())
    seeds = f"{part.seeds.min():.0f} seed" + "s" * bool(part.seeds.min() > 1)
    return f"{' to '.join(f'{u:,.0f}' for u in dict.fromkeys((updates[0], updates[-1])))} updates, {seeds}"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "stands": stands,
    "verdicts": verdicts,
    "table1": table1,
    "figure5a": figure5a,
}


def filled(text: str, results: Results) -> str:
    """The text with each block that it has, `<!-- NAME -->` to `<!-- end of NAME -->`, made anew.

    Raises:
        InputError: if it has none, or rows are missing that one needs.
    """
    found = 0
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->", re.DOTALL)
        if pattern.search(text):
            found += 1
            text = pattern.sub(f"<!-- {name} -->\n{make(results)}\n<!-- end of {name} -->".replace("\\", "\\\\"), text)
    if not found:
        raise InputError(
            f"--readme has no block ({', '.join(BLOCKS)}): put <!-- stands --> and <!-- end of stands --> into it"
        )
    return text


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
