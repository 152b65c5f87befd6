"""Table 1 as a figure."""

from matplotlib.figure import Figure

from reports import frames
from reports.declared import declared
from reports.drawing import (
    PAPERS_MARK,
    grid_of_axes,
    is_comparable,
    legend_under,
    places,
    points,
    sizes_axis,
    with_gaps,
)
from reports.figures.spec import figure
from reports.models import MODELS, shown_as
from reports.results import Results


@figure(
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
    trained_gmn = trained_gmn[(trained_gmn.targets == "all") & (trained_gmn.model == "vma")]
    shots = places(results, parts[next(iter(parts))].shots, declared("table1", "shots"))
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
            for model, own in whole.groupby("model", sort=False):
                part, shown = with_gaps(own.rename(columns=columns), "shots", shots), shown_as(str(model))
                points(axis, part.shots, part, "nll", label=shown.label, **shown.style)
            if protocol == "gmn" and len(trained_gmn):
                part = with_gaps(trained_gmn[trained_gmn.classes == c].rename(columns=columns), "shots", shots)
                style = {**MODELS["vma"].style, "linestyle": ":", "markerfacecolor": "white"}
                label = "VMA trained under the GMN protocol"
                points(axis, part.shots, part, "nll", label=label, **style)
            for _, alone in frame[frame.model == "vae"].iterrows():
                axis.axhline(alone.value, color=MODELS["vae"].colour, linestyle="-.", label="plain VAE")
            quoted = paper[(paper.model == published) & (paper.classes == c)]
            if beside and published == "vma":
                axis.plot(
                    quoted.shots,
                    quoted.number,
                    label="the paper's VMA",
                    **{**PAPERS_MARK, "linestyle": "--", "lw": 0.8},
                )
            elif beside:
                style = {**MODELS["gmn"].style, "linestyle": "--", "linewidth": 0.9}
                axis.plot(quoted.shots, quoted.number, label="GMN, quoted", **style)
            words = "a class" if protocol == "per_class" else "in total"
            axis.set_title(f"C = {c:.0f}, examples {words}")
            sizes_axis(axis, [1, 2, 5, 10, 19], "")
        row[0].set_ylabel("test NLL, nats")
    for axis in axes[-1]:
        axis.set_xlabel("examples in memory")
    legend_under(figure, *(row[0] for row in axes))
    return figure
