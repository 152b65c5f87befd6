"""Updates whose gradient reaches a sample of the entries: exact values, and the exact gradient on average."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import CPU, HIDDEN, MLP, assert_same, binary, far, gradients, made, noise, refused, seeded
from torch import Tensor, nn

import baselines.sampled
import vma.sampled
from baselines import SoftAttentionVAE
from baselines.sampled import SampledGradientSoftAttention
from benchmarks.declare.spec import TrainSpec, identity
from benchmarks.runs import build
from vma import Terms, VariationalMemoryAddressing, iwae, vimco
from vma.data import load
from vma.data.episodes import EpisodeSpec
from vma.networks import Sizes
from vma.sampled import SampledGradientAddressing, sample_entries

M, B, K = 12, 3, 2
CASES: dict[str, tuple[Sizes, dict[str, Any]]] = {
    "vma, conv": (HIDDEN, {}),
    "vma, mlp": (MLP, {}),
    "vma, flat prior": (MLP, {"prior": "flat"}),
    "vma, inner product": (MLP, {"similarity": "inner"}),
    "vma, cosine": (HIDDEN, {"similarity": "cosine", "prior": "flat"}),
    "vma, cosine, learned prior": (MLP, {"similarity": "cosine"}),
    "soft, conv": (HIDDEN, {}),
    "soft, mlp": (MLP, {}),
}
each = pytest.mark.parametrize("name", CASES)
STROKES = load("strokes", image_size=12)


def pair(name: str, n: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """The exact model and the sampling one with the same weights."""
    sizes, options = CASES[name]

    def make() -> tuple[nn.Module, nn.Module]:
        if name.startswith("vma"):
            exact: nn.Module = VariationalMemoryAddressing(sizes, **options)
            return far(exact), SampledGradientAddressing(sizes, gradient_entries=n, **options)
        soft = SampledGradientSoftAttention(sizes, gradient_entries=n)
        return far(SoftAttentionVAE(sizes, read="features")), soft

    exact, sampled = made(make)
    sampled.load_state_dict(exact.state_dict())
    assert [name for name, _ in sampled.named_parameters()] == [name for name, _ in exact.named_parameters()]
    return exact.to(dtype), sampled.to(dtype)


def episode(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Targets and memory."""
    return tuple(binary(n, *CASES[name][0].image, seed=n, dtype=dtype) for n in (B, M))


def objective(name: str) -> Callable[[Terms], Tensor]:
    return vimco if name.startswith("vma") else iwae


def gradient(model: Any, name: str) -> tuple[Terms, dict[str, Tensor]]:
    """The terms at fixed draws, and the gradient of the objective that trains; two targets share an address."""
    x, memory = episode(name)
    fixed = {"noise": noise(K, B, CASES[name][0], seed=2)}
    if name.startswith("vma"):
        fixed["addresses"] = torch.tensor([[3, 3, 7], [0, 3, 11]])
    terms = model(x, model.encode_memory(memory), K, **fixed)
    return terms, gradients(model, objective(name)(terms).mean())


class Drawn:
    """In the place of `sample_entries`: entry `number` of those that can be drawn, with its probability."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, proposal: Tensor, n: int, always: Tensor, generator: object) -> tuple[Tensor, Tensor, Tensor]:
        assert n == 1
        others = proposal.clone()
        others[always] = 0
        possible = others.nonzero()[:, 0]
        self.count = len(possible)
        j = possible[self.number]
        self.probability = float(others[j] / others.sum())
        entries, place = torch.cat((always, j[None])).unique(return_inverse=True)
        weight = torch.ones_like(proposal)[entries].masked_fill(entries == j, 1 / self.probability)
        return entries, weight, place[: len(always)]


def every_draw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawn]:
    """Each entry that can be drawn, once it has been drawn."""
    number, count = 0, 1
    while number < count:
        drawn = Drawn(number)
        monkeypatch.setattr(vma.sampled, "sample_entries", drawn)
        monkeypatch.setattr(baselines.sampled, "sample_entries", drawn)
        yield drawn
        number, count = number + 1, drawn.count


# --- exactness


@each
def test_the_gradient_over_all_draws_is_that_of_the_exact_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, sampled = pair(name, 1)
    expected, wanted = gradient(exact, name)
    total = {key: torch.zeros_like(value) for key, value in wanted.items()}
    probability, biased = 0.0, 0
    for drawn in every_draw(monkeypatch):
        terms, found = gradient(sampled, name)
        assert_same(terms, expected)
        torch.testing.assert_close(objective(name)(terms), objective(name)(expected), rtol=1e-10, atol=1e-10)
        for key in wanted:
            total[key] += drawn.probability * found[key]
        probability += drawn.probability
        biased += any(not torch.allclose(found[key], wanted[key], rtol=1e-6) for key in wanted)
    assert probability == pytest.approx(1)
    assert biased == (8 if name.startswith("vma") else 12) == drawn.count  # one draw alone is not the gradient
    torch.testing.assert_close(total, wanted, rtol=1e-9, atol=1e-9)


@each
def test_only_the_networks_of_entries_get_a_sampled_gradient(name: str) -> None:
    exact, sampled = pair(name, 1)
    _, wanted = gradient(exact, name)
    _, found = gradient(sampled, name)
    entries = {"vma": ("addressing.embed_memory.",), "soft": ("embed_memory.", "memory_pyramid.", "conditioner.")}
    for key, value in wanted.items():
        if not key.startswith(entries[name[:4].strip(",")]):
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


@each
def test_a_memory_of_no_more_entries_than_the_sample_is_exact(name: str) -> None:
    exact, sampled = pair(name, M)
    expected, wanted = gradient(exact, name)
    terms, found = gradient(sampled, name)
    torch.testing.assert_close((terms.tensors, found), (expected.tensors, wanted), rtol=0, atol=0)


@each
def test_values_and_draws_are_those_of_the_base_class(name: str) -> None:
    """In training up to rounding, in evaluation exactly."""
    exact, sampled = pair(name, 2, dtype=torch.float32)
    x, memory = episode(name, torch.float32)

    def draw(model: Any, **options: Any) -> Terms:
        return model(x, model.encode_memory(memory), K, generator=seeded(), **options)

    torch.testing.assert_close(draw(exact).tensors, draw(sampled).tensors)
    with torch.no_grad():
        one, other = draw(exact, chunk=5), draw(sampled, chunk=5)
    torch.testing.assert_close(one.tensors, other.tensors, rtol=0, atol=0)
    drawn = [model.sample(model.encode_memory(memory), 3, generator=seeded()).means for model in (exact, sampled)]
    torch.testing.assert_close(*drawn)


@each
def test_entries_are_embedded_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = pair(name, 2)
    whole, _ = gradient(model, name)
    sizes: list[int] = []
    embed = model.addressing.embed_memory if name.startswith("vma") else model.embed_memory
    embed.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    for module in (vma.sampled, baselines.sampled):
        monkeypatch.setattr(module, "CHUNK", 5)
    parts, _ = gradient(model, name)
    assert sizes[:3] == [5, 5, 2]
    assert_same(parts, whole)


@each
def test_mixed_precision_keeps_the_gradient(name: str) -> None:
    """Weights that were cast without gradient must not be taken for those with one."""
    _, model = pair(name, 2, dtype=torch.float32)
    x, memory = episode(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode_memory(memory)
        terms = model(x, encoded, K, generator=seeded())
    objective(name)(terms).mean().backward()
    for key, parameter in model.named_parameters():
        if name == "vma, inner product" and key == "addressing.embed_memory.head.bias":
            continue  # the softmax passes over it
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


# --- the sample


@pytest.mark.parametrize("n", [1, 4, 40])
@pytest.mark.parametrize("static", [False, True])
def test_weights_are_one_on_average(n: int, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA devices, whose shapes do not depend on values, as on the CPU."""
    if static:
        monkeypatch.setattr(vma.sampled, "distinct", lambda index, _: (index, torch.arange(index.numel())))
    proposal = torch.tensor([0.5, 0.0, 3.0, 1.0, 0.1, 2.0, 0.25, 1.0], dtype=torch.float64)
    always = torch.tensor([2, 6, 2])
    generator = seeded()
    total = torch.zeros(1000, len(proposal), dtype=torch.float64)
    for row in total:
        entries, weight, place = sample_entries(proposal, n, always, generator)
        row.index_add_(0, entries, weight)
        assert torch.equal(entries[place], always)
    assert (total[:, [2, 6]] == 1).all()
    assert not total[:, 1].any()  # of no probability
    rest = [0, 3, 4, 5, 7]
    spread = total[:, rest].std(0) / len(total) ** 0.5
    assert ((total[:, rest].mean(0) - 1).abs() <= 4 * spread + 1e-9).all()


def test_draws_spread_over_the_distribution() -> None:
    """Where each n-th of it has one draw, entries of one n-th each are drawn once each."""
    entries, weight, _ = sample_entries(torch.ones(8), 8, torch.tensor([], dtype=torch.int64), None)
    assert torch.equal(entries.sort().values, torch.arange(8))
    torch.testing.assert_close(weight, torch.ones(8))


@pytest.mark.parametrize("proposal", [torch.ones(4), torch.tensor([0.0, 0.0, 1.0, 0.0])])
def test_nothing_left_to_draw_weighs_nothing(proposal: Tensor) -> None:
    always = torch.tensor([3, 1, 2, 0])
    entries, weight, _ = sample_entries(proposal, 3, always, None)
    assert torch.equal(torch.zeros(4).index_add(0, entries, weight), torch.ones(4))


# --- specs

TINY = TrainSpec(
    dataset="strokes",
    image_size=12,
    network="tiny",
    episode=EpisodeSpec("recall", classes=2, targets_per_class=2, memory_size=24),
    threads=1,
    gradient_entries=3,
)
SOFT = replace(TINY, model="soft", read="features", num_samples=1)


@pytest.mark.parametrize(
    ("spec", "made"), [(TINY, SampledGradientAddressing), (SOFT, SampledGradientSoftAttention)], ids=["vma", "soft"]
)
def test_the_field_makes_the_model_with_the_weights_of_the_exact_one(spec: TrainSpec, made: type) -> None:
    model, exact = (build.build_model(one, STROKES, CPU) for one in (spec, replace(spec, gradient_entries=None)))
    assert type(model) is made
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), exact.parameters(), strict=True))


def test_the_field_is_part_of_the_training_and_changes_no_other_id() -> None:
    exact = replace(TINY, gradient_entries=None)
    assert "gradient_entries" not in identity(exact)
    assert len({exact.science_id, TINY.science_id, replace(TINY, gradient_entries=4).science_id}) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tied": True}, "gradient_entries is given for tied networks: leave it out"),
        (
            {"learned_entries": 4, "episode": EpisodeSpec("none")},
            "gradient_entries is given for a learned memory: leave it out",
        ),
        ({"path": "reference"}, "gradient_entries is given for model vma, read None, path reference: it is for vma"),
        ({"model": "soft", "read": "images"}, "gradient_entries is given for model soft, read images, path None"),
        ({"model": "vae"}, "gradient_entries is given for model vae, read None, path None: it is for"),
    ],
)
def test_what_cannot_be_sampled_is_refused(fields: dict[str, Any], message: str) -> None:
    with refused(f"^{message}"):
        build.build_model(replace(TINY, **fields), STROKES, CPU)
