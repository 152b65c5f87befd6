"""The plain VAE: the same encoder and decoder without memory (section 4.2)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vma.networks import Family, Samples, draw_images, log_bernoulli, log_normal, log_normal_at, split_gaussian
from vma.objectives import Terms


class PlainVAE(nn.Module):
    """p(x) = int N(z; 0, I) p(x|z) dz with the posterior q(z|x).

    Args:
        sizes: the network family, `ConvSizes`, `MLPSizes` or `GMNSizes`.
        pixel_mean: mean of the training pixels, where the decoder's output starts.
    """

    def __init__(self, sizes: Family, *, pixel_mean: float = 0.5) -> None:
        super().__init__()
        self.sizes = sizes
        self.posterior = sizes.encoder(sizes.image, 2 * sizes.latent)
        self.decoder = sizes.decoder(pixel_mean, conditioned=False)

    def encode_memory(self, memory: Float[Tensor, "M *entry"] | None) -> None:
        """Nothing: this model has no memory and passes over the one that an episode brings."""

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: None,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
        chunk: int | None = None,
    ) -> Terms:
        """The terms of K = `num_samples` draws z_k ~ q(z|x) for each target, of which at most `chunk` are decoded at a
        time.
        """
        return standard_normal_terms(x, self.posterior(x), self.decoder, num_samples, generator, noise, chunk)

    def sample(self, encoded: None, n: int, *, generator: torch.Generator | None = None) -> Samples:
        """n draws from p(x): z ~ N(0, I), x ~ p(x|z)."""
        like = next(self.parameters())
        z = torch.randn(n, self.sizes.latent, generator=generator, device=like.device, dtype=like.dtype)
        return draw_images(self.decoder(z), None, generator)


def standard_normal_terms(
    x: Float[Tensor, "B C H W"],
    posterior: Float[Tensor, "B two_Z"],
    decode: Callable[[Tensor], Tensor],
    num_samples: int,
    generator: torch.Generator | None,
    noise: Float[Tensor, "K B Z"] | None,
    chunk: int | None,
) -> Terms:
    """Terms of a model with p(z) = N(0, I), the posterior head's outputs for each x, and a decoder of flat z, which
    takes at most `chunk` at a time; no address.
    """
    mean, log_std = split_gaussian(posterior)
    if noise is None:
        noise = torch.randn((num_samples, *mean.shape), generator=generator, device=x.device)
    z = mean + log_std.exp() * noise
    K, B = z.shape[:2]
    rows = torch.arange(K * B, device=z.device).split(K * B if chunk is None else chunk)
    log_px = [log_bernoulli(x[part % B], decode(z.flatten(0, 1)[part])[None])[0] for part in rows]
    none = z.new_zeros(K, B)
    return Terms(
        log_px=torch.cat(log_px).view(K, B),
        log_rz=log_normal(z, torch.zeros_like(z), torch.zeros_like(z)) - log_normal_at(noise, log_std.expand_as(z)),
        log_pa=none,
        log_qa=none,
        kl_a=none[0],
    )
