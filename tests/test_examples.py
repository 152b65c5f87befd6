"""The examples run: as they are written, or with fewer updates."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import python
from PIL import Image

import vma
from vma.data import read_drawing

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_shot_makes_samples_of_a_drawing(tmp_path: Path) -> None:
    def run(*argv: str) -> "subprocess.CompletedProcess[str]":
        return python(EXAMPLES / "one_shot.py", *argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})

    done = run()
    assert done.stdout.startswith("Wrote one_shot.png"), done.stderr
    with Image.open(tmp_path / "one_shot.png") as image:
        page = np.asarray(image.convert("L"))
    cells = [page[7 + r * 111 :, 132 + c * 111 :][:104, :104] for r in range(2) for c in range(6)]
    assert all(0.02 < (cell < 128).mean() < 0.3 for cell in cells), "each sample is strokes on paper"
    wrong = run("none.png")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: none.png: cannot be used")
    assert len(wrong.stderr.splitlines()) == 1


def test_a_model_of_ones_own_is_compared_with_vma(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("own_model")
    assert isinstance(module.AverageMemory(vma.ConvSizes(image=(1, 12, 12))), vma.Model)
    module.main(updates=2)
    *_, own, other, difference = capsys.readouterr().out.splitlines()
    assert own.startswith("AverageMemory: test NLL ")
    assert other.startswith("VariationalMemoryAddressing: test NLL ")
    nll = [float(line.split()[3]) for line in (own, other)]
    assert float(difference.split()[3]) == pytest.approx(nll[1] - nll[0], abs=0.02)


def test_the_python_of_readme_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    short = {"range(1000)": "range(2)", "% 100": "% 2", "range(10)": "range(1)", "num_samples=100": "num_samples=2"}
    for long, little in short.items():
        assert long in script
        script = script.replace(long, little)
    exec(compile(script, "README.md", "exec"), {})
    sampled, trained, scored = capsys.readouterr().out.splitlines()
    assert sampled == "torch.Size([12, 1, 26, 26]) torch.Size([12, 1, 26, 26])"
    assert trained.startswith("2 -")
    assert len(scored.split(", ")) == 2


def test_the_demo_samples_and_looks_up() -> None:
    demo = example("demo")  # whose page alone needs gradio
    model = vma.load_pretrained("vma-fewshot")
    drawing = read_drawing(EXAMPLES / "drawing.png", 26)
    memory = [drawing.flip(-1), drawing]
    assert demo.samples(model, []) is None
    assert demo.samples(model, memory).height == 2 * 111 + 7
    with torch.no_grad():
        log_q, _ = model.address(drawing[None], model.encode_memory(torch.stack(memory)))
    assert log_q[0, 1] > log_q[0, 0]
    page = np.asarray(demo.looked_up(model, memory, drawing).convert("L"))
    first = page[7:111, 132:236]
    assert np.array_equal(page[7:111, 7:111], first), "the likeliest entry, which is the drawing itself"
