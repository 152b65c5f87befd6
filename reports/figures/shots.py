"""Figure 5B: more examples in memory."""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from reports import frames
from reports.drawing import PAPERS_MARK, grid_of_axes, is_comparable, places, points, with_gaps
from reports.figures.spec import figure
from reports.frames import number
from reports.models import MODELS, shown_as
from reports.results import Results

SHADES = ("#78b2d2", "#3c92c2", "#0173b2")  # of VMA's colour


@figure(
    "5b",
    "Figure 5B: more examples in memory",
    "Test NLL with all 144 test classes in memory, against the examples of each, for models trained with 1, 4 and 8 "
    "examples of 8 classes; the plain VAE at 0, with the paper's. Bands: standard errors (the targets are the same in "
    "all cells, so differences are far sharper). What differs in K alone is of "
    "the same targets.",
    "shots",
)
def figure_5b(results: Results) -> Figure | None:
    frame = frames.shots(results)
    if frame.empty:
        return None
    ks = sorted(frame.num_samples.unique())
    figure, axes = grid_of_axes(1, len(ks), 4.8 * len(ks), 4.4, sharey=True)
    for axis, k in zip(axes[0], ks, strict=True):
        part = frame[frame.num_samples == k]
        tested = places(results, part.shots[part.model == "vma"], range(1, 20))
        trained = sorted(part.train_shots.dropna().unique())
        for n, shade, marker, dashes in zip(trained, SHADES, "osD", (":", (0, (4, 1.5)), "-"), strict=False):
            line = with_gaps(part[(part.train_shots == n) & (part.model == "vma")], "shots", tested)
            label = f"VMA trained with {line.trained.dropna().iloc[0]} a class"
            axis.plot(line.shots, line.nll, color=shade, marker=marker, linestyle=dashes, markersize=4, label=label)
            axis.fill_between(
                line.shots, line.nll - line.nll_stderr, line.nll + line.nll_stderr, color=shade, alpha=0.12, lw=0
            )
        for (model, n), own in part[~part.model.isin(MODELS)].groupby(["model", "train_shots"]):
            style = {**shown_as(str(model)).style, "markersize": 2 + n / 2}
            points(axis, own.shots, own, "nll", label=f"{model} trained with {n:.0f} a class", **style)
        alone = part[part.model == "vae"]
        points(axis, alone.shots, alone, "nll", label="plain VAE", **{**MODELS["vae"].style, "linestyle": "none"})
        if is_comparable(results, "shots"):
            vae = number(results, "fewshot.vae")
            axis.plot([0], [vae], label=f"the paper's plain VAE, {vae:g}", **PAPERS_MARK)
        axis.set_title(f"K = {k:,}")
        axis.set_xlabel("examples per class in memory")
        axis.xaxis.set_major_locator(FixedLocator([0, 1, 4, 8, 12, 16, 19]))
    axes[0][0].set_ylabel("test NLL, nats (lower is better)")
    axes[0][0].legend()
    return figure
