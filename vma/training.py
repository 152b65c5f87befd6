"""The one training loop: a generator that yields after each update; the caller logs, saves and stops."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from vma.data.episodes import Episode
from vma.objectives import Terms, iwae


class NonFiniteBound(RuntimeError):
    """The bound of an update was not finite; the message names the update, the seed and the terms that broke."""


def fit(
    model: torch.nn.Module,
    episodes: Callable[[int], Episode],
    objective: Callable[[Terms], Tensor],
    optimizer: torch.optim.Optimizer,
    num_samples: int,
    updates: range,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    learning_rate: Callable[[int], float] | None = None,
    clip: float | None = None,
    episodes_per_update: int = 1,
) -> Iterator[tuple[int, Terms]]:
    """Yield (update, terms) after each of `updates`; with n = `episodes_per_update`, update u is made on the targets of
    the episodes nu, ..., nu + n - 1, each with its own memory.

    Args:
        model: has `encode_memory` and a `forward` that returns Terms.
        episodes: the episode of each number.
        objective: `vimco` or `iwae`; its mean over targets is maximised.
        num_samples: K.
        updates: which updates to make; a resumed run starts where it stopped.
        generator: of addresses and noise.
        dtype: float32, or bfloat16 for mixed precision; the bound's arithmetic is float32 in both.
        learning_rate: the rate of each update, where it is not constant.
        clip: largest norm of the gradient; None does not clip.
        episodes_per_update: n.

    Raises:
        NonFiniteBound: before the update that would have used it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device.type
    model.train()
    for update in updates:
        if learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(update)
        drawn = [episodes(n) for n in range(update * episodes_per_update, (update + 1) * episodes_per_update)]
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            parts = [model(e.x, model.encode_memory(e.memory), num_samples, generator=generator) for e in drawn]  # type: ignore[operator]
        terms = Terms(*(torch.cat([getattr(part, field.name) for part in parts], -1) for field in fields(Terms)))
        seed = "" if generator is None else f", seed {generator.initial_seed()}"
        check_finite(terms, f"update {update}{seed}")
        optimizer.zero_grad(set_to_none=True)
        (-objective(terms).mean()).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        yield update, terms


def check_finite(terms: Terms, where: str) -> None:
    """Refuse a bound that is not finite.

    Raises:
        NonFiniteBound: naming `where` and the terms that are not finite.
    """
    if torch.isfinite(iwae(terms)).all():
        return
    fields: dict[str, Any] = vars(terms)
    broken = [name for name, value in fields.items() if not torch.isfinite(value).all()]
    raise NonFiniteBound(f"the bound is not finite at {where}: {', '.join(broken) or 'log_w'} broke")
