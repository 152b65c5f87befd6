"""The update as a CUDA graph: captured once, then replayed without the host taking part."""

import warnings
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from vma.errors import InputError
from vma.objectives import NonFiniteBound, Terms, iwae
from vma.update import Update

CHECK_EVERY = 100  # updates of a CUDA graph between two looks at whether the bound is still finite
WARM_UP = 3  # updates before a capture, in which libraries set themselves up and optimizers make their state


class StaticUpdate:
    """An update that a CUDA graph can hold: its tensors have fixed places and shapes, and the host asks for no value.

    It counts the updates itself. One whose bound is not finite changes no weights, nor does any after it; `check` tells
    the host.
    """

    def __init__(self, update: Update, updates: range) -> None:
        self.update = update
        self.stride = updates.step
        self.index = torch.full((), updates.start, device=update.device)  # of the update that comes next
        self.broken_at = torch.full((), -1, device=update.device)  # the first update whose bound was not finite
        self.broken_terms = torch.zeros(len(fields(Terms)), dtype=torch.bool, device=update.device)  # and what broke
        self.stopped = torch.zeros((), device=update.device)  # 1 from that update on

    def __call__(self) -> Terms:
        """Make the next update; its terms, detached."""
        terms = self.update.terms(self.index)
        detached = terms.each(Tensor.detach)
        self._look(detached)
        optimizer: Any = self.update.optimizer
        optimizer.found_inf = self.stopped  # by which a fused optimizer leaves weights and state as they are
        try:
            self.update.step(terms, self.index)
        finally:
            del optimizer.found_inf
        self.index += self.stride
        return detached

    def _look(self, terms: Terms) -> None:
        """Note on the device whether this is the first bound that is not finite."""
        parts = [terms.log_px.new_zeros(()) if value is None else value for value in vars(terms).values()]
        values = torch.stack([part.expand_as(terms.log_px) for part in parts])
        first = ~torch.isfinite(iwae(terms)).all() & (self.broken_at < 0)
        self.broken_at.copy_(torch.where(first, self.index, self.broken_at))
        self.broken_terms.copy_(torch.where(first, ~torch.isfinite(values).flatten(1).all(1), self.broken_terms))
        self.stopped.copy_(self.broken_at >= 0)

    def check(self) -> None:
        """Wait for the updates made so far, and refuse a bound that was not finite.

        Raises:
            NonFiniteBound: naming the first such update, the seed and the terms that were not finite.
        """
        index = int(self.broken_at)
        if index >= 0:
            names = [field.name for field in fields(Terms)]
            broken = [name for name, broke in zip(names, self.broken_terms.tolist(), strict=True) if broke]
            raise NonFiniteBound.of_terms(self.update.name(index), broken)


class Replay:
    """The updates of a range, each a replay of one graph; the first `WARM_UP` are made without it.

    As a context it looks at the bound of what was made since its last look where its body is left early.

    Raises:
        InputError: for a model that is on no CUDA device, or an optimizer that no graph can hold.
    """

    def __init__(self, update: Update, updates: range) -> None:
        check_capturable(update)
        self.update, self.updates = StaticUpdate(update, updates), updates
        self.stream = torch.cuda.Stream(update.device)
        self.made = 0
        self.captured: tuple[torch.cuda.CUDAGraph, Terms] | None = None

    def __call__(self, index: int) -> Terms:
        """Make the next update, which is that of this index; its terms, which the one after it overwrites.

        Raises:
            NonFiniteBound: where it looks, see `CHECK_EVERY`.
        """
        if self.made < WARM_UP:
            terms = on_side_stream(self.update, self.stream)
        else:
            if self.captured is None:
                self.captured = capture(self.update, self.stream)  # which makes no update by itself
            graph, terms = self.captured
            graph.replay()
        self.made += 1
        if (index + 1) % CHECK_EVERY == 0 or index == self.updates[-1]:
            self.update.check()
        return terms

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is GeneratorExit:
            self.update.check()


def check_capturable(update: Update) -> None:
    """Refuse what no graph can hold.

    Raises:
        InputError: for a model that is on no CUDA device, or an optimizer that reads its rate or its steps on the host.
    """
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


def on_side_stream(update: StaticUpdate, stream: torch.cuda.Stream) -> Terms:
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


def capture(update: StaticUpdate, stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Terms]:
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
