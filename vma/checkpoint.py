"""Checkpoints: one verified safetensors file a state, replaced so that a crash never costs the last good one."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vma.errors import InputError
from vma.files import read_bounded, write_atomic

VERSION = 1
MAX_HEADER_BYTES = 16 * 2**20  # both caps are checked before anything is parsed or read whole
MAX_FILE_BYTES = 4 * 2**30
RESTORE = "restore it from a copy, or train again from scratch"

logger = logging.getLogger("vma")


class CheckpointError(InputError):
    """A checkpoint cannot be used: missing, damaged, of another format, or made for another model."""


@runtime_checkable
class Module(Protocol):
    """A torch module, or what loads and saves tensors by name like one."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, Tensor]  # on the CPU, flat names: "model.prior.0.weight", "optimizer.3.exp_avg", "rng"
    meta: dict[str, Any]  # JSON values: the spec, the update, ...


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], *, keep_previous: bool = True) -> None:
    """Write one state to `path`; with `keep_previous` the state that stood there stays as `<name>.previous`.

    The old state is copied, not moved, so that `path` is never absent once it was written, and only if it is good, so
    that a damaged newest file cannot push out the good previous one. At every instant one of the two loads.

    Raises:
        CheckpointError: `load` would refuse the result (too large).
        OSError: naming the file that could not be written (disk full); `path` is then untouched.
        TypeError, ValueError: `meta` is not JSON (NaN included).
    """
    # Clones: safetensors refuses views of one storage, and stores contiguous tensors only.
    flat = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    text = json.dumps(meta, allow_nan=False)
    metadata = {"vma_version": str(VERSION), "meta": text, "sha256": _digest(flat, text)}
    data = safetensors.torch.save(flat, metadata)
    _parse(path, data)
    if keep_previous and path.exists():
        try:
            current = _read(path)
            _parse(path, current)
        except CheckpointError as error:
            logger.warning("%s is overwritten, and %s left as it is: %s", path, _previous(path).name, error)
        else:
            write_atomic(_previous(path), current)
    write_atomic(path, data)


def load(
    path: Path, *, previous: bool = True, accept: Callable[[Checkpoint], None] = lambda checkpoint: None
) -> Checkpoint:
    """Read and verify `path`; where it cannot be used, with `previous`, a good `<name>.previous` and a warning.

    `accept` raises CheckpointError for a checkpoint that is whole and yet of no use to the caller.

    Raises:
        CheckpointError: missing, truncated, altered, too large, no checkpoint of this program, another version, or not
            accepted.
    """
    try:
        return _accepted(path, accept)
    except CheckpointError as error:
        if not previous:
            raise
        try:
            checkpoint = _accepted(_previous(path), accept)
        except CheckpointError:
            raise error from None
        logger.warning("%s; going on from %s", error, _previous(path).name)
        return checkpoint


def pack_training(model: Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """All tensors that a training run goes on from: "model.<name>", "optimizer.<index>.<moment>", "rng".

    The tensors are the live ones, not copies. Hyperparameters are left out: the spec rebuilds them.

    Raises:
        CheckpointError: if the optimizer keeps something else than tensors of its parameters (LBFGS, SparseAdam), which
            no checkpoint can hold.
    """
    state = optimizer.state_dict()["state"]
    for index, entry in state.items():
        for key, value in entry.items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"the state of {type(optimizer).__name__} cannot be saved: {key!r} of parameter {index} is a "
                    f"{type(value).__name__} and no tensor; train with another optimizer"
                )
    return {
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        **{f"optimizer.{index}.{key}": tensor for index, entry in state.items() for key, tensor in entry.items()},
        "optimizer.params": torch.tensor(len(_params(optimizer))),
        "rng": generator.get_state(),
    }


def unpack_training(
    tensors: Mapping[str, Tensor], model: Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Put what `pack_training` gave into a fresh model, optimizer and generator.

    Everything is checked before anything is changed, the state of the optimizer against what it has by itself after a
    step.

    Raises:
        CheckpointError: a name missing or unknown, another shape or dtype, another number of parameters, a value that
            is not finite, or what is no state of a generator.
    """
    params = _params(optimizer)
    count = torch.tensor(len(params))
    wanted = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    wanted |= {"optimizer.params": count, "rng": generator.get_state()}
    # A parameter that no gradient has reached yet has no state.
    begun = {name.rpartition(".")[0] for name in tensors if name.startswith("optimizer.")} - {"optimizer"}
    stepped = _stepped(optimizer) if begun else {}
    state = {index: entry for index, entry in stepped.items() if f"optimizer.{index}" in begun}
    wanted |= {f"optimizer.{index}.{key}": tensor for index, entry in state.items() for key, tensor in entry.items()}
    _check_fit("the checkpoint", tensors, wanted)
    if not torch.equal(tensors["optimizer.params"], count):
        raise CheckpointError(
            f"the checkpoint's optimizer has {int(tensors['optimizer.params'])} parameters and this one {len(params)}; "
            "build it from the spec stored with the checkpoint"
        )
    _check_finite("the checkpoint", tensors, RESTORE)
    try:
        torch.Generator(generator.device).set_state(tensors["rng"].clone())
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's rng is no state of a generator ({error}); {RESTORE}") from None
    # Into the optimizer's own tensors: it would adopt the checkpoint's and change them in place, and a fused one walks
    # through moments and parameter by their place in memory, whatever their strides say.
    for index, entry in state.items():
        for key, tensor in entry.items():
            tensor.copy_(tensors[f"optimizer.{index}.{key}"])
    generator.set_state(tensors["rng"].clone())
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_weights(path: Path, model: Module, meta: dict[str, Any], *, dtype: torch.dtype = torch.float16) -> None:
    """Write the weights alone, floating point ones as `dtype`: the form in which weights are shipped.

    Raises:
        CheckpointError: a weight is not finite or overflows `dtype`. Else as `save`.
    """
    tensors = {
        f"model.{name}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    _check_finite(path, tensors, "a diverged run cannot be shipped, a large weight can as dtype=torch.float32")
    save(path, tensors, meta, keep_previous=False)


def load_weights(
    path: Path, model: Module, *, accept: Callable[[Checkpoint], None] = lambda checkpoint: None
) -> dict[str, Any]:
    """Read the weights that `save_weights` wrote, or those in the state of a training run, into `model`, cast to its
    dtypes, and return the meta.

    Raises:
        CheckpointError: a name missing or unknown, another shape, a weight that is not finite. Else as `load`.
    """
    checkpoint = load(path, previous=False, accept=accept)
    wanted = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    cast = {
        name: tensor.to(wanted[name].dtype)
        if name in wanted and tensor.is_floating_point() and wanted[name].is_floating_point()
        else tensor
        for name, tensor in checkpoint.tensors.items()
        if not ("rng" in checkpoint.tensors and (name == "rng" or name.startswith("optimizer.")))
    }
    _check_fit(str(path), cast, wanted)
    _check_finite(path, cast, RESTORE)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in cast.items()})
    return checkpoint.meta


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


@torch.no_grad()
def _stepped(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state that the optimizer has by itself after a step, by index of the parameter: what it keeps, in its shapes,
    types and layouts. The step is undone: parameters, gradients and state are as before.
    """
    params = _params(optimizer)
    kept = [(param.clone(), param.grad) for param in params]
    before = copy.deepcopy(optimizer.state_dict())
    try:
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
        return optimizer.state_dict()["state"]
    finally:
        for param, (value, grad) in zip(params, kept, strict=True):
            param.copy_(value)
            param.grad = grad
        optimizer.load_state_dict(before)


def _digest(tensors: Mapping[str, Tensor], meta_text: str) -> str:
    """sha256 over the meta and, in the order of names, each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(f"{VERSION}\n{meta_text}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _accepted(path: Path, accept: Callable[[Checkpoint], None]) -> Checkpoint:
    checkpoint = _parse(path, _read(path))
    try:
        accept(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from None
    return checkpoint


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint, or train one") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {RESTORE}") from error


def _parse(path: Path, raw: bytes) -> Checkpoint:
    """The checkpoint in `raw`; `path` is for messages. Nothing is believed until the digest over all of it agrees."""
    header_bytes = int.from_bytes(raw[:8], "little")
    if len(raw) >= 8 and header_bytes > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} is no checkpoint: it claims a header of {header_bytes:,} bytes; {RESTORE}")
    if len(raw) < 8 + header_bytes:
        raise CheckpointError(f"{path} is cut short at {len(raw):,} bytes; {RESTORE}")
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, KeyError, ValueError, AssertionError) as error:
        cause = " ".join(repr(error).split())
        raise CheckpointError(f"{path} is damaged or no safetensors file ({cause}); {RESTORE}") from error
    # safetensors has just accepted this header, so it is JSON of little depth with metadata of strings.
    metadata = json.loads(raw[8 : 8 + header_bytes]).get("__metadata__") or {}
    version = metadata.get("vma_version")
    if version != str(VERSION):
        raise CheckpointError(
            f"{path} has format version {version!r} and this program reads {VERSION}; use the release that wrote it"
        )
    text = metadata.get("meta", "")
    if metadata.get("sha256") != _digest(tensors, text):
        raise CheckpointError(f"{path} is damaged: its sha256 does not match its content; {RESTORE}")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds metadata that are no JSON; {RESTORE}") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path} holds metadata that are no JSON object; {RESTORE}")
    return Checkpoint(tensors, meta)


def _check_fit(source: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            problem = "is missing"
        elif name not in wanted:
            problem = "is unknown here"
        elif (found[name].dtype, found[name].shape) != (wanted[name].dtype, wanted[name].shape):
            has, needs = (f"{t[name].dtype} {list(t[name].shape)}" for t in (found, wanted))
            problem = f"is {has} and must be {needs}"
        else:
            continue
        raise CheckpointError(
            f"{source} does not fit: {name!r} {problem}; build everything from the spec stored with it"
        )


def _check_finite(source: object, tensors: Mapping[str, Tensor], remedy: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name!r} has values that are not finite as {tensor.dtype}; {remedy}")
