"""The network families: shapes, exact equalities with plain definitions, and where the initial weights start."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.nn import functional as F

from vma import ConvSizes, MLPSizes, VariationalMemoryAddressing
from vma.networks import (
    Sizes,
    at_least_float32,
    draw_images,
    log_bernoulli,
    log_normal,
    log_normal_at,
    split_gaussian,
)
from vma.networks.kernels import PixelConv, UpConv, added, take_rows

FORMATS = (torch.contiguous_format, torch.channels_last)
FAMILIES = {
    "conv": ConvSizes(image=(1, 9, 6), widths=(3, 4, 5, 6, 7, 8), hidden=None, latent=2, embedding=4),
    "conv, hidden layer": ConvSizes(image=(1, 8, 8), widths=(4,) * 6, hidden=8, latent=3, embedding=4),
    "mlp": MLPSizes(image=(1, 4, 3), widths=(6, 5), latent=2, embedding=3),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def assert_same_gradients(one: Tensor, other: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(one, other)
    direction = torch.randn_like(one)
    gradients = (torch.autograd.grad((value * direction).sum(), leaves, retain_graph=True) for value in (one, other))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


# --- layers


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (13, 14), (2, 1)])
def test_upconv_is_a_transposed_convolution(
    size: tuple[int, int], bias: bool, memory_format: torch.memory_format
) -> None:
    layer = UpConv(3, 5, size, bias).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer = layer.to(memory_format=memory_format)
    h = randn(2, 3, *((s + 1) // 2 for s in size)).contiguous(memory_format=memory_format).requires_grad_()
    output_padding = [1 - s % 2 for s in size]
    expected = F.conv_transpose2d(h, layer.weight, layer.bias, stride=2, padding=1, output_padding=output_padding)
    assert expected.shape[2:] == size
    assert_same_gradients(layer.interleaved(layer(h)), expected, [h, *layer.parameters()])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width", "outputs"), [(3, 2, 1), (1, 4, 3)])
def test_pixelconv_from_phases_is_the_convolution_of_their_image(
    height: int, width: int, outputs: int, bias: bool, memory_format: torch.memory_format
) -> None:
    layer = PixelConv(5, outputs, bias).double().to(memory_format=memory_format)
    phases = randn(2, 20, height, width).contiguous(memory_format=memory_format).requires_grad_()
    image = UpConv(1, 5, (2 * height, 2 * width), bias=False).interleaved(phases)
    assert_same_gradients(layer.from_phases(phases), layer(image), [phases, *layer.parameters()])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_added_mixes_rows(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    table, h, mix = randn(*shape).requires_grad_(), randn(6, *shape[1:]).requires_grad_(), randn(6, 4).requires_grad_()
    if len(shape) == 4:
        table, h = table.contiguous(memory_format=memory_format), h.contiguous(memory_format=memory_format)
    expected = h + torch.einsum("nu,u...->n...", mix, table)
    assert_same_gradients(added(h, table, mix), expected, [h, table, mix])
    assert torch.equal(added(h[:4], table, None), h[:4] + table)
    # sums of lower precision are added in the higher one
    low = added(h, table.float(), mix)
    assert low.dtype == torch.float64
    torch.testing.assert_close(low, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize("grad", [True, False])
def test_take_rows_is_indexing(shape: tuple[int, ...], grad: bool, memory_format: torch.memory_format) -> None:
    table = randn(*shape)
    if table.dim() == 4:
        table = table.contiguous(memory_format=memory_format)
    table.requires_grad_(grad)
    index = torch.tensor([3, 0, 0, 2, 3, 3, 0])  # repeats, and a row that nobody takes
    taken = take_rows(table, index)
    assert torch.equal(taken, table[index])
    if grad:
        assert_same_gradients(taken, table[index], [table])
    if memory_format == torch.channels_last and table.dim() == 4:
        assert taken.is_contiguous(memory_format=torch.channels_last)


def concatenating_decoder(decoder: nn.Module, conditioner: nn.Module, z: Tensor, levels: list[Tensor]) -> Tensor:
    """The decoder as the paper has it: before each layer, its activations and a level of m side by side."""
    conv = hasattr(decoder, "base")
    last = levels[-1].flatten(1)
    h = torch.cat((z, conditioner.vector(last)), 1)
    if conv:
        h = decoder.base(h).unflatten(1, decoder.base_shape)
    levels = levels[::-1]
    for i, (layer, skip, level) in enumerate(zip(decoder.layers, conditioner.skips, levels, strict=True)):
        both = torch.cat((h if i == 0 and not conv else F.relu(h), level), 1)
        if isinstance(layer, UpConv):
            kernel, padding = torch.cat((layer.weight, skip.weight), 0), [1 - s % 2 for s in layer.size]
            h = F.conv_transpose2d(both, kernel, layer.bias, stride=2, padding=1, output_padding=padding)
        elif isinstance(layer, nn.Conv2d):
            h = F.conv2d(both, torch.cat((layer.weight, skip.weight), 1), layer.bias, padding=1)
        else:
            h = F.linear(both, torch.cat((layer.weight, skip.weight), 1), layer.bias)
    return h if conv else h.unflatten(1, decoder.image)


@pytest.mark.parametrize("sizes", FAMILIES.values(), ids=FAMILIES)
def test_adding_conditions_is_concatenating_levels(sizes: Sizes) -> None:
    pyramid, conditioner = sizes.pyramid(sizes.image).double(), sizes.conditioner(sizes.image).double()
    decoder = sizes.decoder(0.3, conditioned=True).double()
    levels = pyramid(randn(5, *sizes.image))
    z = randn(5, sizes.latent).requires_grad_()
    found = decoder(z, conditioner(levels))
    assert found.shape == (5, *sizes.image)
    leaves = [z, *(p for module in (pyramid, conditioner, decoder) for p in module.parameters())]
    assert_same_gradients(found, concatenating_decoder(decoder, conditioner, z, levels), leaves)


@pytest.mark.parametrize(("size", "levels"), [(26, [26, 26, 13, 13, 7, 7, 4]), (28, [28, 28, 14, 14, 7, 7, 4])])
def test_level_sizes(size: int, levels: list[int]) -> None:
    sizes = ConvSizes(image=(1, size, size), widths=(2,) * 6, hidden=None, latent=2)
    assert sizes.level_sizes() == [(s, s) for s in levels]
    activations = sizes.pyramid(sizes.image)(torch.rand(3, *sizes.image))
    assert [level.shape for level in activations] == [(3, 2, s, s) for s in levels[1:]]
    assert sizes.decoder(0.5, conditioned=False)(torch.randn(3, 2)).shape == (3, 1, size, size)


# --- distributions


def test_log_densities_are_those_of_torch() -> None:
    z, mean, log_std = randn(3, 4, 5), randn(3, 4, 5), randn(3, 4, 5)
    torch.testing.assert_close(log_normal(z, mean, log_std), Normal(mean, log_std.exp()).log_prob(z).sum(-1))
    logits, x = 30 * randn(3, 4, 1, 5, 6), (randn(4, 1, 5, 6) > 0).double()
    expected = Bernoulli(logits=logits).log_prob(x.expand_as(logits)).sum((2, 3, 4))
    torch.testing.assert_close(log_bernoulli(x, logits), expected)


@pytest.mark.parametrize(
    ("given", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_the_bound_is_computed_in_float32_or_better(given: torch.dtype, kept: torch.dtype) -> None:
    assert at_least_float32(torch.ones(1, dtype=given)).dtype == kept
    mean, log_std = split_gaussian(torch.arange(8.0).view(2, 4).to(given))
    assert mean.tolist() == [[0, 1], [4, 5]]
    assert log_std.tolist() == [[2, 3], [6, 7]]
    assert mean.dtype == log_std.dtype == kept
    logits = torch.randn(2, 1, 1, 26, 26).to(given)
    assert log_bernoulli(torch.ones(1, 1, 26, 26), logits).dtype == kept


def test_images_are_drawn_with_their_means() -> None:
    logits = torch.tensor([-2.0, 0.0, 40.0, -200.0]).view(1, 1, 2, 2).expand(4000, -1, -1, -1)
    drawn = draw_images(logits, None, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.means, logits.sigmoid())
    assert drawn.images.unique().tolist() == [0, 1]
    torch.testing.assert_close(drawn.images.mean(0), drawn.means[0], rtol=0, atol=0.03)


def test_log_normal_at_its_noise_is_log_normal() -> None:
    mean, log_std, noise = randn(3, 5, 4)
    torch.testing.assert_close(log_normal_at(noise, log_std), log_normal(mean + log_std.exp() * noise, mean, log_std))
    narrow = log_std - 40  # where mean + exp(log_std) * noise is the mean
    apart = log_normal_at(noise, narrow) - log_normal_at(noise, log_std)
    torch.testing.assert_close(apart, torch.full((5,), 160.0, dtype=torch.float64))


# --- where training starts


@pytest.mark.parametrize("sizes", [ConvSizes(), MLPSizes()], ids=["conv", "mlp"])
def test_initial_model_is_tame_and_alive(sizes: ConvSizes | MLPSizes) -> None:
    """Images near the data's mean, a flat address, a small KL_z, no level that fades: else KL_z stays at zero."""
    model = VariationalMemoryAddressing(sizes, pixel_mean=0.1).requires_grad_(False)
    x, memory = ((torch.rand(n, *sizes.image) < 0.1).float() for n in (4, 8))
    encoded = model.encode_memory(memory)
    log_q, log_p = model.address(x, encoded)
    assert (log_q + math.log(8)).abs().max() < 0.5
    assert (log_p + math.log(8)).abs().max() < 0.05
    terms = model(x, encoded, 4)
    assert 0 < terms.kl_z.mean() < 2
    means = model.sample(encoded, 16).means
    assert means.mean() == pytest.approx(0.1, abs=0.02)
    assert (means - 0.1).abs().mean() < 0.03
    scales = [level.square().mean().sqrt().item() for level in model.memory_pyramid(memory)]
    assert all(0.3 < after / before < 3 for before, after in itertools.pairwise(scales)), scales
