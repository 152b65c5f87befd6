"""Variational memory addressing (Bornschein, Mnih, Zoran, Rezende, NIPS 2017): models, estimators, evaluation."""

from vma.addressing import Addressing, cosine, inner_product, similarity
from vma.estimators import vimco
from vma.model import VariationalMemoryAddressing
from vma.networks import ConvSizes, MLPSizes
from vma.objectives import Terms, iwae

__version__ = "0.1.0"

__all__ = [
    "Addressing",
    "ConvSizes",
    "MLPSizes",
    "Terms",
    "VariationalMemoryAddressing",
    "cosine",
    "inner_product",
    "iwae",
    "similarity",
    "vimco",
]
