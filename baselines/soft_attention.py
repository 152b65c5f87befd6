"""The soft-attention baseline: a VAE whose decoder reads a weighted average of memory, with weights from z alone
(section 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baselines.vae import standard_normal_terms
from vma.addressing import similarity
from vma.errors import InputError
from vma.networks import Samples, Sizes, at_least_float32, draw_images
from vma.objectives import Terms

READS = ("images", "features")


@dataclass(frozen=True)
class SoftEncoded:
    """What soft attention keeps of a memory of M entries: their embeddings, and what its read averages over."""

    e_a: Float[Tensor, "M E"]
    entries: list[Tensor]  # [the images], or for read="features" the decoder's conditions; each (M, ...)

    def take(self, index: Int[Tensor, " m"]) -> "SoftEncoded":
        """What is kept of a memory of these entries: each entry is encoded by itself."""
        return SoftEncoded(self.e_a[index], [entry[index] for entry in self.entries])

    @staticmethod
    def join(parts: Sequence["SoftEncoded"]) -> "SoftEncoded":
        """What is kept of all the memories' entries together."""
        entries = [torch.cat(same) for same in zip(*(part.entries for part in parts), strict=True)]
        return SoftEncoded(torch.cat([part.e_a for part in parts]), entries)


class SoftAttentionVAE(nn.Module):
    """p(z) = N(0, I), q(z|x), p(x|z, m(z)) with m(z) = sum_a softmax_a(S(m_a, z)) m_a.

    The text does not say what is averaged. `read="images"` averages raw memory images, which then go through the
    pyramid once for each sample; `read="features"` averages the outputs of the pyramid: the vector of m and the skip
    connections, whose convolutions are linear and therefore run on the M entries before the average.

    Args:
        sizes: the network family, `ConvSizes` or `MLPSizes`.
        read: "images" or "features".
        pixel_mean: mean of the training pixels, where the decoder's output starts.

    Raises:
        InputError: for another read.
    """

    def __init__(self, sizes: Sizes, *, read: str = "images", pixel_mean: float = 0.5) -> None:
        super().__init__()
        if read not in READS:
            raise InputError(f"read is {read!r}, must be 'images' or 'features'")
        self.sizes = sizes
        self.read = read
        self.embed_memory = sizes.encoder(sizes.image, sizes.embedding)
        self.embed_z = nn.Sequential(
            nn.Linear(sizes.latent, sizes.embedding), nn.ReLU(), nn.Linear(sizes.embedding, sizes.embedding)
        )
        self.posterior = sizes.encoder(sizes.image, 2 * sizes.latent)
        self.memory_pyramid = sizes.pyramid(sizes.image)
        self.conditioner = sizes.conditioner(sizes.image)
        self.decoder = sizes.decoder(pixel_mean, conditioned=True)

    def encode_memory(self, memory: Float[Tensor, "M C H W"] | None) -> SoftEncoded:
        """Embeddings of a memory and, for read="features", its features, once for all targets.

        Raises:
            ValueError: if there is no memory.
        """
        if memory is None:
            raise ValueError("soft attention needs a memory, got None")
        entries = [memory] if self.read == "images" else self.conditioner(self.memory_pyramid(memory))
        return SoftEncoded(at_least_float32(self.embed_memory(memory)), entries)

    def weights(self, z: Float[Tensor, "N Z"], encoded: SoftEncoded) -> Float[Tensor, "N M"]:
        """softmax_a S(m_a, z): eq. 5 with z in the place of x."""
        return similarity(encoded.e_a, at_least_float32(self.embed_z(z))).softmax(-1)

    def decode(self, z: Float[Tensor, "N Z"], encoded: SoftEncoded) -> Float[Tensor, "N C H W"]:
        """Logits of p(x|z, m(z))."""
        weights = self.weights(z, encoded)
        if self.read == "features":  # the average and the decoder's addition of it are one product
            return self.decoder(z, encoded.entries, weights.to(encoded.entries[0].dtype))
        images = encoded.entries[0]
        average = (weights.to(images.dtype) @ images.flatten(1)).unflatten(1, images.shape[1:])
        return self.decoder(z, self.conditioner(self.memory_pyramid(average)))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: SoftEncoded,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "K B Z"] | None = None,
        chunk: int | None = None,
    ) -> Terms:
        """The terms of K = `num_samples` draws z_k ~ q(z|x) for each target, of which at most `chunk` are decoded at a
        time.
        """

        def decode(z: Tensor) -> Tensor:
            return self.decode(z, encoded)

        return standard_normal_terms(x, self.posterior(x), decode, num_samples, generator, noise, chunk)

    def sample(self, encoded: SoftEncoded, n: int, *, generator: torch.Generator | None = None) -> Samples:
        """n draws from p(x|M): z ~ N(0, I), x ~ p(x|z, m(z))."""
        like = encoded.e_a
        z = torch.randn(n, self.sizes.latent, generator=generator, device=like.device, dtype=like.dtype)
        return draw_images(self.decode(z, encoded), None, generator)
