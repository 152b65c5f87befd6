"""Variational memory addressing (Bornschein, Mnih, Zoran, Rezende, NIPS 2017): models, estimators, evaluation."""

from vma.addressing import Addressing, cosine, inner_product, similarity
from vma.estimators import vimco
from vma.evaluation import classify, evaluate
from vma.model import VariationalMemoryAddressing
from vma.networks import ConvSizes, MLPSizes
from vma.objectives import Terms, iwae
from vma.pretrained import load_pretrained
from vma.protocol import AddressModel, Model, has_address
from vma.training import fit

__version__ = "0.1.0"

__all__ = [
    "AddressModel",
    "Addressing",
    "ConvSizes",
    "MLPSizes",
    "Model",
    "Terms",
    "VariationalMemoryAddressing",
    "classify",
    "cosine",
    "evaluate",
    "fit",
    "has_address",
    "inner_product",
    "iwae",
    "load_pretrained",
    "similarity",
    "vimco",
]
