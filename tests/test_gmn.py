"""Generative Matching Networks against what is known exactly, in float64: sizes, what is read, who sees whom."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import CONV, HIDDEN, MLP, assert_same, binary, gradients, made, noise, seeded
from torch import Tensor, nn

from baselines import GenerativeMatchingNetwork, GMNSizes, PlainVAE, gmn
from baselines.gmn import Contents, Question, SetReader
from baselines.gmn_networks import WholeNorm
from vma import MLPSizes, Terms, iwae
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec
from vma.errors import InputError
from vma.evaluation import evaluate
from vma.networks import Family
from vma.training import fit

OWN = GMNSizes(image=(1, 12, 12), latent=3)
CASES: dict[str, tuple[Family, dict[str, Any]]] = {
    "own": (OWN, {}),
    "own, clipped, one hop": (OWN, {"hops": 1, "strength": "clipped"}),
    "own, cosine": (OWN, {"similarity": "cosine", "prior_hops": 2}),
    "own, average": (OWN, {"hops": 0, "prior_hops": 0}),
    "conv": (HIDDEN, {}),
    "conv with skips": (replace(CONV, latent=3), {"skips": True}),
    "mlp with skips": (replace(MLP, latent=3), {"skips": True, "similarity": "paper"}),
}
E, T = 2, 4  # sequences, and objects in each


def build(sizes: Family, options: dict[str, Any]) -> GenerativeMatchingNetwork:
    """In float64, with small readers, and weights far from the start, where nothing depends on what is read."""

    def make() -> GenerativeMatchingNetwork:
        model = GenerativeMatchingNetwork(sizes, **options).double()
        for p in model.parameters():
            p.data += 0.3 * torch.randn_like(p) if p.dim() == 1 else 0.5 * torch.randn_like(p) / p[0].numel() ** 0.5
        for module in model.modules():
            if isinstance(module, WholeNorm):
                module.scale.data *= 4
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gmn, "STATE", 12)
        patch.setattr(gmn, "PROTOTYPE", 16)
        return made(make)


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> GenerativeMatchingNetwork:
    return build(*CASES[request.param])


def before() -> Tensor:
    """What each of E sequences' T objects sees."""
    place = torch.arange(E * T)
    return (place[:, None] // T == place // T) & (place[:, None] > place)


def objects(model: nn.Module) -> Tensor:
    return binary(E * T, *model.sizes.image)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


# --- the release's networks


def test_own_networks_have_the_sizes_of_the_release() -> None:
    model = GenerativeMatchingNetwork(GMNSizes())
    levels = model.pyramid(torch.zeros(2, 1, 28, 28))
    assert [tuple(level.shape[1:]) for level in levels] == [(16, 13, 13), (32, 6, 6), (32, 3, 3)]
    assert parameters(model) == 1_534_160
    assert parameters(model.shared) == parameters(model.prior) == 472_289
    assert parameters(model.pyramid) == 26_294
    assert parameters(model.decoder) == 178_678
    assert parameters(model.posterior_head) == 77_700
    assert parameters(model.prior_head) == 118_101
    assert [parameters(ask) for ask in (model.ask_posterior, model.ask_likelihood, model.ask_prior)] == [
        98_003,
        50_403,
        40_403,
    ]
    assert parameters(PlainVAE(GMNSizes())) == 26_294 + 288 * 100 + 100 + 178_678 - 488 * 288


@pytest.mark.parametrize("size", [12, 13, 14, 26, 28, 31])
def test_own_networks_give_images_of_the_size_that_they_take(size: int) -> None:
    plain = PlainVAE(GMNSizes(image=(1, size, size)))
    assert plain.sample(None, 2, generator=torch.Generator()).means.shape == (2, 1, size, size)


def test_strength_starts_at_one_or_as_in_the_release() -> None:
    h = torch.rand(50, 200) / 288
    torch.testing.assert_close(Question(3, "softplus").strength(h), torch.ones(50, 1), rtol=0, atol=0.01)
    released = torch.cat([Question(3, "clipped").strength(h) for _ in range(20)])
    assert 1e-10 <= released.min() < 1e-9 < released.max() < 0.02


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="skips are given for network gmn, which has none"):
        GenerativeMatchingNetwork(OWN, skips=True)
    with pytest.raises(InputError, match="image_size is 11, must be 12 or more for network gmn"):
        PlainVAE(GMNSizes(image=(1, 11, 11)))


# --- what is read


def read(reader: SetReader, question: Question, contents: Contents, hops: int, N: int = 3) -> Tensor:
    """r of the last hop."""
    asked = torch.randn(N, 5, generator=seeded(), dtype=torch.float64)
    return reader(question, asked, contents, hops).content[:, : contents.prototypes.shape[1]]


def a_reader(strength: str = "softplus") -> tuple[SetReader, Question, Tensor]:
    """A reader, a question of five numbers, and the prototypes of six objects."""
    torch.manual_seed(0)
    reader, question = SetReader(7, "inner").double(), Question(5, strength).double()
    return reader, question, torch.randn(6, 7, dtype=torch.float64)


def set_strength(question: Question, value: float) -> None:
    question.strength_of.parametrizations.weight[0].scale.data.zero_()
    question.strength_of.bias.data.fill_(value)


@pytest.mark.parametrize("hops", [1, 4])
def test_without_strength_the_read_is_the_average_of_objects_and_pseudo_input(hops: int) -> None:
    reader, question, prototypes = a_reader("clipped")
    contents = reader.contents(prototypes)
    mean = torch.cat((reader.pseudo_prototype, prototypes)).mean(0).expand(3, -1)
    set_strength(question, -1)  # clipped to 1e-10
    torch.testing.assert_close(read(reader, question, contents, hops), mean)
    set_strength(question, 1)
    torch.testing.assert_close(read(reader, question, contents, 0), mean)
    assert not torch.allclose(read(reader, question, contents, hops), mean, atol=1e-4)


def test_with_great_strength_the_read_is_the_prototype_of_the_best_key() -> None:
    reader, question, prototypes = a_reader()
    contents = reader.contents(prototypes)
    asked = torch.zeros(1, 5, dtype=torch.float64)
    u = question(reader.start, asked)
    contents.keys[3] = u[0] / u.norm()  # no other key of that length is as near, but they are longer
    contents.keys[[0, 1, 2, 4, 5, 6]] *= 0.01
    set_strength(question, 1e6)
    found = reader(question, asked, contents, 1)
    torch.testing.assert_close(found.content[0, :7], prototypes[2])
    assert found.weights[0][0, 3] > 1 - 1e-6
    assert found.strengths[0].item() == 1e6


def test_an_entry_that_comes_twice_counts_twice() -> None:
    reader, question, prototypes = a_reader()
    once, twice = (reader.contents(prototypes[i]) for i in ([0, 1], [0, 1, 1]))
    assert not torch.allclose(read(reader, question, once, 1), read(reader, question, twice, 1), atol=1e-4)


def test_the_order_of_memory_does_not_matter(model: GenerativeMatchingNetwork) -> None:
    memory, x = binary(5, *model.sizes.image), binary(3, *model.sizes.image, seed=2)
    eps, order = noise(2, 3, model.sizes), torch.tensor([3, 0, 4, 1, 2])
    one, other = (model(x, model.encode_memory(m), 2, noise=eps) for m in (memory, memory[order]))
    assert_same(one, other, 1e-12)


def test_without_objects_the_pseudo_input_is_read(model: GenerativeMatchingNetwork) -> None:
    x, eps = binary(3, *model.sizes.image), noise(2, 3, model.sizes)
    encoded = model.encode_memory(None)
    for found in (model._read_prior(encoded, None), model._read_posterior(model._features(x, encoded), encoded, None)):
        assert all(torch.equal(a, torch.ones_like(a)) for a in found.weights)
    prototype = model.shared.pseudo_prototype.shape[1]
    torch.testing.assert_close(model._read_prior(encoded, None).content[:, :prototype], model.prior.pseudo_prototype)
    terms = model(x, encoded, 2, noise=eps)
    assert iwae(terms).isfinite().all()
    found = gradients(model, iwae(terms).mean())
    assert all(g.isfinite().all() for g in found.values())
    memory = binary(4, *model.sizes.image, seed=5)
    hidden = torch.zeros(3, 4, dtype=torch.bool)
    assert_same(model(x, model.encode_memory(memory), 2, noise=eps, visible=hidden), terms, 1e-12)


# --- sequences


def test_all_prefixes_at_once_are_one_call_each(model: GenerativeMatchingNetwork) -> None:
    """Values, and the gradients of all parameters."""
    x, eps = objects(model), noise(2, E * T, model.sizes)
    together = model(x, model.encode_memory(x), 2, noise=eps, visible=before())
    parts = []
    for b in range(E * T):
        memory = x[b - b % T : b]
        encoded = model.encode_memory(memory if len(memory) else None)
        parts.append(model(x[b : b + 1], encoded, 2, noise=eps[:, b : b + 1]))
    apart = Terms.join(parts)
    assert_same(together, apart)
    found, expected = (gradients(model, iwae(terms).mean()) for terms in (together, apart))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_targets_that_are_the_memory_go_through_the_pyramid_once(model: GenerativeMatchingNetwork) -> None:
    x, eps = objects(model), noise(1, E * T, model.sizes)
    passed: list[int] = []
    model.pyramid.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
    once = model(x, model.encode_memory(x), 1, noise=eps, visible=before())
    assert passed == [E * T]
    assert_same(model(x.clone(), model.encode_memory(x), 1, noise=eps, visible=before()), once, 1e-12)


def test_chunks_change_nothing(model: GenerativeMatchingNetwork) -> None:
    x, eps = objects(model), noise(3, E * T, model.sizes)
    encoded = model.encode_memory(x)
    for visible in (None, before()):
        whole, parts = (model(x, encoded, 3, noise=eps, visible=visible, chunk=c) for c in (None, 5))
        assert_same(whole, parts, 1e-12)


def test_a_sequence_is_trained_and_evaluated_as_it_stands() -> None:
    """The mask comes through `fit` and `evaluate`; without it a target would read itself."""
    data = load("strokes", image_size=12)
    episodes = Episodes(data.train, EpisodeSpec("sequence", classes=2, shots=T, sequences=E), seed=0)
    model = build(OWN, {}).float()
    episode = episodes(0)
    generator = seeded()
    expected = model(episode.x, model.encode_memory(episode.x), 2, generator=generator, visible=before())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scores = evaluate(model, episodes, range(1), 2, chunk=6)
    blind = evaluate(model, lambda step: episodes(step).__class__(**{**vars(episode), "visible": None}), range(1), 2)
    assert scores.nll.shape == (E * T,)
    assert (scores.nll != blind.nll).all()
    generator = seeded()
    _, terms = next(fit(model, episodes, iwae, optimizer, 2, range(1), generator=generator))
    assert torch.equal(terms.log_w, expected.log_w)


# --- the bound


@pytest.mark.parametrize("entries", [0, 3])
def test_the_probabilities_of_all_images_sum_to_one(entries: int) -> None:
    """E_q[w] = p(x|X), by quadrature over the noise of q; all 16 images of 2x2 pixels."""
    sizes = MLPSizes(image=(1, 2, 2), widths=(4, 3), latent=1)
    model = build(sizes, {"skips": True})
    images = torch.tensor([*itertools.product((0.0, 1.0), repeat=4)], dtype=torch.float64).view(16, 1, 2, 2)
    grid = torch.linspace(-40, 40, 801, dtype=torch.float64)
    eps = grid[:, None, None].expand(-1, 16, 1)
    terms = model(images, model.encode_memory(images[:entries] if entries else None), len(grid), noise=eps)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(grid)[:, None].double()
    p = (terms.log_w + density).exp().sum(0) * (grid[1] - grid[0])
    assert p.sum().item() == pytest.approx(1, abs=1e-4)  # the integrand has kinks, those of a PReLU


@pytest.mark.parametrize(("sizes", "options"), CASES.values(), ids=CASES)
def test_every_parameter_learns(sizes: Family, options: dict[str, Any]) -> None:
    model = build(sizes, options)
    x = objects(model)
    terms = model(x, model.encode_memory(x), 2, noise=noise(2, E * T, sizes), visible=before())
    without: tuple[str, ...] = ()
    if options.get("hops") == 0:  # an average asks for nothing
        without = ("ask_", "shared.key", "shared.pseudo_key", "prior.key", "prior.pseudo_key")
    for name, found in gradients(model, iwae(terms).mean()).items():
        clipped = options.get("strength") == "clipped" and ".strength_of." in name
        assert found.any() or clipped or name.startswith(without), name


def test_attention_is_told_in_numbers() -> None:
    model = build(OWN, {})
    x = objects(model)
    encoded = model.encode_memory(x)
    found = model.attention(x, encoded, visible=before())
    assert set(found) == {f"{what}_{of}" for what in ("strength", "entropy") for of in "qxz"}
    for question in (model.ask_posterior, model.ask_likelihood, model.ask_prior):
        set_strength(question, -1e3)
    flat = model.attention(x, encoded, visible=before())
    uniform = torch.arange(1, T + 1).double().log().mean().item()
    for of in "qxz":
        assert 0 < found[f"entropy_{of}"] < uniform
        assert flat[f"strength_{of}"] == 0
        assert flat[f"entropy_{of}"] == pytest.approx(uniform)


def test_mixed_precision_agrees_with_float64() -> None:
    """The bound of every target within 0.05 %."""
    torch.manual_seed(0)
    mixed = GenerativeMatchingNetwork(GMNSizes()).to(memory_format=torch.channels_last)
    exact = GenerativeMatchingNetwork(GMNSizes()).double()
    exact.load_state_dict(mixed.state_dict())
    x, eps = objects(mixed), noise(2, E * T, mixed.sizes)
    expected = exact(x, exact.encode_memory(x), 2, noise=eps, visible=before())
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed(x.float(), mixed.encode_memory(x.float()), 2, noise=eps.float(), visible=before())
    assert all(value.dtype == torch.float32 for value in found.tensors.values())
    off = ((iwae(found) - iwae(expected)) / iwae(expected)).abs().max().item()
    assert off < 0.0005, off
