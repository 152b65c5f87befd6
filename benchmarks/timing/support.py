"""What the timing tests share: rounds in which runs take turns, ratios of them, and the files where both go."""

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.declare.spec import TrainSpec
from benchmarks.record import store
from benchmarks.runs.clock import clock, peak_bytes, reset_peak, update_stream
from benchmarks.runs.training import training_commit
from vma.data import DataSet, load
from vma.data.episodes import Episode
from vma.evaluation import evaluate
from vma.hardware import keep_freed_memory

THREADS = 2  # of the CPU, in everything that is timed but what is tiny, which more than one would slow down
MATRIX = 2048  # rows and columns of the matrices whose product tells how fast the machine is

Seconds = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Ratio:
    """A line of ratios.csv: the median over rounds of a quotient taken within each round, and its quartiles."""

    name: str
    ratio: float
    q25: float
    q75: float
    device: str
    commit: str


def ratio_of(name: str, values: Seconds, device: str, commit: str) -> Ratio:
    """The ratio whose value in each round (n,) is given."""
    low, middle, high = (float(quantile) for quantile in np.quantile(values, (0.25, 0.5, 0.75)))
    return Ratio(name, middle, low, high, device, commit)


def write_ratio(path: Path, ratio: Ratio) -> None:
    """Put a ratio into the file, whole or not at all: in the place of the same name on the same device, if it is there.

    Raises:
        OSError: naming `path`, as when the disk is full.
    """
    lines = {(line["name"], line["device"]): line for line in read_csv(path)}
    numbers = {name: f"{getattr(ratio, name):.4g}" for name in ("ratio", "q25", "q75")}
    lines[ratio.name, ratio.device] = {**asdict(ratio), **numbers}
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Ratio)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines.values())
    store.write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a table with a heading, none if it is missing."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and what runs on it; nothing that names the machine, its users or its folders."""
    origin = store.provenance(device)
    more = {"cuda": torch.version.cuda} if device.type == "cuda" else {"threads": origin["threads"]}
    return {"device": origin["device"], "torch": origin["torch"], **more}


def hardware(device: torch.device) -> str:
    """The chip in words, and on the CPU the threads."""
    about = machine(device)
    threads = about.get("threads", 0)
    return str(about["device"]) + (f", {threads} thread" + "s" * (threads > 1) if threads else "")


def entry(benchmark: BenchmarkFixture, device: torch.device, commit: str) -> dict[str, Any]:
    """What is kept of a benchmark: seconds a round, what they were measured on, and what the test said of itself."""
    assert benchmark.stats is not None
    stats = benchmark.stats.stats
    return {
        "name": benchmark.name,
        "params": dict(benchmark.params or {}),
        "machine": machine(device),
        "commit": commit,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "extra_info": dict(benchmark.extra_info),
        "stats": {key: getattr(stats, key) for key in ("median", "q1", "q3", "iqr", "min", "rounds")},
    }


def write_entries(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Put benchmarks into the file of their module, whole or not at all: each in the place of the same one on the same
    machine, if it is there.

    Raises:
        OSError: naming `path`, as when the disk is full.
    """
    old = json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else []
    kept = {(one["name"], one["machine"]["device"]): one for one in (*old, *entries)}
    store.write_text(path, json.dumps({"benchmarks": list(kept.values())}, indent=1, allow_nan=False) + "\n")


class Timing:
    """What a timing test asks for: the device, rounds, data and models of the size that was chosen, and the files."""

    def __init__(
        self, benchmark: BenchmarkFixture, device: torch.device, rounds: int | None, tiny: bool, out: Path
    ) -> None:
        self.benchmark, self.device, self.rounds, self.tiny, self.out = benchmark, device, rounds, tiny, out
        self.clock = partial(clock, device)
        self.threads = 1 if tiny else THREADS
        torch.set_num_threads(self.threads)

    def spec(self, spec: TrainSpec, entries: int | None = None) -> TrainSpec:
        """A declared training on the built-in characters of its image size, in the precision of the fast path; with
        `entries` random images in memory, if given. With --timing-tiny all of it is small.
        """
        spec = replace(spec, dataset="strokes", threads=self.threads, dtype=spec.dtype if spec.path else "bfloat16")
        if entries is not None:
            entries = max(4, entries // 32) if self.tiny else entries
            spec = replace(spec, episode=replace(spec.episode, protocol="recall", memory_size=entries))
        if self.tiny:
            network = "tiny-mlp" if spec.network == "mlp" else "tiny"
            spec = replace(spec, network=network, image_size=12)
        return spec

    def data(self, spec: TrainSpec) -> DataSet:
        """The data of a spec from `spec`."""
        return characters(spec.image_size)

    def updates(self, spec: TrainSpec, graph: bool | None = None) -> Callable[[], Any]:
        """A new model's next update, each time it is called; `graph` is that of training unless it is given."""
        return partial(next, update_stream(spec, self.data(spec), self.device, graph))

    def flops(self, spec: TrainSpec) -> int:
        """Floating point operations of an update."""
        return flops(self.updates(spec, graph=False))  # of a graph's operations none are seen

    def in_turns(self, rounds: int, warmup: int, **runs: Callable[[], object]) -> dict[str, Seconds]:
        """The seconds of each run in each round (n,): in a round they run one after the other, in the order given.

        pytest-benchmark shows the last. `warmup` rounds before are not counted; --timing-rounds N puts N in the place
        of `rounds`, and one round of warm-up before.
        """
        *others, (last, target) = runs.items()
        rounds, warmup = (rounds, warmup) if self.rounds is None else (self.rounds, 1)
        seconds: dict[str, list[float]] = {name: [] for name, _ in others}

        def setup() -> None:
            for name, run in others:
                started = self.clock()
                run()
                seconds[name].append(self.clock() - started)

        self.benchmark.pedantic(target, setup=setup, rounds=rounds, warmup_rounds=warmup)
        found = {name: np.array(own[warmup:]) for name, own in seconds.items()}
        assert self.benchmark.stats is not None
        return found | {last: np.array(self.benchmark.stats.stats.data)}

    def say(self, spec: TrainSpec, **more: Any) -> None:
        """Put into extra_info what a spec says and `more`."""
        self.benchmark.extra_info.update(
            {
                "model": spec.model,
                "read": spec.read,
                "network": spec.network,
                "entries": spec.episode.num_entries,
                "K": spec.num_samples,
                "B": spec.episode.num_targets * (spec.episodes_per_update or 1),
                "dtype": spec.dtype,
                "gradient_entries": spec.gradient_entries,
                "device": self.device.type,
                "threads": self.threads,
                "data": f"built-in characters, {spec.image_size}x{spec.image_size}",
                "weights": "untrained",
            }
            | more
        )

    def ratio(self, name: str, values: Seconds) -> Ratio:
        """Record a ratio by its value in each round."""
        found = ratio_of(name, values, hardware(self.device), training_commit())
        self.benchmark.extra_info[name] = found.ratio
        write_ratio(self.out / "ratios.csv", found)
        return found


@cache
def characters(image_size: int) -> DataSet:
    """The built-in characters, which need no file: they are drawn once a process."""
    return load("strokes", image_size=image_size, progress=False)


def flops(run: Callable[[], object]) -> int:
    """Floating point operations of one run, two for a multiplication and its addition."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def matrix_product(device: torch.device) -> Callable[[], torch.Tensor]:
    """A bfloat16 product of two square matrices, of 2 * MATRIX**3 operations."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(MATRIX, MATRIX, generator=generator, device=device).bfloat16() for _ in range(2))
    return partial(torch.matmul, a, b)


@torch.no_grad()
def training_forward_in_a_loop(
    model: Any, episode: Episode, num_samples: int, chunk: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """What an evaluation of the episode's first target takes by the forward that training has, chunk by chunk of K."""
    x = episode.x[:1]
    with torch.autocast(x.device.type, dtype):
        for done in range(0, num_samples, chunk):
            model(x, model.encode_memory(episode.memory), min(chunk, num_samples - done), generator=generator)


def evaluation_peak(build: Callable[[], tuple[Any, Any]], num_samples: int, device: torch.device) -> int:
    """Peak of memory in bytes of a new process that evaluates one episode and does nothing else.

    Args:
        build: the model and its episodes; a function of a module, with its arguments.
        num_samples: K.
        device: where.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return int(pool.apply(_evaluation_peak, (build, num_samples, device, torch.get_num_threads())))


def _evaluation_peak(build: Callable[[], tuple[Any, Any]], num_samples: int, device: torch.device, threads: int) -> int:
    keep_freed_memory()
    torch.set_num_threads(threads)
    model, episodes = build()
    reset_peak(device)
    evaluate(model, episodes, range(1), num_samples, dtype=torch.bfloat16)
    return peak_bytes(device)


@contextmanager
def side_by_side(spec: TrainSpec, device: torch.device, processes: int) -> Iterator[Callable[[int, int], None]]:
    """Processes that train a model of this spec each; gives a function of (how many of them, updates) that returns when
    that many have made so many updates each, all at the same time.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    workers = [context.Process(target=_updates_on_demand, args=(spec, device, theirs)) for _, theirs in pipes]
    ours = [one for one, _ in pipes]
    for worker in workers:
        worker.start()
    for _, theirs in pipes:
        theirs.close()  # so that the end of a worker is the end of its pipe

    def run(how_many: int, updates: int) -> None:
        for pipe in ours[:how_many]:
            pipe.send(updates)
        for pipe in ours[:how_many]:
            pipe.recv()

    try:
        run(processes, 1)
        yield run
    finally:
        for pipe in ours:
            pipe.close()
        for worker in workers:
            worker.join()


def _updates_on_demand(spec: TrainSpec, device: torch.device, pipe: Connection) -> None:
    keep_freed_memory()
    stream = update_stream(spec, characters(spec.image_size), device)
    while True:
        try:
            wanted = pipe.recv()
        except EOFError:
            return
        for _ in range(wanted):
            next(stream)
        clock(device)
        pipe.send(None)
