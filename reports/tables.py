"""Tables: ours beside the paper's, from rows of results and results/paper.csv, as text, Markdown, CSV and LaTeX."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from reports import estimators, frames, gmn, timing
from reports.columns import (
    DIRTY,
    MADE,
    Column,
    compared,
    ends,
    models,
    models_of,
    number,
    plain,
    text_of,
    value,
    whole,
)
from reports.declared import DECLARED
from reports.models import label
from reports.results import SAMPLED, TIMED, Results, paper_numbers, select, stand_ins

OWN = "own-models"  # the table of the user's models, where there are any
RULES = {"address": "q(a|x)", "likelihood": "likelihood", "shifted": "likelihood, entries shifted too"}


@dataclass(frozen=True)
class TableSpec:
    """A table: what it is called, the experiments that it is made of (none for what timing/ holds), its tidy frame and
    how that is read: columns by their headings, or a function.
    """

    name: str
    title: str
    experiments: tuple[str, ...]
    frame: Callable[[Results], pd.DataFrame]
    columns: Mapping[str, Column] | Callable[[pd.DataFrame], pd.DataFrame]

    def grid(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The table as it is read, all text."""
        if callable(self.columns):
            return self.columns(frame)
        return pd.DataFrame({name: list(column(frame)) for name, column in self.columns.items()})


# Tables that are no list of cells.


def table1_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read: a line for each model, C and kind of figure, a column for each number of examples; all
    text.
    """
    paper = paper_numbers()
    gmn = paper[(paper["where"] == "Table 1") & (paper.model == "gmn")].astype({"classes": int, "shots": int})
    gmn = gmn.pivot(index="classes", columns="shots", values="number")
    shots = list(gmn.columns)
    frame = frame.rename(columns={"stderr": "value_stderr"})
    lines: list[list[str]] = []

    def add(name: str, classes: str, what: str, numbers: Iterable[str]) -> None:
        texts = list(numbers)
        lines.append([name, classes, what, *texts, *[""] * (len(shots) - len(texts))])  # the plain VAE has one alone

    def add_ours(name: str, classes: str, cells: pd.DataFrame) -> None:
        add(name, classes, "ours", value("value")(cells))
        there = cells.loc[:, cells.notna().any()]
        for what, column, digits, sign in (
            ("paper", "paper", 1, ""),
            ("ours - paper", "difference", 1, "+"),
            ("committed", "committed", 1, ""),
            ("ours - committed", "minus_committed", 2, "+"),
        ):
            if column in there:
                add("", "", what, [number(v, digits=digits, sign=sign) for v in cells[column]])
        if "minus_vma" in there:
            add("", "", "ours - our VMA", value("minus_vma", sign="+")(cells))

    for model in (model for model in frame.model.unique() if model != "vae"):
        for targets in ("all", "duplicated", "new"):
            part = frame[(frame.model == model) & (frame.targets == targets)]
            for classes, cells in part.groupby("classes"):
                name = label(model) if targets == "all" else f"{label(model)}, {targets}"
                add_ours(name, f"{classes:.0f}", cells.set_index("shots").reindex(shots))
    quoted = gmn if frame.dataset.isin(DECLARED["table1"].datasets).all() else pd.DataFrame()
    for c, figures in quoted.iterrows():
        add("GMN, quoted (in total)", str(c), "paper", map(number, figures.reindex(shots)))
    vae = frame[frame.model == "vae"]
    if len(vae):
        add_ours(label("vae"), "", vae)
    return pd.DataFrame(lines, columns=["model", "C", "", *(f"{s:.0f}" for s in shots)])


def scaling_grid(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line for each evaluated number of classes: size of memory, NLL, KLs and the numbers behind them; all text."""
    frame = pd.DataFrame(list(rows))
    keys = ["classes", "shots", "memory_size", "num_samples", "n", "updates"]
    lines = []
    for key, part in frame.groupby(keys, sort=True, dropna=False):  # null for a model without memory
        values = part.drop_duplicates("metric", keep="last").set_index("metric")
        cells = [number(values.value.get(m), values.stderr.get(m)) for m in ("nll", "kl_a", "kl_z")]
        lines.append([*(_count(k) for k in key), *cells])
    return pd.DataFrame(lines, columns=["classes", "shots", "|M|", "K", "n", "updates", "NLL", "KL_a", "KL_z"])


def shots_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each K and number of examples, a column for each training; the plain VAE is at 0."""
    lines = []
    trained = sorted(set(zip(frame.train_shots.dropna(), frame.trained.dropna(), strict=True)))
    for (num_samples, n), part in frame.groupby(["num_samples", "shots"]):
        line = {"K": f"{num_samples:,.0f}", "N": f"{n:.0f}"}
        for model, (t, words) in itertools.product([m for m in frame.model.unique() if m != "vae"], trained):
            name = f"trained with {words}" if model == "vma" else f"{model} with {words}"
            line[name] = next(iter(value("nll")(select(part, model=model, train_shots=t))), "-" if n else "")
        alone = part[part.model == "vae"]
        line["plain VAE"] = next(iter(value("nll")(alone)), "")
        line["paper"] = next(iter(plain("paper")(alone)), "")
        lines.append({**line, "n": f"{part.n.min():.0f}", **_made_by(part)})
    return pd.DataFrame(lines)


LEARNED: dict[str, Column] = {
    "model": models_of,
    "L2": lambda frame: [f"{decay:g}" for decay in frame.weight_decay],
    "|M|": whole("memory_size"),
    "split": text_of("split"),
    "K": whole("num_samples"),
    "NLL": value("nll"),
    "KL_a": value("kl_a", 2),
    # of KL_a on MNIST, of NLL on Omniglot
    "paper": lambda frame: frame.get("paper_relation", "") + pd.Series(plain("paper")(frame), frame.index),
    "log |M|": plain("log_m", 2),
    "entropy of p(a)": plain("entropy_pa", 2),
    "KL_z": value("kl_z"),
    **MADE,
}


TUNED = {
    "vma": "VMA of Table 1",
    "soft": "soft attention of Table 1",
    "vae": "plain VAE of Table 1",
    "gmn": "GMN's memory, Table 1",
    "fewshot": "few-shot VMA",
    "table1-finish": "VMA of Table 1, from the paper's weights",
    "fewshot-finish": "few-shot VMA, from the paper's weights",
}
_NLL = "NLL in nats (lower is better)"
_NLL_K = "NLL in nats (lower is better; what differs in K alone is on the same targets)"
TABLES = {
    spec.name: spec
    for spec in (
        TableSpec(
            "table1",
            f"Table 1. Test {_NLL}, K = 1,000, against classes C and examples per class in memory",
            ("table1",),
            partial(frames.table1, protocol="per_class"),
            table1_grid,
        ),
        TableSpec(
            "table1-gmn",
            f"Table 1 under the GMN protocol. Test {_NLL}, K = 1,000, against classes C and examples in total in "
            "memory, targets that are duplicated there apart",
            ("table1",),
            partial(frames.table1, protocol="gmn"),
            table1_grid,
        ),
        TableSpec(
            "table1-gmn-trained",
            f"Table 1 under the GMN protocol, VMA having been trained under it too. Test {_NLL}, K = 1,000, against "
            "classes C and examples in total in memory",
            ("table1",),
            partial(frames.table1, protocol="gmn", train_protocol="gmn"),
            table1_grid,
        ),
        TableSpec("gmn", gmn.TABLE, ("table1",), gmn.frame, gmn.grid),
        TableSpec(
            "recall",
            f"Train to recall (Figure 2A). {_NLL_K}; an optimal lookup has NLL and KL_a of log |M|",
            ("recall",),
            frames.recall,
            {
                "recipe": text_of("recipe"),
                "trained |M|": whole("train_memory_size"),
                "|M|": whole("memory_size"),
                "K": whole("num_samples"),
                "NLL": value("nll", 2),
                "log |M|": plain("log_m", 2),
                "paper": plain("paper", 2),
                "KL_a": value("kl_a", 2),
                "KL_z": value("kl_z", 2),
                "q(own entry)": value("p_exact", 3),
                **MADE,
            },
        ),
        TableSpec(
            "learned-mnist",
            f"Learned memory on binarised MNIST. {_NLL_K}; the paper's figure is of KL_a, +- 0.3",
            ("learned-mnist",),
            frames.learned_mnist,
            LEARNED,
        ),
        TableSpec(
            "learned-omniglot",
            f"Learned memory on 28x28 Omniglot. {_NLL_K}; the paper's figure is of NLL",
            ("learned-omniglot",),
            frames.learned_omniglot,
            LEARNED,
        ),
        TableSpec(
            "fewshot",
            f"Few-shot learning (Figure 4B). Test {_NLL_K} against N examples of each of C classes in memory; the "
            "paper prints the values at its fewest and its most examples, not their N",
            ("fewshot",),
            frames.fewshot,
            {
                "model": models,
                "trained classes": whole("train_classes"),
                "trained N": whole("train_shots"),
                "C": whole("classes"),
                "N": whole("shots"),
                "K": whole("num_samples"),
                "NLL": value("nll"),
                "paper": plain("paper"),
                "KL_a": value("kl_a", 2),
                "KL_z": value("kl_z"),
                **MADE,
            },
        ),
        TableSpec(
            "scaling",
            f"More classes in memory (Figure 5A). Test {_NLL_K}; the optimum is VMA's NLL with one class in memory + "
            "log C, the difference is paired on the same targets, and VMA's in the paper is about 0",
            ("scaling",),
            frames.scaling,
            {
                "model": models,
                "trained classes": whole("train_classes"),
                "N": whole("shots"),
                "K": whole("num_samples"),
                "C": whole("classes"),
                "|M|": whole("memory_size"),
                "NLL": value("nll"),
                "optimum": plain("optimum"),
                "NLL - optimum": value("excess", sign="+"),
                "95 % interval": ends("excess_low", "excess_high"),
                "KL_a": value("kl_a", 2),
                **MADE,
            },
        ),
        TableSpec(
            "shots",
            f"More examples in memory (Figure 5B). Test {_NLL_K} against N examples of each of all test classes",
            ("shots",),
            frames.shots,
            shots_grid,
        ),
        TableSpec(
            "classification",
            "Few-shot classification without fine-tuning",
            ("classification",),
            frames.classification,
            {
                "classes": whole("classes"),
                "shots": whole("shots"),
                "rule": text_of("rule", RULES),
                "accuracy, %": value("accuracy", scale=100),
                "95 % interval": ends("low", "high", scale=100),
                "paper, %": plain("paper", 0, scale=100),
                **MADE,
            },
        ),
        TableSpec(
            "ablations",
            f"Ablations. Test {_NLL_K}; differences to the control are paired on the same targets",
            ("ablations",),
            frames.ablations,
            {
                "variant": text_of("variant"),
                "K": whole("num_samples"),
                **compared("control"),
                "the paper says": text_of("paper"),
                **MADE,
            },
        ),
        TableSpec(
            "recipes",
            f"Other recipes beside the paper's. Test {_NLL_K} with C classes and N examples of each in memory; "
            "differences are paired on the same targets",
            ("recipes",),
            frames.recipes,
            {
                "data": text_of("dataset"),
                "C": whole("classes"),
                "N": whole("shots"),
                "K": whole("num_samples"),
                "recipe": text_of("recipe"),
                **compared("the paper's recipe"),
                **MADE,
            },
        ),
        TableSpec(
            "choices",
            f"What the text leaves open: short runs for Table 1. Validation {_NLL}; differences to the "
            "control are paired on the same targets",
            ("choices",),
            frames.choices,
            {"variant": text_of("variant"), "K": whole("num_samples"), **compared("control"), **MADE},
        ),
        TableSpec(
            "tuning",
            f"How the suite's recipe was chosen: short runs, one change at a time. Validation {_NLL}, K = 4; "
            "differences to the control of the same training are paired on the same targets; 20-way 1-shot accuracy "
            "by q(a|x)",
            ("tuning",),
            frames.tuning,
            {
                "training": text_of("model", TUNED),
                "change": text_of("variant"),
                **compared("control"),
                "accuracy, %": value("accuracy", scale=100),
                **MADE,
            },
        ),
        TableSpec(
            "num-samples",
            f"What the text leaves open: K. Test {_NLL_K} of the few-shot model and the plain VAE on few-shot episodes",
            ("choices",),
            frames.num_samples,
            {"model": models_of, "K": whole("num_samples"), **compared("K = 4"), **MADE},
        ),
        TableSpec(
            "estimators",
            "Estimators of the gradient. Validation classes, Table 1's VMA; SNR: an update's signal to noise at "
            "VIMCO's or the shipped weights; differences are paired on the same targets",
            ("estimators",),
            estimators.frame,
            estimators.COLUMNS,
        ),
        TableSpec(
            OWN,
            "Models of your own: every cell. Log-quantities in nats per image",
            (),
            frames.own,
            {
                "model": models_of,
                "experiment": text_of("experiment"),
                "recipe": text_of("recipe"),
                "variant": lambda frame: [v if isinstance(v, str) else "" for v in frame.variant],
                "trained |M|": whole("train_memory_size"),
                "C": whole("classes"),
                "N": whole("shots"),
                "|M|": whole("memory_size"),
                "K": whole("num_samples"),
                "metric": lambda frame: [
                    f"{metric}, {rule}" if isinstance(rule, str) else metric
                    for metric, rule in zip(frame.metric, frame.rule, strict=True)
                ],
                "value": value("value", 3),
                **MADE,
            },
        ),
        TableSpec(
            "wallclock",
            "Time of an update against the size of memory, medians and quartiles over rounds",
            ("wallclock",),
            frames.wallclock,
            {
                "model": models,
                "K": whole("train_num_samples"),
                "|M|": whole("train_memory_size"),
                "gradient of": lambda frame: ["some entries" if v == SAMPLED else "every entry" for v in frame.variant],
                "ms an update": plain("seconds_per_update", 1, 1000),
                "quartiles": ends("q25", "q75", 1, 1000),
                "peak, MiB": plain("peak_bytes", 0, 2**-20),
                "rounds": whole("n"),
                "on": text_of("setting"),
                "seeds": whole("seeds"),
                **DIRTY,
            },
        ),
        TableSpec(
            "timing-ratios",
            "What exists for speed: ratios of times, medians and quartiles over interleaved runs",
            (),
            timing.ratios,
            timing.RATIOS,
        ),
        TableSpec(
            "timing-updates",
            "Time of an update by model, medians and quartiles over rounds",
            (),
            timing.updates,
            timing.UPDATES,
        ),
        TableSpec(
            "timing-evaluation",
            "Time of evaluating a target against K and the size of memory, medians and quartiles over rounds; the peak "
            "of memory is that of a process that does nothing else",
            (),
            timing.evaluations,
            timing.EVALUATIONS,
        ),
    )
}


def title(results: Results, name: str, frame: pd.DataFrame) -> str:
    """What stands above a table with this frame: what it shows, what its marks mean, and what its rows are of."""
    spec = TABLES[name]
    rows = results.rows[results.rows.experiment.isin(spec.experiments)]
    parts = [spec.title, "± standard error"] if spec.experiments not in ((), (TIMED,)) else [spec.title]
    if frame.dirty.any():
        parts.append("* made by code that differs from any commit")
    if results.smoke:
        parts.insert(0, "SMOKE RUN, NOT RESULTS")
    elif stand_ins(rows):
        parts.insert(0, f"NOT THE PAPER'S DATA ({', '.join(stand_ins(rows))})")
    if name == "estimators" and not results.smoke:
        parts.append(estimators.conclusions(frame).removesuffix("."))
    if name.startswith("table1"):
        for model, part in frame.groupby("model", sort=False):
            made = _made_by(part)
            of = f"{made['updates']} updates, seeds: {made['seeds']}, n = {part.n.max():,.0f}"
            parts.append(f"{label(str(model))}: {of}")
    for name, updates in sorted({began for one in rows.train_id.unique() if (began := results.began_from(one))}):
        parts.append(f"A run began from {name}, whose {updates:,} updates come before its own")
    return ". ".join(parts) + "."


def save(results: Results, folder: Path, name: str, recipe: str = "") -> list[Path]:
    """Write a table as NAME.md, NAME.tex and, its frame, as NAME.csv, NAME being followed by the recipe's suffix;
    return the paths, none if it has no line.

    Raises:
        InputError: if an artifact is damaged.
        OSError: if the folder cannot be written.
    """
    spec = TABLES[name]
    frame = spec.frame(results)
    if frame.empty or (recipe and not spec.experiments):  # times are of no recipe
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, content in contents(spec.grid(frame), frame, title(results, name, frame)).items():
        paths.append(folder / f"{name}{recipe}.{suffix}")
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def contents(grid: pd.DataFrame, frame: pd.DataFrame, title: str) -> dict[str, str]:
    """The files of a table by their suffix."""
    return {"md": markdown(grid, title), "tex": latex(grid, title), "csv": csv(frame)}


def _made_by(part: pd.DataFrame) -> dict[str, str]:
    updates = " and ".join(f"{u:,}" for u in sorted(part.updates.unique()))
    return {"updates": updates, "seeds": f"{part.seeds.min():.0f}", "": "*" if part.dirty.any() else ""}


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.0f}"


def csv(frame: pd.DataFrame) -> str:
    """A tidy frame as CSV, without the values of single seeds."""
    return frame.drop(columns=[c for c in frame if str(c).endswith(("_seeds", "seed_values"))]).to_csv(index=False)


def text(grid: pd.DataFrame, title: str) -> str:
    """A grid for the terminal."""
    widths = [max(len(str(v)) for v in (name, *grid.iloc[:, i])) for i, name in enumerate(grid.columns)]
    lines = [
        "  ".join(str(v).ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
        for line in (grid.columns, *grid.to_numpy())
    ]
    return "\n".join((title, *lines))


def markdown(grid: pd.DataFrame, title: str = "") -> str:
    """A grid as a Markdown table, under its title if it has one."""
    rows = (grid.columns, ["---"] * grid.shape[1], *grid.to_numpy())
    above = f"{title}\n\n" if title else ""
    return above + "".join("| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |\n" for row in rows)


def latex(grid: pd.DataFrame, title: str) -> str:
    """A grid as a LaTeX table (booktabs) with its title as the caption."""
    escaped = grid.map(_latex_text).rename(columns=_latex_text)
    return escaped.to_latex(index=False, caption=_latex_text(title))


def _latex_text(value: str) -> str:
    for old, new in (
        ("\\", r"\textbackslash "),
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("|M|", r"$|M|$"),
        ("±", r"$\pm$"),
    ):
        value = value.replace(old, new)
    return value
