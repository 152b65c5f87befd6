"""What the report says of estimators of the gradient, from rows that are made up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import ROW

from benchmarks.declare.experiments import estimators as declared
from benchmarks.record.store import record_arrays
from reports import estimators, tables
from reports.figures import FIGURES
from reports.results import Results, read_results
from reports.targets import Key

NLL = {"shipped-": 90.0, "vimco": 84.0, "wake": 83.0, "rloo": 85.0, "stl": 84.5}
SHIFT = {"shipped": 0.0, "started": 0.0, "scratch": 20.0}


def row(variant: str, metric: str, value: float, num_samples: int, **more: Any) -> dict[str, Any]:
    names = {"experiment": "estimators", "recipe": "estimators", "dataset": "omniglot_gmn", "variant": variant}
    names |= {"train_id": variant, "eval_id": f"{metric}{num_samples}", "updates": 1000}
    return ROW | names | {"metric": metric, "value": value, "num_samples": num_samples} | more


@pytest.fixture
def results(tmp_path: Path) -> Results:
    rows, generator = [], np.random.default_rng(0)
    noise = generator.normal(0, 8, 50)  # of the targets, which all share
    arrays = {}
    for way, shift in SHIFT.items():
        for name, nll in NLL.items():
            if (way == "shipped") != (name == "shipped-"):
                continue
            variant = way if way == "shipped" else f"{way}-{name}"
            for k, gain in ((4, 0.0), (1000, 5.0)):
                values = nll + shift - gain + noise + generator.normal(0, 0.1, 50)
                error = float(values.std() / 50**0.5)
                rows.append(row(variant, "nll", float(values.mean()), k, stderr=error, n=50))
                of_target = {"nll": values, "x_index": np.arange(50), "x_class": np.arange(50) // 5}
                arrays[Key(variant, 1000, f"nll{k}")] = of_target
            rows.append(row(variant, "kl_p_q", 1.5 if name == "vimco" else 1.0, 8, stderr=0.1, n=50))
            rows.append(row(variant, "accuracy", 0.8, 1, rule="address", stderr=0.01, n=50))
            if way == "scratch":
                rows.append(row(variant, "seconds_per_update", 0.35, 4, n=10))
    for variant, signal in (("shipped", 2.0), ("scratch-vimco", 1.0)):
        rows += [row(variant, "snr_a", signal, 24, rule=rule, n=24) for rule in ("vimco", "wake", "rloo")]
        rows += [row(variant, "snr_z", 10 * signal, 24, rule=rule, n=24) for rule in ("iwae", "stl")]
    record_arrays(tmp_path, "estimators", arrays)
    (tmp_path / "estimators.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return read_results(tmp_path)


def test_lines_stand_in_order_with_differences_on_the_same_targets(results: Results) -> None:
    frame = estimators.frame(results)
    assert list(zip(frame.way, frame.name, strict=True)) == [
        ("shipped", ""),
        *((way, name) for way in ("started", "scratch") for name in ("vimco", "rloo", "wake", "stl")),
    ]
    wake = frame[(frame.way == "scratch") & (frame.name == "wake")].iloc[0]
    assert wake.difference_4 == pytest.approx(-1, abs=0.1)
    assert wake.difference_4_stderr < 0.05 < 1 < wake.nll_4_stderr
    assert (wake.snr_a, wake.seconds_per_update) == (1.0, 0.35)
    started = frame[frame.way == "started"].set_index("name")
    assert started.snr_a.drop("stl").tolist() == [2.0, 2.0, 2.0]
    assert started.snr_z[["vimco", "stl"]].tolist() == [20.0, 20.0]


def test_the_table_and_the_figure_have_a_line_each(results: Results, tmp_path: Path) -> None:
    frame = estimators.frame(results)
    grid = tables.TABLES["estimators"].grid(frame)
    assert len(grid) == len(frame)
    assert grid["estimator"].tolist()[:3] == ["none", "VIMCO", "RLOO"]
    figure = FIGURES["estimators"].draw(results)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[::-1] == ["VIMCO", "RLOO", "wake-phi", "VIMCO, z by STL"]
    assert (tmp_path / "out" / "estimators.md") in tables.save(results, tmp_path / "out", "estimators")


def test_the_conclusions_name_who_is_ahead_by_two_errors(results: Results) -> None:
    words = estimators.conclusions(estimators.frame(results))
    assert "After 1,000 updates from the shipped weights VIMCO has" in words
    assert words.count("Ahead of it with 4 samples, in nats: wake-phi (") == 2
    assert words.count("None is ahead of it in 20-way accuracy.") == 2
    assert "RLOO (0.50" in words.partition("KL(p(a|x) || q(a|x)), in nats: ")[2]
    assert estimators.conclusions(estimators.frame(results).iloc[:0]) == ""


def test_every_variant_that_is_declared_has_a_name() -> None:
    for cell in declared().cells:
        way, _, name = str(cell.variant).partition("-")
        assert way in estimators.WAYS
        assert name in estimators.NAMES
