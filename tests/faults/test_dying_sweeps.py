"""A sweep in which workers are killed and one job always dies: that one is reported, and all others end undisturbed."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from reliability import amount
from test_sweep import BROKEN, TRAIN, VAE, cell, declare, rows, runs

from benchmarks import run

JOBS = amount(2, 6)
KILLS = amount(1, 2)  # of each job, which is then tried again as often as `--retries` says by default
GOOD = [replace(spec, seed=seed, threads=1) for seed in range(JOBS // 2) for spec in (TRAIN, VAE)]
BAD = replace(BROKEN, threads=1)


@contextmanager
def killer(out: Path, chance: random.Random) -> Iterator[list[int]]:
    """Kills the worker of each good job `KILLS` times, at any moment after it has begun."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):
            for spec in GOOD:
                log = out / "logs" / f"{spec.model}-{spec.train_id}.log"
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tally: Callable[..., None]
) -> None:
    good = declare("good", *(cell(spec) for spec in GOOD))
    monkeypatch.setattr(run, "EXPERIMENTS", {"good": good, "mixed": declare("mixed", cell(BAD), *good().cells)})

    def sweep(name: str, out: Path) -> int:
        monkeypatch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        try:
            return run.main([name, "--out", str(out), "--dtype", "float32"])
        except SystemExit as stop:
            return int(stop.code or 0)

    assert sweep("good", tmp_path / "undisturbed") == 0
    capsys.readouterr()
    with killer(tmp_path / "out", random.Random(0)) as killed:
        code = sweep("mixed", tmp_path / "out")
    said = capsys.readouterr()
    found = rows(tmp_path / "out", "mixed")
    wanted = [row | {"experiment": "mixed"} for row in rows(tmp_path / "undisturbed", "good")]
    lost = sum(row not in found for row in wanted)
    tally("jobs of sweeps in which others die", JOBS, lost)
    assert lost == 0
    assert len(found) == len(wanted)
    assert code == 1
    # one may have been killed as it ended by itself
    assert 0 < len(re.findall(r"failed \(exit code -9\), tried again", said.out)) <= len(killed)
    assert f"vae-{BAD.train_id} (mixed) failed with exit code 1 after 3 attempts" in said.err
    assert "the bound is not finite at update" in said.err
