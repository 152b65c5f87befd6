"""Updates whose gradient reaches a sample of the entries: exact values, and the exact gradient on average."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import baselines.sampled
import vma.sampled
from baselines import SoftAttentionVAE
from baselines.sampled import SampledGradientSoftAttention
from benchmarks.declare.spec import TrainSpec, identity
from benchmarks.runs import build
from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.data import load
from vma.data.episodes import EpisodeSpec
from vma.errors import InputError
from vma.sampled import SampledGradientAddressing, sample_entries

CONV = ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=3, embedding=4)
MLP = MLPSizes(image=(1, 4, 4), widths=(6, 5), latent=2, embedding=3)
M, B, K = 12, 3, 2
CASES: dict[str, tuple[ConvSizes | MLPSizes, dict[str, Any]]] = {
    "vma, conv": (CONV, {}),
    "vma, mlp": (MLP, {}),
    "vma, flat prior": (MLP, {"prior": "flat"}),
    "vma, inner product": (MLP, {"similarity": "inner"}),
    "vma, cosine": (CONV, {"similarity": "cosine", "prior": "flat"}),
    "vma, cosine, learned prior": (MLP, {"similarity": "cosine"}),
    "soft, conv": (CONV, {}),
    "soft, mlp": (MLP, {}),
}
each = pytest.mark.parametrize("name", CASES)
STROKES = load("strokes", image_size=12)
CPU = torch.device("cpu")


def pair(name: str, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """The exact model and the sampling one with the same weights, far from the tame start and with no layer dead."""
    sizes, options = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        exact: nn.Module
        sampled: nn.Module
        if name.startswith("vma"):
            exact = VariationalMemoryAddressing(sizes, **options)
            sampled = SampledGradientAddressing(sizes, gradient_entries=n, **options)
        else:
            exact = SoftAttentionVAE(sizes, read="features")
            sampled = SampledGradientSoftAttention(sizes, gradient_entries=n)
        for p in exact.parameters():
            p.data = 0.5 * torch.rand_like(p) if p.dim() == 1 else p + 0.5 * torch.randn_like(p) / p[0].numel() ** 0.5
    sampled.load_state_dict(exact.state_dict())
    assert [name for name, _ in sampled.named_parameters()] == [name for name, _ in exact.named_parameters()]
    return exact.to(dtype), sampled.to(dtype)


def episode(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    image = CASES[name][0].image
    generator = torch.Generator().manual_seed(1)
    x, memory = (torch.randint(0, 2, (n, *image), generator=generator).to(dtype) for n in (B, M))
    return x, memory


def draws(name: str) -> dict[str, Tensor]:
    """Noise and addresses, one of which two targets share."""
    latent = CASES[name][0].latent
    noise = torch.randn(K, B, latent, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return {"noise": noise} | ({"addresses": torch.tensor([[3, 3, 7], [0, 3, 11]])} if name.startswith("vma") else {})


def objective(name: str) -> Callable[[Terms], Tensor]:
    return vimco if name.startswith("vma") else iwae


def gradient(model: Any, name: str) -> tuple[Terms, dict[str, Tensor]]:
    """The terms at fixed draws, and the gradient of the objective that trains."""
    x, memory = episode(name)
    terms = model(x, model.encode_memory(memory), K, **draws(name))
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(objective(name)(terms).mean(), parameters, allow_unused=True)
    return terms, {n: g for n, g in zip(names, gradients, strict=True) if g is not None}


def assert_same(one: Terms, other: Terms) -> None:
    for name, value in one.tensors.items():
        torch.testing.assert_close(value, other.tensors[name], rtol=1e-10, atol=1e-10)


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
        assert found.keys() == wanted.keys()
        for key in wanted:
            total[key] += drawn.probability * found[key]
        probability += drawn.probability
        biased += any(not torch.allclose(found[key], wanted[key], rtol=1e-6) for key in wanted)
    assert probability == pytest.approx(1)
    assert biased == (8 if name.startswith("vma") else 12) == drawn.count  # one draw alone is not the gradient
    for key in wanted:
        torch.testing.assert_close(total[key], wanted[key], rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


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
    for name, value in terms.tensors.items():
        assert torch.equal(value, expected.tensors[name])
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


@each
def test_values_and_draws_are_those_of_the_base_class(name: str) -> None:
    """In training up to rounding, in evaluation exactly."""
    exact, sampled = pair(name, 2, dtype=torch.float32)
    x, memory = episode(name, torch.float32)

    def draw(model: Any, **options: Any) -> Terms:
        return model(x, model.encode_memory(memory), K, generator=torch.Generator().manual_seed(0), **options)

    for field, value in draw(exact).tensors.items():
        torch.testing.assert_close(value, draw(sampled).tensors[field])
    with torch.no_grad():
        one, other = draw(exact, chunk=5), draw(sampled, chunk=5)
    assert all(torch.equal(value, other.tensors[field]) for field, value in one.tensors.items())
    drawn = [
        model.sample(model.encode_memory(memory), 3, generator=torch.Generator().manual_seed(0))
        for model in (exact, sampled)
    ]
    torch.testing.assert_close(drawn[0].means, drawn[1].means)


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
        terms = model(x, encoded, K, generator=torch.Generator().manual_seed(0))
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
    generator = torch.Generator().manual_seed(0)
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
    with pytest.raises(InputError) as caught:
        build.build_model(replace(TINY, **fields), STROKES, CPU)
    assert str(caught.value).startswith(message)
