"""Figure 4A: one-shot samples."""

from matplotlib.figure import Figure

from reports.drawing import PALE, first_arrays, tiled
from reports.figures.spec import figure
from reports.results import Results


@figure(
    "4a",
    "Figure 4A: one-shot samples",
    "Left: the one image in memory, of a class that was not seen in training. Right: Bernoulli means of samples from "
    "p(x|M).",
    "samples",
)
def figure_4a(results: Results) -> Figure | None:
    found = first_arrays(results, results.of("samples"))
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
