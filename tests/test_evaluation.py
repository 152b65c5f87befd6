"""The evaluator: the same numbers as a direct computation, whatever the chunks; standard errors; classification."""

import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import MLP, made, seeded, uneven
from torch import Tensor, nn

from baselines import PlainVAE, SoftAttentionVAE
from vma import VariationalMemoryAddressing, iwae
from vma.data import ImageSet
from vma.data.episodes import Episode, Episodes, EpisodeSpec
from vma.errors import InputError
from vma.evaluation import Scores, classify, evaluate, evaluate_memories, own_entry_probability
from vma.statistics import clustered_stderr
from vma.training import NonFiniteBound, fit

SIZES = replace(MLP, latent=1)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "vma": lambda: VariationalMemoryAddressing(SIZES),
    "soft": lambda: SoftAttentionVAE(SIZES),
    "vae": lambda: PlainVAE(SIZES),
}


def image_set() -> ImageSet:
    """Six classes of ten drawings."""
    images = torch.randint(0, 2, (60, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    return ImageSet(images, torch.arange(0, 61, 10))


def episodes(seed: int = 0, **fields: Any) -> Episodes:
    return Episodes(image_set(), EpisodeSpec(**{"classes": 3, "targets_per_class": 2, "shots": 2, **fields}), seed)


def build(name: str = "vma", scale: float = 0.4) -> Any:
    return made(lambda: uneven(MODELS[name](), scale))


def same(one: Scores, other: Scores) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Scores))


# --- the bound


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("K", [1, 5])
def test_one_chunk_is_one_forward(name: str, K: int) -> None:
    model, episode = build(name), episodes()(3)
    scores = evaluate(model, episodes(), [3], K, seed=2, chunk=6 * K)
    with torch.no_grad():
        terms = model(episode.x, model.encode_memory(episode.memory), K, generator=seeded(2 * 1_000_003 + 3))
    np.testing.assert_allclose(scores.nll, -iwae(terms).double(), rtol=1e-6)
    for name, value in (("kl_a", terms.kl_a), ("kl_z", terms.kl_z), ("log_px", terms.log_px.mean(0))):
        assert np.array_equal(getattr(scores, name), value.double()), name
    for name in ("x_index", "x_class", "duplicated"):
        assert np.array_equal(getattr(scores, name), getattr(episode, name)), name


@pytest.mark.parametrize(("K", "chunk"), [(30, 1), (300, 7), (1000, 64), (1000, 999), (1000, 1000), (1000, 2500)])
def test_chunks_bound_memory_and_leave_the_distribution(K: int, chunk: int) -> None:
    """No forward decodes more than `chunk` samples, and K samples in any chunks estimate the same bounds."""
    model, sizes = build(), []
    model.decoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    scores = evaluate(model, episodes(), range(2), K, chunk=chunk)
    assert len(scores) == 12
    assert max(sizes) <= chunk
    assert sum(sizes) == K * 12
    whole = evaluate(model, episodes(), range(2), K, seed=1, chunk=10**6)
    assert np.array_equal(scores.x_index, whole.x_index)
    np.testing.assert_allclose(scores.kl_a, whole.kl_a, atol=1e-6)
    for metric in ("nll", "kl_z", "log_px"):
        assert getattr(scores, metric).mean() == pytest.approx(getattr(whole, metric).mean(), abs=6 / math.sqrt(12 * K))


def test_nll_falls_with_samples_and_its_parts_add_up_at_one() -> None:
    scores = {K: evaluate(build(scale=0.6), episodes(), range(60), K) for K in (1, 4, 16, 128)}
    means = [s.nll.mean() for s in scores.values()]
    assert all(fewer > more + 0.02 for fewer, more in itertools.pairwise(means)), means
    one = scores[1]
    assert one.nll.mean() == pytest.approx((one.kl_a + one.kl_z - one.log_px).mean(), abs=0.1)


@pytest.mark.parametrize("chunk", [4, 1024])
def test_scores_of_an_episode_depend_on_no_other(chunk: int) -> None:
    model = build()
    alone = evaluate(model, episodes(), [5], 4, chunk=chunk)
    among = evaluate(model, episodes(), [9, 5, 0], 4, chunk=chunk)
    assert same(among.where(np.arange(len(among)) // 6 == 1), alone)
    assert not same(evaluate(model, episodes(), [5], 4, seed=1, chunk=chunk), alone)


def test_a_broken_bound_names_the_episode_and_the_term() -> None:
    model = build()
    nn.init.constant_(model.prior_head.bias, torch.nan)
    with pytest.raises(NonFiniteBound, match="not finite at evaluation episode 4, seed 0: log_rz broke"):
        evaluate(model, episodes(), [4], 3)


def test_a_part_that_is_not_finite_is_refused_though_the_bound_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that has no weight in the bound."""
    model = build()
    forward = model.forward

    def underflowing(*args: Any, **kwargs: Any) -> Any:
        terms = forward(*args, **kwargs)
        terms.log_rz[0] = -math.inf
        return terms

    monkeypatch.setattr(model, "forward", underflowing)
    with pytest.raises(NonFiniteBound, match="kl_z of the bound is not finite at evaluation episode 4, seed 0"):
        evaluate(model, episodes(), [4], 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: evaluate(model, episodes(), range(1), 2),
        lambda model: [*evaluate_memories(model, memories(1, 3), range(1), 2)],
        lambda model: next(evaluate_memories(model, memories(1, 3), range(2), 2)),
        lambda model: classify(model, one_episode(2, 1), 2),
        lambda model: own_entry_probability(model, one_episode(2, 1)),
    ],
)
def test_evaluation_is_in_eval_mode_and_leaves_each_part_of_a_model_in_its_own(
    call: Callable[[nn.Module], object],
) -> None:
    """And what is not finite is refused by each."""

    def modes() -> list[bool]:
        return [part.training for part in model.modules()]

    model = build().train()
    model.prior_head.eval()  # as what is frozen
    before, seen = modes(), []
    model.addressing.embed_query.register_forward_hook(lambda *_: seen.extend(modes()))
    assert call(model) is not None
    assert not any(seen)
    assert modes() == before
    nn.init.constant_(model.posterior.head.bias, torch.nan)
    nn.init.constant_(model.addressing.embed_query.head.bias, torch.nan)
    with pytest.raises(NonFiniteBound):
        call(model)
    assert modes() == before


@pytest.mark.parametrize(("factor", "values"), [(255, "from 0 to 255"), (math.nan, "from nan to nan")])
def test_pixels_that_are_no_ink_are_named(factor: float, values: str) -> None:
    model, images, spec = build(), image_set(), EpisodeSpec(classes=3, targets_per_class=2, shots=2)
    wrong = SimpleNamespace(images=images.images.float() * factor, offsets=images.offsets)
    with pytest.raises(InputError, match=f"the images have pixels {values}, must be from 0 .paper. to 1 .ink.: divide"):
        Episodes(wrong, spec, 0)

    for part, what in (("x", "targets"), ("memory", "images in memory")):

        def own(step: int, part: str = part) -> Episode:
            episode = episodes()(step)
            return replace(episode, **{part: getattr(episode, part) * factor})

        with pytest.raises(InputError, match=f"the {what} have pixels {values}, must"):
            evaluate(model, own, range(1), 2)
        with pytest.raises(InputError, match=f"the {what} have pixels {values}, must"):
            next(fit(model, own, iwae, torch.optim.SGD(model.parameters()), 2, range(1)))


# --- one target under many memories


def memories(*sizes: int) -> list[Episodes]:
    """Nested memories of one class to all six, with one target."""
    return [episodes(classes=c, targets_per_class=1, shots=9, target_classes=1) for c in sizes]


def test_shared_draws_leave_the_bound_of_each_memory() -> None:
    """Over 100 evaluations of one target the mean is that of `evaluate`, within 4 standard errors, for each memory."""
    model, cells = build(), [cell(0) for cell in memories(1, 3, 6)]
    frozen = [lambda step, episode=episode: episode for episode in cells]
    shared = [*evaluate_memories(model, frozen, range(100), 3)]
    for i, cell in enumerate(frozen):
        one, other = evaluate(model, cell, range(100, 200), 3), [scores[i] for scores in shared]
        assert np.array_equal(other[0].x_index, one.x_index[:1])
        np.testing.assert_allclose(other[0].kl_a, one.kl_a[:1], atol=1e-6)
        for metric in ("nll", "kl_z", "log_px"):
            a, b = getattr(one, metric), np.concatenate([getattr(s, metric) for s in other])
            error = math.hypot(a.std(), b.std()) / math.sqrt(100)
            assert abs(a.mean() - b.mean()) < 4 * error, (i, metric)


def test_shared_draws_are_decoded_once_and_in_chunks() -> None:
    model, sizes = build(), []
    model.decoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    [scores] = evaluate_memories(model, memories(4, 5, 6), [2], 1000, chunk=100)
    assert max(sizes) <= 100
    assert 1000 <= sum(sizes) < 2000  # of 3,000
    whole = [evaluate(build(), cell, [2], 1000) for cell in memories(4, 5, 6)]
    for one, other in zip(scores, whole, strict=True):
        np.testing.assert_allclose(one.nll, other.nll, atol=0.5)


def test_one_memory_of_one_entry_is_plain_evaluation() -> None:
    """With a single address nothing is drawn but noise: exact equality up to rounding."""
    cell = episodes(classes=1, targets_per_class=1, shots=1)
    generator = seeded(3)
    [[scores]] = evaluate_memories(build(), [cell], [3], 8)
    with torch.no_grad():
        model, episode = build(), cell(3)
        torch.multinomial(torch.ones(1, 1), 8, replacement=True, generator=generator)  # the addresses
        terms = model(
            episode.x, model.encode_memory(episode.memory), 8, generator=generator, addresses=torch.zeros(8, 1).long()
        )
    assert scores.kl_a == 0
    np.testing.assert_allclose(scores.nll, -iwae(terms), rtol=1e-5)


def test_an_image_is_embedded_once_over_all_steps_and_memories() -> None:
    """And the scores are those of memories that are embedded anew each time."""
    steps, cells, embedded = [4, 2, 9, 0, 7], memories(2, 4), []
    cached, fresh = build(), build()
    cached.addressing.embed_memory.register_forward_hook(lambda module, inputs, output: embedded.append(len(output)))
    once = [*evaluate_memories(cached, cells, steps, 20, chunk=16)]
    seen = [set(cells[-1](step).memory_index.tolist()) for step in steps]
    assert sum(embedded) == len(set.union(*seen)) < sum(len(one) for one in seen)
    assert max(embedded) <= 16
    for step, found in zip(steps, once, strict=True):
        [again] = evaluate_memories(fresh, cells, [step], 20, chunk=16)
        for one, other in zip(found, again, strict=True):
            for field in fields(Scores):
                np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), rtol=1e-5, atol=1e-6)


def test_summary_clusters_by_class_or_by_image() -> None:
    scores = evaluate(build(), episodes(), range(20), 2)
    by_class, by_image = scores.summary("nll", by_class=True), scores.summary("nll", by_class=False)
    assert by_class == (scores.nll.mean(), clustered_stderr(scores.nll, scores.x_class))
    assert by_image == (scores.nll.mean(), clustered_stderr(scores.nll, scores.x_index))


# --- classification


def one_episode(classes: int, shots: int) -> Episode:
    return episodes(classes=classes, targets_per_class=1, shots=shots)(0)


@pytest.mark.parametrize(("classes", "shots"), [(6, 1), (4, 5), (1, 3)])
def test_classification_sums_over_the_entries_of_a_class(classes: int, shots: int) -> None:
    model, episode = build(), one_episode(classes, shots)
    found = classify(model, episode, 7, generator=seeded(), chunk=10**6)
    assert found.classes.tolist() == sorted(set(episode.memory_class.tolist()))
    with torch.no_grad():
        encoded = model.encode_memory(episode.memory)
        q = model.address(episode.x, encoded)[0].exp()
        p = encoded.keys.log_p.exp()
        addresses = torch.arange(len(p)).repeat_interleave(7)[:, None].expand(-1, len(q))
        t = model(episode.x, encoded, 7 * len(p), generator=seeded(), addresses=addresses)
        w = (t.log_px + t.log_rz).exp()
        evidence = torch.stack([p[a] * w[7 * a : 7 * (a + 1)].mean(0) for a in range(len(p))], 1)
    for rule, weights in ((found.feed_forward, q), (found.likelihood, evidence)):
        summed = torch.stack([weights[:, episode.memory_class == c].sum(1) for c in found.classes], 1)
        torch.testing.assert_close(rule.exp(), summed / summed.sum(1, keepdim=True))
        torch.testing.assert_close(rule.exp().sum(1), torch.ones(len(q)))
        expected = [found.classes[row.argmax()] == c for row, c in zip(summed, episode.x_class, strict=True)]
        assert found.correct(rule, episode.x_class).tolist() == expected


@pytest.mark.parametrize("chunk", [4, 5, 64, 5000])
def test_classification_decodes_in_chunks_and_encodes_once(chunk: int) -> None:
    """5 targets, 15 entries and 40 samples of each; the noise differs from chunk to chunk, the estimate does not."""
    model, episode, decoded, encoded = build(), one_episode(5, 3), [], []
    model.decoder.register_forward_hook(lambda module, inputs, output: decoded.append(len(output)))
    model.addressing.embed_memory.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    found = classify(model, episode, 40, generator=seeded(), chunk=chunk)
    assert max(decoded) <= chunk
    assert sum(decoded) == 5 * 15 * 40
    assert encoded == [15]
    exact = classify(build(), episode, 4000, generator=seeded(1), chunk=10**6)
    torch.testing.assert_close(found.feed_forward, exact.feed_forward)
    torch.testing.assert_close(found.likelihood.exp(), exact.likelihood.exp(), rtol=0, atol=0.1)


def test_classification_without_samples_decodes_nothing() -> None:
    model, episode = build(), one_episode(4, 3)
    expected = classify(model, episode, 1).feed_forward
    model.decoder.register_forward_hook(lambda *_: pytest.fail("decoded"))
    found = classify(model, episode, 0)
    assert found.likelihood is None
    assert torch.equal(found.feed_forward, expected)


def test_likelihood_rule_is_the_posterior_over_classes() -> None:
    """p(c|x) by the exact integral over a one-dimensional z under the prior, a sum over the memory of the class."""
    model, episode = build(), one_episode(3, 2)
    found = classify(model, episode, 5000, generator=seeded())
    grid = torch.linspace(-6, 6, 601)

    def log_evidence(x: Tensor, entry: Tensor) -> Tensor:
        levels = model.memory_pyramid(entry[None])
        mean, log_std = model.prior_head(levels[-1])[0]
        condition = [c.expand(601, -1) for c in model.conditioner(levels)]
        logits = model.decoder((mean + log_std.exp() * grid)[:, None], condition)
        log_px = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
        return (log_px + (-0.5 * grid**2).log_softmax(0)).logsumexp(0)

    with torch.no_grad():
        log_p = model.encode_memory(episode.memory).keys.log_p
        joint = torch.stack([torch.stack([log_evidence(x, m) for m in episode.memory]) for x in episode.x]) + log_p
    member = episode.memory_class == found.classes[:, None]
    exact = (joint.softmax(1)[:, None] * member).sum(-1)
    torch.testing.assert_close(found.likelihood.exp(), exact, rtol=0, atol=0.02)
    assert exact.std() > 0.05


# --- recall


def test_own_entry_probability_sums_q_over_the_copies_of_the_target() -> None:
    model, episode = build(), episodes(protocol="recall", memory_size=20)(0)
    parts = {name: getattr(episode, name) for name in ("memory", "memory_index", "memory_class")}
    copy = replace(episode, **{name: torch.cat((part, part[:7])) for name, part in parts.items()})
    for one in (episode, copy):
        q = model.address(one.x, model.encode_memory(one.memory))[0].exp()
        expected = [row[one.memory_index == i].sum() for row, i in zip(q, one.x_index, strict=True)]
        torch.testing.assert_close(own_entry_probability(model, one), torch.stack(expected).detach())
    apart = episodes()(0)  # targets are not in memory
    assert own_entry_probability(model, apart).tolist() == [0.0] * 6
    rounded = own_entry_probability(model, episode, torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, own_entry_probability(model, episode), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="recall needs a memory"):
        own_entry_probability(model, episodes(protocol="none")(0))
