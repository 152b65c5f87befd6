"""Training as pictures in the run's folder: samples of validation characters, and the curve of the bound.

They cost about a second in a thousand updates. What is timed (`wallclock`, `benchmarks/timing`) does not train by
`benchmarks.training` and has none.
"""

import io
from pathlib import Path

import torch

from benchmarks.spec import TrainSpec
from benchmarks.store import read_rows
from vma.data.episodes import Episodes
from vma.files import write_atomic
from vma.pictures import one_shot, png, sheet, unconditional
from vma.protocol import Model

EVERY = 1000  # updates between two pictures; a multiple of training's LOG_EVERY
ROWS, COLUMNS = 4, 10


def draw(folder: Path, spec: TrainSpec, model: Model, validation: Episodes, dtype: torch.dtype) -> None:
    """Write samples.png and curve.png anew. The generator is their own and the same each time: training goes on as if
    nothing had been drawn, and pictures of two moments differ by the weights alone.

    Raises:
        OSError: naming the file that cannot be written.
    """
    write_atomic(folder / "samples.png", samples(spec, model, validation, dtype))
    write_atomic(folder / "curve.png", curve(folder / "metrics.jsonl"))


def samples(spec: TrainSpec, model: Model, validation: Episodes, dtype: torch.dtype) -> bytes:
    """A few drawings of the first validation episode's memory, samples of each beside it."""
    device = next(model.parameters()).device
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
