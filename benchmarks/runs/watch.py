"""What a run shows while it trains, in its folder: a log with its bound on training and on validation episodes, samples
of validation characters, and the curve of the bound.

The pictures cost about a second in a thousand updates. What is timed (`wallclock`, `benchmarks/timing`) does not train
by `benchmarks.runs.training` and has none.
"""

import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from baselines import GenerativeMatchingNetwork
from benchmarks.declare.spec import TrainSpec
from benchmarks.record.store import append_lines, read_rows
from benchmarks.runs.build import DTYPES
from vma.data.episodes import Episode, Episodes
from vma.evaluation import Scores, evaluate
from vma.files import write_atomic
from vma.objectives import Terms, iwae
from vma.pictures import one_shot, png, sheet, unconditional
from vma.protocol import Model

LOG = "metrics.jsonl"
LOG_EVERY = 100  # updates a line of the log, and one for what is left at the end
VALIDATE_EVERY = 1000
VALIDATION_EPISODES = range(8)
DRAW_EVERY = 1000  # updates between two pictures; a multiple of LOG_EVERY, as VALIDATE_EVERY is
ROWS, COLUMNS = 4, 10


@dataclass
class Log:
    """The log of a run, and its pictures beside it."""

    folder: Path
    spec: TrainSpec
    model: Model
    validation: Episodes | None
    window: list[torch.Tensor] = field(default_factory=list)  # of each update since the last line: bound, KL_a, KL_z

    def add(self, terms: Terms) -> None:
        """Take an update into the next line."""
        self.window.append(torch.stack((iwae(terms).mean(), terms.kl_a.mean(), terms.kl_z.mean())).detach())

    def write(self, updates: int, seconds: float) -> dict[str, str]:
        """Write a line, the pictures where they are due, and return what a progress bar shows of the line.

        Raises:
            OSError: naming the file that cannot be written.
        """
        bound, kl_a, kl_z = torch.stack(self.window).mean(0).tolist()
        self.window.clear()
        line = {"update": updates, "bound": bound, "kl_a": kl_a, "kl_z": kl_z, "seconds": seconds}
        if self.validation is not None and updates % VALIDATE_EVERY == 0:
            line |= validated(self.spec, self.model, self.validation)
        # with a graph it may have broken since the last look: the next one says so, and JSON has no word for it
        if math.isfinite(bound):
            append_lines(self.folder / LOG, [line])
            if self.validation is not None and updates % DRAW_EVERY == 0:
                draw(self.folder, self.spec, self.model, self.validation)
        return {name: f"{value:.2f}" for name, value in line.items() if name not in ("update", "seconds")}


def validated(spec: TrainSpec, model: Model, validation: Episodes) -> dict[str, float]:
    """The bound on the validation episodes, with the K of training; of GMN how it matches too."""
    scores = evaluate(model, validation, VALIDATION_EPISODES, spec.num_samples, dtype=DTYPES[spec.dtype])
    found = {"validation_bound": -scores.summary("nll", by_class=True)[0]}
    return found | matching(model, validation(0), scores) if isinstance(model, GenerativeMatchingNetwork) else found


def matching(model: GenerativeMatchingNetwork, episode: Episode, scores: Scores) -> dict[str, float]:
    """Whether GMN's matching has begun: strength and entropy of its attention on an episode, see its `attention`; and
    of sequences' scores `gain`, by how many nats the NLL of their last objects is below that of their first.
    """
    found = model.attention(episode.x, model.encode_memory(episode.memory), **episode.seen())
    if episode.visible is not None:
        first = ~episode.visible.any(1).cpu().numpy()
        nll = scores.nll.reshape(-1, len(first))
        found["gain"] = float(nll[:, first].mean() - nll[:, np.roll(first, -1)].mean())
    return found


def draw(folder: Path, spec: TrainSpec, model: Model, validation: Episodes) -> None:
    """Write samples.png and curve.png anew. The generator is their own and the same each time: training goes on as if
    nothing had been drawn, and pictures of two moments differ by the weights alone.

    Raises:
        OSError: naming the file that cannot be written.
    """
    write_atomic(folder / "samples.png", samples(spec, model, validation))
    write_atomic(folder / "curve.png", curve(folder / LOG))


def samples(spec: TrainSpec, model: Model, validation: Episodes) -> bytes:
    """A few drawings of the first validation episode's memory, samples of each beside it."""
    device, dtype = next(model.parameters()).device, DTYPES[spec.dtype]
    generator = torch.Generator(device).manual_seed(spec.seed)
    memory = validation(0).memory
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        if memory is None or not spec.takes_memory or model.encode_memory(memory) is None:
            return png(sheet(unconditional(model, ROWS, COLUMNS, generator)))
        drawings = memory[:: -(-len(memory) // ROWS)]  # of one class after the other, so of several classes
        return png(sheet(one_shot(model, drawings, COLUMNS, generator), drawings))


def curve(log: Path) -> bytes:
    """The bound on training and on validation episodes against updates; its first tenth may leave the picture."""
    import matplotlib as mpl  # takes a second, and most processes draw no curve
    from matplotlib.figure import Figure

    from reports.drawing import STYLE
    from reports.models import COLOURS

    lines = read_rows(log)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    with mpl.rc_context(STYLE):
        axis = figure.subplots()
        for key, label, style in (
            ("bound", "training", {"color": COLOURS[0], "linewidth": 1}),
            ("validation_bound", "validation", {"color": COLOURS[1], "marker": "o"}),
        ):
            points = [(line["update"], line[key]) for line in lines if key in line]
            axis.plot(*zip(*points, strict=True), label=label, **style)
        late = [line["bound"] for line in lines[len(lines) // 10 :]]
        margin = 0.1 * (max(late) - min(late))
        axis.set(xlabel="updates", ylabel="bound [nats]", ylim=(min(late) - margin, None))
        axis.legend(loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
