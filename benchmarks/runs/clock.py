"""The time and the memory of updates: what `wallclock` and `benchmarks/timing` measure, which evaluate nothing."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.declare.spec import Cell, TrainSpec, identity
from benchmarks.record.evaluated import Result, Trained
from benchmarks.runs.build import DRAWS, DTYPES, build_model, build_objective, build_optimizer, uses_graph
from benchmarks.runs.episodes import episodes_of
from benchmarks.runs.tasks import Progress, metric_of
from vma.data import DataSet
from vma.errors import InputError
from vma.graph import WARM_UP
from vma.objectives import Terms
from vma.training import fit


def time_updates(
    cells: Iterable[Cell], data: DataSet, device: torch.device, progress: Progress
) -> Iterator[tuple[Trained, Result]]:
    """Seconds and peak memory of an update of each cell's untrained model; cells of one |M| take turns, round by round.

    One round is one update; each cell makes some beforehand that are not counted. Peaks are measured apart, one model
    after the other, see `peak_of_updates`.
    """
    by_size: dict[int, list[Cell]] = {}
    for cell in cells:
        by_size.setdefault(cell.train.episode.num_entries, []).append(cell)
    for done, group in enumerate(by_size.values()):
        progress(done, len(by_size))
        if done == 0:  # what libraries load at their first use is no model's own
            peak_of_updates(group[0].train, data, device)
        peaks = [peak_of_updates(cell.train, data, device) for cell in group]
        seconds = _take_turns(group, data, device)
        for cell, peak, own in zip(group, peaks, seconds, strict=True):
            yield _untrained(cell.train), _timing(cell, np.array(own), peak)
    progress(len(by_size), len(by_size))


def _take_turns(group: Sequence[Cell], data: DataSet, device: torch.device) -> list[list[float]]:
    """Seconds of each cell's update in each round; the models are gone when this returns."""
    streams = [update_stream(cell.train, data, device) for cell in group]
    seconds: list[list[float]] = [[] for _ in group]
    for cell, stream in zip(group, streams, strict=True):
        for _ in range(_first_updates(cell.train, device)):
            next(stream)
    for _ in range(group[0].eval.targets):
        for stream, own in zip(streams, seconds, strict=True):
            started = clock(device)
            next(stream)
            own.append(clock(device) - started)
    return seconds


def _first_updates(spec: TrainSpec, device: torch.device) -> int:
    """Updates until all that an update takes is there: Adam's moments and a library's plans, and the graph."""
    return WARM_UP + 2 if uses_graph(spec, device) else 1


def update_stream(
    spec: TrainSpec, data: DataSet, device: torch.device, graph: bool | None = None
) -> Iterator[tuple[int, Terms]]:
    """The updates of a new model of this spec, one a step; `graph` is that of training unless it is given."""
    torch.set_num_threads(spec.threads)
    model = build_model(spec, data, device)
    return fit(
        model,
        episodes_of(spec, data, device),
        build_objective(spec, model),
        build_optimizer(spec, model),
        spec.num_samples,
        range(2**62),
        generator=torch.Generator(device).manual_seed(spec.seed),
        dtype=DTYPES[spec.dtype],
        clip=spec.clip,
        episodes_per_update=spec.episodes_per_update,
        graph=uses_graph(spec, device) if graph is None else graph,
        draw=DRAWS.get(spec.estimator),
    )


def clock(device: torch.device) -> float:
    """Seconds, read when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_of_updates(spec: TrainSpec, data: DataSet, device: torch.device) -> int:
    """Bytes that the first updates of a new model take at most, beyond what was taken before the model was built:
    weights, Adam's moments, gradients, activations and a library's workspaces.

    On the CPU it is the resident memory of the process, with all that was freed before given back to the system; on
    CUDA what torch's allocator hands out.
    """
    gc.collect()
    _give_back_freed_memory()
    before = reset_peak(device)
    stream = update_stream(spec, data, device)
    for _ in range(_first_updates(spec, device) + 1):
        next(stream)
    return peak_bytes(device) - before


def reset_peak(device: torch.device) -> int:
    """Forget the peak of memory so far; returns the bytes that are taken now.

    Linux forgets the peak of a process's resident memory when 5 is written to clear_refs; on other systems the peak
    stays that of the whole process so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        path = Path("/proc/self/clear_refs")
        if path.exists():
            path.write_text("5", encoding="ascii")
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """Peak of memory since `reset_peak`: resident memory of this process, or what torch took on a CUDA device.

    Raises:
        InputError: on Windows, which tells neither.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        raise InputError("wallclock measures memory as Linux and macOS tell it: leave it out on this system") from None
    # which macOS gives in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _give_back_freed_memory() -> None:
    """Have malloc give its free pages back to the system, which it keeps otherwise, see `vma.hardware`; the GNU C
    library alone can.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _untrained(spec: TrainSpec) -> Trained:
    model: Any = nn.Identity()  # of which nothing is asked
    return Trained(model, spec, 0, 0.0, identity(spec), ())


def _timing(cell: Cell, seconds: np.ndarray, peak: int) -> Result:
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    metrics = [
        metric_of("seconds_per_update", median, None, len(seconds)) | {"q25": low, "q75": high},
        metric_of("peak_bytes", float(peak), None, len(seconds)),
    ]
    return Result(cell, metrics, {"seconds": seconds}, float(seconds.sum()))
