"""Sweeps in which workers die, that are stopped, killed or doubled: what can end does, with undisturbed rows."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_sweep import BROKEN, CPU, ROOT, TINY, TRAIN, VAE, cell, command, declare, read, rows, until

from benchmarks import run
from benchmarks.execute import sweep
from benchmarks.runs.states import run_folder

JOBS = 2
KILLS = 1  # of each job, which is then tried again as often as `--retries` says by default
GOOD = [replace(spec, seed=seed, threads=1) for seed in range(JOBS // 2) for spec in (TRAIN, VAE)]
BAD = replace(BROKEN, threads=1)


def start(*arguments: object) -> "subprocess.Popen[str]":
    """The runner on the tiny experiments in a process of its own, and its jobs in others."""
    script = "import sys, test_sweep; sys.exit(test_sweep.command(*sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def training_process(out: Path, attempt: int = 1) -> int | None:
    """The process of the worker that trains, once it does, by the log of its attempt."""
    for log in (out / "logs").glob("vma-*.log"):
        parts = log.read_text().split("--- ")[1:]
        if len(parts) >= attempt and "\ntrain" in parts[attempt - 1]:
            return int(re.search(r"process (\d+)", parts[attempt - 1])[1])  # type: ignore[index]
    return None


@contextmanager
def held(process: int) -> Iterator[int]:
    """A process that stands still meanwhile, so that what happens to it does so in the middle of its training."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGCONT)


def runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def killer(out: Path, chance: random.Random) -> Iterator[list[int]]:
    """Kills the worker of each good job `KILLS` times, at any moment after it has begun."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):
            for spec in GOOD:
                log = out / "logs" / f"{spec.model}-{spec.run_id}.log"
                attempts = re.findall(r"process (\d+)", log.read_text()) if log.exists() else []
                if 0 < len(attempts) <= KILLS and int(attempts[-1]) not in killed and runs(int(attempts[-1])):
                    time.sleep(chance.uniform(0, 1.5))
                    if runs(int(attempts[-1])):
                        os.kill(int(attempts[-1]), signal.SIGKILL)
                        killed.append(int(attempts[-1]))

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_killed_workers_are_tried_again_and_a_job_that_always_dies_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = declare("good", *(cell(spec) for spec in GOOD))
    monkeypatch.setattr(run, "EXPERIMENTS", {"good": good, "mixed": declare("mixed", cell(BAD), *good().cells)})

    def sweep(name: str, out: Path) -> int:
        monkeypatch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        try:
            return run.main([name, "--out", str(out), "--dtype", "float32"])
        except SystemExit as stop:
            return int(stop.code or 0)

    with monkeypatch.context() as patch:
        patch.setattr(run, "in_process", lambda options: True)
        assert sweep("good", tmp_path / "undisturbed") == 0
    capsys.readouterr()
    with killer(tmp_path / "out", random.Random(0)) as killed:
        code = sweep("mixed", tmp_path / "out")
    said = capsys.readouterr()
    found = rows(tmp_path / "out", "mixed")
    wanted = [row | {"experiment": "mixed"} for row in rows(tmp_path / "undisturbed", "good")]
    assert all(row in found for row in wanted)
    assert len(found) == len(wanted)
    assert code == 1
    # one may have been killed as it ended by itself
    assert 0 < len(re.findall(r"failed \(exit code -9\), tried again", said.out)) <= len(killed)
    assert f"vae-{BAD.run_id} (mixed) failed with exit code 1 after 3 attempts" in said.err
    assert "the bound is not finite at update" in said.err


@pytest.fixture
def undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rows of `two` as they are to be; nothing was trained before what follows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert command("two", "--out", tmp_path / "undisturbed") == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return rows(tmp_path / "undisturbed", "two")


def test_a_sweep_that_was_stopped_and_one_that_was_killed_are_taken_up(
    undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("two", "--out", out, "--jobs", 1)
    spec = replace(TINY["two"]().cells[0].train, threads=1)
    checkpoint = run_folder(spec, CPU) / "checkpoint.safetensors"

    stopped = start(*arguments)
    with held(until(lambda: training_process(out))) as worker:
        stopped.send_signal(signal.SIGINT)
        until(lambda: not list((out / ".locks").glob("sweep-*")))
        time.sleep(2 * sweep.POLL)
    _, said = stopped.communicate()
    assert stopped.returncode == 130
    assert [line.partition(";")[0] for line in said.splitlines()] == ["stopped"]
    assert not runs(worker)
    assert checkpoint.exists()
    assert read(out, "two") == []

    killed = start(*arguments)
    with held(until(lambda: training_process(out, attempt=2))) as worker:
        killed.kill()
        killed.communicate()
    until(lambda: not runs(worker))
    assert read(out, "two") == []

    assert command(*arguments) == 0
    assert rows(out, "two") == undisturbed
    assert not list((out / "logs").glob("*.progress"))


def test_two_sweeps_at_once_do_no_cell_twice(undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = start("two", "--out", out, "--jobs", 1)
    until(lambda: training_process(out))
    (log,) = (out / "logs").glob("*.log")

    def hold() -> None:
        with held(until(lambda: training_process(out))):
            until(lambda: "waiting for process" in log.read_text())

    holder = threading.Thread(target=hold)
    holder.start()
    assert command("two", "--out", out, "--jobs", 1) == 0
    holder.join()
    _, said = other.communicate()
    assert other.returncode == 0, said
    assert rows(out, "two") == undisturbed
    assert "all cells have their rows" in log.read_text()
