"""Variational memory addressing (Bornschein, Mnih, Zoran, Rezende, NIPS 2017): models, estimators, evaluation.

Names are looked up when they are asked for: what reads results imports parts of this package and no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "vma.addressing": ("Addressing", "cosine", "inner_product", "similarity"),
    "vma.estimators": ("vimco",),
    "vma.evaluation": ("classify", "evaluate"),
    "vma.model": ("VariationalMemoryAddressing",),
    "vma.networks": ("ConvSizes", "MLPSizes"),
    "vma.objectives": ("Terms", "iwae"),
    "vma.pretrained": ("load_pretrained",),
    "vma.protocol": ("AddressModel", "Model", "has_address"),
    "vma.training": ("fit",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
