"""Figures: each experiment drawn from its frame and its arrays, beside the paper's values and what theory says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from reports import estimators, frames, gmn
from reports.drawing import (
    COLOURS,
    DASHES,
    INK,
    NAMES,
    PALE,
    PAPER,
    STYLE,
    STYLES,
    THEORY,
    Image,
    annotate,
    band,
    first_artifact,
    grid_of_axes,
    is_comparable,
    legend_below,
    legend_under,
    line_style,
    model_key,
    one_axis,
    picture,
    places,
    plain_log_axis,
    points,
    recipe_name,
    sizes_axis,
    thousands,
    tiled,
    with_gaps,
)
from reports.drawing import save as save
from reports.frames import number
from reports.results import (
    CELLS,
    FEWSHOT_SHOTS,
    LEARNED_MNIST_ENTRIES,
    MEMORY_SIZES,
    SAMPLED,
    SCALING_CLASSES,
    TABLE1_SHOTS,
    WALLCLOCK_SIZES,
    Results,
    missing_cells,
    select,
)

Draw = Callable[[Results], Figure | None]

TRAINING_WINDOW = 10  # lines of a training log, each the mean over 100 updates

VARIANT_NAMES = {
    "control": "control",
    "flat-prior": "flat prior p(a)",
    "inner": "inner product",
    "cosine": "cosine",
    "tied": "tied embeddings",
    "geometric": "geometric leave-one-out",
    "classes32": "32 classes a minibatch",
    "lr1e-4": "learning rate 1e-4",
}


@dataclass(frozen=True)
class FigureSpec:
    """A figure: what it is called, what it shows, the experiments that it is made of, and what draws it."""

    name: str
    title: str
    caption: str
    experiments: tuple[str, ...]
    draw: Draw


FIGURES: dict[str, FigureSpec] = {}


def _figure(name: str, title: str, caption: str, *experiments: str) -> Callable[[Draw], Draw]:
    """Enter a function into FIGURES; what it draws gets the common style, notes and, of smoke runs, the watermark."""

    def enter(draw: Draw) -> Draw:
        @wraps(draw)
        def whole(results: Results) -> Figure | None:
            with mpl.rc_context(STYLE):
                figure = draw(results)
                if figure is not None:
                    annotate(figure, results, experiments)
            return figure

        FIGURES[name] = FigureSpec(name, title, caption, experiments, whole)
        return whole

    return enter


def missing(results: Results, name: str) -> list[str]:
    """The declared cells that a figure lacks, in words: they are gaps in it."""
    return [line for experiment in FIGURES[name].experiments for line in missing_cells(results, experiment)]


@_figure(
    "2a",
    "Figure 2A: train to recall",
    "Above: learning curves (training digits) of the models with 256 entries in memory: |M| from the start at the "
    "paper's learning rate of 3e-4, and a memory that has 64 entries for 6,000 updates first (log 64 = 4.16), at 1e-3. "
    "Below: what is left at the end for each size of memory, on test digits (K = 4; q of the target's own entry over "
    "all targets). An optimal lookup has NLL = KL_a = log |M| (dashed) and KL_z = 0. Large hollow marks: the models "
    "with 256 entries, tested with 2,048. At a constant rate the NLL swings by several nats between updates.",
    "recall",
)
def figure_2a(results: Results) -> Figure | None:
    frame = frames.recall(results)
    if frame.empty:
        return None
    frame = frame[frame.num_samples == frame.num_samples.min()]
    same = frame.train_memory_size == frame.memory_size
    own, other = frame[same], frame[~same]
    recipes = list(frame.recipe.unique())
    figure, axes = grid_of_axes(2, 2, 9.6, 7.0)
    size = 256 if (own.train_memory_size == 256).any() else own.train_memory_size.median()
    for axis, recipe in zip(axes[0], [*recipes, None], strict=False):
        if recipe is not None:
            _recall_curves(axis, results, recipe, size)
            axis.set_title(f"{recipe_name(recipe)}, |M| = {size:.0f}")
    for axis in axes[0][len(recipes) :]:
        axis.set_axis_off()
    ends, exact = axes[1]
    sizes = places(results, frame.memory_size, MEMORY_SIZES)
    for recipe, dashes, marker in zip(recipes, ("-", (0, (4, 1.5))), ("o", "s"), strict=False):
        part, moved = with_gaps(own[own.recipe == recipe], "memory_size", sizes), other[other.recipe == recipe]
        for axis, metric in ((ends, "kl_a"), (exact, "p_exact")):
            style = {**STYLES["vma"], "linestyle": dashes, "marker": marker}
            points(axis, part.memory_size, part, metric, label=recipe_name(recipe), **style)
            large = {"linestyle": "none", "fillstyle": "none", "markersize": 11}
            label = f"the same, trained with {size:.0f} and tested with more"
            if len(moved):
                points(axis, moved.memory_size, moved, metric, label=label, **{**style, **large})
    ends.plot(sizes, np.log(sizes), label="log |M|", **THEORY)
    exact.axhline(1, **THEORY)
    for axis, label in ((ends, "KL(q(a|x) || p(a)), nats"), (exact, "q(own entry | x)")):
        sizes_axis(axis, sizes, "entries in memory |M|")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    exact.set_xlim(ends.get_xlim())
    ends.set_title("KL_a at the end")
    exact.set_title("probability of the exact entry")
    ends.legend()
    return figure


def _recall_curves(axis: Axes, results: Results, recipe: str, size: float) -> None:
    rows = results.of("recall", recipe=recipe, train_memory_size=size, metric="nll")
    curves = (("NLL", "bound", "-", INK), ("KL_a", "kl_a", "-", COLOURS[0]), ("KL_z", "kl_z", ":", COLOURS[9]))
    for i, (_, row) in enumerate(rows.drop_duplicates("train_id").iterrows()):
        log = results.training_log(row)
        if log is None or log.empty:
            continue
        for label, column, dashes, colour in curves:
            values = -log[column] if column == "bound" else log[column]
            axis.plot(log["update"], values.clip(lower=0.01), dashes, color=colour, label=label if i == 0 else None)
    if not axis.lines:
        axis.text(0.5, 0.5, "no line in the training log", transform=axis.transAxes, ha="center", color=PALE)
    axis.axhline(np.log(size), label=f"log {size:.0f} = {np.log(size):.2f}", **THEORY)
    plain_log_axis(axis)
    axis.set_xlabel("updates")
    axis.set_ylabel("nats per image (training, K = 4)")
    axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    axis.legend()


@_figure(
    "2b",
    "Figure 2B: samples from a learned memory",
    "Bernoulli means of samples from the model with a learned memory on binarised MNIST: one row for each entry m_a, "
    "the likeliest under p(a) first; z is drawn anew in each column.",
    "learned-mnist",
)
def figure_2b(results: Results) -> Figure | None:
    rows = results.of("learned-mnist", model="vma", metric="nll").sort_values(["split", "num_samples"])
    sizes = sorted(rows.memory_size.unique())
    if not sizes:
        return None
    size = 256 if 256 in sizes else sizes[len(sizes) // 2]
    found = first_artifact(results, rows[rows.memory_size == size])
    if found is None or "sample_means" not in found:
        return None
    means, addresses = found["sample_means"], found["sample_addresses"]
    p = np.exp(found["log_pa"].astype(float))[addresses]
    figure, axis = one_axis(1 + 0.42 * means.shape[1], 0.7 + 0.42 * len(means))
    pitch = means.shape[2] + 2
    axis.imshow(tiled(means / 255), interpolation="nearest", vmin=0, vmax=1)
    axis.set_yticks(pitch * np.arange(len(means)) + pitch / 2, [f"{value:.3f}" for value in p])
    axis.set_xticks([])
    axis.grid(False)
    axis.set_frame_on(False)
    axis.tick_params(length=0)
    axis.set_ylabel("p(a) of the row's entry")
    axis.set_xlabel("samples")
    axis.set_title(f"learned memory, |M| = {size:.0f}")
    return figure


@_figure(
    "learned-mnist",
    "Learned memory on binarised MNIST",
    "Left: KL_a on training and test images, and the entropy of p(a), against the number of learned entries; the band "
    "is the paper's 2.5 +- 0.3 for all sizes, on both sets. Right: NLL beside the plain VAE's. Bars: standard errors.",
    "learned-mnist",
)
def learned_mnist(results: Results) -> Figure | None:
    frame = frames.learned_mnist(results)
    if frame.empty:
        return None
    figure, axes = grid_of_axes(1, 2, 9.6, 4.6)
    low = frame[frame.num_samples == frame.num_samples.min()]
    sizes = places(results, frame.memory_size, LEARNED_MNIST_ENTRIES)
    _learned_kls(axes[0][0], low[low.model == "vma"], sizes)
    if is_comparable(results, "learned-mnist"):
        axes[0][0].axhspan(2.2, 2.8, color=PALE, alpha=0.3, linewidth=0, label="the paper's KL_a, 2.5 ± 0.3")
    legend_below(axes[0][0])
    _learned_nll(axes[0][1], frame, sizes)
    legend_below(axes[0][1])
    return figure


@_figure(
    "learned-omniglot",
    "Learned memory on 28x28 Omniglot",
    "Left: KL_a against the number of learned entries; the paper's 'typically approaches log |M|' (dashed). Middle: "
    "NLL without regularisation; the paper's is below 80 on the training set and above 150 on the test set with 2,048 "
    "entries. Right: 256 entries, 32 maps, 3e-4 L2, K = 5,000, on the test set, with what the paper has and quotes. "
    "Bars: standard errors.",
    "learned-omniglot",
)
def learned_omniglot(results: Results) -> Figure | None:
    frame = frames.learned_omniglot(results)
    if frame.empty:
        return None
    figure, axes = grid_of_axes(1, 3, 12.5, 5.0, width_ratios=(1, 1, 0.62))
    kls, nll, small = axes[0]
    free, regularised = frame[frame.weight_decay == 0], frame[frame.weight_decay > 0]
    low = free[(free.model == "vma") & (free.num_samples == frame.num_samples.min())]
    sizes = places(results, free.memory_size, MEMORY_SIZES)
    _learned_kls(kls, low, sizes)
    legend_below(kls)
    _learned_nll(nll, free, sizes)
    if is_comparable(results, "learned-omniglot"):
        size = max(MEMORY_SIZES)
        for split, marker, word in (("train", "v", "< 80 (train)"), ("test", "^", "> 150 (test)")):
            value = number(results, f"learned-omniglot.{split}")
            nll.plot([size], [value], **{**PAPER, "marker": marker, "markersize": 8})
            nll.annotate(word, (size, value), (8, 0), textcoords="offset points", va="center", fontsize=9)
        nll.plot([], [], label="the paper's", **{**PAPER, "marker": "v"})
        nll.set_xlim(right=3.2 * size)  # room for the words beside the marks
    legend_below(nll)
    nll.set_title("no regularisation")
    _regularised(small, results, regularised)
    return figure


def _learned_kls(axis: Axes, frame: pd.DataFrame, sizes: Sequence[float]) -> None:
    for split, part in frame.groupby("split", sort=False):
        part = with_gaps(part, "memory_size", sizes)
        face = {} if split == "test" else {"markerfacecolor": "white", "linestyle": (0, (4, 1.5))}
        points(axis, part.memory_size, part, "kl_a", label=f"KL_a, {split}", **{**STYLES["vma"], **face})
    # the same on both sets: it is of the memory alone
    entropy = with_gaps(frame.drop_duplicates("memory_size"), "memory_size", sizes)
    axis.plot(entropy.memory_size, entropy.entropy_pa, ":", color=COLOURS[9], marker="x", label="entropy of p(a)")
    axis.plot(sizes, np.log(sizes), label="log |M|", **THEORY)
    sizes_axis(axis, sizes, "learned entries |M|")
    axis.set_ylabel("nats")
    axis.set_ylim(bottom=0)
    axis.set_title("use of the memory")


def _learned_nll(axis: Axes, frame: pd.DataFrame, sizes: Sequence[float]) -> None:
    few = frame.num_samples.min()
    sides = frame[["split", "num_samples"]].drop_duplicates().sort_values(["num_samples", "split"])
    for split, k in sides.itertuples(index=False, name=None):
        part = frame[(frame.split == split) & (frame.num_samples == k)]
        dashes = (0, (4, 1.5)) if split == "train" else "-" if k == few else ":"
        face = {"markerfacecolor": "white"} if split == "train" else {}
        label = f"{split}, K = {k:,}"
        ours = with_gaps(part[part.model == "vma"], "memory_size", sizes)
        style = {**STYLES["vma"], "linestyle": dashes, **face}
        points(axis, ours.memory_size, ours, "nll", label=f"VMA, {label}", **style)
        for _, alone in part[part.model == "vae"].iterrows():
            axis.axhline(alone.nll, color=STYLES["vae"]["color"], linestyle=dashes, label=f"plain VAE, {label}")
    sizes_axis(axis, sizes, "learned entries |M|")
    axis.set_ylabel("NLL, nats (lower is better)")
    axis.set_title("negative log-likelihood")


def _regularised(axis: Axes, results: Results, frame: pd.DataFrame) -> None:
    frame = frame[frame.num_samples == frame.num_samples.max()] if len(frame) else frame
    for x, model in enumerate(("vma", "vae")):
        part = frame[frame.model == model]
        points(axis, pd.Series(x, part.index), part, "nll", **{**STYLES[model], "linestyle": "none", "markersize": 8})
    if is_comparable(results, "learned-omniglot"):
        marks = (
            ("regularised", "the paper's", "D", 6),
            ("iwae", "two-layer IWAE", "_", -6),
            ("rbm", "best RBM", "_", 0),
        )
        for key, word, marker, up in marks:
            value = number(results, f"learned-omniglot.{key}")
            axis.plot([0], [value], **{**PAPER, "marker": marker})
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
            axis.annotate(f"{word}, {value:.4g}", (0, value), (9, up), **beside)
    axis.set_xlim(-0.5, 1.5)
    axis.set_xticks([0, 1], ["VMA", "plain VAE"])
    axis.set_ylabel("test NLL, nats")
    ks = frame.num_samples.unique()
    axis.set_title("256 entries, 32 maps, L2" + (f", K = {ks[0]:,}" if len(ks) else ""))


@_figure(
    "3",
    "Figure 3: what is looked up",
    "Two unseen targets, the first two of different classes: q(a|x) over memory, whose entries stand class by class "
    "(the target's own class shaded and in colour, p(a) as a thin line), and the five entries with most of it, framed "
    "where they are of the target's own class.",
    "lookup",
)
def figure_3(results: Results) -> Figure | None:
    found = first_artifact(results, results.of("lookup", metric="class_mass"))
    if found is None:
        return None
    classes = found["x_class"]
    other = np.flatnonzero(classes != classes[0])
    shown = [0, *other[:1]] if len(other) else list(range(min(2, len(classes))))
    figure = Figure(figsize=(10.5, 0.6 + 2.1 * len(shown)), layout="constrained")
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for row, t in zip(rows, shown, strict=True):
        top = found["top"][t][:5]
        axes = row.subplots(1, 2 + len(top), width_ratios=(1, 5.2, *[1] * len(top)))
        picture(axes[0], found["x"][t], "target x")
        _histogram(axes[1], found, t)
        for axis, a in zip(axes[2:], top, strict=True):
            own = found["memory_class"][t][a] == classes[t]
            frame = STYLES["vma"]["color"] if own else None
            picture(axis, found["memory"][t][a], f"q = {found['q'][t][a]:.2f}", frame)
    return figure


def _histogram(axis: Axes, found: dict[str, Image], t: int) -> None:
    q, p, labels = found["q"][t], found["p"][t], found["memory_class"][t]
    order = np.argsort(labels, kind="stable")
    own = labels[order] == found["x_class"][t]
    entries = np.arange(len(q))
    axis.bar(entries[~own], q[order][~own], width=0.9, color=PALE)
    axis.bar(entries[own], q[order][own], width=0.9, color=STYLES["vma"]["color"])
    axis.axvspan(entries[own].min() - 0.5, entries[own].max() + 0.5, color=STYLES["vma"]["color"], alpha=0.12, lw=0)
    axis.step(entries, p[order], where="mid", color=INK, linewidth=0.8)
    for edge in np.flatnonzero(np.diff(labels[order])) + 0.5:
        axis.axvline(edge, color="#cccccc", linewidth=0.6, zorder=0)
    axis.grid(False, axis="x")
    axis.set_xlim(-0.5, len(q) - 0.5)
    axis.set_xlabel("memory entry a, class by class")
    axis.set_ylabel("q(a|x)")
    axis.set_title(f"{q[order][own].sum():.2f} on the target's own class")


@_figure(
    "4a",
    "Figure 4A: one-shot samples",
    "Left: the one image in memory, of a class that was not seen in training. Right: Bernoulli means of samples from "
    "p(x|M).",
    "samples",
)
def figure_4a(results: Results) -> Figure | None:
    found = first_artifact(results, results.of("samples"))
    if found is None:
        return None
    memory, samples = found["memory"].astype(float), found["samples"] / 255
    figure = Figure(figsize=(1.3 + 0.55 * samples.shape[1], 0.5 + 0.55 * len(memory)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, samples.shape[1]))
    for axis, images, label in ((left, memory[:, None], "memory"), (right, samples, "samples from p(x|M)")):
        axis.imshow(tiled(images), interpolation="nearest", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.set_title(label)
        for side in axis.spines.values():
            side.set(visible=True, color=PALE)
    return figure


@_figure(
    "4b",
    "Figure 4B: few-shot learning",
    "Left: KL_a and KL_z, stacked, against examples per class in memory (8 classes; K = 4). Right: test NLL. The paper "
    "prints its values at the fewest and the most examples without saying how many those are: they stand here at the "
    "first and the last N. Small dots: single seeds; bars: standard errors over targets and seeds.",
    "fewshot",
)
def figure_4b(results: Results) -> Figure | None:
    frame = frames.fewshot(results)
    ours = frame[frame.model == "vma"]
    if ours.empty:
        return None
    figure, axes = grid_of_axes(1, 2, 9.6, 4.4)
    shots = places(results, ours.shots, FEWSHOT_SHOTS)
    _stacked(axes[0][0], results, ours, shots)
    axis = axes[0][1]
    ks = sorted(frame.num_samples.unique())
    for k, dashes, face in zip(ks, ("-", ":"), ({}, {"markerfacecolor": "white"}), strict=False):
        part = with_gaps(ours[ours.num_samples == k], "shots", shots)
        style = {**STYLES["vma"], "linestyle": dashes, **face}
        points(axis, part.shots, part, "nll", label=f"VMA, K = {k:,}", **style)
        for _, alone in frame[(frame.model == "vae") & (frame.num_samples == k)].iterrows():
            axis.axhline(alone.nll, color=STYLES["vae"]["color"], linestyle=dashes, label=f"plain VAE, K = {k:,}")
    if is_comparable(results, "fewshot"):
        ends = [shots[0], shots[-1]]
        values = [number(results, f"fewshot.nll.{end}") for end in ("first", "last")]
        axis.plot(ends, values, label="the paper's VMA (N not printed)", **PAPER)
        vae = number(results, "fewshot.vae")
        axis.axhline(vae, color=PALE, linewidth=1.1, linestyle=(0, (1, 1.5)), label=f"the paper's plain VAE, {vae:g}")
    sizes_axis(axis, shots, "examples per class N")
    axis.set_ylabel("test NLL, nats (lower is better)")
    legend_below(axis)
    return figure


def _stacked(axis: Axes, results: Results, frame: pd.DataFrame, shots: Sequence[float]) -> None:
    part = with_gaps(frame[frame.num_samples == frame.num_samples.min()], "shots", shots)
    x = np.arange(len(part))
    beside = is_comparable(results, "fewshot")
    width = 0.4 if beside else 0.6
    left = x - width / 2 if beside else x
    axis.bar(left, part.kl_z, width, color=COLOURS[9], label="KL_z, ours", edgecolor=INK, linewidth=0.6)
    axis.bar(left, part.kl_a, width, bottom=part.kl_z, color=STYLES["vma"]["color"], label="KL_a, ours",
             yerr=np.hypot(part.kl_a_stderr, part.kl_z_stderr), ecolor=INK, edgecolor=INK, linewidth=0.6)  # fmt: skip
    if beside:
        kl_a, kl_z = ([number(results, f"fewshot.{kl}.{end}") for end in ("first", "last")] for kl in ("kl_a", "kl_z"))
        right = np.array([x[0], x[-1]]) + width / 2
        hollow: dict[str, Any] = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.9}
        axis.bar(right, kl_z, width, label="KL_z, the paper's", **hollow)
        axis.bar(right, kl_a, width, bottom=kl_z, label="KL_a, the paper's", hatch="////", **hollow)
    axis.set_xticks(x, [f"{n:.0f}" for n in shots])
    axis.set_xlabel("examples per class N")
    axis.set_ylabel("KL divergence, nats")
    axis.grid(False, axis="x")
    legend_below(axis)


@_figure(
    "5a",
    "Figure 5A: more classes in memory",
    "Above: test NLL against the number of classes in memory, with N examples of each. VMA was trained with 4 examples "
    "of each of 8 classes, soft attention, which reads features, with 16. Dashed: the optimum, which is VMA's NLL with "
    "one class in memory + log C. Below: the difference to it at the same N, paired on the same targets, with 95 % "
    "bootstrap intervals; VMA's in the paper is about 0. Soft attention has no address and pays no log C. Diamond: the "
    "paper's soft attention with 1 or 2 classes of 16 examples. Bands: standard errors.",
    "scaling",
)
def figure_5a(results: Results) -> Figure | None:
    frame = frames.scaling(results)
    if frame.empty:
        return None
    ks = sorted(frame.num_samples.unique())
    figure, axes = grid_of_axes(2, len(ks), 5.0 * len(ks), 8.2, sharex=True, sharey="row", height_ratios=(1.5, 1))
    classes = places(results, frame.classes, SCALING_CLASSES)
    series = frame.groupby(["model", "read", "train_classes", "shots"], dropna=False, sort=False)
    for column, k in enumerate(ks):
        for key, whole in series:
            model, read, trained, shots = cast(tuple[str, Any, float, float], key)
            part = with_gaps(whole[whole.num_samples == k], "classes", classes)
            name = model_key(model, read)
            dashes, face = line_style(shots, sorted(frame.shots.unique()))
            style = {**STYLES[name], "linestyle": dashes, **face}
            label = f"{NAMES[name]}, N = {shots:.0f}"
            if model == "soft":
                style |= {"marker": "X", "linewidth": 1.0} if trained == 8 else {}
                label = f"soft attention of {trained:.0f} classes, N = {shots:.0f}"
            band(axes[0][column], part.classes, part, "nll", label=label, **style)
            ends = np.array([part.excess - part.excess_low, part.excess_high - part.excess])
            axes[1][column].errorbar(part.classes, part.excess, ends, capsize=2, elinewidth=1, **style)
            if model == "vma":
                axes[0][column].plot(part.classes, part.optimum, **{**THEORY, "color": STYLES["vma"]["color"]})
        above, below = axes[0][column], axes[1][column]
        above.plot([], [], label="optimum: VMA's NLL at C = 1, + log C", **{**THEORY, "color": STYLES["vma"]["color"]})
        if is_comparable(results, "scaling"):
            soft = number(results, "fewshot.soft")
            above.plot([1, 2], [soft, soft], label="the paper's soft attention, N = 16", **PAPER)
        below.axhline(0, **THEORY)
        above.set_title(f"K = {k:,}")
        sizes_axis(below, classes, "classes in memory C")
    axes[0][0].set_ylabel("test NLL, nats (lower is better)")
    axes[1][0].set_ylabel("NLL - optimum, nats")
    legend_under(figure, axes[0][0])
    return figure


@_figure(
    "5b",
    "Figure 5B: more examples in memory",
    "Test NLL with all 144 test classes in memory, against the examples of each, for models trained with 1, 4 and 8 "
    "examples of 8 classes; the plain VAE at 0, with the paper's. Bands: standard errors (the targets are the same in "
    "all cells, so differences are far sharper).",
    "shots",
)
def figure_5b(results: Results) -> Figure | None:
    frame = frames.shots(results)
    if frame.empty:
        return None
    ks = sorted(frame.num_samples.unique())
    figure, axes = grid_of_axes(1, len(ks), 4.8 * len(ks), 4.4, sharey=True)
    shades = sns.light_palette(STYLES["vma"]["color"], 5).as_hex()[2:]
    for axis, k in zip(axes[0], ks, strict=True):
        part = frame[frame.num_samples == k]
        tested = places(results, part.shots[part.model == "vma"], range(1, 20))
        trained = sorted(part.train_shots.dropna().unique())
        for n, shade, marker, dashes in zip(trained, shades, "osD", (":", (0, (4, 1.5)), "-"), strict=False):
            line = with_gaps(part[part.train_shots == n], "shots", tested)
            label = f"VMA trained with {n:.0f} a class"
            axis.plot(line.shots, line.nll, color=shade, marker=marker, linestyle=dashes, markersize=4, label=label)
            axis.fill_between(
                line.shots, line.nll - line.nll_stderr, line.nll + line.nll_stderr, color=shade, alpha=0.12, lw=0
            )
        alone = part[part.model == "vae"]
        points(axis, alone.shots, alone, "nll", label="plain VAE", **{**STYLES["vae"], "linestyle": "none"})
        if is_comparable(results, "shots"):
            vae = number(results, "fewshot.vae")
            axis.plot([0], [vae], label=f"the paper's plain VAE, {vae:g}", **PAPER)
        axis.set_title(f"K = {k:,}")
        axis.set_xlabel("examples per class in memory")
        axis.xaxis.set_major_locator(FixedLocator([0, 1, 4, 8, 12, 16, 19]))
    axes[0][0].set_ylabel("test NLL, nats (lower is better)")
    axes[0][0].legend()
    return figure


@_figure(
    "table1",
    "Table 1 as a figure",
    "Test NLL (K = 1,000) against examples in memory, for 1, 2, 4 and 16 classes. Above: examples per class, the "
    "target not among them, with the paper's values. Below, where it was run: GMN's own protocol, examples in total, "
    "drawn with replacement, so that the target can be among them, with GMN's published values. Bars: standard errors.",
    "table1",
)
def figure_table1(results: Results) -> Figure | None:
    parts = {protocol: frames.table1(results, protocol) for protocol in ("per_class", "gmn")}
    parts = {protocol: frame for protocol, frame in parts.items() if len(frame)}
    if not parts:
        return None
    trained_gmn = frames.table1(results, "gmn", "gmn")
    trained_gmn = trained_gmn[trained_gmn.targets == "all"]
    shots = places(results, parts[next(iter(parts))].shots, TABLE1_SHOTS)
    classes = sorted({c for frame in parts.values() for c in frame.classes.dropna()})
    figure, axes = grid_of_axes(
        len(parts), len(classes), 2.9 * len(classes), 0.9 + 3.1 * len(parts), sharex=True, sharey="row"
    )
    columns = {"value": "nll", "stderr": "nll_stderr", "seed_values": "nll_seeds"}
    paper = results.paper[results.paper["where"] == "Table 1"]
    beside = is_comparable(results, "table1")
    for row, (protocol, frame) in zip(axes, parts.items(), strict=True):
        published = {"per_class": "vma", "gmn": "gmn"}[protocol]
        for axis, c in zip(row, classes, strict=True):
            whole = frame[(frame.targets == "all") & (frame.classes == c)]
            for model, name in (("vma", "vma"), ("soft", "soft features")):
                part = with_gaps(whole[whole.model == model].rename(columns=columns), "shots", shots)
                points(axis, part.shots, part, "nll", label=NAMES[name], **STYLES[name])
            if protocol == "gmn" and len(trained_gmn):
                part = with_gaps(trained_gmn[trained_gmn.classes == c].rename(columns=columns), "shots", shots)
                style = {**STYLES["vma"], "linestyle": ":", "markerfacecolor": "white"}
                label = "VMA trained under the GMN protocol"
                points(axis, part.shots, part, "nll", label=label, **style)
            for _, alone in frame[frame.model == "vae"].iterrows():
                axis.axhline(alone.value, color=STYLES["vae"]["color"], linestyle="-.", label="plain VAE")
            quoted = paper[(paper.model == published) & (paper.classes == c)]
            if beside and published == "vma":
                axis.plot(
                    quoted.shots, quoted.number, label="the paper's VMA", **{**PAPER, "linestyle": "--", "lw": 0.8}
                )
            elif beside:
                style = {**STYLES["gmn"], "linestyle": "--", "linewidth": 0.9}
                axis.plot(quoted.shots, quoted.number, label="GMN, quoted", **style)
            words = "a class" if protocol == "per_class" else "in total"
            axis.set_title(f"C = {c:.0f}, examples {words}")
            sizes_axis(axis, [1, 2, 5, 10, 19], "")
        row[0].set_ylabel("test NLL, nats")
    for axis in axes[-1]:
        axis.set_xlabel("examples in memory")
    legend_under(figure, *(row[0] for row in axes))
    return figure


_figure("gmn", "Table 1 with GMN", gmn.CAPTION, "table1")(gmn.draw)
_figure("gmn-matching", "GMN's matching over training", gmn.MATCHING_CAPTION, "table1")(gmn.draw_matching)


@_figure(
    "ablations",
    "Ablations",
    "Test NLL minus that of the control, on the same targets, with 95 % bootstrap intervals over targets; small dots "
    "are single seeds, whose spread the intervals do not hold. Right of zero is worse. At the right: the paper.",
    "ablations",
)
def figure_ablations(results: Results) -> Figure | None:
    frame = frames.ablations(results)
    frame = frame[(frame.variant != "control") & frame.difference.notna()]
    if frame.empty:
        return None
    variants = list(frame.variant.unique())[::-1]
    figure, axis = one_axis(8.6, 1.5 + 0.5 * len(variants))
    ks = sorted(frame.num_samples.unique())
    for k, shift, face in zip(ks, (0.12, -0.12), ({}, {"markerfacecolor": "white"}), strict=False):
        part = frame[frame.num_samples == k]
        y = np.array([variants.index(variant) for variant in part.variant]) + shift
        ends = np.array([part.difference - part.difference_low, part.difference_high - part.difference])
        style = {**STYLES["vma"], "linestyle": "none", **face}
        axis.errorbar(part.difference, y, xerr=ends, capsize=3, label=f"K = {k:,}", **style)
        for height, values in zip(y, part.difference_seeds, strict=True):
            if len(values) > 1:
                axis.plot(values, [height] * len(values), ".", color=INK, markersize=3, zorder=6)
    axis.axvline(0, **THEORY)
    axis.set_yticks(range(len(variants)), [VARIANT_NAMES[variant] for variant in variants])
    axis.set_ylim(-0.6, len(variants) - 0.4)
    axis.grid(False, axis="y")
    axis.set_xlabel("NLL - control's, nats")
    axis.set_ylabel("what was changed")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=2)
    if is_comparable(results, "ablations"):
        words = frame.drop_duplicates("variant").set_index("variant").paper
        for line, variant in enumerate(variants):
            axis.text(1.02, line, words[variant], transform=axis.get_yaxis_transform(), va="center", fontsize=9)
        axis.text(1.02, len(variants) - 0.4, "the paper:", transform=axis.get_yaxis_transform(), style="italic")
    return figure


@_figure(
    "classification",
    "Few-shot classification",
    "Accuracy without fine-tuning, by q(a|x), by likelihood, and by likelihood with copies of each entry that are "
    "shifted by a pixel; 95 % intervals over episodes. The paper's values are with q(a|x). Dashed: chance.",
    "classification",
)
def figure_classification(results: Results) -> Figure | None:
    frame = frames.classification(results)
    if frame.empty:
        return None
    settings = list(frame[["classes", "shots"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axis = one_axis(7.4, 4.2)
    width = 0.27
    faces = {
        "address": (STYLES["vma"]["color"], "", "q(a|x)"),
        "likelihood": ("white", "////", "likelihood"),
        "shifted": ("white", "....", "likelihood, shifted too"),
    }
    for (rule, (face, hatch, label)), shift in zip(faces.items(), (-width, 0.0, width), strict=True):
        part = frame[frame.rule == rule]
        x = np.array([settings.index((c, s)) for c, s in zip(part.classes, part.shots, strict=True)]) + shift
        ends = 100 * np.array([part.accuracy - part.low, part.high - part.accuracy])
        axis.bar(x, 100 * part.accuracy, width, yerr=ends, capsize=3, color=face, hatch=hatch, label=label,
                 edgecolor=STYLES["vma"]["color"], ecolor=INK)  # fmt: skip
        if rule == "address" and is_comparable(results, "classification"):
            axis.plot(x, 100 * part.paper, label="the paper's, with q(a|x)", **{**PAPER, "markersize": 7})
    for i, (c, _) in enumerate(settings):
        axis.plot([i - 0.42, i + 0.42], [100 / c, 100 / c], label="chance" if i == 0 else None, **THEORY)
    axis.set_xticks(range(len(settings)), [f"{c:.0f}-way\n{s:.0f}-shot" for c, s in settings])
    axis.set_xlabel("classes in memory and examples of each")
    axis.set_ylim(0, 100)
    axis.set_ylabel("accuracy, %")
    axis.grid(False, axis="x")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=5, columnspacing=1.0)
    return figure


@_figure(
    "estimators",
    "Estimators of the gradient",
    "Table 1's VMA trained by each estimator of the gradient of q(a|x), and by each gradient of z; validation classes. "
    "Dashed: VIMCO. Bars: standard errors, of NLL over pairs of the same targets. At the right: an update's signal to "
    "noise in the parameters of q(a|x) alone, all at the same weights.",
    "estimators",
)
def figure_estimators(results: Results) -> Figure | None:
    return estimators.figure(results)


@_figure(
    "wallclock",
    "Time and memory of an update against the size of memory",
    "Left: medians over rounds with quartile bands, hard attention (VMA) with K = 4 and soft attention with K = 1 and "
    "4; dashed curves embed memory without a gradient but for what is drawn and 64 others. Vertical lines: the |M| "
    "from which hard attention with K = 4 is faster than soft attention with one sample, every entry with its "
    "gradient: the paper's (48) and ours, with 95 % intervals by the bootstrap over rounds. Right: what model, "
    "optimiser and update take at most. Machines and precisions stand apart, a line of panels each.",
    "wallclock",
)
def figure_wallclock(results: Results) -> Figure | None:
    frame = frames.wallclock(results)
    if frame.empty:
        return None
    names = list(frame.setting.unique())
    figure, axes = grid_of_axes(len(names), 2, 11.0, 1.1 + 4.3 * len(names))
    sizes = places(results, frame.train_memory_size, WALLCLOCK_SIZES)
    found = frames.crossovers(results)
    for setting, (time, memory) in zip(names, axes, strict=True):
        part = frame[frame.setting == setting].assign(peak_mib=lambda own: own.peak_bytes / 2**20)
        _against_size(time, part, "seconds_per_update", sizes)
        _against_size(memory, part, "peak_mib", sizes)
        _crossover_lines(time, results, found[found.setting == setting])
        time.set_title(setting)
        time.set_ylabel("seconds per update")
        memory.set_title("peak of memory")
        memory.set_ylabel("MiB")
    legend_under(figure, *axes[:, 1])
    return figure


def _against_size(axis: Axes, frame: pd.DataFrame, metric: str, sizes: Sequence[float]) -> None:
    for key, part in frame.groupby(["variant", "model", "read", "train_num_samples"], dropna=False, sort=False):
        variant, model, read, k = cast(tuple[Any, str, Any, int], key)
        name = model_key(model, read)
        colour = STYLES[name]["color"]
        if model == "vae":
            axis.axhline(part[metric].iloc[0], color=colour, linestyle="-.", label="plain VAE, no memory")
            continue
        first = part.train_memory_size.min()
        part = with_gaps(part, "train_memory_size", [size for size in sizes if size >= first])
        many, sampled = model == "soft" and k > 1, variant == SAMPLED
        dashes = (0, (4, 1.5)) if sampled else ":" if many else "-"
        style = {**STYLES[name], "linestyle": dashes, **({"markerfacecolor": "white"} if many or sampled else {})}
        label = f"{NAMES[name]}, K = {k:.0f}" + ", sampled gradient" * sampled
        axis.plot(part.train_memory_size, part[metric], label=label, **style)
        if metric == "seconds_per_update":
            axis.fill_between(part.train_memory_size, part.q25, part.q75, color=colour, alpha=0.25, lw=0)
    sizes_axis(axis, sizes, "entries in memory |M|")
    axis.tick_params(axis="x", labelrotation=45)
    plain_log_axis(axis)


def _crossover_lines(axis: Axes, results: Results, found: pd.DataFrame) -> None:
    lines = []
    if is_comparable(results, "wallclock"):
        paper = number(results, "wallclock.crossover")
        lines.append(axis.axvline(paper, color=INK, linestyle="--", linewidth=1, label=f"the paper's, {paper:.0f}"))
    for _, row in found[found.train_num_samples == 1].iterrows():
        colour = STYLES[f"soft {row['read']}"]["color"]
        # an interval without an end says no more than the number
        between = f" ({_size(row.low)} to {_size(row.high)})" if np.isfinite(row.low) else ""
        if np.isnan(row.memory_size):
            label = f"ours with {row['read']}, none{between}"
            lines.append(axis.plot([], [], color=colour, linestyle="--", linewidth=1, label=label)[0])
            continue
        label = f"ours with {row['read']}, {row.memory_size:.0f}{between}"
        lines.append(axis.axvline(row.memory_size, color=colour, linestyle="--", linewidth=1, label=label))
        if np.isfinite([row.low, row.high]).all():
            axis.axvspan(row.low, row.high, color=colour, alpha=0.12, linewidth=0)
    behind: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9}
    axis.legend(handles=lines, title="crossover", loc="upper left", **behind)


def _size(entries: float) -> str:
    return f"{entries:.0f}" if np.isfinite(entries) else "none"


@_figure(
    "training",
    "Training",
    "The bound of every run behind the rows as NLL, with the K of training: on validation classes, and, pale, on the "
    "training classes (a running mean over 1,000 updates); experiment by experiment. Circles: the test NLL of few-shot "
    "runs, on episodes like those of training. A run that several experiments share stands in the first.",
    *CELLS,
)
def figure_training(results: Results) -> Figure | None:
    order = list(CELLS)
    few_shot = results.of("fewshot", metric="nll", num_samples=4)
    known = results.rows[results.rows.experiment.isin(order)]
    runs = known.sort_values("updates").drop_duplicates("train_id", keep="last")
    first = known.groupby("train_id").experiment.agg(lambda names: min(names, key=order.index))
    curves: dict[str, list[tuple[pd.Series, pd.DataFrame]]] = {}
    for _, row in runs.iterrows():
        log = results.training_log(row)
        if log is not None and log.validation_bound.count() > 1:
            curves.setdefault(first[row.train_id], []).append((row, log))
    if not curves:
        return None
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = grid_of_axes(lines, columns, 3.6 * columns + 0.6, 2.9 * lines + 0.7)
    flat = axes.ravel()
    named: dict[str, Any] = {}
    for axis, (experiment, found) in zip(
        flat, sorted(curves.items(), key=lambda item: order.index(item[0])), strict=False
    ):
        best, start = np.inf, -np.inf
        for row, log in found:
            name = model_key(row.model, row["read"])
            style: dict[str, Any] = {"color": STYLES[name]["color"], "ls": DASHES[name]}
            train_nll = -log.bound.rolling(TRAINING_WINDOW, min_periods=1).mean()
            axis.plot(log["update"], train_nll, **style, lw=0.8, alpha=0.35)
            log = log[log.validation_bound.notna()]
            nll = -log.validation_bound
            (line,) = axis.plot(log["update"], nll, **style, lw=1.1, alpha=0.85)
            named.setdefault(NAMES[name], line)
            test = select(few_shot, train_id=row.train_id)
            alike = (test.classes == test.train_classes) & (test.shots == test.train_shots)
            test = test[alike | (test.model == "vae")]
            axis.plot(test.updates, test.value, "o", color=STYLES[name]["color"], fillstyle="none", ms=6)
            late = nll[log["update"] >= 0.08 * log["update"].max()]
            best, start = min(best, nll.min(), train_nll.min(), *test.value), max(start, late.max())
        axis.set_ylim(best - 0.04 * (start - best), start)
        axis.set_title(f"{experiment}: {len(found)} run" + "s" * (len(found) > 1))
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
        axis.set_xlabel("updates")
    for axis in flat[len(curves) :]:
        axis.set_axis_off()
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("NLL, nats")
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
    return figure
