"""The one training loop: a generator that yields after each update; the caller logs, saves and stops."""

from collections.abc import Callable, Generator
from contextlib import nullcontext

import torch
from torch import Tensor

from vma.addressing import Draw
from vma.data.episodes import Episode
from vma.graph import Replay
from vma.objectives import NonFiniteBound, Terms
from vma.protocol import Model, check_model
from vma.update import Update

__all__ = ["NonFiniteBound", "Update", "fit"]


def fit(
    model: Model,
    episodes: Callable[[int], Episode],
    objective: Callable[[Terms], Tensor],
    optimizer: torch.optim.Optimizer,
    num_samples: int,
    updates: range,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    schedule: Callable[[int], float] | None = None,
    kl_warmup: int = 0,
    clip: float | None = None,
    episodes_per_update: int = 1,
    graph: bool = False,
    draw: Draw | None = None,
) -> Generator[tuple[int, Terms], None, None]:
    """Yield (update, terms) after each of `updates`; with n = `episodes_per_update`, update u is made on the targets of
    the episodes nu, ..., nu + n - 1, each with its own memory.

    With `graph` the whole update is one CUDA graph, which draws its episodes too; a few updates are made before it is
    captured. `terms` are then detached, and each update overwrites those before. The host runs ahead of the device and
    looks at the bound every `vma.graph.CHECK_EVERY` updates, after the last, and when the generator is closed. What was
    yielded since its last look may come after a bound that broke; the weights do not, since the device itself changes
    none from there on.

    Args:
        model: a module that does what `vma.protocol.Model` says.
        episodes: the episode of each step; with `graph` the step is a tensor () on the device, and every episode has
            the same shapes (`vma.data.episodes.Episodes`).
        objective: `iwae` or a surrogate of `vma.estimators`; its mean over targets is maximised.
        optimizer: with `graph` a fused, capturable one whose learning rate is a tensor on the device.
        num_samples: K.
        updates: which updates to make; a resumed run starts where it stopped.
        generator: of addresses and noise.
        dtype: float32, or bfloat16 for mixed precision; the bound's arithmetic is float32 in both.
        schedule: the factor of the optimizer's rates at each update, where they are not constant.
        kl_warmup: updates over which the weight of log p(z|.) - log q(z|.) in the objective rises from 0 to 1; what is
            yielded are the unweighted terms.
        clip: largest norm of the gradient; None does not clip.
        episodes_per_update: n.
        graph: for models on CUDA devices.
        draw: how addresses are drawn, where the objective needs others than independent draws.

    Raises:
        NonFiniteBound: before the update that would have used it; with `graph` when the host next looks.
        InputError: for a model that lacks a part of the protocol; if `graph` is given for a model on another device, or
            with an optimizer that no graph can hold.
    """
    check_model(model)
    update = Update(
        model,
        episodes,
        objective,
        optimizer,
        num_samples,
        generator,
        dtype,
        clip,
        episodes_per_update,
        kl_warmup,
        draw,
    )
    model.train()
    with Replay(update, updates) if graph else nullcontext(update) as make:
        for index in updates:
            _set_rates(optimizer, schedule, index)
            yield index, make(index)


def _set_rates(optimizer: torch.optim.Optimizer, schedule: Callable[[int], float] | None, index: int) -> None:
    if schedule is None:
        return
    for group in optimizer.param_groups:
        rate = group.setdefault("initial_lr", float(group["lr"])) * schedule(index)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
