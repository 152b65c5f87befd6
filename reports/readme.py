"""The numbers on README's first screen, from the rows: `python -m reports --readme README.md` writes them anew."""

import re
from collections.abc import Callable, Sequence

import pandas as pd

from reports import frames
from reports.claims import Outcome, assess
from reports.results import TABLE1_CLASSES, TABLE1_SHOTS, InputError, Results, select
from reports.tables import NAMES, markdown

SHOWN_CLASSES = (1, 2, 8, 32, 144)  # of Figure 5A


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
    lacking = [(c, n) for c in TABLE1_CLASSES for n in TABLE1_SHOTS if (c, n) not in vma.index]
    if lacking or "paper" not in vma:
        which = f"C = {lacking[0][0]}, {lacking[0][1]} examples" if lacking else "any cell on the paper's data"
        raise InputError(f"--readme needs all of VMA's cells of Table 1, has none of {which}: run table1 first")
    lines = [
        [f"VMA, C = {classes}"]
        + [f"{vma.value[classes, shots]:.1f} / {vma.paper[classes, shots]:.1f}" for shots in TABLE1_SHOTS]
        for classes in TABLE1_CLASSES
    ]
    head = ["Table 1, ours / the paper's", "1 example", *(str(shots) for shots in TABLE1_SHOTS[1:])]
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
        name = NAMES[str(model)] + (f" ({read}, trained on {trained:.0f} classes)" if model == "soft" else "")
        own = model == "vma"  # whose optimum it is
        cells = [f"{part.nll[c]:.1f}" + f" ({_signed(part.excess[c])})" * (c > 1 or not own) for c in SHOWN_CLASSES]
        cells[-1] = cells[-1].removesuffix(")") + f" ± {part.excess_stderr[SHOWN_CLASSES[-1]]:.1f})"
        if part.excess[list(SHOWN_CLASSES)].isna().any():
            raise InputError(
                f"--readme needs the per-target values of scaling, {name}, {shots:.0f} examples, "
                f"K = {num_samples:.0f}: restore artifacts/, or evaluate again"
            )
        lines.append([f"{name}, {shots:.0f} examples each, K = {num_samples:,.0f}", *cells, f"{part.n.min():,.0f}"])
        made.append(f"{name}: {_made(part)}")
    if not lines:
        raise InputError(f"--readme needs scaling with {', '.join(map(str, SHOWN_CLASSES))} classes: run scaling first")
    lines.append(["VMA in the paper (its text has K = 4)", *["" if c == 1 else "(about 0)" for c in SHOWN_CLASSES], ""])
    head = ["Figure 5A, classes in memory:", *(str(c) for c in SHOWN_CLASSES), "n"]
    note = (
        "Test NLL in nats; in brackets what exceeds the optimum, VMA's NLL with the target's own class alone in memory "
        f"+ log C, on the same targets. {'. '.join(dict.fromkeys(made))}."
    )
    return markdown(pd.DataFrame(lines, columns=head)) + "\n" + note


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-0.0", "+0.0")


def _made(part: pd.DataFrame) -> str:
    """The updates and the seeds behind rows."""
    updates = sorted(part.updates.unique())
    seeds = f"{part.seeds.min():.0f} seed" + "s" * bool(part.seeds.min() > 1)
    return f"{' to '.join(f'{u:,.0f}' for u in dict.fromkeys((updates[0], updates[-1])))} updates, {seeds}"


BLOCKS: dict[str, Callable[[Results], str]] = {"verdicts": verdicts, "table1": table1, "figure5a": figure5a}


def filled(text: str, results: Results) -> str:
    """The text with each block, `<!-- NAME -->` to `<!-- end of NAME -->`, made anew.

    Raises:
        InputError: if a block's marks are missing.
    """
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->", re.DOTALL)
        if not pattern.search(text):
            raise InputError(f"--readme has no block {name}: put <!-- {name} --> and <!-- end of {name} --> into it")
        text = pattern.sub(f"<!-- {name} -->\n{make(results)}\n<!-- end of {name} -->".replace("\\", "\\\\"), text)
    return text
