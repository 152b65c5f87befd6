"""What a model offers to training, evaluation and sampling, and how to ask a model for what not all of them have."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vma.errors import InputError
from vma.networks import Samples
from vma.objectives import Terms


@runtime_checkable
class Model(Protocol):
    """p(x|M) as a torch module with three methods; `examples/own_model.py` is one in a few lines.

    What `encode_memory` returns is the model's own affair: callers only hand it back. A model reads a memory of any
    size, or passes over it (a plain VAE). The methods below these three are those of every `torch.nn.Module`.
    """

    def encode_memory(self, memory: Float[Tensor, "M C H W"] | None) -> Any:
        """What the model keeps of a memory, once for all its targets and samples. None is no memory."""

    # A module's call goes to its forward, which is to have these parameters.
    def __call__(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: Any,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> Terms:
        """The terms, each (K, B), of K = `num_samples` posterior draws for each target. All random numbers come from
        `generator`; at most `chunk` images are to go through a network at a time.
        """

    def sample(self, encoded: Any, n: int, *, generator: torch.Generator | None = None) -> Samples:
        """n draws from p(x|M)."""

    training: bool

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@runtime_checkable
class AddressModel(Model, Protocol):
    """A model with a latent address a, an entry of memory: p(x|M) = sum_a p(a|M) p(x|m_a) (eq. 1)."""

    def address(self, x: Float[Tensor, "B C H W"], encoded: Any) -> tuple[Float[Tensor, "B M"], Float[Tensor, " M"]]:
        """log q(a|x) of each target (eq. 4) and log p(a), each over all of memory."""

    def __call__(
        self,
        x: Float[Tensor, "B C H W"],
        encoded: Any,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        addresses: Int[Tensor, "K B"] | None = None,
        chunk: int | None = None,
    ) -> Terms:
        """As of every model; `addresses` are taken in place of draws from q(a|x)."""


@runtime_checkable
class EmbeddingModel(AddressModel, Protocol):
    """A model with an address that embeds each entry by itself, so that memories share what is known of an entry."""

    def embed(self, memory: Float[Tensor, "M C H W"]) -> Float[Tensor, "M E"]:
        """h(m_a) of each entry (eq. 6)."""

    def encode_memory(self, memory: Float[Tensor, "M C H W"] | None, e_a: Float[Tensor, "M E"] | None = None) -> Any:
        """As of every model, given what `embed` says of the entries."""


def has_address(model: object) -> TypeGuard[AddressModel]:
    """Whether a model has a latent address, so that it can tell what it looks up and classify."""
    return isinstance(model, AddressModel)


def check_model(model: object) -> None:
    """Refuse a module that training or evaluation cannot call.

    Raises:
        InputError: naming what it lacks.
    """
    forward = getattr(model, "forward", model)
    parameters = inspect.signature(forward).parameters if callable(forward) else {}
    lacks = [] if callable(getattr(model, "encode_memory", None)) else ["encode_memory(memory)"]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        lacks += [f"the keyword {name} of forward" for name in ("generator", "chunk") if name not in parameters]
    if lacks:
        raise InputError(
            f"{type(model).__name__} lacks {', '.join(lacks)}: a model is what vma.protocol.Model describes"
        )
