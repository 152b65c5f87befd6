"""Encoders and decoders shared by all models: the convolutional family of section 4.2 and the MLP family of section
4.1.

A family is a frozen dataclass of sizes whose methods build modules. Both families know the same four pieces:

- a *pyramid* maps N images to its levels, the activations of its layers from first to last;
- an *encoder* is a pyramid with a head of its own: N images to N vectors;
- a *conditioner* turns the levels of memory entries into what the decoder adds at each layer. It is linear in every
  level, so a skip connection (the concatenation of a level and the decoder's activations before a layer) is computed
  once for each memory entry rather than once for each sample that reads it;
- a *decoder* maps N latent vectors, and N rows of such conditions, to N images of Bernoulli logits. It takes the
  conditions of U entries and a matrix `mix` (N, U) too, whose rows weigh them: one-hot rows where a sample reads one
  entry, the weights of attention where it reads all.

The densities that models are made of are in `densities`, what is there for speed alone in `kernels`.
"""

from vma.networks.conv import ConvSizes
from vma.networks.densities import (
    Samples,
    at_least_float32,
    draw_images,
    log_bernoulli,
    log_normal,
    log_normal_at,
    split_gaussian,
)
from vma.networks.family import Condition, Encoder, Family, Levels, Sizes
from vma.networks.mlp import MLPSizes

__all__ = [
    "Condition",
    "ConvSizes",
    "Encoder",
    "Family",
    "Levels",
    "MLPSizes",
    "Samples",
    "Sizes",
    "at_least_float32",
    "draw_images",
    "log_bernoulli",
    "log_normal",
    "log_normal_at",
    "split_gaussian",
]
