"""What all commands share: options, one-line errors with exit codes, data with its fallback, and the device."""

import os
import re
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import torch

from benchmarks.declare.spec import MOST_SEED, MOST_THREADS, MOST_UPDATES, TrainSpec
from benchmarks.plan.fill import training_episode
from reports import command
from vma.data import DataSet, load
from vma.data.episodes import MOST
from vma.errors import DataUnavailable, InputError, check_number, check_whole
from vma.hardware import keep_freed_memory
from vma.training import NonFiniteBound

CORES = torch.get_num_threads()  # at the start: all that this process may use, or OMP_NUM_THREADS
STOPPED = "stopped; the state of training and the rows of finished cells are kept"
DEFAULT_MINUTES, FALLBACK_MINUTES = 15.0, 3.0
MOST_MINUTES = 525_600.0  # a year
OUT_OF_MEMORY = "the memory is full: give smaller numbers (--num-samples, --shots, --jobs), or use a larger machine"

Options = TypeVar("Options", bound="DataOptions")


@dataclass(frozen=True)
class DataOptions:
    """Options of every command that looks at data."""

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


@dataclass(frozen=True)
class EvaluationOptions(DataOptions):
    """Options of every command that evaluates."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the networks; auto takes bfloat16 where the hardware computes in it. The bound is always float32 or better."""
    reference: bool = False
    """Take the reference path: VMA as its equations stand, in float32, several times slower (the other models have no
    other code for it, and go in float32).
    """
    threads: int | None = None
    """CPU threads (default: as many as cores were idle in the last minute, at least 1)."""
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
    train_classes: int | None = None
    """Classes of an episode of training (default: as declared, or as many as the data have with enough drawings)."""
    train_shots: int | None = None
    """Examples of each class in memory in training (default: as declared)."""
    train_targets: int | None = None
    """Targets of each class in training (default: as declared)."""


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
    command.print_anything()
    # one line each, without the place in the source that emits it
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    keep_freed_memory()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        run(parse(options, prog, argv))
    except DataUnavailable as error:
        same = shlex.join(["python", "-m", *prog.split(), *(sys.argv[1:] if argv is None else argv)])
        return _fail(
            2,
            f"error: {error}",
            *(f"  tried {attempt}" for attempt in error.attempts),
            f"  without these data, on built-in characters: {same} --dataset strokes",
        )
    except Exception as error:
        return _fail(*in_a_line(error))
    except KeyboardInterrupt:
        return _fail(128 + signal.SIGINT, STOPPED)
    except _Terminated:
        return _fail(128 + signal.SIGTERM, STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def in_a_line(error: Exception) -> tuple[int, str]:
    """The exit code and the line of a failure that is expected; any other is raised again."""
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, NonFiniteBound):
        return 1, f"error: {error}"
    # the CPU's allocator has no error of its own
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return 1, f"error: {OUT_OF_MEMORY}"
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        what = f"cannot write or read{where}: {error.strerror or error}"
        return 1, f"error: {what}; free space there or mend permissions"
    raise error


class _Terminated(BaseException):
    """What SIGTERM raises, as Ctrl-C raises KeyboardInterrupt."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _fail(code: int, *lines: str) -> int:
    print(*map(command.one_line, lines), sep="\n", file=sys.stderr)
    return code


def parse(options: type[Options], prog: str, argv: Sequence[str] | None) -> Options:
    """The options on the command line, of which those that commands share are within their range.

    Raises:
        InputError: naming the option and what is allowed, in one line.
    """
    parsed = command.parse(options, prog, argv)
    if parsed.device != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", parsed.device):
        raise InputError(f"--device is {parsed.device!r}, must be auto, cpu or cuda")
    if parsed.dataset == "folder:":
        raise InputError("--dataset is 'folder:', must name a folder after it: folder:PATH")
    check_option("--image-size", parsed.image_size, 8, 256)
    if isinstance(parsed, EvaluationOptions):
        command.check_folder("--out", parsed.out)
        check_option("--threads", parsed.threads, 1, MOST_THREADS)
    if isinstance(parsed, TrainingOptions):
        check_option("--updates", parsed.updates, 1, MOST_UPDATES)
        if parsed.minutes is not None:
            check_number("--minutes", parsed.minutes, MOST_MINUTES)
        for name in ("train_classes", "train_shots", "train_targets"):
            check_option(f"--{name.replace('_', '-')}", getattr(parsed, name), 1, MOST)
    if isinstance(parsed, CommonOptions):
        check_option("--seed", parsed.seed, 0, MOST_SEED)
    return parsed


def check_option(option: str, value: int | Sequence[int] | None, least: int, most: int) -> None:
    """Refuse numbers that are not between `least` and `most`, and no number at all; None was not given.

    Raises:
        InputError: naming the option and what is allowed.
    """
    if value is None:
        return
    values = [value] if isinstance(value, int) else value
    if not values:
        raise InputError(f"{option} is empty, must be one or more whole numbers")
    for one in values:
        check_whole(option, one, least, most)


def open_data(options: DataOptions, default: str) -> tuple[DataSet, bool]:
    """The data set of the options, and whether it is the fallback.

    Raises:
        DataUnavailable: if it can be had from nowhere and no fallback is allowed.
        InputError: for an unknown name or data that are not what they should be.
    """
    reason = ""
    try:
        data = load(options.dataset or default, data=options.data, image_size=options.image_size)
    except DataUnavailable as error:
        if options.fallback is None:
            raise
        reason = f" ({error})"
        data = load(options.fallback, image_size=options.image_size)
    for words in warning(data):
        print(f"{words}{reason}: the figures below say nothing about the paper's.")
    return data, bool(reason)


def open_data_for(options: DataOptions, spec: TrainSpec) -> DataSet:
    """The data set of the options, else that of a training, in the size of the images that its model takes.

    Raises:
        InputError: for images of another size. As `open_data`.
    """
    if at_any_size(options.dataset or spec.dataset) and options.image_size is None:
        options = replace(options, image_size=spec.image_size)
    data, _ = open_data(options, spec.dataset)
    if data.image_size != (spec.image_size,) * 2:
        raise InputError(
            f"the images of {data.name} are {data.image_size[0]}x{data.image_size[1]}, the model was trained with "
            f"{spec.image_size}x{spec.image_size}: give another --dataset or --image-size"
        )
    return data


def warning(data: DataSet) -> list[str]:
    """What the first line, every title and the last line say where the data are made up; nothing for real data."""
    return ["BUILT-IN CHARACTERS (strokes), NOT THE PAPER'S DATA"] if data.name == "strokes" else []


def check_writable(folder: Path) -> None:
    """Make sure, before hours of work, that the output folder can be written, or made if it is not there yet. It is
    made with the first file in it.

    Raises:
        OSError: naming the folder.
    """
    with tempfile.TemporaryFile(dir=command.nearest(folder)):
        pass


def asked(options: CommonOptions) -> dict[str, Any]:
    """What `execute.here` is told of the options."""
    since = int(time.time()) if options.again or options.from_scratch else None
    return {"updates": options.updates, "restart": options.from_scratch, "since": since}


def training_minutes(options: CommonOptions, fallback: bool) -> float:
    """How long to train in all where there are no weights, so that a first run ends in time."""
    return options.minutes or (FALLBACK_MINUTES if fallback else DEFAULT_MINUTES)


def resolve_device(options: DataOptions) -> torch.device:
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
        raise InputError(f"--device {name} is not available on this machine: use --device cpu") from None
    return device


def at_any_size(name: str) -> bool:
    """Whether these data can be had at any size: built-in characters, and folders of the user's own."""
    return name == "strokes" or name.startswith("folder:")


def resolve_spec(
    spec: TrainSpec, options: EvaluationOptions, data: DataSet, device: torch.device, seed: int
) -> TrainSpec:
    """A declared spec with this seed, the data, the precision and the threads of the options, and the episodes that the
    data have for it (`fill.training_episode`). On built-in characters and on folders it starts from new weights.

    Raises:
        InputError: if the images are not square, or the spec has no reference path.
        TooFew: if the data have too few drawings to train with.
    """
    if options.reference and spec.model == "vma" and spec.gradient_entries is not None:
        raise InputError(
            "--reference has no gradients for a sample of the entries, which wallclock times: leave it out"
        )
    asked = {}
    if isinstance(options, TrainingOptions):
        asked = {"classes": options.train_classes, "shots": options.train_shots, "targets": options.train_targets}
    size = data.image_size
    if size[0] != size[1]:
        raise InputError(f"the images of {data.name} are {size[0]}x{size[1]}, must be square: give --image-size")
    return replace(
        spec,
        dataset=data.name,
        image_size=size[0],
        start=None if at_any_size(data.name) else spec.start,
        episode=training_episode(spec.episode, data, **asked),
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
    """CPU threads: those asked for, else one for each idle core. Threads wait for each other at every operation, so
    that one too many on a busy machine makes all of them many times slower.
    """
    idle = (os.cpu_count() or 1) - int(os.getloadavg()[0])
    return options.threads or max(1, min(idle, CORES))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
