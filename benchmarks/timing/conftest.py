"""Options of the timing tests, a timer that waits for the device, and the files that each of them writes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.runs import clock
from benchmarks.runs.training import training_commit
from benchmarks.timing.support import Timing, entry, write_entries
from vma.hardware import keep_freed_memory

LIMIT = 3600  # seconds a test


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("timing")
    group.addoption("--timing-out", type=Path, default=Path("reproduced/timing"), help="folder of the files")
    group.addoption("--timing-device", default="auto", choices=("auto", "cpu", "cuda"), help="auto is cuda, if there")
    group.addoption("--timing-rounds", type=int, help="rounds of every test, instead of its own number")
    group.addoption("--timing-tiny", action="store_true", help="small models and memories: no results")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    device = _device(config)
    skip = pytest.mark.skip(reason="is of a CUDA device, and these tests run on another: see --timing-device")
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=partial(clock.clock, device)))
        item.add_marker(pytest.mark.timeout(LIMIT))
        if item.get_closest_marker("cuda") and device.type != "cuda":
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _memory_is_kept() -> None:
    keep_freed_memory()


@pytest.fixture
def timing(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Iterator[Timing]:
    if benchmark.disabled:
        pytest.skip("what is not timed says nothing: leave out --benchmark-disable, and -n of xdist, which implies it")
    option = request.config.getoption
    device = _device(request.config)
    yield Timing(benchmark, device, option("--timing-rounds"), option("--timing-tiny"), _folder(request.config))
    if benchmark.stats is not None and not benchmark.has_error:
        module = request.module.__name__.rpartition(".")[2].removeprefix("test_")
        # after each test, so that a session that is killed loses none
        write_entries(_folder(request.config) / f"{module}.json", [entry(benchmark, device, training_commit())])


def _device(config: pytest.Config) -> torch.device:
    name = config.getoption("--timing-device")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _folder(config: pytest.Config) -> Path:
    out: Path = config.getoption("--timing-out")
    return out / "tiny" if config.getoption("--timing-tiny") else out
