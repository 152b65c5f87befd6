"""What all commands share: options, one-line errors with exit codes, data with its fallback, and the device."""

import contextlib
import io
import itertools
import re
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
import tyro

from benchmarks.spec import TrainSpec
from vma.data import DataSet, load
from vma.errors import DataUnavailable, InputError
from vma.hardware import keep_freed_memory
from vma.training import NonFiniteBound

THREADS = torch.get_num_threads()  # at the start: all cores that this process may use, or OMP_NUM_THREADS
DEFAULT_MINUTES, FALLBACK_MINUTES = 15.0, 3.0

Options = TypeVar("Options", bound="EvaluationOptions")


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of every command that evaluates."""

    data: Path | None = None
    """Folder that holds the data files; else VMA_DATA, the user's cache, a folder shared/data beside the checkout, the
    public homes.
    """
    dataset: str | None = None
    """Another data set than the paper's: one of the built-in names, or folder:PATH with --image-size."""
    image_size: int | None = None
    """Height and width of the images, for data sets that have no size of their own (strokes, folder:PATH)."""
    fallback: Literal["strokes"] | None = None
    """Run on built-in procedural characters if the data can be had from nowhere, and say so."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto takes bfloat16 where the hardware computes in it. The bound is always float32 or better."""
    reference: bool = False
    """Take the reference path: VMA as its equations stand, in float32, several times slower (the other models have no
    other code for it, and go in float32).
    """
    threads: int | None = None
    """CPU threads (default: all that this process may use)."""
    out: Path = Path("reproduced")
    """Folder for rows and tables."""
    again: bool = False
    """Evaluate cells even if their rows are in --out already."""


@dataclass(frozen=True)
class TrainingOptions(EvaluationOptions):
    """Options of every command that trains where there are no weights."""

    updates: int | None = None
    """Train each model for this many updates in all, going on from earlier ones, instead of taking shipped weights."""
    minutes: float | None = None
    """Train, where there are no weights, for this many minutes in all (default: 15, on fallback data 3)."""
    from_scratch: bool = False
    """Ignore shipped weights and earlier training."""


@dataclass(frozen=True)
class CommonOptions(TrainingOptions):
    """Options of a command for one table or figure and one seed."""

    seed: int = 0
    """Of initial weights, training episodes and samples. Evaluation has a seed of its own, so that all runs share their
    targets.
    """


def run_command(
    options: type[Options], run: Callable[[Options], None], prog: str, argv: Sequence[str] | None = None
) -> int:
    """Parse, run, and turn every expected failure into one line on stderr and an exit code (2 bad input, 1 a failed
    run).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shall not end a run at its last line
    # one line each, without the place in the source that emits it
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    keep_freed_memory()
    try:
        run(parse(options, prog, argv))
    except DataUnavailable as error:
        lines = [f"error: {error}", *(f"  tried {attempt}" for attempt in error.attempts)]
        same = shlex.join(["python", "-m", *prog.split(), *(sys.argv[1:] if argv is None else argv)])
        lines.append(f"  without these data, on built-in characters: {same} --dataset strokes")
        return _fail("\n".join(lines), 2)
    except InputError as error:
        return _fail(f"error: {error}", 2)
    except NonFiniteBound as error:
        return _fail(f"error: {error}", 1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            f"error: cannot write or read{where}: {error.strerror or error}; free space there or mend permissions", 1
        )
    except KeyboardInterrupt:
        return _fail("stopped; the state of training and the rows of finished cells are kept", 128 + signal.SIGINT)
    return 0


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def parse(options: type[Options], prog: str, argv: Sequence[str] | None) -> Options:
    """The options on the command line.

    Raises:
        InputError: with tyro's own words for what is wrong, in one line instead of its box.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(options, prog=f"python -m {prog}", args=argv)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro frames its words: a heading, a rule where the terminal has no box characters, the cause, a rule, hints
        lines = [line.strip("│| \t") for line in said.getvalue().strip().splitlines()[1:]]
        lines = list(itertools.dropwhile(_is_rule, lines))
        cause = re.sub(r"\s+", " ", " ".join(itertools.takewhile(lambda line: not _is_rule(line), lines))).strip()
        raise InputError(
            f"{cause.rstrip('.') or said.getvalue().strip()}; python -m {prog} --help lists the options"
        ) from None
    if parsed.threads is not None and parsed.threads < 1:
        raise InputError(f"--threads is {parsed.threads}, must be 1 or more")
    if isinstance(parsed, TrainingOptions):
        if parsed.updates is not None and parsed.updates < 1:
            raise InputError(f"--updates is {parsed.updates}, must be 1 or more")
        if parsed.minutes is not None and not parsed.minutes > 0:
            raise InputError(f"--minutes is {parsed.minutes}, must be above 0")
    if isinstance(parsed, CommonOptions):
        check_seed("--seed", parsed.seed)
    return parsed


def check_seed(option: str, seed: int) -> None:
    """Refuse what no generator takes.

    Raises:
        InputError: naming the option.
    """
    if not 0 <= seed < 2**31:
        raise InputError(f"{option} is {seed}, must lie between 0 and {2**31 - 1}")


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-╰╯")


def open_data(options: EvaluationOptions, default: str) -> tuple[DataSet, bool]:
    """The data set of the options, and whether it is the fallback.

    Raises:
        DataUnavailable: if it can be had from nowhere and no fallback is allowed.
        InputError: for an unknown name or data that are not what they should be.
    """
    name = options.dataset or default
    size = options.image_size
    fallback = False
    try:
        data = load(name, data=options.data, image_size=size)
    except DataUnavailable as error:
        if options.fallback is None:
            raise
        reason, fallback = f" ({error})", True
        data = load(options.fallback, image_size=size)
    else:
        reason = ""
    for words in warning(data):
        print(f"{words}{reason}: the figures below say nothing about the paper's.")
    return data, fallback


def warning(data: DataSet) -> list[str]:
    """What the first line, every title and the last line say where the data are made up; nothing for real data."""
    return ["BUILT-IN CHARACTERS (strokes), NOT THE PAPER'S DATA"] if data.name == "strokes" else []


def open_out(folder: Path) -> None:
    """Make the output folder before hours of work are spent on what cannot be written.

    Raises:
        OSError: naming the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def training_minutes(options: CommonOptions, fallback: bool) -> float:
    """How long to train in all where there are no weights, so that a first run ends in time."""
    return options.minutes or (FALLBACK_MINUTES if fallback else DEFAULT_MINUTES)


def resolve_device(options: EvaluationOptions) -> torch.device:
    """The device to run on.

    Raises:
        InputError: if it is not there.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {name} is not to be had on this machine: use --device cpu") from None
    return device


def resolve_spec(
    spec: TrainSpec, options: EvaluationOptions, data: DataSet, device: torch.device, seed: int
) -> TrainSpec:
    """A declared spec with this seed, and the data, the precision and the threads of the options.

    Raises:
        InputError: if the images are not square.
    """
    size = data.image_size
    if size[0] != size[1]:
        raise InputError(f"the images of {data.name} are {size[0]}x{size[1]}, must be square: give --image-size")
    return replace(
        spec,
        dataset=data.name,
        image_size=size[0],
        seed=seed,
        dtype=resolve_dtype(options, device),
        threads=resolve_threads(options),
        path="reference" if options.reference and spec.model == "vma" else None,
    )


def resolve_dtype(options: EvaluationOptions, device: torch.device) -> str:
    """The precision of the networks.

    Raises:
        InputError: if the reference path is to be taken in another one than its own.
    """
    if options.reference:
        if options.dtype == "bfloat16":
            raise InputError("--reference is float32: leave out --dtype bfloat16")
        return "float32"
    if options.dtype == "auto":
        return "bfloat16" if _has_bfloat16(device) else "float32"
    return options.dtype


def resolve_threads(options: EvaluationOptions) -> int:
    """CPU threads."""
    return options.threads or THREADS


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
