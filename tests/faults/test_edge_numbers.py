"""Numbers at the edge: for memories, targets and weights that are as odd as they can be, bounds and gradients are
finite, and the bound in float32 is that in float64; or it is refused in a stated line.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jaxtyping
import pytest
import torch
from helpers import far, made, seeded
from torch import Tensor, nn

from baselines import PlainVAE, SoftAttentionVAE
from baselines.sampled import SampledGradientSoftAttention
from vma import ConvSizes, MLPSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.data import ImageSet
from vma.data.episodes import Episodes, EpisodeSpec
from vma.evaluation import classify, evaluate, own_entry_probability
from vma.networks import Sizes
from vma.reference import ReferenceAddressing
from vma.sampled import SampledGradientAddressing
from vma.training import NonFiniteBound, fit

# Of the bound in float32 against float64, in nats, at the same addresses and noise. A bound is a sum of some hundred
# terms behind some ten layers, each of which rounds by 6e-8 of its largest part: 1e-4 leaves a hundredfold for what the
# layers amplify. The absolute part is for bounds near zero, and is far below any difference between models.
RELATIVE, ABSOLUTE = 1e-4, 1e-3
LARGEST = 1000  # an element of the gradient at initial weights; without odd images it is of the order of 1

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vma": VariationalMemoryAddressing,
    "vma, cosine": partial(VariationalMemoryAddressing, similarity="cosine"),
    "vma, tied": partial(VariationalMemoryAddressing, tied=True),
    "vma, flat prior": partial(VariationalMemoryAddressing, prior="flat"),
    "vma, learned memory": partial(VariationalMemoryAddressing, learned_entries=3),
    "vma, one learned entry": partial(VariationalMemoryAddressing, learned_entries=1),
    "vma, reference": ReferenceAddressing,
    "vma, sampled gradient": partial(SampledGradientAddressing, gradient_entries=1),
    "soft, images": partial(SoftAttentionVAE, read="images"),
    "soft, features": partial(SoftAttentionVAE, read="features"),
    "soft, sampled gradient": partial(SampledGradientSoftAttention, gradient_entries=1),
    "vae": PlainVAE,
}
NETWORKS: dict[str, Sizes] = {
    "conv": ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=4, embedding=8),
    "mlp": MLPSizes(image=(1, 5, 5), widths=(12, 8), latent=4, embedding=8),
}


@pytest.fixture(scope="module", autouse=True)
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, which other tests make and which would take most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- images


def random(n: int, sizes: Sizes, seed: int = 1) -> Tensor:
    return (torch.rand(n, *sizes.image, generator=seeded(seed)) < 0.3).float()


def plain(n: int, sizes: Sizes, ink: float) -> Tensor:
    return torch.full((n, *sizes.image), ink)


SITUATIONS: dict[str, Callable[[Sizes], tuple[Tensor, Tensor]]] = {
    "one target, one entry": lambda sizes: (random(1, sizes), random(1, sizes, 2)),
    "all blank": lambda sizes: (plain(3, sizes, 0), plain(4, sizes, 0)),
    "all ink": lambda sizes: (plain(2, sizes, 1), plain(4, sizes, 1)),
    "blank among ink": lambda sizes: (plain(2, sizes, 0), plain(4, sizes, 1)),
    "ink among one blank": lambda sizes: (plain(1, sizes, 1), plain(1, sizes, 0)),
    "one blank entry": lambda sizes: (random(3, sizes), torch.cat((random(4, sizes, 2), plain(1, sizes, 0)))),
    "identical entries": lambda sizes: (random(3, sizes), random(1, sizes, 2).expand(5, *sizes.image)),
    "the targets among many": lambda sizes: (random(3, sizes), torch.cat((random(3, sizes), random(30, sizes, 2)))),
}


# --- weights


def last_bias(module: nn.Module) -> Tensor:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1].bias.data


def with_deviation(name: str, log_std: float, model: Any) -> None:
    """Add to the log standard deviations of q(z|m, x) or p(z|m)."""
    if hasattr(model, name):
        bias = last_bias(getattr(model, name))
        bias[len(bias) // 2 :] += log_std


def with_logits(value: float, model: Any) -> None:
    model.decoder.layers[-1].bias.data.fill_(value)


def with_queries(scale: float, model: Any) -> None:
    """Make the similarities large, so that one address has all of the probability."""
    query = model.addressing.embed_query if hasattr(model, "addressing") else getattr(model, "embed_z", nn.Identity())
    parameters = [*query.parameters()]
    if getattr(getattr(model, "addressing", None), "prior_query", None) is not None:
        parameters.append(model.addressing.prior_query)
    for parameter in parameters[-3:]:
        parameter.data *= scale


WEIGHTS: dict[str, Callable[[Any], object]] = {
    "initial": lambda model: None,
    "trained": lambda model: train(model, "random"),
    "trained on blank images": lambda model: train(model, "blank"),
    "far": far,
    "logits of 50": partial(with_logits, 50.0),
    "logits of -50": partial(with_logits, -50.0),
    "q(z) very narrow": partial(with_deviation, "posterior", -30.0),
    "q(z) wide": partial(with_deviation, "posterior", 5.0),
    "p(z) very narrow": partial(with_deviation, "prior_head", -15.0),
    "p(z) very wide": partial(with_deviation, "prior_head", 30.0),
    "one address": partial(with_queries, 1000.0),
}


@cache
def image_set(name: str, sizes: Sizes) -> ImageSet:
    """Four classes of six images."""
    images = {
        "random": random(24, sizes),
        "blank": plain(24, sizes, 0),
        "ink": plain(24, sizes, 1),
        "identical": random(1, sizes).expand(24, *sizes.image),
    }
    return ImageSet(images[name].to(torch.uint8).contiguous(), torch.arange(0, 25, 6))


def train(model: Any, images: str) -> None:
    """Some hundred updates; in the short form few where they are slow."""
    updates = range(5 if isinstance(model.sizes, ConvSizes) else 30)
    learned = getattr(model, "memory", None) is not None
    spec = EpisodeSpec("none" if learned else "per_class", classes=2, targets_per_class=1, shots=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    episodes = Episodes(image_set(images, model.sizes), spec, 0)
    for _ in fit(model, episodes, objective(model, 2), optimizer, 2, updates, generator=seeded()):
        pass


def objective(model: nn.Module, K: int) -> Callable[[Terms], Tensor]:
    return vimco if K > 1 and hasattr(model, "addressing") else iwae


@cache
def built(model: str, network: str, weights: str) -> tuple[Any, Any]:
    """The model in float32 and in float64."""

    def make() -> Any:
        single = MODELS[model](NETWORKS[network], pixel_mean=0.3)
        WEIGHTS[weights](single)
        return single

    single = made(make)
    return single, copy.deepcopy(single).double()


def terms_of(model: Any, x: Tensor, memory: Tensor, K: int) -> Terms:
    """At addresses and noise that are the same in every precision."""
    generator = seeded(3)
    dtype = next(model.parameters()).dtype
    fixed = {"noise": torch.randn(K, len(x), model.sizes.latent, generator=generator).to(dtype)}
    learned = getattr(model, "memory", None) is not None
    encoded = model.encode_memory(None if learned else memory.to(dtype))
    if hasattr(model, "addressing"):
        fixed["addresses"] = torch.randint(len(encoded.memory), (K, len(x)), generator=generator)
    return model(x.to(dtype), encoded, K, generator=generator, **fixed)


@dataclass(frozen=True)
class Edge:
    weights: str
    situation: str
    K: int


EDGES = [Edge(*parts) for parts in itertools.product(WEIGHTS, SITUATIONS, (1, 4))]


def complaints(single: Any, double: Any, edge: Edge) -> Iterator[str]:
    x, memory = SITUATIONS[edge.situation](single.sizes)
    with torch.no_grad():
        expected = iwae(terms_of(double, x, memory, edge.K))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = iwae(terms_of(single, x, memory, edge.K))
    terms = terms_of(single, x, memory, edge.K)
    bound = iwae(terms).detach()
    for name, value in terms.tensors.items():
        if not value.isfinite().all():
            yield f"{name} is not finite"
    if not rounded.isfinite().all():
        yield "the bound is not finite in bfloat16"
    off = (bound - expected).abs() - RELATIVE * expected.abs()
    if not off.max() <= ABSOLUTE:
        yield f"the bound is {bound.tolist()}, in float64 {expected.tolist()}"
    value = objective(single, edge.K)(terms).mean()
    found = torch.autograd.grad(value, [*single.parameters()], allow_unused=True)
    largest = max(float(gradient.abs().max()) for gradient in found if gradient is not None)
    if not (largest <= LARGEST if edge.weights == "initial" else math.isfinite(largest)):
        yield f"a gradient is {largest:.3g} where the bound is {bound.tolist()}"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_the_bound_is_finite_and_the_same_in_float32_and_float64(model: str, network: str) -> None:
    # the short form takes every n-th, another part of them for each model
    n = 25 if network == "conv" else 9
    edges = EDGES[[*MODELS].index(model) % n :: n]
    wrong = [
        f"{edge}: {complaint}" for edge in edges for complaint in complaints(*built(model, network, edge.weights), edge)
    ]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_weights_beyond_float32_are_refused_in_a_line(model: str, network: str) -> None:
    """Where training diverges, and where a model that has is used all the same."""
    wrong = []
    for weights in (1e30, math.inf, math.nan):
        broken = copy.deepcopy(built(model, network, "initial")[0])
        for parameter in broken.parameters():
            parameter.data.mul_(weights)
        spec = EpisodeSpec("none" if getattr(broken, "memory", None) is not None else "per_class", 2, 1, 2)
        episodes = Episodes(image_set("random", broken.sizes), spec, 0)
        uses: list[Any] = [partial(train, broken, "random"), partial(evaluate, broken, episodes, [0], 3)]
        if hasattr(broken, "addressing") and spec.protocol != "none":
            uses += [partial(classify, broken, episodes(0), 2), partial(own_entry_probability, broken, episodes(0))]
        for use in uses:
            try:
                use()
            except NonFiniteBound:
                continue
            except Exception as error:
                wrong.append(f"{use}, weights times {weights}: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{use}, weights times {weights}: no refusal")
    assert not wrong, "\n".join(wrong)
