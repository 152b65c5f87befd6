"""One contract for all models: what they return, what gets a gradient, what memory may be; and naive loops beside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import CONV, HIDDEN, MLP, assert_same, binary, far, made, noise, seeded
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from baselines import PlainVAE, SoftAttentionVAE
from vma import ConvSizes, Terms, VariationalMemoryAddressing, iwae, vimco
from vma.errors import InputError
from vma.networks import Sizes

LEARNED = 5  # entries of a learned memory, unless a test replaces it


@dataclass(frozen=True)
class Case:
    make: Callable[..., nn.Module]
    sizes: Sizes
    options: dict[str, Any]

    @property
    def vma(self) -> bool:
        return self.make is VariationalMemoryAddressing

    @property
    def entry(self) -> tuple[int, ...]:
        return self.options.get("memory_shape", self.sizes.image)


CASES = {
    "vma, conv": Case(VariationalMemoryAddressing, CONV, {}),
    "vma, conv with a hidden layer": Case(VariationalMemoryAddressing, HIDDEN, {"pixel_mean": 0.2}),
    "vma, mlp": Case(VariationalMemoryAddressing, MLP, {}),
    "vma, flat prior": Case(VariationalMemoryAddressing, MLP, {"prior": "flat"}),
    "vma, inner product": Case(VariationalMemoryAddressing, MLP, {"similarity": "inner"}),
    "vma, cosine": Case(VariationalMemoryAddressing, CONV, {"similarity": "cosine"}),
    "vma, vectors": Case(VariationalMemoryAddressing, MLP, {"memory_shape": (7,)}),
    "vma, learned memory": Case(VariationalMemoryAddressing, MLP, {"memory_shape": (7,), "learned_entries": LEARNED}),
    "vma, learned images": Case(VariationalMemoryAddressing, CONV, {"learned_entries": LEARNED}),
    "vma, tied, conv": Case(VariationalMemoryAddressing, HIDDEN, {"tied": True}),
    "vma, tied, mlp": Case(VariationalMemoryAddressing, MLP, {"tied": True, "prior": "flat"}),
    "vma, tied, learned images": Case(VariationalMemoryAddressing, CONV, {"tied": True, "learned_entries": LEARNED}),
    "soft, conv": Case(SoftAttentionVAE, CONV, {}),
    "soft, mlp": Case(SoftAttentionVAE, MLP, {"read": "images"}),
    "soft features, conv": Case(SoftAttentionVAE, HIDDEN, {"read": "features"}),
    "soft features, mlp": Case(SoftAttentionVAE, MLP, {"read": "features"}),
    "vae, conv": Case(PlainVAE, HIDDEN, {}),
    "vae, mlp": Case(PlainVAE, MLP, {}),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_vma = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.vma], ids=[name for name, c in CASES.items() if c.vma]
)


def build(case: Case, dtype: torch.dtype = torch.float64) -> nn.Module:
    return made(lambda: far(case.make(case.sizes, **case.options).to(dtype)))


def encode(model: nn.Module, memory: Tensor) -> Any:
    """Encode any memory; a learned one is replaced by it first."""
    if getattr(model, "memory", None) is None:
        return model.encode_memory(memory)
    model.memory = nn.Parameter(memory)
    return model.encode_memory(None)


def run(case: Case, model: nn.Module, x: Tensor, encoded: Any, K: int) -> Terms:
    """Terms at noise, and for a model with an address at addresses, that are the same each time."""
    fixed = {"noise": noise(K, len(x), case.sizes, seed=3, dtype=x.dtype)}
    if case.vma:
        fixed["addresses"] = torch.randint(0, len(encoded.memory), (K, len(x)), generator=seeded(4))
    return model(x, encoded, K, **fixed)


# --- the contract


@each
@pytest.mark.parametrize(("K", "B", "M"), [(1, 1, 1), (2, 3, 5), (5, 7, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_have_their_shapes_for_any_memory(case: Case, K: int, B: int, M: int, dtype: torch.dtype) -> None:
    model = build(case, dtype=dtype)
    x = binary(B, *case.sizes.image, dtype=dtype)
    encoded = encode(model, binary(M, *case.entry, seed=2, dtype=dtype))
    terms = model(x, encoded, K, generator=seeded())
    for name, value in terms.tensors.items():
        assert value.shape == ((B,) if name == "kl_a" else (K, B))
        assert value.dtype == dtype
        assert value.isfinite().all()
    assert iwae(terms).shape == (B,)
    if M == 1 or not case.vma:
        assert not any(value.any() for value in (terms.kl_a, terms.log_pa, terms.log_qa))


@each
def test_terms_are_float32_under_bfloat16(case: Case) -> None:
    model = build(case, dtype=torch.float32)
    x, memory = binary(3, *case.sizes.image, dtype=torch.float32), binary(5, *case.entry, seed=2, dtype=torch.float32)
    exact = run(case, model, x, encode(model, memory), 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(case, model, x, encode(model, memory), 4)
    assert all(value.dtype == torch.float32 for value in rounded.tensors.values())
    torch.testing.assert_close(iwae(rounded), iwae(exact), rtol=0.1, atol=1.0)


@each
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    model = build(case)
    encoded = encode(model, binary(LEARNED, *case.entry, seed=2))
    terms = run(case, model, binary(6, *case.sizes.image), encoded, 4)
    (vimco if case.vma else iwae)(terms).mean().backward()
    for name, parameter in model.named_parameters():
        if case.options.get("similarity") == "inner" and name == "addressing.embed_memory.head.bias":
            continue  # the same vector added to all e_a adds the same to all scores, which a softmax passes over
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


@each
def test_samples(case: Case) -> None:
    model = build(case, dtype=torch.float32).requires_grad_(False)
    encoded = encode(model, binary(LEARNED, *case.entry, seed=2, dtype=torch.float32))
    first, again, other = (model.sample(encoded, 40, generator=seeded(s)) for s in (0, 0, 1))
    assert first.means.shape == first.images.shape == (40, *case.sizes.image)
    assert 0 <= first.means.min() <= first.means.max() <= 1
    assert first.images.unique().tolist() == [0, 1]
    assert torch.equal(first.means, again.means)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    if not case.vma:
        assert first.addresses is None
        return
    assert first.addresses.unique().tolist() == [*range(LEARNED)]
    assert torch.equal(first.addresses, again.addresses)
    fixed = torch.arange(3)
    assert torch.equal(model.sample(encoded, 3, addresses=fixed).addresses, fixed)


def test_a_memory_that_cannot_be_is_refused() -> None:
    image = binary(2, *MLP.image)
    for model, memory in (
        (build(CASES["vma, mlp"]), None),
        (build(CASES["vma, learned memory"]), binary(2, 7)),
        (build(CASES["soft, mlp"]), None),
    ):
        with pytest.raises(ValueError, match="memory"):
            model.encode_memory(memory)
    with pytest.raises(InputError, match="tied networks need entries of the image's shape"):
        VariationalMemoryAddressing(MLP, memory_shape=(7,), tied=True)
    plain = build(CASES["vae, mlp"])
    assert plain.encode_memory(None) is plain.encode_memory(image) is None


# --- the same by loops over samples and targets, one pair at a time


def gaussian(parameters: Tensor) -> Normal:
    mean, log_std = parameters.chunk(2, -1)
    return Normal(mean, log_std.exp())


def naive_vma(model: VariationalMemoryAddressing, x: Tensor, memory: Tensor, eps: Tensor, a: int) -> Sequence[Tensor]:
    """Terms of one target (1, C, H, W) at entry `a` and one noise (1, Z)."""
    log_q, log_p = model.address(x, encode(model, memory))
    log_q, entry = log_q[0], memory[a : a + 1]
    pair = (x, entry) if isinstance(model.sizes, ConvSizes) else (x.flatten(1), entry.flatten(1))
    q = gaussian(model.posterior(torch.cat(pair, 1)))
    levels = model.memory_pyramid(entry)
    p = gaussian(model.prior_head(levels[-1].flatten(1)))
    z = q.mean + q.stddev * eps
    logits = model.decoder(z, model.conditioner(levels))
    kl = sum(log_q[j].exp() * (log_q[j] - log_p[j]) for j in range(len(log_p)))
    log_rz = p.log_prob(z).sum() - q.log_prob(z).sum()
    return Bernoulli(logits=logits).log_prob(x).sum(), log_rz, log_p[a], log_q[a], kl


def naive_read(model: SoftAttentionVAE, memory: Tensor, z: Tensor) -> list[Tensor]:
    """The condition that soft attention reads from memory."""
    e_a, e_z = model.embed_memory(memory), model.embed_z(z)[0]
    weights = torch.stack([(e @ e_z) / e.norm() for e in e_a]).softmax(0)

    def average(entries: Tensor) -> Tensor:
        return sum(w * e for w, e in zip(weights, entries, strict=True))[None]

    if model.read == "images":
        return model.conditioner(model.memory_pyramid(average(memory)))
    # the levels averaged before the skip convolutions, which are linear; the vector of m averaged as it is
    levels = model.memory_pyramid(memory)
    vector = average(model.conditioner(levels)[0])
    return [vector, *model.conditioner([average(level) for level in levels])[1:]]


def naive_baseline(model: SoftAttentionVAE | PlainVAE, x: Tensor, memory: Tensor, eps: Tensor) -> Sequence[Tensor]:
    q = gaussian(model.posterior(x))
    z = q.mean + q.stddev * eps
    condition = (naive_read(model, memory, z),) if isinstance(model, SoftAttentionVAE) else ()
    zero = z.new_zeros(())
    log_px = Bernoulli(logits=model.decoder(z, *condition)).log_prob(x).sum()
    return log_px, Normal(zero, 1).log_prob(z).sum() - q.log_prob(z).sum(), zero, zero, zero


@each
@pytest.mark.parametrize(("K", "B", "M"), [(2, 3, 4), (6, 5, 2), (3, 7, 30)])
def test_forward_is_the_naive_loop(case: Case, K: int, B: int, M: int) -> None:
    """What runs once for distinct pairs, entries or conditions gives what running each sample on its own gives."""
    model = build(case).requires_grad_(False)
    x, memory = binary(B, *case.sizes.image), binary(M, *case.entry, seed=2)
    encoded = encode(model, memory)
    eps = noise(K, B, case.sizes)
    a = torch.randint(0, M, (K, B), generator=seeded(1))

    def naive(k: int, b: int) -> Sequence[Tensor]:
        target, one = x[b : b + 1], eps[k, b][None]
        if case.vma:
            return naive_vma(model, target, memory, one, int(a[k, b]))
        return naive_baseline(model, target, memory, one)

    looped = [torch.stack([torch.stack([*naive(k, b)]) for b in range(B)]) for k in range(K)]
    *parts, kl_a = torch.stack(looped).unbind(-1)
    found = model(x, encoded, K, noise=eps, **({"addresses": a} if case.vma else {}))
    assert_same(found, Terms(*parts, kl_a=kl_a[0]))


@each_vma
def test_what_depends_on_an_entry_alone_runs_once_an_entry(case: Case) -> None:
    """The wall-clock claim rests on it. 3 entries, 15 pairs, 200 samples; `distinct` pads to a multiple of 16. A tied
    pyramid has run on the entries for the keys, and runs on the 5 targets for their queries.
    """
    model = build(case).requires_grad_(False)
    encoded = encode(model, binary(3, *case.entry, seed=2))
    rows: dict[str, list[int]] = {"memory_pyramid": [], "conditioner": [], "posterior": [], "decoder": []}
    for name, seen in rows.items():
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, seen=seen: seen.append(len(output[0] if isinstance(output, list) else output))
        )
    run(case, model, binary(5, *case.sizes.image), encoded, 40)
    pyramid = [5] if case.options.get("tied") else [16]
    assert rows == {"memory_pyramid": pyramid, "conditioner": [16], "posterior": [16], "decoder": [200]}


@each_vma
def test_embeddings_that_are_known_are_not_computed_again(case: Case) -> None:
    model, x = build(case), binary(3, *case.sizes.image)
    expected = encode(model, binary(LEARNED, *case.entry, seed=2))
    e_a = torch.cat([model.embed(entry[None]) for entry in expected.memory])
    torch.testing.assert_close(e_a, expected.keys.e_a)
    model.addressing.embed_memory.register_forward_hook(lambda *_: pytest.fail("embedded again"))
    found = model.encode_memory(None if "learned_entries" in case.options else expected.memory, e_a)
    assert_same(run(case, model, x, found, 4), run(case, model, x, expected, 4))


@pytest.mark.parametrize("sizes", [CONV, MLP])
def test_tying_leaves_one_pyramid_with_three_heads(sizes: Sizes) -> None:
    plain, tied = (VariationalMemoryAddressing(sizes, tied=tied) for tied in (False, True))
    removed = plain.state_dict().keys() - tied.state_dict().keys()
    added = tied.state_dict().keys() - plain.state_dict().keys()
    assert {name.rpartition(".")[0] for name in added} == {"addressing.embed_memory", "addressing.embed_query"}
    assert all(".pyramid." in name or ".head." in name for name in removed)
    x = binary(3, *sizes.image).float()
    tied.memory_pyramid.register_forward_hook(lambda module, inputs, levels: [level * 0 for level in levels])
    log_q, log_p = tied.address(x, tied.encode_memory(x))
    torch.testing.assert_close(log_q, torch.full((3, 3), 1 / 3).log())  # nothing else leads from x and m_a to q(a|x)
    torch.testing.assert_close(log_p, torch.full((3,), 1 / 3).log())


@each_vma
def test_a_reconstruction_is_the_decoders_at_the_mean_of_q(case: Case) -> None:
    model = build(case).requires_grad_(False)
    x, encoded = binary(3, *case.sizes.image), encode(model, binary(LEARNED, *case.entry, seed=2))
    addresses = torch.tensor([4, 0, 4])
    no_noise = torch.zeros(1, 3, case.sizes.latent, dtype=torch.float64)
    log_px = model(x, encoded, 1, addresses=addresses[None], noise=no_noise).log_px[0]
    means = model.reconstruct(x, encoded, addresses=addresses)
    assert means.shape == x.shape
    torch.testing.assert_close(Bernoulli(means).log_prob(x).sum((1, 2, 3)), log_px)
