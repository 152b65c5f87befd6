"""One drawing of a character in, twelve samples of that character out (Figure 4A), in seconds.

The drawing is dark on white, a PNG of any size; without one it is the character in examples/drawing.png.
"""

import argparse
from pathlib import Path

import torch

import vma
from vma import pretrained
from vma.data import read_drawing
from vma.errors import InputError
from vma.files import write_atomic
from vma.pictures import one_shot, png, sheet


def main(drawing: Path, out: Path, weights: str, samples: int, seed: int) -> None:
    model = vma.load_pretrained(weights)
    memory = read_drawing(drawing, image_size=model.sizes.image[-1])[None]  # (1, 1, H, W): this drawing alone
    means = one_shot(model, memory, samples, torch.Generator().manual_seed(seed))
    write_atomic(out, png(sheet(means, memory, columns=6)))
    print(f"Wrote {out}: the drawing, framed, and {samples} samples of {weights}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "drawing", nargs="?", type=Path, metavar="DRAWING.png", default=Path(__file__).with_name("drawing.png")
    )
    parser.add_argument("--out", type=Path, default=Path("one_shot.png"))
    parser.add_argument("--weights", default="vma-fewshot", help=f"one of {', '.join(pretrained.names())}")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    try:
        main(**vars(parser.parse_args()))
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
