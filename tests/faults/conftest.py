"""A process that forks a child for each small run, such a run that nothing disturbs, and this process's memory."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import WARM, Ask, environment, outcome


class Forker:
    """Sends requests to a process that forks a child for each (see warm.py), and answers with what it says."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, **more: Any) -> dict[str, Any]:
        fields = {"out": f"{folder}/out", "cache": f"{folder}/cache", "log": f"{folder}.log"} | more
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen([sys.executable, WARM], **pipes, text=True, env=environment())
        try:
            self.process.stdin.write(json.dumps(fields) + "\n")
            self.process.stdin.flush()
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except BaseException:  # a time-out too, after which its answer would be taken for that to the next request
            self.end()
            raise
        expected = (0, -signal.SIGKILL, -signal.SIGTERM, 130, 143)
        if answer["status"] not in expected and "error" not in fields and "limit" not in fields:
            pytest.fail(f"{answer}: {Path(fields['log']).read_text()[-2000:]}")
        return answer

    def end(self) -> None:
        """Without it; the next request starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    forker = Forker()
    yield forker
    forker.end()


@pytest.fixture(scope="module")
def undisturbed(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its outcome, how long it takes, and how many calls there are to be killed at."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seconds = min(ask(folder / str(number))["seconds"] for number in range(2))
    assert outcome(folder / "0") == outcome(folder / "1")
    calls = int((folder / "0.calls").read_text())
    return {"outcome": outcome(folder / "0"), "seconds": seconds, "calls": calls}


@pytest.fixture
def peak() -> Callable[[], int]:
    """peak(): by how many bytes this process's resident memory has grown at most since the test began."""
    if sys.platform != "linux":
        pytest.skip("memory is measured by /proc")

    def status(name: str) -> int:
        found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        return int(found[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    before = status("VmRSS")
    return lambda: status("VmHWM") - before
