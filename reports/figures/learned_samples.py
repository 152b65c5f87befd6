"""Figure 2B: samples from a learned memory."""

import numpy as np
from matplotlib.figure import Figure

from reports.drawing import first_arrays, one_axis, tiled
from reports.figures.spec import figure
from reports.results import Results


@figure(
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
    found = first_arrays(results, rows[rows.memory_size == size])
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
