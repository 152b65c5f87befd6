"""One job of a sweep in a process of its own: its JSON is the first line on stdin, which is open while it may run."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.execute.runner import attempt
from benchmarks.execute.sweep import progress_path
from benchmarks.plan.jobs import from_json
from benchmarks.record import store
from vma.hardware import keep_freed_memory

WRITE_SECONDS = 1.0  # between two reports of progress


class Progress:
    """Writes how far a job is to its file, whole and at most once a second; a new phase at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phase, self.written = "", 0.0

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase == self.phase and now - self.written < WRITE_SECONDS:
            return
        if phase != self.phase:
            print(f"{phase}: {done} of {total}" if total else phase, flush=True)
        self.phase, self.written = phase, now
        store.write_text(self.path, json.dumps({"phase": phase, "done": done, "total": total}))


def main() -> int:
    """Do the job; 0, 1 (failed), 2 (bad input); training that is stopped exits by `Stopped`, all else by the signal."""
    keep_freed_memory()
    job = from_json(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}, process {os.getpid()}", flush=True)
    return attempt(job, Progress(progress_path(job.out, job.name)))


def _stop_with_the_sweep() -> None:
    # os.read and not sys.stdin, whose lock a thread that waits would hold while the interpreter ends
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
