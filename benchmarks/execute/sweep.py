"""Run jobs, each in a subprocess of its own, here or on a cluster: executors, retries, progress, an orderly stop."""

import importlib.util
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmarks.execute.runner import attempt
from benchmarks.plan.jobs import Job, from_json
from benchmarks.record.store import ROOT
from benchmarks.runs.training import Stopped, caught_signals
from vma.errors import InputError

if TYPE_CHECKING:  # an extra, imported only where it is asked for
    from distributed import Client

POLL = 0.3  # seconds
SILENT_POLLS = 1000  # without a sign of life from the sweep, after which a job stops: five minutes
SAVE_SECONDS = 120  # that a job which is told to stop has to save its state
TAIL_LINES = 20
TAIL_BYTES = 16_384
BAD_INPUT = 2  # exit code of a job that would fail again


class ExecutorLost(RuntimeError):
    """The executor has given up its jobs by itself."""


@dataclass(frozen=True)
class Failure:
    """A job that failed for good, with the end of its log."""

    job: Job
    code: int
    attempts: int
    tail: list[str]


def log_path(out: Path, name: str) -> Path:
    """Where the output of a job goes."""
    return out / "logs" / f"{name}.log"


def progress_path(out: Path, name: str) -> Path:
    """Where a running job says how far it is: {"phase", "done", "total"}, total null where nobody knows."""
    return out / "logs" / f"{name}.progress"


def run_job(line: str) -> tuple[int, list[str]]:
    """Run the job of a line of JSON in a subprocess; return its exit code and the last lines of its log.

    This is what executors run, on whichever machine. The subprocess holds the reading end of a pipe and stops when the
    writing end is closed: at once if this process dies, and in order once the sweep's file is gone or stands still.
    """
    job = from_json(line)
    out, name, alive = job.out, job.name, alive_path(job.out, job.token)
    if not alive.exists():
        host = socket.gethostname()
        return BAD_INPUT, [f"error: {host} does not see {out} of this sweep: machines of a cluster need to share --out"]
    # what this process can import it can too, a model of the user's own among it
    path = os.pathsep.join((str(ROOT), *map(os.path.abspath, sys.path)))
    with open(log_path(out, name), "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.execute.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # bars belong to the sweep, not into logs
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(job.train.threads), "TQDM_DISABLE": "1"},
            start_new_session=True,  # Ctrl-C in the terminal reaches the sweep alone, which stops its jobs in order
        )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it died before it read its job: its exit code says so
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        _wait(process, alive)
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(SAVE_SECONDS)
    finally:
        process.kill()  # of no effect on one that has ended
        process.wait()
        progress_path(out, name).unlink(missing_ok=True)
    return process.returncode, _tail(log_path(out, name), start)


def alive_path(out: Path, token: str) -> Path:
    """The file that is there, and touched again and again, while the sweep with this token runs."""
    return out / ".locks" / f"sweep-{token}"


def _wait(process: "subprocess.Popen[bytes]", alive: Path) -> None:
    """Until the process has ended or the sweep has."""
    touched, silent = 0, 0
    # polls and not seconds: they stand still with the sweep where both are suspended
    while silent < SILENT_POLLS:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
            return
        try:
            now = alive.stat().st_mtime_ns
        except FileNotFoundError:
            return
        silent = silent + 1 if now == touched else 0
        touched = now


def _tail(path: Path, start: int) -> list[str]:
    """The last lines of a log, none from before `start`."""
    with open(path, "rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]


class Here(Executor):
    """Does each job in this process as soon as it is submitted: jobs that are shorter than the start of a process."""

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> "Future[Any]":
        """In the place of `run_job` with its line of JSON."""
        job = from_json(arguments[0])
        path = log_path(job.out, job.name)
        with path.open("a", encoding="utf-8") as log, redirect_stdout(log):
            code = attempt(job, lambda *_: None)
        future: Future[Any] = Future()
        future.set_result((code, path.read_text(encoding="utf-8").splitlines()[-TAIL_LINES:]))
        return future


def check_executor(name: str) -> None:
    """Refuse an executor that cannot be, or that would send jobs over a network in the clear.

    Raises:
        InputError: for an unknown name, without dask, and for a scheduler on another machine where dask's configuration
            has no TLS.
    """
    if name == "local":
        return
    address = re.fullmatch(r"dask(?:://(\S+):(\d{1,5}))?", name)
    if address is None or int(address[2] or 1) not in range(1, 65_536):
        raise InputError(f"--executor is {name!r}, must be local, dask or dask://HOST:PORT")
    if importlib.util.find_spec("distributed") is None:
        raise InputError(f"--executor {name} needs dask: pip install 'distributed>=2025.1'")
    if address[1] and not _has_tls() and not _is_loopback(address[1].strip("[]")):
        raise InputError(
            f"--executor {name} is another machine, and dask's configuration has no TLS (distributed.comm.tls): "
            "configure it, or use a scheduler on 127.0.0.1"
        )


def _has_tls() -> bool:
    from distributed import Security

    # from dask's own configuration
    return Security().get_connection_args("client").get("ssl_context") is not None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def open_executor(name: str, jobs: int) -> Iterator[Executor]:
    """The executor of a name that `check_executor` accepts: `local`, `dask` (a cluster within this process) or
    `dask://HOST:PORT`.

    Raises:
        InputError: if the scheduler does not answer or has no workers.
    """
    if name == "local":
        with ThreadPoolExecutor(jobs) as pool:
            yield pool
        return
    opened = _own_cluster(jobs) if name == "dask" else _connect(name)
    with opened as client:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            if client.status == "running":  # without its scheduler it would wait for ever
                executor.shutdown()


@contextmanager
def _own_cluster(jobs: int) -> Iterator["Client"]:
    """A scheduler and a worker in this process. They talk in memory; their pages of metrics, which cannot be switched
    off and would be open to the network, listen on loopback.
    """
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=jobs,
            processes=False,
            memory_limit=0,
            dashboard_address=None,
            worker_dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _connect(name: str) -> Iterator["Client"]:
    from distributed import Client

    for logger in ("distributed", "distributed.client"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # of a lost scheduler it prints pages; we say it in a line
    try:
        client = Client(name.replace("dask", "tls" if _has_tls() else "tcp", 1), timeout=10)
    except (OSError, TimeoutError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"--executor {name}: no scheduler answers ({cause}); start one by dask scheduler") from None
    with client:
        if not client.nthreads():
            raise InputError(f"--executor {name}: the scheduler has no workers; start some by dask worker")
        yield client


def run_jobs(jobs: Sequence[Job], executor: Executor, retries: int, out: Path) -> list[Failure]:
    """Run the jobs, those that measure time alone and last; return those that failed, each tried 1 + `retries` times.

    Raises:
        Stopped: after SIGINT or SIGTERM. The jobs are told to stop; the executor's end waits for them.
        ExecutorLost: if the scheduler of a cluster is gone. The jobs are told to stop.
        OSError: if nothing can be written to `out`.
    """
    alive = alive_path(out, secrets.token_hex(8))
    token = alive.name.removeprefix("sweep-")
    for folder in (alive.parent, out / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    failures: list[Failure] = []
    try:
        alive.touch()
        with caught_signals() as caught, _Display(len(jobs), out) as display:
            for timed in (False, True):
                batch = [replace(job, token=token) for job in jobs if job.timed == timed]
                for job in batch:
                    progress_path(out, job.name).unlink(missing_ok=True)  # of a sweep that was killed
                pending = {executor.submit(run_job, job.to_json()): (job, 1) for job in batch}
                while pending:
                    ended, _ = wait(pending, POLL, FIRST_COMPLETED)
                    if caught:
                        raise Stopped(128 + caught[0])
                    os.utime(alive)
                    display.show(job for job, _ in pending.values())
                    for future in ended:
                        if future.cancelled():  # by none of us
                            raise ExecutorLost("the scheduler is lost, and with it the jobs that ran")
                        job, attempt = pending.pop(future)
                        code, tail = _outcome(future)
                        if code not in (0, BAD_INPUT) and attempt <= retries:
                            display.say(job, f"failed (exit code {code}), tried again ({attempt} of {retries})")
                            pending[executor.submit(run_job, job.to_json())] = (job, attempt + 1)
                            continue
                        if code:
                            failures.append(Failure(job, code, attempt, tail))
                        display.end(job, f"failed (exit code {code})" if code else "done")
    finally:
        alive.unlink(missing_ok=True)  # which stops every job that still runs
    return failures


def _outcome(future: "Future[tuple[int, list[str]]]") -> tuple[int, list[str]]:
    try:
        return future.result()
    except Exception as error:
        return 1, f"error: {type(error).__name__}: {error}".splitlines()


class _Display:
    """On a terminal a bar for the sweep and one for each job that runs; elsewhere a line when a job starts and ends."""

    def __init__(self, total: int, out: Path) -> None:
        self.out = out
        self.live = sys.stderr.isatty()
        self.sweep = tqdm(total=total, desc="sweep", unit="job", disable=not self.live)
        self.bars: dict[str, tqdm[Any]] = {}
        self.phases: dict[str, str] = {}  # of the jobs that run

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self.bars.values(), self.sweep):
            bar.close()

    def show(self, jobs: Iterable[Job]) -> None:
        """Look at how far the jobs are."""
        for job in jobs:
            try:
                state = json.loads(progress_path(self.out, job.name).read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue  # it has not started
            if job.name not in self.phases:
                self.say(job, "started")
            if self.live:
                self._draw(job.name, **state)
            self.phases[job.name] = state["phase"]
        self.sweep.refresh()

    def _draw(self, name: str, phase: str, done: int, total: int | None) -> None:
        if name not in self.bars:
            self.bars[name] = tqdm(leave=False)
        bar = self.bars[name]
        if phase != self.phases.get(name):
            bar.set_description_str(f"{name} {phase}", refresh=False)
            bar.reset(total)
            bar.initial = done  # what was done earlier counts for no speed
        bar.n = done
        bar.refresh()

    def say(self, job: Job, words: str) -> None:
        """A line about a job."""
        tqdm.write(f"{time.strftime('%H:%M:%S')} {job.name} ({', '.join(job.experiments)}): {words}")
        sys.stdout.flush()

    def end(self, job: Job, words: str) -> None:
        """A job has ended for good."""
        self.phases.pop(job.name, None)
        if job.name in self.bars:
            self.bars.pop(job.name).close()
        self.say(job, words)
        self.sweep.update()
