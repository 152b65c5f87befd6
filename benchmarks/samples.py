"""Samples as a picture: of drawings that are given, or of unseen characters of the test set, by any trained weights."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from benchmarks.declare.spec import MOST_SEED, TrainSpec
from benchmarks.plan.cli import DataOptions, check_option, open_data_for, resolve_device, run_command
from benchmarks.runs.weights import trained_at
from reports.command import check_folder
from vma.data import Ink, read_drawing
from vma.data.episodes import Episodes, EpisodeSpec
from vma.errors import InputError
from vma.files import write_atomic
from vma.pictures import one_shot, png, sheet, unconditional
from vma.pretrained import weights_file

MOST_SHOWN = 100  # drawings, and samples of each


@dataclass(frozen=True)
class Options(DataOptions):
    """Draw samples from trained weights: each drawing alone in memory, framed, and beside it samples of its character.

    Without --image the drawings are unseen ones, of the test set. Weights without a memory to put them into (a plain
    VAE, a learned memory) give samples alone. Writes one PNG to --out.
    """

    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Trained weights: a name of those that come with the project, as vma-fewshot; or a file, as a run's
    checkpoint.safetensors. Required.
    """
    # repeated, or followed by several, so that a shell's *.png is taken
    image: Annotated[tyro.conf.UseAppendAction[tuple[tuple[Path, ...], ...]], tyro.conf.arg(metavar="PNG ...")] = ()
    """One or more drawings to put into memory, of any size."""
    ink: Literal["dark", "light"] = "dark"
    """What of the drawings of --image is ink."""
    rows: int = 8
    """Without --image: how many drawings, or rows of samples."""
    num_samples: int = 12
    """Samples of each drawing."""
    seed: int = 0
    """Of the samples and of the choice of drawings."""
    out: Annotated[Path, tyro.conf.arg(metavar="PNG")] = Path("samples.png")
    """The picture to write."""


def run(options: Options) -> None:
    if options.checkpoint is None:
        raise InputError("--checkpoint is needed: a name such as vma-fewshot, or a file of weights")
    check_option("--rows", options.rows, 1, MOST_SHOWN)
    check_option("--num-samples", options.num_samples, 1, MOST_SHOWN)
    check_option("--seed", options.seed, 0, MOST_SEED)
    images = [file for files in options.image for file in files]
    if not all(options.image):
        raise InputError("--image is empty, must be one or more PNG files")
    if len(images) > MOST_SHOWN:
        raise InputError(f"--image names {len(images)} drawings, must be {MOST_SHOWN} at most")
    if options.out.suffix.lower() != ".png" or options.out.is_dir():
        raise InputError(f"--out is {options.out}, must be a file that ends in .png")
    check_folder("--out", options.out.parent)
    device = resolve_device(options)
    path = weights_file(options.checkpoint)
    trained = trained_at(path, device)
    generator = torch.Generator(device).manual_seed(options.seed)
    drawings, of = None, ""
    if trained.spec.takes_memory:
        if images:
            ink = Ink(light=options.ink == "light")
            drawings = torch.stack([read_drawing(file, trained.spec.image_size, ink) for file in images]).to(device)
        else:
            drawings = unseen(options, trained.spec).to(device)
        samples = one_shot(trained.model, drawings, options.num_samples, generator)
        of = f" of each of {len(drawings)} drawings" if len(drawings) > 1 else " of a drawing"
    elif images:
        raise InputError(f"--image is given for {path}, which has no memory to put it into: leave it out")
    else:
        samples = unconditional(trained.model, options.rows, options.num_samples, generator)
    write_atomic(options.out, png(sheet(samples, drawings)))
    print(f"Wrote {options.out}: {options.num_samples} samples{of}, {path.stem}, {trained.updates:,} updates.")


def unseen(options: Options, spec: TrainSpec) -> torch.Tensor:
    """Random drawings (R, 1, H, W) of the test set.

    Raises:
        InputError, DataUnavailable: as `open_data_for`.
    """
    data = open_data_for(options, spec)
    one_each = EpisodeSpec("recall", memory_size=min(options.rows, len(data.test.images)))
    memory = Episodes(data.test, one_each, options.seed)(0).memory
    assert memory is not None
    return memory


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Options, run, "benchmarks.samples", argv)


if __name__ == "__main__":
    sys.exit(main())
