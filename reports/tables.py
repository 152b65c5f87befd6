"""Tables: ours beside the paper's, from rows of results and results/paper.csv, as text, Markdown, CSV and LaTeX."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PAPER = Path(__file__).resolve().parents[1] / "results" / "paper.csv"
PAPERS_DATA = "omniglot_gmn"  # of Table 1
NAMES = {
    "vma": "VMA",
    "soft": "Soft attention",
    "vae": "Plain VAE",
    "gmn": "GMN, quoted (in total)",
}


def paper_numbers(path: Path = PAPER) -> pd.DataFrame:
    """Every number of the paper, one a row: id, where, model, metric, value, classes, shots, ...

    `value` is as printed (one is "sometimes"), `number` the same where it is a number.
    """
    paper = pd.read_csv(path)
    return paper.assign(number=pd.to_numeric(paper.value, errors="coerce"))


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
        difference = pd.Series(ours["nll"].astype(float) - theirs["nll"])
        sums = (difference - difference.mean()).groupby(ours["x_class"]).sum()
    stderr = (
        float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(difference)) if len(sums) > 1 else np.nan
    )
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
    for key, part in frame.groupby(keys, sort=True):
        values = part.drop_duplicates("metric", keep="last").set_index("metric")
        cells = [_value(values.value.get(m), values.stderr.get(m)) for m in ("nll", "kl_a", "kl_z")]
        lines.append([*(f"{k:.0f}" for k in key), *cells])
    return pd.DataFrame(lines, columns=["classes", "shots", "|M|", "K", "n", "updates", "NLL", "KL_a", "KL_z"])


def _value(value: float | None, stderr: float | None = None) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value:.1f}" if stderr is None or pd.isna(stderr) else f"{value:.1f} ± {stderr:.1f}"


def _signed(value: float, stderr: float | None = None) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:+.1f}" if stderr is None or pd.isna(stderr) else f"{value:+.1f} ± {stderr:.1f}"


def text(grid: pd.DataFrame, title: str) -> str:
    """A grid for the terminal."""
    widths = [max(len(str(v)) for v in (name, *grid.iloc[:, i])) for i, name in enumerate(grid.columns)]
    lines = [
        "  ".join(str(v).ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
        for line in (grid.columns, *grid.to_numpy())
    ]
    return "\n".join((title, *lines))


def markdown(grid: pd.DataFrame, title: str) -> str:
    """A grid as a Markdown table under its title."""
    rows = (grid.columns, ["---"] * grid.shape[1], *grid.to_numpy())
    return f"{title}\n\n" + "".join("| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |\n" for row in rows)


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
