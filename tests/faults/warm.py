"""A process that has imported everything, and forks a child for each request: a small run of a job in a fraction of a
second, killed where the request says.

Requests and answers are lines of JSON on stdin and stdout.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer would import, for two seconds
from forking import CALLS, intercept, refusal

from benchmarks.declare.spec import Cell, EvalSpec, TrainSpec
from benchmarks.execute import runner
from benchmarks.plan.jobs import Job
from benchmarks.record import store
from benchmarks.runs import training, watch
from vma.data import load
from vma.data.episodes import EpisodeSpec

REFUSED = ("open", "write", "fsync", "replace", "mkdir")  # those that a disk may refuse
EPISODE = EpisodeSpec(classes=4, targets_per_class=2, shots=2)
TRAIN = TrainSpec(
    recipe="smoke", dataset="strokes", image_size=8, network="tiny-mlp", episode=EPISODE, dtype="float32", threads=1
)
UPDATES = 150


def job(out: Path) -> Job:
    """One training, and cells of two experiments on it, one of which both ask for; all but one are evaluated together,
    from draws that they share.
    """
    single = replace(EPISODE, targets_per_class=1, target_classes=1)
    memories = [EvalSpec(replace(single, shots=shots), 50, 40, threads=1) for shots in (1, 2, 3)]
    one, both, two, alone = (Cell(TRAIN, spec, UPDATES) for spec in (*memories, EvalSpec(EPISODE, 5, 128, threads=1)))
    asked = [("one", one), ("one", both), ("two", both), ("two", two), ("two", alone)]
    return Job("killed", tuple(asked), out, "cpu", updates=UPDATES)


def die_at(call: int, after: bool) -> None:
    """Die by SIGKILL at a call of `CALLS`, before it or after it; of a write that is cut short, half is done."""

    def before_it(number: int, half: Callable[[], None]) -> None:
        if number == call and not after:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def after_it(number: int) -> None:
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)

    intercept(CALLS, before_it, after_it)


def run(request: dict[str, Any]) -> int:
    """The job of a request (`out` and `cache`), and its exit code."""
    os.environ["XDG_CACHE_HOME"] = request["cache"]
    out = Path(request["out"])

    def progress(phase: str, done: int, total: int | None) -> None:
        if phase == "train" and done == request.get("update"):
            os.kill(os.getpid(), request["signal"])

    training.SAVE_SECONDS = 0.05  # type: ignore[misc]
    watch.LOG_EVERY = 10  # type: ignore[misc]
    watch.VALIDATE_EVERY = 50  # type: ignore[misc]
    return runner.attempt(job(out), progress)


def forked(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request in a child; kill it after `seconds` or at call number `call` if the request has one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            Path(request["out"]).mkdir(parents=True, exist_ok=True)
            counted = intercept(CALLS)
            if "error" in request:
                intercept(REFUSED, refusal(request["call"], request["error"], request["lasting"]))
            elif "call" in request:
                die_at(request["call"], request["after"])
            if "limit" in request:  # as of a quota: a write takes a part, and the next one none
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
            code = run(request)
            if "limit" not in request:
                Path(request["log"]).with_suffix(".calls").write_text(str(counted[0]), encoding="ascii")
        except SystemExit as stop:
            code = int(stop.code or 0)
        except KeyboardInterrupt:  # past training: as commands do
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    started = time.monotonic()
    if "seconds" in request:
        time.sleep(request["seconds"])
        # a child that has ended is a zombie until it is waited for: the signal finds nobody else
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "seconds": time.monotonic() - started}


def main() -> None:
    torch.set_num_threads(1)
    data = load("strokes", image_size=TRAIN.image_size)
    runner.load = lambda *_, **__: data
    # the checkout does not change meanwhile, and git takes longer than the job
    state = store.code_state(store.ROOT)
    training.code_state = store.code_state = lambda root: state
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
