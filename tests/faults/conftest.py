"""A process that forks a child for each small run, and such a run that nothing disturbs."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import WARM, Ask, environment, outcome


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Send a request to a process that forks a child for each (see warm.py)."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, WARM], stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def request(folder: Path, **more: Any) -> dict[str, Any]:
            fields = {"out": f"{folder}/out", "cache": f"{folder}/cache", "log": f"{folder}.log", "seed": 0} | more
            process.stdin.write(json.dumps(fields) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"the process that forks has ended with {process.wait(60)}"
            answer: dict[str, Any] = json.loads(line)
            expected = (0, -signal.SIGKILL, -signal.SIGTERM, 130, 143)
            if answer["status"] not in expected and "error" not in fields and "limit" not in fields:
                pytest.fail(f"{answer}: {Path(fields['log']).read_text()[-2000:]}")
            return answer

        yield request
        process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its outcome, how long it takes, and how many calls there are to be killed at."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seconds = min(ask(folder / str(number))["seconds"] for number in range(2))
    assert outcome(folder / "0") == outcome(folder / "1")
    calls = int((folder / "0.calls").read_text())
    return {"outcome": outcome(folder / "0"), "seconds": seconds, "calls": calls}
