"""Standard errors, intervals and paired differences against sums done by hand; what is paired among rows."""

from pathlib import Path
from typing import Any

import made_results
import numpy as np
import pytest

from benchmarks.record.store import append_rows, record_arrays
from reports.aggregate import difference, differences, on_common_targets, per_target, seed_means
from reports.crossover import crossover, crossover_interval
from reports.results import Results, read_results
from reports.targets import Key, path
from vma.statistics import clustered_stderr, interval, paired, seed_stderr

ROW = made_results.ROW | {"classes": 1, "stderr": 3.0, "n": 4}
CLASSES = np.array([0, 0, 1, 2])


# --- one home for each


def test_the_error_of_a_mean_is_clustered() -> None:
    values = np.random.default_rng(0).normal(size=50)
    plain = values.std(ddof=1) / np.sqrt(50)
    assert clustered_stderr(values) == clustered_stderr(values, np.arange(50)[::-1]) == pytest.approx(plain)
    twice, images = np.repeat(values, 2), np.repeat(np.arange(50), 2)  # a copy is no new evidence
    assert clustered_stderr(twice, images) == pytest.approx(plain)
    # (1 + 2 - 2 * 2.5)^2 + (3 - 2.5)^2 + (4 - 2.5)^2, times 3 / 2
    assert clustered_stderr([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 2]) == pytest.approx(np.sqrt(6.5 * 3 / 2) / 4)


@pytest.mark.parametrize("clusters", [None, [7]])
def test_of_one_cluster_nothing_is_known(clusters: list[int] | None) -> None:
    assert np.isnan(clustered_stderr([2.0], clusters))
    assert np.isnan(interval([2.0], clusters)).all()
    assert np.isnan(clustered_stderr([2.0, 3.0], [7, 7]))
    assert np.isnan(interval([2.0, 3.0], [7, 7])).all()


def test_the_interval_of_a_mean_covers_it_and_is_the_same_each_time() -> None:
    values = np.random.default_rng(1).normal(size=200)
    low, high = interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * clustered_stderr(values), rel=0.05)
    assert interval(values) == (low, high)
    assert interval(np.full(5, 2.0)) == pytest.approx((2.0, 2.0))


def test_an_interval_over_clusters_draws_whole_clusters() -> None:
    levels = np.random.default_rng(0).normal(size=30)
    values, clusters = np.repeat(levels, 20), np.repeat(np.arange(30), 20)
    assert interval(values, clusters) == pytest.approx(interval(levels))


def test_the_error_of_seeds_is_that_of_targets_and_the_spread_between_them() -> None:
    assert seed_stderr([80.0], [3.0]) == 3.0
    # variances are averaged, not errors; the variance of two seeds is 8, of their mean 4
    assert seed_stderr([80.0, 80.0], [1.0, 3.0]) == pytest.approx(np.sqrt(5))
    assert seed_stderr([80.0, 84.0], [3.0, 3.0]) == pytest.approx(np.sqrt(3.0**2 + 4.0))
    assert np.isnan(seed_stderr([80.0, 84.0], [3.0, np.nan]))


def test_a_paired_difference_is_of_each_seed_on_the_same_targets() -> None:
    ours, reference = np.array([[4.0, 5.0, 7.0], [5.0, 5.0, 8.0]]), np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    found = paired(ours, reference, [0, 0, 1])
    assert found.seeds == pytest.approx((10 / 3, 2.0))
    assert found.value == pytest.approx(8 / 3)
    errors = [clustered_stderr(one - other, [0, 0, 1]) for one, other in zip(ours, reference, strict=True)]
    assert found.stderr == pytest.approx(seed_stderr(found.seeds, errors))
    assert found.n == 3
    assert found.low <= found.value <= found.high


# --- among rows


def folder_of(folder: Path, cells: dict[tuple[int, int], Any], k: int = 4, first: int = 0) -> Results:
    """Results with one cell of `scaling` for each (classes, seed), its NLL at each target given."""
    for (classes, seed), nll in cells.items():
        names = {"train_id": f"t{seed}", "eval_id": f"e{classes}-{k}", "classes": classes, "train_seed": seed}
        row = {**ROW, **names, "num_samples": k, "n": len(nll), "value": float(np.mean(nll))}
        append_rows(folder / "scaling.jsonl", [row])
        arrays = {"nll": np.array(nll, np.float32), "x_index": first + np.arange(len(nll))}
        arrays["x_class"] = CLASSES[: len(nll)]
        record_arrays(folder, "scaling", {Key(f"t{seed}", 100, f"e{classes}-{k}"): arrays})
    return read_results(folder)


def of(results: Results, **where: Any) -> list[dict[Any, Any]]:
    return results.of("scaling", **where).to_dict("records")


def test_the_mean_over_seeds_has_both_errors(tmp_path: Path) -> None:
    results = folder_of(tmp_path, {(1, 0): [79.0, 81.0], (1, 1): [83.0, 85.0]})
    [line] = seed_means(results.rows).to_dict("records")
    assert (line["value"], line["seeds"], line["seed_values"]) == (82.0, 2, (80.0, 84.0))
    assert line["stderr"] == pytest.approx(np.sqrt(3.0**2 + 4.0))
    [line] = seed_means(results.of("scaling", train_seed=1)).to_dict("records")
    assert (line["stderr"], line["seeds"], line["n"], line["updates"], line["dirty"]) == (3.0, 1, 2, 100, False)


def test_a_difference_is_paired_on_shared_targets(tmp_path: Path) -> None:
    base = [70.0, 80.0, 90.0, 60.0]
    results = folder_of(tmp_path, {(1, 0): base, (2, 0): [71.0, 82.0, 90.0, 61.0]})
    assert results.rows["read"].isna().all()  # a key that is null
    found = differences(results, results.rows, ["model", "read", "classes"], {"classes": 1}).set_index("classes")
    assert found.difference[2] == pytest.approx(1.0)
    assert found.difference_stderr[2] == pytest.approx(clustered_stderr([1.0, 2.0, 0.0, 1.0], CLASSES))
    assert found.difference_seeds[2] == (1.0,)
    assert found.difference[1] == 0.0


def test_seeds_that_both_have_are_paired(tmp_path: Path) -> None:
    first, second = [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]
    results = folder_of(tmp_path, {(1, 0): first, (1, 1): second, (2, 1): [4.0, 5.0, 6.0, 7.0], (4, 2): [0.0] * 4})
    one, two, four = (per_target(results, of(results, classes=classes)) for classes in (1, 2, 4))
    found = difference(two, one)
    assert (found.value, found.seeds, found.n) == (1.0, (1.0,), 4)
    assert difference(four, one) is None


def test_of_more_targets_those_that_the_other_begins_with_are_paired(tmp_path: Path) -> None:
    folder_of(tmp_path, {(1, 0): [1.0, 2.0, 9.0]})
    results = folder_of(tmp_path, {(1, 0): [0.0, 0.0]}, k=1000)
    few, many = (per_target(results, of(results, num_samples=k)) for k in (4, 1000))
    found = difference(many, few)
    assert (found.value, found.n) == (-1.5, 2)


def test_what_differs_in_k_is_brought_to_the_same_targets(tmp_path: Path) -> None:
    folder_of(tmp_path, {(1, 0): [1.0, 2.0, 9.0], (2, 0): [1.0, 2.0, 9.0]})
    results = folder_of(tmp_path, {(1, 0): [0.5, 1.0]}, k=1000)
    rows = on_common_targets(results, results.rows).set_index(["classes", "num_samples"])
    assert rows.value.to_dict() == {(1, 4): 1.5, (1, 1000): 0.75, (2, 4): 4.0}
    assert rows.n.to_dict() == {(1, 4): 2, (1, 1000): 2, (2, 4): 3}
    assert np.isnan(rows.stderr[1, 4])  # both are of one class
    assert rows.stderr[1, 1000] == 3.0
    others = folder_of(tmp_path / "others", {(1, 0): [1.0, 2.0, 9.0]})
    others = folder_of(tmp_path / "others", {(1, 0): [0.5, 1.0]}, k=1000, first=5)
    assert sorted(on_common_targets(others, others.rows).n) == [2, 3]


def test_nothing_is_paired_across_different_targets_or_missing_values(tmp_path: Path) -> None:
    folder_of(tmp_path, {(1, 0): [1.0, 2.0]})
    results = folder_of(tmp_path, {(2, 0): [3.0, 4.0]}, first=5)
    assert list(differences(results, results.rows, ["classes"], {"classes": 1}).classes) == [1]
    assert per_target(results, []) is None
    path(tmp_path, "scaling").unlink()
    results = read_results(tmp_path)
    assert per_target(results, of(results, classes=1)) is None
    assert differences(results, results.rows, ["classes"], {"classes": 1}).empty


def test_unlabelled_targets_are_clustered_by_image(tmp_path: Path) -> None:
    append_rows(tmp_path / "scaling.jsonl", [{**ROW, "train_id": "t", "eval_id": "e", "value": 2.0}])
    arrays = {"nll": np.arange(4.0), "x_index": np.array([3, 3, 5, 6]), "x_class": np.zeros(4, int)}
    record_arrays(tmp_path, "scaling", {Key("t", 100, "e"): arrays})
    results = read_results(tmp_path)
    found = per_target(results, of(results))
    assert found.clusters.tolist() == [3, 3, 5, 6]


# --- crossovers


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
