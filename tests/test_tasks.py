"""What each task computes of a trained model, and the arrays that it leaves for the figures."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CPU, seeded
from torch.distributions import Categorical, kl_divergence

from benchmarks.declare.experiments import EXPERIMENTS, smoke
from benchmarks.declare.spec import Cell, EvalSpec, TrainSpec, identity
from benchmarks.record.evaluated import Trained
from benchmarks.runs import clock, tasks
from benchmarks.runs.build import build_model
from vma.data import load
from vma.data.episodes import EpisodeSpec
from vma.evaluation import address_divergences
from vma.objectives import Terms
from vma.training import Update

DATA = load("strokes", image_size=8)
SPEC = TrainSpec(dataset="strokes", image_size=8, network="tiny", threads=1)


def trained(spec: TrainSpec = SPEC) -> Trained:
    return Trained(build_model(spec, DATA, CPU), spec, 0, 0.0, identity(spec), ())


def run(cell: Cell) -> tasks.Result:
    (result,) = tasks.evaluate_group(trained(cell.train), [cell], DATA, CPU, lambda done, total: None)
    return result


def smoke_cells(name: str) -> Iterable[Cell]:
    return smoke(EXPERIMENTS[name]()).cells


def whole(model: Trained, evaluation: EvalSpec) -> tasks.Evaluation:
    return tasks.Evaluation(model, evaluation, DATA, CPU, lambda done, total: None)


def value(result: tasks.Result, metric: str) -> float:
    (found,) = [m["value"] for m in result.metrics if m["metric"] == metric]
    return float(found)


def test_the_bound_of_every_model_comes_with_per_target_values() -> None:
    for spec in (SPEC, replace(SPEC, model="soft", read="features"), replace(SPEC, model="vae")):
        result = run(Cell(spec, EvalSpec(EpisodeSpec(), targets=64, threads=1)))
        assert {m["metric"] for m in result.metrics} == {"nll", "kl_a", "kl_z", "log_px"}
        assert result.arrays["nll"].shape == result.arrays["x_index"].shape == (64,)
        assert value(result, "nll") == pytest.approx(result.arrays["nll"].mean(), rel=1e-5)
        assert all(m["n"] == 64 and m["targets"] == "all" and m["stderr"] > 0 for m in result.metrics[:1])


def test_under_gmn_duplicated_targets_stand_apart() -> None:
    episode = EpisodeSpec("gmn", classes=1, targets_per_class=1, shots=10)
    result = run(Cell(SPEC, EvalSpec(episode, targets=40, threads=1)))
    counts = {m["targets"]: m["n"] for m in result.metrics if m["metric"] == "nll"}
    assert counts["all"] == 40 == counts["duplicated"] + counts["new"]
    assert counts["duplicated"] == result.arrays["duplicated"].sum()


def test_memory_can_be_subsampled() -> None:
    evaluation = EvalSpec(EpisodeSpec(classes=4, shots=4), targets=16, memory_size=6, threads=1)
    episode = whole(trained(), evaluation).draw(0)
    assert episode.memory is not None
    assert len(episode.memory) == 6
    assert Cell(SPEC, evaluation).row()["memory_size"] == 6
    assert value(run(Cell(SPEC, evaluation)), "kl_a") <= np.log(6)


def test_recall_adds_the_probability_of_the_targets_own_entry() -> None:
    result = run(next(iter(smoke_cells("recall"))))
    p_exact = result.arrays["p_exact"]
    assert p_exact.shape == result.arrays["nll"].shape
    assert ((p_exact >= 0) & (p_exact <= 1)).all()
    assert value(result, "p_exact") == pytest.approx(p_exact.mean(), rel=1e-5)


def test_a_learned_memory_shows_its_prior_and_samples() -> None:
    for name in ("learned-mnist", "learned-omniglot"):
        cell = next(c for c in smoke_cells(name) if c.train.learned_entries)
        result = run(cell)
        log_pa = result.arrays["log_pa"].astype(float)
        assert np.exp(log_pa).sum() == pytest.approx(1, rel=1e-5)
        assert value(result, "entropy_pa") == pytest.approx(-(np.exp(log_pa) * log_pa).sum(), rel=1e-4)
        assert result.arrays["sample_means"].shape == (4, 12, 8, 8)
        assert result.arrays["sample_means"].dtype == np.uint8
        shown = log_pa[result.arrays["sample_addresses"]]
        assert (np.diff(shown) <= 0).all()
        row = cell.row()
        assert row["memory_size"] == row["train_memory_size"] == 4
        assert row["classes"] is None


def test_samples_show_the_memory_and_what_is_drawn_from_it() -> None:
    cell, _ = smoke_cells("samples")  # by both recipes
    result = run(cell)
    rows, columns = cell.eval.targets, cell.eval.num_samples
    assert result.arrays["memory"].shape == (rows, 8, 8)
    assert result.arrays["samples"].shape == (rows, columns, 8, 8)
    assert set(np.unique(result.arrays["memory"])) <= {0, 1}
    assert value(result, "images") == rows * columns


def test_lookups_show_where_a_target_looks() -> None:
    cell, _ = smoke_cells("lookup")
    arrays = run(cell).arrays
    targets, entries = arrays["q"].shape
    assert (targets, entries) == (cell.eval.targets, 4)
    assert arrays["memory"].shape == (targets, entries, 8, 8)
    assert arrays["reconstruction"].shape == (targets, 8, 8)
    assert arrays["samples"].shape == (targets, 4, 8, 8)
    assert np.allclose(arrays["q"].sum(1), 1, atol=1e-5)
    for q, top in zip(arrays["q"], arrays["top"], strict=True):
        assert np.allclose(q[top], np.sort(q)[::-1][:5])
    own = (arrays["memory_class"] == arrays["x_class"][:, None]).sum(1)
    assert (own == 2).all()


def test_classification_counts_each_episode_by_both_rules() -> None:
    episode = EpisodeSpec(classes=3, targets_per_class=1, shots=2)
    address = run(Cell(SPEC, EvalSpec(episode, 1, targets=60, task="classification", threads=1)))
    (metric,) = address.metrics
    assert metric["rule"] == "address"
    assert metric["n"] == 20 == len(address.arrays["address"])
    assert metric["low"] <= metric["value"] <= metric["high"]
    one = replace(episode, target_classes=1)
    for rule in ("likelihood", "shifted"):
        result = run(Cell(SPEC, EvalSpec(one, 2, targets=5, task=f"classification-{rule}", threads=1)))
        assert result.metrics[0]["rule"] == rule
        assert result.arrays[rule].shape == (5,)
        assert set(np.unique(result.arrays[rule])) <= {0, 1}


def test_divergences_of_addresses_are_those_of_enumeration() -> None:
    """Against one entry after the other; they are zero where q(a|x) is p(a|x)."""
    evaluation = EvalSpec(EpisodeSpec(classes=3, shots=2), 5, targets=12, task="address-divergences", threads=1)
    result = run(Cell(SPEC, evaluation))
    for name in ("kl_p_q", "kl_q_p"):
        assert result.arrays[name].shape == (12,)
        assert (result.arrays[name] >= 0).all()
        assert value(result, name) == pytest.approx(result.arrays[name].mean(), rel=1e-5)
    model, episode = trained().model, whole(trained(), evaluation).draw(0)
    inclusive, exclusive = address_divergences(model, episode, 5, generator=seeded())
    with torch.no_grad():
        encoded = model.encode_memory(episode.memory)  # type: ignore[operator]
        log_q, log_p = model.address(episode.x, encoded)  # type: ignore[operator]
        a = torch.arange(6).repeat_interleave(5)[:, None].expand(-1, 12)
        terms = model(episode.x, encoded, 30, addresses=a, generator=seeded())
        log_px = (terms.log_px + terms.log_rz).view(6, 5, 12).logsumexp(1).mT
    p, q = Categorical(logits=(log_p + log_px).double()), Categorical(logits=log_q.double())
    assert torch.allclose(inclusive, kl_divergence(p, q), rtol=1e-4)
    assert torch.allclose(exclusive, kl_divergence(q, p), rtol=1e-4)


def test_signal_and_noise_are_those_of_a_gradient_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mean 2 and standard deviation 1/2 in each of its parameters: 16."""
    evaluation = EvalSpec(EpisodeSpec(classes=3, shots=2), 400, targets=24, task="gradient-noise", threads=1)
    generator = seeded()

    def known(update: Update, number: int) -> Terms:
        x = sum((p * (2 + torch.randn(p.shape, generator=generator) / 2)).sum() for p in update.model.parameters())
        assert isinstance(x, torch.Tensor)
        return Terms(*[x.expand(1, 1)] * 4, kl_a=x[None])

    monkeypatch.setattr(Update, "terms", known)
    monkeypatch.setattr(tasks, "build_objective", lambda spec, model: lambda terms: terms.kl_a)
    found = tasks._signal_to_noise(whole(trained(), evaluation), SPEC, "posterior.head.")
    assert found == pytest.approx(16, rel=0.05)


def test_updates_are_timed_in_turns() -> None:
    cells = [
        replace(cell, train=replace(cell.train, threads=1))  # on more, such tiny networks are slower
        for cell in smoke_cells("wallclock")
        if cell.train.episode.num_entries == 4
    ]
    said: list[tuple[int, int]] = []
    timed = list(clock.time_updates(cells, DATA, CPU, lambda done, total: said.append((done, total))))
    assert [result.cell for _, result in timed] == cells
    for untrained, result in timed:
        assert untrained.updates == 0
        assert untrained.train_id == result.cell.train.train_id
        seconds, peak = result.metrics
        assert seconds["metric"] == "seconds_per_update"
        assert 0 < seconds["q25"] <= seconds["value"] <= seconds["q75"]
        assert peak["value"] > 1e6
    assert said == [(0, 1), (1, 1)]


def sharing(spec: TrainSpec, *classes: int) -> list[Cell]:
    """Cells that share their targets."""
    episodes = [EpisodeSpec(classes=c, targets_per_class=1, shots=2, target_classes=1) for c in classes]
    return [Cell(spec, EvalSpec(episode, 3, 6, threads=1)) for episode in episodes]


def test_cells_that_share_targets_are_evaluated_together() -> None:
    (group,) = tasks.groups(sharing(SPEC, 1, 4))
    progress: list[int] = []
    first, second = tasks.evaluate_group(trained(), group, DATA, CPU, lambda done, total: progress.append(done))
    assert (first.arrays["x_index"] == second.arrays["x_index"]).all()
    assert progress == list(range(7))


@pytest.mark.parametrize("read", ["features", "images"])
def test_soft_attention_evaluated_together_gives_what_it_gives_alone(read: str) -> None:
    spec = replace(SPEC, model="soft", read=read)
    cells = sharing(spec, 1, 4)
    together = tasks.evaluate_group(trained(spec), cells, DATA, CPU, lambda done, total: None)
    for cell, result in zip(cells, together, strict=True):
        _, alone = tasks.TASKS[None](whole(trained(spec), cell.eval))
        assert np.allclose(result.arrays["nll"], alone["nll"], rtol=1e-4)
