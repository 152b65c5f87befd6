"""The one training loop: a generator that yields after each update; the caller logs, saves and stops."""

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vma.addressing import Draw
from vma.data.episodes import Episode
from vma.errors import InputError
from vma.objectives import Terms, iwae
from vma.protocol import Model, check_model

CHECK_EVERY = 100  # updates of a CUDA graph between two looks at whether the bound is still finite
WARM_UP = 3  # updates before a capture, in which libraries set themselves up and optimizers make their state


class NonFiniteBound(RuntimeError):
    """The bound of an update was not finite; the message names the update, the seed and the terms that broke."""


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
    looks at the bound where (update + 1) is a multiple of `CHECK_EVERY`, after the last update, and when the generator
    is closed. What was yielded since its last look may come after a bound that broke; the weights do not, since the
    device itself changes none from there on.

    Args:
        model: a module that does what `vma.protocol.Model` says.
        episodes: the episode of each number; with `graph` the number is a tensor () on the device, and every episode
            has the same shapes (`vma.data.episodes.Episodes`).
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
    if graph:
        _check_graph(update)
    seed = "" if generator is None else f", seed {generator.initial_seed()}"
    model.train()
    if graph:
        yield from _replayed(StaticUpdate(update, updates), updates, schedule, seed)
        return
    for number in updates:
        _set_rates(optimizer, schedule, number)
        terms = update.terms(number)
        check_finite(terms, f"update {number}{seed}")
        update.step(terms, number)
        yield number, terms


@dataclass(frozen=True)
class Update:
    """What an update does; its fields are arguments of `fit`."""

    model: Model
    episodes: Callable[[Any], Episode]
    objective: Callable[[Terms], Tensor]
    optimizer: torch.optim.Optimizer
    num_samples: int
    generator: torch.Generator | None
    dtype: torch.dtype
    clip: float | None
    episodes_per_update: int
    kl_warmup: int = 0
    draw: Draw | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def terms(self, number: int | Tensor) -> Terms:
        """The terms of all episodes of the update with this number."""
        first = number * self.episodes_per_update
        drawn = [self.episodes(first + i) for i in range(self.episodes_per_update)]
        options: dict[str, Any] = {} if self.draw is None else {"draw": self.draw}  # models without address have none
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            parts = [
                self.model(
                    e.x,
                    self.model.encode_memory(e.memory),
                    self.num_samples,
                    generator=self.generator,
                    **e.seen(),
                    **options,
                )
                for e in drawn
            ]
        return Terms.join(parts)

    def step(self, terms: Terms, number: int | Tensor) -> None:
        """Change the weights along the gradient of the objective of the update with this number."""
        if self.kl_warmup:
            weight = torch.as_tensor(number / self.kl_warmup).clamp(max=1)
            terms = replace(terms, log_rz=weight * terms.log_rz)
        self.optimizer.zero_grad(set_to_none=True)
        (-self.objective(terms).mean()).backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.requires_grad), self.clip)
        self.optimizer.step()


class StaticUpdate:
    """An update that a CUDA graph can hold: its tensors have fixed places and shapes, and the host asks for no value.

    It counts the updates itself. One whose bound is not finite changes no weights, nor does any after it; `check` tells
    the host.
    """

    def __init__(self, update: Update, updates: range) -> None:
        self.update = update
        self.stride = updates.step
        self.number = torch.full((), updates.start, device=update.device)  # of the update that comes next
        self.broken_at = torch.full((), -1, device=update.device)  # the first update whose bound was not finite
        self.broken_terms = torch.zeros(len(fields(Terms)), dtype=torch.bool, device=update.device)  # and what broke
        self.stopped = torch.zeros((), device=update.device)  # 1 from that update on

    def __call__(self) -> Terms:
        """Make the next update; its terms, detached."""
        terms = self.update.terms(self.number)
        detached = terms.each(Tensor.detach)
        self._look(detached)
        optimizer: Any = self.update.optimizer
        optimizer.found_inf = self.stopped  # by which a fused optimizer leaves weights and state as they are
        try:
            self.update.step(terms, self.number)
        finally:
            del optimizer.found_inf
        self.number += self.stride
        return detached

    def _look(self, terms: Terms) -> None:
        """Note on the device whether this is the first bound that is not finite."""
        parts = [terms.log_px.new_zeros(()) if value is None else value for value in vars(terms).values()]
        values = torch.stack([part.expand_as(terms.log_px) for part in parts])
        first = ~torch.isfinite(iwae(terms)).all() & (self.broken_at < 0)
        self.broken_at.copy_(torch.where(first, self.number, self.broken_at))
        self.broken_terms.copy_(torch.where(first, ~torch.isfinite(values).flatten(1).all(1), self.broken_terms))
        self.stopped.copy_(self.broken_at >= 0)

    def check(self, seed: str) -> None:
        """Wait for the updates made so far, and refuse a bound that was not finite.

        Raises:
            NonFiniteBound: naming the first such update, the seed and the terms that were not finite.
        """
        number = int(self.broken_at)
        if number >= 0:
            broken = [
                field.name for field, broke in zip(fields(Terms), self.broken_terms.tolist(), strict=True) if broke
            ]
            raise _not_finite(f"update {number}{seed}", broken)


def _check_graph(update: Update) -> None:
    device = update.device
    if device.type != "cuda":
        raise InputError(f"graph is given for a model on {device}: it needs one on a CUDA device")
    for group in update.optimizer.param_groups:
        rate = group["lr"]
        on_device = isinstance(rate, Tensor) and rate.device == device
        if not (group.get("fused") and group.get("capturable") and on_device):
            raise InputError(
                "graph is given with an optimizer that it cannot hold: make it with fused=True, capturable=True and "
                f"a tensor on {device} for lr"
            )


def _replayed(
    update: StaticUpdate, updates: range, schedule: Callable[[int], float] | None, seed: str
) -> Generator[tuple[int, Terms], None, None]:
    """`fit` by a CUDA graph."""
    stream = torch.cuda.Stream(update.update.device)
    graph: torch.cuda.CUDAGraph | None = None
    try:
        for made, number in enumerate(updates):
            _set_rates(update.update.optimizer, schedule, number)
            if made < WARM_UP:
                terms = _made_aside(update, stream)
            else:
                if graph is None:
                    graph, terms = _captured(update, stream)  # which makes no update by itself
                graph.replay()
            if (number + 1) % CHECK_EVERY == 0 or number == updates[-1]:
                update.check(seed)
            yield number, terms
    except GeneratorExit:
        update.check(seed)
        raise


def _made_aside(update: StaticUpdate, stream: torch.cuda.Stream) -> Terms:
    """Make an update without a graph on the stream that it will be captured on: gradients are accumulated on the stream
    that saw a parameter first.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream), warnings.catch_warnings():
        # it is about to be captured
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        terms = update()
    current.wait_stream(stream)
    return terms


def _captured(update: StaticUpdate, stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Terms]:
    """The graph of an update, and the terms that each replay writes. A replay takes the generator on as the update
    would, so that its state can be saved at any time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(stream.device):
        if update.update.generator is not None:
            graph.register_generator_state(update.update.generator)
        with torch.cuda.graph(graph, stream=stream):
            terms = update()
    return graph, terms


def _set_rates(optimizer: torch.optim.Optimizer, schedule: Callable[[int], float] | None, number: int) -> None:
    if schedule is None:
        return
    for group in optimizer.param_groups:
        rate = group.setdefault("initial_lr", float(group["lr"])) * schedule(number)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def check_finite(terms: Terms, where: str) -> None:
    """Refuse a bound that is not finite.

    Raises:
        NonFiniteBound: naming `where` and the terms that are not finite.
    """
    if torch.isfinite(iwae(terms)).all():
        return
    raise _not_finite(where, [name for name, value in terms.tensors.items() if not torch.isfinite(value).all()])


def _not_finite(where: str, broken: list[str]) -> NonFiniteBound:
    return NonFiniteBound(f"the bound is not finite at {where}: {', '.join(broken) or 'log_w'} broke")
