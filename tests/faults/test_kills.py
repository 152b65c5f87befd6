"""Killed at any instant, the same command goes on, and ends with the weights and rows of an undisturbed run."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from forking import Ask, outcome

from benchmarks import scaling
from benchmarks.plan.cli import run_command
from vma import checkpoint

IN_A_ROW = 4  # kills before a run may come to its end


def test_an_undisturbed_run_has_all_that_a_kill_could_lose(undisturbed: dict[str, Any]) -> None:
    found = undisturbed["outcome"]
    assert found["update"] == 150
    assert [len(found[name]) for name in ("one.jsonl", "two.jsonl")] == [2 * 4, 3 * 4]
    assert {"one.parquet", "two.parquet"} <= {*found}
    assert "rng" in found
    assert any(name.startswith("optimizer.0.exp_avg") for name in found)


def test_killed_at_any_instant_a_run_ends_as_if_it_had_not_been(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    chance = random.Random(0)
    kills, wrong = 0, []
    while kills < 24:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        asked: list[dict[str, Any]] = []
        for _ in range(IN_A_ROW):
            if chance.random() < 0.5:  # at any time, ...
                asked.append({"seconds": chance.uniform(0, undisturbed["seconds"])})
            else:  # ... and at any call, which would else be hit rarely
                asked.append({"call": chance.randint(1, undisturbed["calls"]), "after": chance.random() < 0.5})
            if ask(folder, **asked[-1])["status"] == 0:
                break
            kills += 1
        else:
            assert ask(folder)["status"] == 0
        if outcome(folder) != undisturbed["outcome"]:
            wrong.append((folder, asked))
    assert not wrong


def test_killed_at_each_call_of_recording_a_run_ends_as_if_it_had_not_been(ask: Ask, tmp_path: Path) -> None:
    """Training is done; what is left is evaluating and recording, whose calls are killed one after another."""
    folder = tmp_path / "run"
    ask(folder)
    whole = outcome(folder)
    (folder / "out").rename(tmp_path / "made before")
    ask(folder)
    calls = int((tmp_path / "run.calls").read_text())
    chance, wrong = random.Random(1), []
    for call in sorted(chance.sample(range(1, calls + 1), min(calls, 12))):
        (folder / "out").rename(tmp_path / f"out before call {call}")
        answer = ask(folder, call=call, after=chance.random() < 0.5)
        assert answer["status"] == -signal.SIGKILL
        assert ask(folder)["status"] == 0
        if outcome(folder) != whole:
            wrong.append(call)
    assert not wrong


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_training_a_run_finishes_its_update_saves_and_goes_on(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "run"
    for update in (20, 75, 140):
        answer = ask(folder, update=update, signal=number)
        (path,) = folder.glob("cache/vma/runs/*/checkpoint.safetensors")
        saved = checkpoint.load(path, previous=False).meta["update"]
        assert answer["status"] == code
        assert saved - update in (0, 1)  # Python may see the signal one update later
        assert f"after {saved:,} updates" in Path(f"{folder}.log").read_text().splitlines()[-1]
    ask(folder)
    assert outcome(folder) == undisturbed["outcome"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_elsewhere_a_command_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    if number == signal.SIGINT:  # which shells let their background processes ignore
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    assert run_command(scaling.Options, lambda _: os.kill(os.getpid(), number), "benchmarks.scaling", []) == code
    assert capsys.readouterr().err == "stopped; the state of training and the rows of finished cells are kept\n"
    assert signal.getsignal(number) == before
