"""One update of a model: the terms of its episodes, and the step along the gradient of the objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vma.addressing import Draw
from vma.data.episodes import Episode
from vma.objectives import Terms, check_finite
from vma.protocol import Model


@dataclass(frozen=True)
class Update:
    """What an update does; its fields are arguments of `vma.training.fit`."""

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

    def __call__(self, index: int) -> Terms:
        """Make the update of this index, and return its terms.

        Raises:
            NonFiniteBound: before the weights change.
        """
        terms = self.terms(index)
        check_finite(terms, self.name(index))
        self.step(terms, index)
        return terms

    def name(self, index: int) -> str:
        """The update of this index, as errors name it."""
        return f"update {index}" + ("" if self.generator is None else f", seed {self.generator.initial_seed()}")

    def terms(self, index: int | Tensor) -> Terms:
        """The terms of all episodes of the update of this index."""
        first = index * self.episodes_per_update
        episodes = [self.episodes(first + i) for i in range(self.episodes_per_update)]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            parts = [self._terms_of(episode) for episode in episodes]
        return Terms.join(parts)

    def _terms_of(self, episode: Episode) -> Terms:
        options: dict[str, Any] = {} if self.draw is None else {"draw": self.draw}  # models without address have none
        encoded = self.model.encode_memory(episode.memory)
        return self.model(episode.x, encoded, self.num_samples, generator=self.generator, **episode.seen(), **options)

    def step(self, terms: Terms, index: int | Tensor) -> None:
        """Change the weights along the gradient of the objective of the update of this index."""
        if self.kl_warmup:
            weight = torch.as_tensor(index / self.kl_warmup).clamp(max=1)
            terms = replace(terms, log_rz=weight * terms.log_rz)
        self.optimizer.zero_grad(set_to_none=True)
        (-self.objective(terms).mean()).backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.requires_grad), self.clip)
        self.optimizer.step()
