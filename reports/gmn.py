"""Generative Matching Networks, trained here: Table 1 with them beside VMA and soft attention."""

import numpy as np
import pandas as pd

from reports.aggregate import differences, seed_means
from reports.columns import number, value
from reports.declared import declared
from reports.drawing import is_comparable
from reports.results import Results

# Lines of the table and the figure, by model, variant and protocol of training; None stands for null and for any.
LINES: dict[tuple[str, str | None, str | None], str] = {
    ("vma", None, "per_class"): "VMA",
    ("vma", None, "gmn"): "VMA, trained under protocol gmn",
    ("soft", None, "per_class"): "Soft attention (features)",
    ("gmn", "gmn-own", "sequence"): "GMN",
    ("gmn", "gmn-suite", "sequence"): "GMN's memory on VMA's networks",
    ("gmn", "gmn-suite-skips", "sequence"): "the same with skip connections",
    ("vae", None, "none"): "Plain VAE",
    ("vae", "gmn-vae", "none"): "Plain VAE of GMN's networks",
}
VMA, OWN = LINES["vma", None, "per_class"], LINES["gmn", "gmn-own", "sequence"]
TRAINED = "train_protocol"
PROTOCOLS = ("gmn", "per_class")
SEEN = declared("table1", "shots")
SHOTS = (0, *SEEN)
# NLL against objects in memory of GMN's first text (arXiv 1612.02192, trained on 2 classes), by classes at the test.
ICLR = {
    1: {0: 89.3, 1: 83.4, 2: 79.6, 3: 77.2, 4: 75.3, 9: 66.7},
    2: {0: 89.2, 1: 86.6, 2: 85.0, 3: 83.5, 4: 81.6, 9: 75.9},
    4: {0: 88.8, 1: 88.0, 2: 87.9, 3: 86.6, 4: 85.6, 9: 82.5},
}
KEYS = ["line", "protocol", "targets", "classes", "shots"]
ATTENTION = {"q": "q(z|x, X)", "x": "p(x|z, X)", "z": "p(z|X)"}
LOGGED = [f"{what}_{of}" for what in ("strength", "entropy") for of in ATTENTION]


def frame(results: Results) -> pd.DataFrame:
    """A line for each line of LINES, protocol, group of targets, number of classes and of objects or examples.

    Columns: KEYS; value, stderr, n, updates, seeds, dirty; minus_vma and minus_vma_stderr, the difference to VMA on the
    same targets; quoted, the number of the text whose table this is. Without objects, shots is 0 and classes and
    protocol are null. Empty if no GMN was evaluated.
    """
    rows = results.of("table1", metric="nll")
    if not (rows.model == "gmn").any():
        return pd.DataFrame(columns=[*KEYS, "dirty"])
    named = pd.DataFrame([(*key, line) for key, line in LINES.items()], columns=["model", "variant", TRAINED, "line"])
    rows = rows.merge(named, on=["model", "variant", TRAINED])
    rows = rows[rows.protocol.isin(PROTOCOLS) | (rows.targets == "all")]
    alone = rows.protocol == "none"
    rows = rows.assign(shots=rows.shots.mask(alone, 0))
    found = seed_means(rows).merge(named, on=["model", "variant", TRAINED])
    found = found[[*KEYS, "value", "stderr", "n", "updates", "seeds", "dirty", "seed_values"]]
    paired = differences(results, rows[(rows.targets == "all") & ~alone], KEYS, {"line": VMA})
    paired = paired[paired.line != VMA].rename(columns=lambda name: name.replace("difference", "minus_vma"))
    paired = paired[[*KEYS, "minus_vma", "minus_vma_stderr"]].astype(found[KEYS].dtypes.to_dict())
    found = found.merge(paired, "left", KEYS)
    numbers = quoted(results)
    cells = zip(found.line, found.protocol, found.targets, found.classes, found.shots, strict=True)
    values = [
        numbers.get((protocol, classes, shots), np.nan)
        if targets == "all" and line == {"gmn": OWN, "per_class": VMA}.get(protocol)
        else np.nan
        for line, protocol, targets, classes, shots in cells
    ]
    order = {line: place for place, line in enumerate(LINES.values())}
    places = found.assign(quoted=values, place=found.line.map(order), group=found.targets.ne("all"))
    return places.sort_values(["protocol", "classes", "place", "group", "targets", "shots"], ignore_index=True).drop(
        columns=["place", "group"]
    )


def quoted(results: Results) -> dict[tuple[str, float, float], float]:
    """Table 1's numbers by protocol, classes and shots: VMA's follow per_class, GMN's gmn. None beside smoke runs."""
    if not is_comparable(results, "table1"):
        return {}
    paper = results.paper[results.paper["where"] == "Table 1"]
    protocols = paper.model.map({"vma": "per_class", "gmn": "gmn"})
    return dict(zip(zip(protocols, paper.classes, paper.shots, strict=True), paper.number, strict=True))


def grid(found: pd.DataFrame) -> pd.DataFrame:
    """A line for each protocol, C, model and group of targets, a column for each number of objects; all text."""
    lines = []
    nothing = found[found.shots == 0].set_index("line")
    for protocol in PROTOCOLS:
        for classes in sorted(found.classes.dropna().unique()):
            part = found[(found.protocol == protocol) & (found.classes == classes)]
            for (line, targets), cells in part.groupby(["line", "targets"], sort=False):
                first = nothing.loc[[line]].iloc[0] if targets == "all" and line in nothing.index else None
                name = line if targets == "all" else f"{line}, {targets}"
                by_shots = cells.set_index("shots").reindex(SEEN)
                texts = [number(v, s) for v, s in zip(by_shots.value, by_shots.stderr, strict=True)]
                before = "" if first is None else number(first.value, first.stderr)
                lines.append([protocol, f"{classes:.0f}", name, before, *texts, *_made_by(cells)])
                if cells.minus_vma.notna().any():
                    lines.append(["", "", "minus VMA", "", *value("minus_vma", sign="+")(by_shots), *[""] * 4])
                if cells.quoted.notna().any():
                    lines.append(["", "", "quoted in Table 1", "", *map(number, by_shots.quoted), *[""] * 4])
                    if protocol == "gmn" and classes in ICLR:
                        own = [number(ICLR[int(classes)].get(n)) for n in SHOTS]
                        lines.append(["", "", "in GMN's first text", *own, *[""] * 4])
    alone = found[found.line.str.startswith("Plain VAE")]
    for _, row in alone.iterrows():
        made = _made_by(alone.loc[[row.name]])
        lines.append(["none", "", row.line, number(row.value, row.stderr), *[""] * len(SEEN), *made])
    columns = ["protocol", "C", "model", *(f"{n}" for n in SHOTS), "n", "updates", "seeds", ""]
    return pd.DataFrame(lines, columns=columns)


def _made_by(cells: pd.DataFrame) -> list[str]:
    mark = "*" if cells.dirty.any() else ""
    return [f"{cells.n.min():,.0f}", f"{cells.updates.max():,.0f}", f"{cells.seeds.min():.0f}", mark]


TABLE = (
    "Table 1 with Generative Matching Networks trained here. Test NLL in nats (lower is better), K = 1,000, against "
    "objects in memory: in total under protocol gmn, of each of C classes under per_class; targets that are duplicated "
    "in memory apart"
)
