"""What docs/extending.md shows is what works: its own code, run as it says."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sweep import TRAIN, VAE, read

import vma
from benchmarks import run
from benchmarks.declare import experiments
from benchmarks.declare.experiments import Experiment
from benchmarks.declare.spec import Cell, EvalSpec
from benchmarks.runs import build
from reports import figures, tables
from reports.results import read_results
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
OWN = "mymodel:AverageMemory"
SHOWN = {"scaling": "5a", "fewshot": "4b", "shots": "5b", "table1": "table1"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from, with the page's model; experiments of one evaluation and a lookup."""
    (tmp_path / "mymodel.py").write_text(BLOCKS["mymodel.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    evaluation = EvalSpec(EpisodeSpec(classes=2, targets_per_class=1, shots=1, target_classes=1), 2, 8)
    lookup = Cell(TRAIN, replace(evaluation, task="lookup"), 2)
    for name in run.EXPERIMENTS:
        cells = tuple(Cell(replace(t, prior=p), evaluation, 2) for t in (TRAIN, VAE) for p in ("learned", "flat"))
        made = Experiment(name, "", "", (lookup,) if name == "lookup" else (*cells, lookup))
        monkeypatch.setitem(run.EXPERIMENTS, name, lambda made=made: made)
    yield tmp_path
    sys.modules.pop("mymodel", None)


def test_a_model_of_ones_own_runs_and_is_shown_by_its_name(own: Path) -> None:
    out = ("--out", str(own / "out"), "--dtype", "float32")
    assert run.main([*SHOWN, "--model", OWN, "--jobs", "1", *out]) == 0  # in a process of its own
    (row, *others) = read(own / "out", "scaling")
    assert (row["model"], row["updates"], len(others)) == (OWN, 2, 3)  # without a flat prior, a lookup and a plain VAE
    assert run.main([*SHOWN, "--jobs", "1", "--only", f"vma-{TRAIN.run_id}", *out]) == 0
    assert row["train_id"] not in {row["train_id"] for row in read(own / "out", "scaling")[4:]}
    results = read_results(own / "out")
    for name in (*SHOWN, "own-models"):
        assert OWN in tables.save(results, own, name)[0].read_text(), name
    for name in SHOWN.values():
        figure = figures.FIGURES[name].draw(results)
        legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
        assert OWN in " ".join(text.get_text() for one in legends for text in one.get_texts()), name


def test_an_estimator_of_ones_own_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    exec(BLOCKS["reinforce.py"], found)
    data, sizes = load("strokes", image_size=8), vma.MLPSizes(image=(1, 8, 8), widths=(16, 16))
    episodes = Episodes(data.train, EpisodeSpec(classes=2, targets_per_class=2, shots=2), seed=0)
    model = vma.VariationalMemoryAddressing(sizes, pixel_mean=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fitted = vma.fit(model, episodes, found["reinforce"], optimizer, num_samples=4, updates=range(60))
    bounds = [vma.iwae(terms).mean().item() for _, terms in fitted]
    assert sum(bounds[-5:]) > sum(bounds[:5])
    monkeypatch.setitem(build.SURROGATES, "vimco", found["reinforce"])
    assert build.build_objective(TRAIN, model) is found["reinforce"]


def test_an_experiment_of_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict(vars(experiments))
    exec(BLOCKS["experiment.py"], found)
    monkeypatch.setitem(run.EXPERIMENTS, "few-classes", found["few_classes"])
    assert run.main(["few-classes", "--smoke", "--out", str(tmp_path)]) == 0
    assert {row["classes"] for row in read(tmp_path, "few-classes")} == {1, 2}
