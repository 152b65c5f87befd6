"""The timing tests themselves: they run through in miniature, take turns, and write what they measured and no more."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import CPU, python

from benchmarks.declare.experiments import scaling_training
from benchmarks.runs import clock
from benchmarks.runs.build import build_model
from benchmarks.timing import support
from benchmarks.timing.support import Timing, flops, matrix_product, ratio_of, write_entries, write_ratio
from reports.timing import MEANINGS
from vma.data.episodes import EpisodeSpec
from vma.estimators import vimco

ROOT = Path(__file__).parents[1]
TINY = replace(scaling_training(), dataset="strokes", network="tiny", image_size=12, threads=1)
FIVE = np.array([1.0, 2.0, 3.0, 4.0, 9.0])


class Rounds:
    """A stand-in for pytest-benchmark's fixture: calls as `pedantic` does, each round of the target taking a second."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.stats: Any = None

    def pedantic(self, target: Callable[[], Any], setup: Callable[[], Any], rounds: int, warmup_rounds: int) -> None:
        for _ in range(warmup_rounds + rounds):
            setup()
            target()
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[1.0] * rounds))


def timed(tmp_path: Path, rounds: int | None = None) -> Timing:
    return Timing(cast(Any, Rounds()), CPU, rounds, True, tmp_path)


def test_a_ratio_replaces_its_own_line_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "timing" / "ratios.csv"
    for name, device in (("a", "chip, 2 threads"), ("b", "chip, 2 threads"), ("a", "other")):
        write_ratio(path, ratio_of(name, FIVE, device, "abc"))
    write_ratio(path, ratio_of("a", 2 * FIVE, "chip, 2 threads", "def+"))
    assert path.read_text(encoding="utf-8").splitlines() == [
        "name,ratio,q25,q75,device,commit",
        'a,6,4,8,"chip, 2 threads",def+',
        'b,3,2,4,"chip, 2 threads",abc',
        "a,3,2,4,other,abc",
    ]


def test_a_benchmark_replaces_itself_on_the_same_machine(tmp_path: Path) -> None:
    def one(name: str, device: str, median: float) -> dict[str, Any]:
        return {"name": name, "machine": {"device": device}, "stats": {"median": median}}

    path = tmp_path / "update.json"
    write_entries(path, [one("a", "chip", 1.0), one("b", "chip", 2.0)])
    write_entries(path, [one("a", "other", 3.0), one("a", "chip", 4.0)])
    found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    assert found == [one("a", "chip", 4.0), one("b", "chip", 2.0), one("a", "other", 3.0)]


def test_runs_take_turns_and_warm_up_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = iter(range(1000))
    monkeypatch.setattr(support, "clock", lambda device: float(next(now)))
    timing = timed(tmp_path)
    seconds = timing.in_turns(3, 2, plain=partial(said.append, "plain"), fast=partial(said.append, "fast"))
    assert said == ["plain", "fast"] * 5
    assert {name: values.tolist() for name, values in seconds.items()} == {"plain": [1.0] * 3, "fast": [1.0] * 3}
    alone = timed(tmp_path, rounds=2).in_turns(30, 5, fast=partial(said.append, "again"))
    assert said[10:] == ["again"] * 3
    assert alone["fast"].tolist() == [1.0, 1.0]


@pytest.mark.long
def test_the_operations_of_the_plain_update_and_of_the_matrix_product() -> None:
    assert flops(matrix_product(CPU)) == 2 * 2048**3
    spec = replace(scaling_training(), dataset="strokes", path="reference")
    model: Any = build_model(spec, support.characters(26), CPU)
    x = torch.zeros(32, 1, 26, 26)

    def update() -> None:
        (-vimco(model(x, model.encode_memory(x), 4)).mean()).backward()

    assert flops(update) == pytest.approx(44.6e9, rel=0.005)


def test_a_peak_is_of_one_model_and_what_was_freed_before_does_not_hide_it() -> None:
    large = replace(TINY, model="soft", read="features", episode=EpisodeSpec("recall", memory_size=2048))
    data = support.characters(12)
    _, large_first, small, large_again = (clock.peak_of_updates(s, data, CPU) for s in (large, large, TINY, large))
    assert 0 < small < large_first / 2
    assert large_again == pytest.approx(large_first, rel=0.2)


@pytest.mark.long
def test_processes_make_updates_side_by_side() -> None:
    with support.side_by_side(TINY, CPU, 2) as run:
        run(1, 2)
        run(2, 1)


@pytest.mark.long
def test_all_of_it_runs_in_miniature(tmp_path: Path) -> None:
    options = ("--timing-tiny", "--timing-rounds=1", "--timing-device=cpu", f"--timing-out={tmp_path}")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    run = python("-m", "pytest", "benchmarks/timing", "--benchmark-only", *options, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    out = tmp_path / "tiny"  # apart from what is a result
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["evaluation.json", "ratios.csv", "update.json"]
    with open(out / "ratios.csv", encoding="utf-8") as file:
        ratios = list(csv.DictReader(file))
    needs_cuda = {"graph-vs-eager", "side-by-side-throughput"}
    assert {line["name"] for line in ratios} == set(MEANINGS) - needs_cuda
    assert all(float(line["q25"]) == float(line["ratio"]) > 0 for line in ratios)
    for path in (out / "update.json", out / "evaluation.json"):
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        for one in json.loads(text)["benchmarks"]:
            assert set(one) == {"name", "params", "machine", "commit", "created", "extra_info", "stats"}
            assert set(one["machine"]) == {"device", "torch", "threads"}
            assert {"entries", "K", "B", "dtype", "device", "threads"} <= set(one["extra_info"])
            assert one["stats"]["rounds"] == 1
