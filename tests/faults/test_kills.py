"""Killed at any instant, the same command goes on, and ends with the weights and rows of an undisturbed run."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forking import Ask, outcome
from reliability import amount

from benchmarks import scaling
from benchmarks.plan.cli import run_command
from vma import checkpoint

KINDS = {
    "loading": "kills (SIGKILL) while training",  # it is over before a small run has begun
    "training": "kills (SIGKILL) while training",
    "saving": "kills (SIGKILL) while saving a checkpoint",
    "evaluating": "kills (SIGKILL) while evaluating",
    "recording": "kills (SIGKILL) while recording rows",
}
IN_A_ROW = 4  # kills before a run may come to its end


def test_an_undisturbed_run_has_all_that_a_kill_could_lose(undisturbed: dict[str, Any]) -> None:
    found = undisturbed["outcome"]
    assert found["update"] == 150
    assert [len(found[name]) for name in ("one.jsonl", "two.jsonl")] == [2 * 4, 3 * 4]
    assert {"one.parquet", "two.parquet"} <= {*found}
    assert "rng" in found
    assert any(name.startswith("optimizer.0.exp_avg") for name in found)


def test_killed_at_any_instant_a_run_ends_as_if_it_had_not_been(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path, tally: Callable[..., None]
) -> None:
    chance = random.Random(0)
    kills: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    wrong = []
    while sum(kills.values()) < amount(24, 160):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        phases = []
        for _ in range(IN_A_ROW):
            if chance.random() < 0.5:  # at any time, ...
                answer = ask(folder, seconds=chance.uniform(0, undisturbed["seconds"]))
            else:  # ... and at any call, which would else be hit rarely
                answer = ask(folder, call=chance.randint(1, undisturbed["calls"]), after=chance.random() < 0.5)
            if answer["status"] == 0:
                break
            phases.append(KINDS[answer["phase"]])
        else:
            assert ask(folder)["status"] == 0
        kills.update(phases)
        if outcome(folder) != undisturbed["outcome"]:
            lost.update(phases)
            wrong.append((folder, phases))
    for kind, number in kills.items():
        tally(kind, number, lost[kind])
    assert not wrong


def test_killed_at_each_call_of_recording_a_run_ends_as_if_it_had_not_been(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path, tally: Callable[..., None]
) -> None:
    """Training is done; what is left is evaluating and recording, whose calls are killed one after another."""
    folder = tmp_path / "run"
    ask(folder)
    whole = outcome(folder)
    (folder / "out").rename(tmp_path / "made before")
    ask(folder)
    calls = int((tmp_path / "run.calls").read_text())
    chance = random.Random(1)
    kills: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for call in sorted(chance.sample(range(1, calls + 1), min(calls, amount(12, 60)))):
        (folder / "out").rename(tmp_path / f"out before call {call}")
        answer = ask(folder, call=call, after=chance.random() < 0.5)
        assert answer["status"] == -signal.SIGKILL
        assert ask(folder)["status"] == 0
        kills[KINDS[answer["phase"]]] += 1
        lost[KINDS[answer["phase"]]] += outcome(folder) != whole
    for kind, number in kills.items():
        tally(kind, number, lost[kind])
    assert not sum(lost.values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_training_a_run_finishes_its_update_saves_and_goes_on(
    ask: Ask, undisturbed: dict[str, Any], tmp_path: Path, tally: Callable[..., None], number: int, code: int
) -> None:
    chance = random.Random(number)
    wrong = []
    runs, in_a_row = amount(1, 5), amount(3, 4)
    for run in range(runs):
        folder = tmp_path / str(run)
        for update in sorted(chance.sample(range(1, 150), in_a_row)):
            answer = ask(folder, update=update, signal=number)
            (path,) = folder.glob("cache/vma/runs/*/checkpoint.safetensors")
            saved = checkpoint.load(path, previous=False).meta["update"]
            said = Path(f"{folder}.log").read_text().splitlines()[-1]
            # Python may see the signal one update later
            if answer["status"] != code or saved - update not in (0, 1) or f"after {saved:,} updates" not in said:
                wrong.append((run, update, saved, answer, said))
        ask(folder)
        if outcome(folder) != undisturbed["outcome"]:
            wrong.append((run, "another outcome"))
    tally("stops by SIGTERM and Ctrl-C", runs * in_a_row, len(wrong))
    assert not wrong


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
