"""A model of the user's own by the path of its factory, `package.module:factory`: how it is made, and what it runs in.

It stands in VMA's place: in each cell of an experiment that asks for nothing that VMA alone has.
"""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from benchmarks.declare.experiments import Experiment
from benchmarks.declare.spec import ADDRESS_TASKS, MODELS, OWN_MODEL, TrainSpec
from vma import pretrained
from vma.errors import InputError
from vma.protocol import Model, check_model, has_address

# what a training may ask of VMA alone: other values than these defaults
OF_VMA = (
    *("similarity", "prior", "learned_entries", "memory_shape", "tied", "estimator", "z_gradient", "path"),
    *("gradient_entries", "start"),
)
OF_VMA_TASKS = ("learned", "gradient-noise")  # which look at VMA's own parts


def is_own(model: str) -> bool:
    """Whether a spec's model is a factory of the user's."""
    return model not in MODELS


def make(path: str, sizes: Any, pixel_mean: float) -> Model:
    """The model that a factory gives when it is called with the network family and `pixel_mean`.

    Raises:
        InputError: if the path names no factory, or the factory gives no model as `vma.protocol.Model` describes it.
    """
    named = OWN_MODEL.fullmatch(path)
    if named is None:
        raise InputError(f"model is {path!r}, must be package.module:factory")
    try:
        module = importlib.import_module(named[1])
    except ImportError as error:
        raise InputError(
            f"model is {path}: its module cannot be imported ({error}); it must lie in this folder or on PYTHONPATH"
        ) from None
    factory = getattr(module, named[2], None)
    if not callable(factory):
        raise InputError(f"model is {path}: {named[1]} has no function or class {named[2]}; give one that it has")
    model = factory(sizes, pixel_mean=pixel_mean)
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {path}: it gives a {type(model).__name__}, must give a torch.nn.Module")
    check_model(model)
    if not isinstance(model, Model):
        raise InputError(f"{type(model).__name__} lacks sample(encoded, n): give what vma.protocol.Model describes")
    return model


def experiments(declared: Sequence[Experiment], path: str) -> list[Experiment]:
    """The experiments with the model of this factory in VMA's place, of each the cells that it fits.

    Raises:
        InputError: as `make`, or if it fits no cell.
    """
    of_vma = [cell.train for experiment in declared for cell in experiment.cells if cell.train.model == "vma"]
    # one that is asked what it can do
    model = make(path, pretrained.sizes(of_vma[0].network, of_vma[0].image_size), 0.5)
    found = []
    for experiment in declared:
        cells = tuple(
            replace(cell, train=replace(cell.train, model=path))
            for cell in experiment.cells
            if _asks_for_nothing_of_vma(cell.train) and _can(model, cell.eval.task)
        )
        if cells:
            found.append(replace(experiment, cells=cells))
        else:
            warnings.warn(f"{experiment.name} is left out: {path} fits none of its cells", stacklevel=2)
    if not found:
        raise InputError(f"model is {path}, which fits no cell of these experiments: give others")
    return found


def _asks_for_nothing_of_vma(train: TrainSpec) -> bool:
    return train.model == "vma" and all(getattr(train, name) == getattr(TrainSpec, name) for name in OF_VMA)


def _can(model: Model, task: str | None) -> bool:
    if task == "lookup":
        return has_address(model) and hasattr(model, "reconstruct")
    return task not in OF_VMA_TASKS and (task not in ADDRESS_TASKS or has_address(model))
