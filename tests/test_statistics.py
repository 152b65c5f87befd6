"""Means over seeds, bootstrap intervals and paired differences, against sums done by hand and scipy's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.store import append_rows, write_artifact
from reports.results import Results, read_results
from reports.statistics import (
    clustered_stderr,
    crossover,
    crossover_interval,
    differences,
    interval,
    paired,
    per_target,
    seed_means,
)
from vma import evaluation

ROW = {
    "experiment": "scaling",
    "model": "vma",
    "recipe": "paper",
    "dataset": "omniglot45_5",
    "targets": "all",
    "train_seed": 0,
    "updates": 100,
    "classes": 1,
    "shots": 4,
    "num_samples": 4,
    "metric": "nll",
    "stderr": 3.0,
    "n": 4,
    "dirty": False,
}
CLASSES = np.array([0, 0, 1, 2])


def folder_of(
    folder: Path, cells: dict[tuple[int, int], Any], index: dict[tuple[int, int], Any] | None = None
) -> Results:
    """Results with one cell of `scaling` for each (classes, seed), its NLL at each target given."""
    for (classes, seed), nll in cells.items():
        names = {"train_id": f"t{seed}", "eval_id": f"e{classes}"}
        row = {**ROW, **names, "classes": classes, "train_seed": seed, "value": float(np.mean(nll))}
        append_rows(folder / "scaling.jsonl", [row])
        x_index = (index or {}).get((classes, seed), np.arange(len(nll)))
        arrays = {"nll": np.array(nll, np.float32), "x_index": x_index, "x_class": CLASSES[: len(nll)]}
        write_artifact(folder / "artifacts" / f"t{seed}-100-e{classes}.npz", arrays)
    return read_results(folder)


def test_the_mean_over_seeds_has_the_error_over_targets_and_that_over_seeds(tmp_path: Path) -> None:
    results = folder_of(tmp_path, {(1, 0): [79.0, 81.0], (1, 1): [83.0, 85.0]})
    [line] = seed_means(results.rows).to_dict("records")
    assert line["value"] == 82.0
    assert line["seeds"] == 2
    assert line["seed_values"] == (80.0, 84.0)
    # targets are shared, so their error stays; the variance over two seeds is 8, of their mean 4
    assert line["stderr"] == pytest.approx(np.sqrt(3.0**2 + 4.0))


def test_one_seed_keeps_its_own_error(tmp_path: Path) -> None:
    [line] = seed_means(folder_of(tmp_path, {(1, 0): [79.0, 81.0]}).rows).to_dict("records")
    assert (line["stderr"], line["seeds"], line["n"], line["updates"], line["dirty"]) == (3.0, 1, 4, 100, False)


def test_an_interval_without_clusters_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    expected = stats.bootstrap((values,), np.mean, n_resamples=1999, rng=np.random.default_rng(0)).confidence_interval
    assert interval(values) == pytest.approx((expected.low, expected.high))
    assert interval(values) == interval(values)


def test_an_interval_over_clusters_draws_whole_clusters() -> None:
    levels = np.random.default_rng(0).normal(size=30)
    values, clusters = np.repeat(levels, 20), np.repeat(np.arange(30), 20)
    low, high = interval(values, clusters)
    assert (low, high) == pytest.approx(interval(levels))
    naive = interval(values)
    assert high - low > 3 * (naive[1] - naive[0])


def test_one_cluster_is_no_cluster() -> None:
    values = np.random.default_rng(0).normal(size=20)
    assert interval(values, np.zeros(20)) == interval(values)
    assert clustered_stderr(values, np.zeros(20)) == pytest.approx(values.std(ddof=1) / np.sqrt(20))


def test_equal_values_have_a_point_for_an_interval_and_one_value_has_none() -> None:
    assert interval(np.full(5, 2.0)) == (2.0, 2.0)
    assert np.isnan(interval(np.array([2.0]))).all()
    assert np.isnan(clustered_stderr(np.array([2.0])))


def test_the_clustered_error_is_that_of_the_evaluator() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=40), rng.integers(0, 7, 40)
    assert clustered_stderr(values, clusters) == pytest.approx(evaluation.clustered_stderr(values, clusters))


def test_a_difference_is_paired_on_shared_targets(tmp_path: Path) -> None:
    base = [70.0, 80.0, 90.0, 60.0]
    results = folder_of(tmp_path, {(1, 0): base, (2, 0): [71.0, 82.0, 90.0, 61.0]})
    found = differences(results, results.rows, ["model", "classes"], {"classes": 1}).set_index("classes")
    assert found.difference[2] == pytest.approx(1.0)
    assert found.difference_stderr[2] == pytest.approx(clustered_stderr(np.array([1.0, 2.0, 0.0, 1.0]), CLASSES))
    assert 0.0 <= found.difference_low[2] < 1.0 < found.difference_high[2] <= 1.5
    assert found.difference[1] == 0.0


def test_seeds_are_averaged_target_by_target_before_pairing(tmp_path: Path) -> None:
    cells = {(1, 0): [1.0, 2.0, 3.0, 4.0], (1, 1): [3.0, 4.0, 5.0, 6.0], (2, 0): [4.0, 5.0, 6.0, 7.0]}
    results = folder_of(tmp_path, cells)
    found = paired(
        per_target(results, results.of("scaling", classes=2)), per_target(results, results.of("scaling", classes=1))
    )
    assert found is not None
    assert found.value == pytest.approx(2.0)
    assert found.stderr == pytest.approx(0.0, abs=1e-6)
    assert found.n == 4


def test_nothing_is_paired_across_different_targets_or_missing_artifacts(tmp_path: Path) -> None:
    cells = {(1, 0): [1.0, 2.0], (2, 0): [3.0, 4.0], (4, 0): [3.0, 4.0]}
    results = folder_of(tmp_path, cells, {(2, 0): np.array([5, 6])})
    (tmp_path / "artifacts" / "t0-100-e4.npz").unlink()
    found = differences(results, results.rows, ["classes"], {"classes": 1})
    assert list(found.classes) == [1]
    assert per_target(results, results.of("scaling", classes=4)) is None
    assert per_target(results, results.rows.iloc[:0]) is None


def test_a_null_key_finds_its_reference(tmp_path: Path) -> None:
    results = folder_of(tmp_path, {(1, 0): [1.0, 2.0], (2, 0): [3.0, 4.0]})
    assert results.rows["read"].isna().all()
    found = differences(results, results.rows, ["read", "classes"], {"classes": 1})
    assert sorted(found.difference) == [0.0, 2.0]


@pytest.mark.parametrize(
    ("hard", "soft", "expected"),
    [
        ([2.0, 2.0, 2.0], [1.0, 4.0, 16.0], 2.0),  # halfway between 1 and 4 on logarithmic axes
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], 1.0),
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], None),
        ([2.0, 1.0, 2.0], [1.0, 2.0, 1.0], None),
        ([1.0, 2.0, 1.0], [2.0, 1.0, 2.0], 8.0),  # what counts is from where on it stays faster
    ],
)
def test_the_crossover_is_where_hard_attention_begins_to_stay_faster(
    hard: list[float], soft: list[float], expected: float | None
) -> None:
    found = crossover(np.array([1.0, 4.0, 16.0]), np.array(hard), np.array(soft))
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_interval_of_a_crossover_is_of_rounds_in_pairs() -> None:
    sizes = np.array([16, 32, 64, 128])
    rng = np.random.default_rng(0)
    noise = [rng.gamma(20, 1 / 20, 10) for _ in sizes]  # shared by a round, as when the machine is busy
    hard = [2.0 * part for part in noise]
    soft = [size / 24 * part for size, part in zip(sizes, noise, strict=True)]
    assert crossover_interval(sizes, hard, soft) == pytest.approx((48, 48))
    low, high = crossover_interval(sizes, hard, [part[::-1] for part in soft])
    assert low < 45
    assert high > 51


def test_the_interval_of_a_crossover_can_have_no_end() -> None:
    sizes = np.array([16, 32])
    apart = np.array([1.0, 1.0, 5.0])
    assert crossover_interval(sizes, [apart, apart], [2 * apart, 2 * apart]) == (16, 16)
    low, high = crossover_interval(sizes, [apart, apart], [np.full(3, 2.0), np.full(3, 2.0)])
    assert (low, high) == (16, np.inf)
