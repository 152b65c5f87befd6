"""Generative Matching Networks: Table 1 with them, and their matching over training."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from reports.declared import declared
from reports.drawing import INK, grid_of_axes, is_comparable, legend_under, thousands
from reports.figures.spec import figure
from reports.gmn import ATTENTION, ICLR, LINES, LOGGED, OWN, PROTOCOLS, SEEN, SHOTS, VMA, frame
from reports.models import COLOURS, MODELS
from reports.results import GMN_VARIANTS, Results

STYLE: dict[str, dict[str, Any]] = {
    VMA: MODELS["vma"].style,
    LINES["vma", None, "gmn"]: {**MODELS["vma"].style, "linestyle": ":", "markerfacecolor": "white"},
    LINES["soft", None, "per_class"]: MODELS["soft"].style,
    OWN: MODELS["gmn"].style,
    LINES["gmn", "gmn-suite", "sequence"]: {**MODELS["gmn"].style, "color": COLOURS[5], "linestyle": "--"},
    LINES["gmn", "gmn-suite-skips", "sequence"]: {**MODELS["gmn"].style, "color": COLOURS[6], "linestyle": "-."},
}


@figure(
    "gmn",
    "Table 1 with GMN",
    "Test NLL (K = 1,000) against objects in memory, for 1, 2, 4 and 16 classes: GMN as published, its memory on VMA's "
    "networks without and with skip connections, VMA and soft attention. Above: GMN's protocol, objects in total, "
    "drawn with replacement, so that the target can be among them. Below: examples per class, the target not among "
    "them. 0 is without any object. Diamonds are the numbers of Table 1, crosses those of GMN's first text. Bars: "
    "standard errors.",
    "table1",
)
def figure_gmn(results: Results) -> Figure | None:
    """Table 1 under both protocols; None if no GMN was evaluated."""
    found = frame(results)
    if found.empty:
        return None
    found = found[found.targets == "all"]
    classes = sorted(found.classes.dropna().unique()) or list(declared("table1", "classes"))
    figure, axes = grid_of_axes(2, len(classes), 2.9 * len(classes), 7.1, sharex=True, sharey="row")
    for row, protocol in zip(axes, PROTOCOLS, strict=True):
        for axis, c in zip(row, classes, strict=True):
            _panel(axis, found, protocol, c, beside=is_comparable(results, "table1"))
        row[0].set_ylabel("test NLL, nats (lower is better)")
    for axis in axes[-1]:
        axis.set_xlabel("objects in memory")
    legend_under(figure, *axes.ravel())
    return figure


def _panel(axis: Axes, found: pd.DataFrame, protocol: str, classes: float, beside: bool) -> None:
    here = (found.protocol == protocol) & (found.classes == classes)
    for line, style in STYLE.items():
        part = found[(found.line == line) & (here | (found.shots == 0))]
        if part[part.shots > 0].empty:
            continue
        part = part.set_index("shots").reindex(SHOTS if (part.shots == 0).any() else SEEN)
        axis.errorbar(part.index, part.value, part.stderr, label=line, **style)
        numbers = part[part.quoted.notna()]
        if len(numbers):
            whose = f"{'GMN' if protocol == 'gmn' else 'VMA'} in Table 1"
            axis.plot(numbers.index, numbers.quoted, "D", color=INK, markerfacecolor="white", label=whose)
    for _, alone in found[found.line.str.startswith("Plain VAE")].iterrows():
        dashes = "-." if alone.line == "Plain VAE" else ":"
        axis.axhline(alone.value, color=MODELS["vae"].colour, linestyle=dashes, label=alone.line)
    if protocol == "gmn" and beside and classes in ICLR:
        text = ICLR[int(classes)]
        axis.plot(list(text), list(text.values()), "x", color=INK, label="GMN in its first text")
    axis.set_title(f"C = {classes:.0f}, {'objects in total' if protocol == 'gmn' else 'examples a class'}")
    axis.xaxis.set_major_locator(FixedLocator([0, 1, 2, 5, 10, 19]))


@figure(
    "gmn-matching",
    "GMN's matching over training",
    "Whether GMN's matching has begun, over training, on validation sequences of 10 objects: the mean strength of "
    "attention, the entropy of its weights, and by how much the NLL of a sequence's "
    "last object is below that of its first, which in the first updates says most of a pseudo-input that is new.",
    "table1",
)
def figure_matching(results: Results) -> Figure | None:
    """Strength, entropy and gain of each GMN's training; None without logs that have them."""
    rows = results.of("table1", model="gmn", variant=GMN_VARIANTS).drop_duplicates("train_id")
    logs = {}
    for _, row in rows.iterrows():
        log = results.training_log(row, also=[*LOGGED, "gain"])
        if log is not None and log.gain.notna().any():
            line = LINES[row.model, row.variant, row.train_protocol]
            logs[line, row.train_seed] = log[log.gain.notna()]
    if not logs:
        return None
    figure, axes = grid_of_axes(1, 3, 10.5, 3.8)
    for (line, _), log in logs.items():
        colour = STYLE[line]["color"]
        for axis, what in zip(axes[0], ("strength", "entropy"), strict=False):
            for of, dashes in zip(ATTENTION, ("-", "--", ":"), strict=True):
                label = f"{line}: {ATTENTION[of]}"
                axis.plot(log["update"], log[f"{what}_{of}"], color=colour, linestyle=dashes, label=label)
        axes[0][2].plot(log["update"], log.gain, color=colour)
    for axis, words in zip(axes[0], ("strength", "entropy, nats", "gain of the last object, nats"), strict=True):
        axis.set_ylabel(words)
        axis.set_xlabel("updates")
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    legend_under(figure, axes[0][0])
    return figure
