"""Draw characters into a memory, see samples of each, and what q(a|x) looks up for a further drawing.

It needs the extra `demo` (`pip install -e '.[demo]'`), runs on this machine alone, and prints the address to open.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import vma
from vma.data import read_drawing
from vma.errors import InputError
from vma.pictures import lookup, one_shot, sheet

SAMPLES = 8
PAPER = Image.new("L", (320, 320), 255)
INTRODUCTION = """
Pick the brush, draw a character and **put it into memory**: the model, which has never seen it, draws it anew. Put in a
few more. Then draw one of them once more and **look it up**: q(a|x) says which entry the model takes it for.
"""


def samples(model: vma.Model, memory: list[Tensor]) -> Image.Image | None:
    """Each entry (1, H, W), framed, and samples of it."""
    if not memory:
        return None
    drawings = torch.stack(memory)
    return sheet(one_shot(model, drawings, SAMPLES, torch.Generator().manual_seed(0)), drawings)


@torch.no_grad()
def looked_up(model: vma.AddressModel, memory: list[Tensor], drawing: Tensor) -> Image.Image:
    """The drawing, framed, and the entries by their q(a|x)."""
    entries = torch.stack(memory)
    log_q, _ = model.address(drawing[None], model.encode_memory(entries))
    return lookup(drawing, entries, log_q[0].exp())


def app(model: vma.AddressModel):
    """The page. Each visitor has a memory of their own, which is kept nowhere else."""
    import gradio as gr

    def drawn(sketch: dict | None) -> Tensor | None:
        try:
            return read_drawing(Path(sketch["composite"]), model.sizes.image[-1])
        except (InputError, TypeError):  # nothing on the canvas, or no canvas
            gr.Warning("Draw a character first.")
            return None

    def put(sketch: dict | None, memory: list[Tensor]):
        drawing = drawn(sketch)
        if drawing is not None:
            memory = [*memory, drawing]
        return memory, samples(model, memory), PAPER

    def look_up(sketch: dict | None, memory: list[Tensor]):
        if not memory:
            gr.Warning("Put a character into memory first.")
            return None
        drawing = drawn(sketch)
        return None if drawing is None else looked_up(model, memory, drawing)

    with gr.Blocks(title="Variational memory addressing", analytics_enabled=False) as page:
        memory = gr.State([])
        gr.Markdown("# Variational memory addressing" + INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                sketch = gr.Sketchpad(
                    PAPER,
                    label="A character",
                    type="filepath",
                    format="png",
                    canvas_size=PAPER.size,
                    sources=(),
                    brush=gr.Brush(default_size=5, colors=["#000000"], color_mode="fixed"),
                    layers=False,
                )
                add = gr.Button("Put into memory", variant="primary")
                ask = gr.Button("Look it up")
                clear = gr.Button("Clear memory")
            with gr.Column(scale=2):
                gr.Markdown("### Memory, and samples of each entry")
                made = gr.Image(show_label=False, interactive=False, buttons=[])
                gr.Markdown("### The drawing, and what it looks up: entries with their q(a|x)")
                found = gr.Image(show_label=False, interactive=False, buttons=[])
        add.click(put, [sketch, memory], [memory, made, sketch], show_progress_on=made)
        ask.click(look_up, [sketch, memory], found)
        clear.click(lambda: ([], None, None), outputs=[memory, made, found])
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="vma-fewshot")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    try:
        model = vma.load_pretrained(options.weights)
        if not vma.has_address(model):
            raise InputError(f"{options.weights} has no address to look up by: give weights of vma")
        app(model).launch(server_port=options.port)
    except ImportError as error:
        raise SystemExit(f"error: {error}; pip install -e '.[demo]'") from None
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
