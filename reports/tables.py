"""Tables: ours beside the paper's, from rows of results and results/paper.csv, as text, Markdown, CSV and LaTeX."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports import estimators, frames, gmn, timing
from reports.results import SAMPLED, Results, select, stand_ins
from reports.results import paper_numbers as paper_numbers
from reports.statistics import clustered_stderr

PAPERS_DATA = "omniglot_gmn"  # of Table 1
RULES = {"address": "q(a|x)", "likelihood": "likelihood", "shifted": "likelihood, entries shifted too"}
NAMES = {
    "vma": "VMA",
    "soft": "Soft attention",
    "vae": "Plain VAE",
    "gmn": "GMN, quoted (in total)",
}


def table1(rows: Iterable[Mapping[str, Any]], paper: pd.DataFrame, protocol: str, artifacts: Path) -> pd.DataFrame:
    """Table 1 as a tidy frame: a line for each model, classes, shots and group of targets.

    Columns: model, targets, classes, shots, dataset, value, stderr, n, updates; paper and difference (ours minus the
    paper's); minus_vma and minus_vma_stderr (soft attention's NLL minus VMA's, from the per-target values in
    `artifacts` where both saw the same targets). All in nats. The paper's VMA figures stand beside ours on its data
    and under `per_class` only, the protocol that they follow as far as can be inferred; GMN's follow `gmn`.
    """
    frame = pd.DataFrame(list(rows)).astype({"classes": float, "shots": float})  # null for a model without memory
    ours = frame[(frame.metric == "nll") & frame.protocol.isin((protocol, "none"))]
    cell = ["model", "targets", "classes", "shots"]
    ours = ours.drop_duplicates(cell, keep="last")
    vma = ours[(ours.model == "vma") & (ours.targets == "all")].set_index(["classes", "shots"])
    soft = ours[(ours.model == "soft") & (ours.targets == "all")]
    paired = [
        {**{k: row[k] for k in cell}, **paired_difference(row, vma.loc[key], artifacts)}
        for _, row in soft.iterrows()
        if (key := (row.classes, row.shots)) in vma.index
    ]
    ours = ours[[*cell, "dataset", "value", "stderr", "n", "updates"]]
    if paired:
        ours = ours.merge(pd.DataFrame(paired), "left", cell)
    if protocol == "per_class" and (frame.dataset == PAPERS_DATA).all():
        published = paper[(paper["where"] == "Table 1") & (paper.model == "vma")].rename(columns={"number": "paper"})
        ours = ours.merge(published[["model", "classes", "shots", "paper"]], "left", ["model", "classes", "shots"])
        ours["difference"] = ours.value - ours.paper
    return ours.reset_index(drop=True)


def paired_difference(row: "pd.Series[Any]", reference: "pd.Series[Any]", artifacts: Path) -> dict[str, float]:
    """NLL of a row's cell minus that of another on the same targets: mean and standard error clustered by class, in
    nats.

    Nothing where the per-target values of either are not there, or their targets differ.
    """
    paths = [artifacts / f"{r.train_id}-{r.updates}-{r.eval_id}.npz" for r in (row, reference)]
    if not all(path.exists() for path in paths):
        return {}
    with np.load(paths[0], allow_pickle=False) as ours, np.load(paths[1], allow_pickle=False) as theirs:
        if not np.array_equal(ours["x_index"], theirs["x_index"]):
            return {}
        difference = ours["nll"].astype(float) - theirs["nll"]
        stderr = clustered_stderr(difference, ours["x_class"])
    return {"minus_vma": float(difference.mean()), "minus_vma_stderr": stderr}


def quoted_gmn(paper: pd.DataFrame) -> pd.DataFrame:
    """GMN's published rows of Table 1: classes as index, shots as columns."""
    gmn = paper[(paper["where"] == "Table 1") & (paper.model == "gmn")]
    gmn = gmn.astype({"classes": int, "shots": int})
    return gmn.pivot(index="classes", columns="shots", values="number")


def table1_grid(frame: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read: a line for each model, C and kind of figure, a column for each number of examples; all
    text.
    """
    shots = list(quoted_gmn(paper).columns)
    lines: list[list[str]] = []

    def add(model: str, classes: str, what: str, cells: list[str]) -> None:
        lines.append([model, classes, what, *cells])

    for model in ("vma", "soft"):
        for targets in ("all", "duplicated", "new"):
            part = frame[(frame.model == model) & (frame.targets == targets)]
            for classes, cells in part.groupby("classes"):
                by_shots = cells.set_index("shots").reindex(shots)
                name = NAMES[model] if targets == "all" else f"{NAMES[model]}, {targets}"
                add(
                    name,
                    f"{classes:.0f}",
                    "ours",
                    [_value(v, s) for v, s in zip(by_shots.value, by_shots.stderr, strict=True)],
                )
                if "paper" in cells and cells.paper.notna().any():
                    add("", "", "paper", [_value(v) for v in by_shots.paper])
                    add("", "", "ours - paper", [_signed(v) for v in by_shots.difference])
                if "minus_vma" in cells and cells.minus_vma.notna().any():
                    pairs = zip(by_shots.minus_vma, by_shots.minus_vma_stderr, strict=True)
                    add("", "", "ours - our VMA", [_signed(v, s) for v, s in pairs])
    quoted = quoted_gmn(paper) if (frame.dataset == PAPERS_DATA).all() else pd.DataFrame()
    for number, figures in quoted.iterrows():
        add(NAMES["gmn"], str(number), "paper", [_value(v) for v in figures.reindex(shots)])
    vae = frame[frame.model == "vae"]
    if len(vae):
        add(NAMES["vae"], "", "ours", [_value(vae.value.iloc[0], vae.stderr.iloc[0])] + [""] * (len(shots) - 1))
    return pd.DataFrame(lines, columns=["model", "C", "", *(f"{s:.0f}" for s in shots)])


def scaling_grid(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line for each evaluated number of classes: size of memory, NLL, KLs and the numbers behind them; all text."""
    frame = pd.DataFrame(list(rows))
    keys = ["classes", "shots", "memory_size", "num_samples", "n", "updates"]
    lines = []
    for key, part in frame.groupby(keys, sort=True, dropna=False):  # null for a model without memory
        values = part.drop_duplicates("metric", keep="last").set_index("metric")
        cells = [_value(values.value.get(m), values.stderr.get(m)) for m in ("nll", "kl_a", "kl_z")]
        lines.append([*(_count(k) for k in key), *cells])
    return pd.DataFrame(lines, columns=["classes", "shots", "|M|", "K", "n", "updates", "NLL", "KL_a", "KL_z"])


@dataclass(frozen=True)
class TableSpec:
    """A table: what it is called, the experiments that it is made of (none for what timing/ holds), its tidy frame and
    how that is read.
    """

    name: str
    title: str
    experiments: tuple[str, ...]
    frame: Callable[[Results], pd.DataFrame]
    grid: Callable[[pd.DataFrame], pd.DataFrame]


def recall_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each recipe, size of memory in training and at the test, and K."""
    columns = {
        "recipe": frame.recipe,
        "trained |M|": _whole(frame.train_memory_size),
        "|M|": _whole(frame.memory_size),
        "K": _whole(frame.num_samples),
        "NLL": _values(frame, "nll", 2),
        "log |M|": _plain(frame.log_m, 2),
        "paper": _plain(frame.paper, 2),
        "KL_a": _values(frame, "kl_a", 2),
        "KL_z": _values(frame, "kl_z", 2),
        "q(own entry)": _values(frame, "p_exact", 3),
    }
    return _grid(frame, columns)


def learned_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each model, number of entries, split and K; the paper's figure is of KL_a on MNIST, of NLL on
    Omniglot.
    """
    relation = frame.paper_relation.replace("=", "") if "paper_relation" in frame else ""
    columns = {
        "model": frame.model.map(NAMES),
        "L2": [f"{decay:g}" for decay in frame.weight_decay],
        "|M|": _whole(frame.memory_size),
        "split": frame.split,
        "K": _whole(frame.num_samples),
        "NLL": _values(frame, "nll"),
        "KL_a": _values(frame, "kl_a", 2),
        "paper": relation + pd.Series(_plain(frame.paper), frame.index) if "paper" in frame else "",
        "log |M|": _plain(frame.log_m, 2),
        "entropy of p(a)": _plain(frame.entropy_pa, 2),
        "KL_z": _values(frame, "kl_z"),
    }
    return _grid(frame, columns)


def fewshot_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each model, number of examples and K."""
    columns = {
        "model": _models(frame),
        "trained classes": _whole(frame.train_classes),
        "trained N": _whole(frame.train_shots),
        "C": _whole(frame.classes),
        "N": _whole(frame.shots),
        "K": _whole(frame.num_samples),
        "NLL": _values(frame, "nll"),
        "paper": _plain(frame.paper),
        "KL_a": _values(frame, "kl_a", 2),
        "KL_z": _values(frame, "kl_z"),
    }
    return _grid(frame, columns)


def excess_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each model, number of examples, K and number of classes."""
    columns = {
        "model": _models(frame),
        "trained classes": _whole(frame.train_classes),
        "N": _whole(frame.shots),
        "K": _whole(frame.num_samples),
        "C": _whole(frame.classes),
        "|M|": _whole(frame.memory_size),
        "NLL": _values(frame, "nll"),
        "optimum": _plain(frame.optimum),
        "NLL - optimum": _differences(frame, "excess"),
        "95 % interval": _intervals(frame, "excess"),
        "KL_a": _values(frame, "kl_a", 2),
    }
    return _grid(frame, columns)


def shots_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each K and number of examples, a column for each training; the plain VAE is at 0."""
    lines = []
    trained = [int(n) for n in sorted(frame.train_shots.dropna().unique())]
    for (num_samples, n), part in frame.groupby(["num_samples", "shots"]):
        line = {"K": f"{num_samples:,.0f}", "N": f"{n:.0f}"}
        for name, seen in [(f"trained with {n}", select(part, train_shots=n)) for n in trained]:
            line[name] = next(iter(_values(seen, "nll")), "-" if n else "")
        alone = part[part.model == "vae"]
        line["plain VAE"] = next(iter(_values(alone, "nll")), "")
        line["paper"] = next(iter(_plain(alone.paper)), "")
        lines.append({**line, "n": f"{part.n.min():.0f}", **_made_by(part)})
    return pd.DataFrame(lines)


def classification_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each setting and rule, in percent."""
    percent = frame.assign(**{c: 100 * frame[c] for c in ("accuracy", "accuracy_stderr", "low", "high", "paper")})
    columns = {
        "classes": _whole(frame.classes),
        "shots": _whole(frame.shots),
        "rule": frame.rule.map(RULES),
        "accuracy, %": _values(percent, "accuracy"),
        "95 % interval": [_interval(low, high) for low, high in zip(percent.low, percent.high, strict=True)],
        "paper, %": _plain(percent.paper, 0),
    }
    return _grid(frame, columns)


def ablations_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant and K."""
    columns = {
        "variant": frame.variant,
        "K": _whole(frame.num_samples),
        **_compared(frame, "control"),
        "the paper says": frame.paper,
    }
    return _grid(frame, columns)


def recipes_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each data set, memory, K and recipe."""
    columns = {
        "data": frame.dataset,
        "C": _whole(frame.classes),
        "N": _whole(frame.shots),
        "K": _whole(frame.num_samples),
        "recipe": frame.recipe,
        **_compared(frame, "the paper's recipe"),
    }
    return _grid(frame, columns)


def choices_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant."""
    columns = {
        "variant": frame.variant,
        "K": _whole(frame.num_samples),
        **_compared(frame, "control"),
    }
    return _grid(frame, columns)


def num_samples_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each model and K."""
    columns = {
        "model": frame.model.map(NAMES),
        "K": _whole(frame.num_samples),
        **_compared(frame, "K = 4"),
    }
    return _grid(frame, columns)


def _compared(frame: pd.DataFrame, other: str) -> dict[str, list[str]]:
    """Columns of a bound and of its paired difference to another."""
    return {
        "NLL": _values(frame, "nll"),
        f"minus {other}": _differences(frame, "difference", 2),
        "95 % interval": _intervals(frame, "difference", 2),
        "KL_a": _values(frame, "kl_a", 2),
        "KL_z": _values(frame, "kl_z"),
    }


def wallclock_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """A line for each model, K, size of memory and machine; milliseconds, and mebibytes at the peak."""
    in_ms = [_plain(1000 * frame[name], 1) for name in ("q25", "q75")]
    columns = {
        "model": _models(frame),
        "K": _whole(frame.train_num_samples),
        "|M|": _whole(frame.train_memory_size),
        "gradient of": ["some entries" if variant == SAMPLED else "every entry" for variant in frame.variant],
        "ms an update": _plain(1000 * frame.seconds_per_update, 1),
        "quartiles": [f"{low} to {high}" for low, high in zip(*in_ms, strict=True)],
        "peak, MiB": _plain(frame.peak_bytes / 2**20, 0),
        "rounds": _whole(frame.n),
        "on": frame.setting,
    }
    return pd.DataFrame({**columns, "seeds": _whole(frame.seeds), "": ["*" if d else "" for d in frame.dirty]})


def _table1(protocol: str, train_protocol: str = "per_class") -> dict[str, Any]:
    return {
        "experiments": ("table1",),
        "frame": partial(frames.table1, protocol=protocol, train_protocol=train_protocol),
        "grid": partial(table1_grid, paper=paper_numbers()),
    }


_NLL = "NLL in nats (lower is better)"
TABLES = {
    spec.name: spec
    for spec in (
        TableSpec(
            "table1",
            f"Table 1. Test {_NLL}, K = 1,000, against classes C and examples per class in memory",
            **_table1("per_class"),
        ),
        TableSpec(
            "table1-gmn",
            f"Table 1 under the GMN protocol. Test {_NLL}, K = 1,000, against classes C and examples in total in "
            "memory, targets that are duplicated there apart",
            **_table1("gmn"),
        ),
        TableSpec(
            "table1-gmn-trained",
            f"Table 1 under the GMN protocol, VMA having been trained under it too. Test {_NLL}, K = 1,000, against "
            "classes C and examples in total in memory",
            **_table1("gmn", "gmn"),
        ),
        TableSpec("gmn", gmn.TABLE, ("table1",), gmn.frame, gmn.grid),
        TableSpec(
            "recall",
            f"Train to recall (Figure 2A). {_NLL}; an optimal lookup has NLL and KL_a of log |M|",
            ("recall",),
            frames.recall,
            recall_grid,
        ),
        TableSpec(
            "learned-mnist",
            f"Learned memory on binarised MNIST. {_NLL}; the paper's figure is of KL_a, +- 0.3",
            ("learned-mnist",),
            frames.learned_mnist,
            learned_grid,
        ),
        TableSpec(
            "learned-omniglot",
            f"Learned memory on 28x28 Omniglot. {_NLL}; the paper's figure is of NLL",
            ("learned-omniglot",),
            frames.learned_omniglot,
            learned_grid,
        ),
        TableSpec(
            "fewshot",
            f"Few-shot learning (Figure 4B). Test {_NLL} against N examples of each of C classes in memory; the paper "
            "prints the values at its fewest and its most examples, not their N",
            ("fewshot",),
            frames.fewshot,
            fewshot_grid,
        ),
        TableSpec(
            "scaling",
            f"More classes in memory (Figure 5A). Test {_NLL}; the optimum is VMA's NLL with one class in memory + "
            "log C, the difference is paired on the same targets, and VMA's in the paper is about 0",
            ("scaling",),
            frames.scaling,
            excess_grid,
        ),
        TableSpec(
            "shots",
            f"More examples in memory (Figure 5B). Test {_NLL} against N examples of each of all test classes",
            ("shots",),
            frames.shots,
            shots_grid,
        ),
        TableSpec(
            "classification",
            "Few-shot classification without fine-tuning",
            ("classification",),
            frames.classification,
            classification_grid,
        ),
        TableSpec(
            "ablations",
            f"Ablations. Test {_NLL}; differences to the control are paired on the same targets",
            ("ablations",),
            frames.ablations,
            ablations_grid,
        ),
        TableSpec(
            "recipes",
            f"Other recipes beside the paper's. Test {_NLL} with C classes and N examples of each in memory; "
            "differences are paired on the same targets",
            ("recipes",),
            frames.recipes,
            recipes_grid,
        ),
        TableSpec(
            "choices",
            f"What the text leaves open: short runs for Table 1. Validation {_NLL}; differences to the "
            "control are paired on the same targets",
            ("choices",),
            frames.choices,
            choices_grid,
        ),
        TableSpec(
            "num-samples",
            f"What the text leaves open: K. Test {_NLL} of the few-shot model and the plain VAE on few-shot episodes",
            ("choices",),
            frames.num_samples,
            num_samples_grid,
        ),
        TableSpec(
            "estimators",
            "Estimators of the gradient. Validation classes, Table 1's VMA; SNR: an update's signal to noise at "
            "VIMCO's or the shipped weights; differences are paired on the same targets",
            ("estimators",),
            estimators.frame,
            estimators.grid,
        ),
        TableSpec(
            "wallclock",
            "Time of an update against the size of memory, medians and quartiles over rounds",
            ("wallclock",),
            frames.wallclock,
            wallclock_grid,
        ),
        TableSpec(
            "timing-ratios",
            "How much faster what exists for speed is, medians and quartiles over rounds in which both took turns",
            (),
            timing.ratios,
            timing.ratios_grid,
        ),
        TableSpec(
            "timing-updates",
            "Time of an update by model, medians and quartiles over rounds",
            (),
            timing.updates,
            timing.updates_grid,
        ),
        TableSpec(
            "timing-evaluation",
            "Time of evaluating a target against K and the size of memory, medians and quartiles over rounds; the peak "
            "of memory is that of a process that does nothing else",
            (),
            timing.evaluations,
            timing.evaluations_grid,
        ),
    )
}


def title(results: Results, name: str, frame: pd.DataFrame) -> str:
    """What stands above a table with this frame: what it shows, what its marks mean, and what its rows are of."""
    spec = TABLES[name]
    rows = results.rows[results.rows.experiment.isin(spec.experiments)]
    parts = [spec.title, "± standard error"] if spec.experiments else [spec.title]
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
            parts.append(
                f"{NAMES[str(model)]}: {made['updates']} updates, seeds: {made['seeds']}, n = {part.n.max():,.0f}"
            )
    return ". ".join(parts) + "."


def save(results: Results, folder: Path, name: str) -> list[Path]:
    """Write a table as NAME.md, NAME.tex and, its frame, as NAME.csv; return the paths, none if it has no line.

    Raises:
        InputError: if an artifact is damaged.
        OSError: if the folder cannot be written.
    """
    spec = TABLES[name]
    frame = spec.frame(results)
    if frame.empty:
        return []
    grid = spec.grid(frame)
    folder.mkdir(parents=True, exist_ok=True)
    above = title(results, name, frame)
    contents = {
        "md": markdown(grid, above),
        "tex": latex(grid, above),
        "csv": frame.drop(columns=[c for c in frame if str(c).endswith(("_seeds", "seed_values"))]).to_csv(index=False),
    }
    paths = []
    for suffix, content in contents.items():
        paths.append(folder / f"{name}.{suffix}")
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def _grid(frame: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The columns, all text, and what the numbers rest on."""
    made = {"n": _whole(frame.n), "updates": _whole(frame.updates), "seeds": _whole(frame.seeds)}
    marks = ["*" if dirty else "" for dirty in frame.dirty]
    return pd.DataFrame({**columns, **made, "": marks}).reset_index(drop=True)


def _made_by(part: pd.DataFrame) -> dict[str, str]:
    updates = " and ".join(f"{u:,}" for u in sorted(part.updates.unique()))
    return {"updates": updates, "seeds": f"{part.seeds.min():.0f}", "": "*" if part.dirty.any() else ""}


def _models(frame: pd.DataFrame) -> list[str]:
    reads = frame["read"]
    return [
        NAMES[model] + (f" ({read})" if isinstance(read, str) else "")
        for model, read in zip(frame.model, reads, strict=True)
    ]


def _values(frame: pd.DataFrame, metric: str, digits: int = 1) -> list[str]:
    return [_value(v, s, digits) for v, s in zip(frame[metric], frame[f"{metric}_stderr"], strict=True)]


def _differences(frame: pd.DataFrame, name: str, digits: int = 1) -> list[str]:
    return [_signed(v, s, digits) for v, s in zip(frame[name], frame[f"{name}_stderr"], strict=True)]


def _intervals(frame: pd.DataFrame, name: str, digits: int = 1) -> list[str]:
    ends = zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [_interval(low, high, digits) for low, high in ends]


def _interval(low: float, high: float, digits: int = 1) -> str:
    return "" if pd.isna(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def _whole(numbers: "pd.Series[Any]") -> list[str]:
    return ["" if pd.isna(number) else f"{number:,.0f}" for number in numbers]


def _plain(numbers: "pd.Series[Any]", digits: int = 1) -> list[str]:
    return ["" if pd.isna(number) else f"{number:.{digits}f}" for number in numbers]


def _count(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.0f}"


def _value(value: float | None, stderr: float | None = None, digits: int = 1) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if stderr is None or pd.isna(stderr) else f" ± {stderr:.{digits}f}")


def _signed(value: float, stderr: float | None = None, digits: int = 1) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:+.{digits}f}" + ("" if stderr is None or pd.isna(stderr) else f" ± {stderr:.{digits}f}")


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
