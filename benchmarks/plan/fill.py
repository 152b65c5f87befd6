"""What a data set can fill: training episodes of the classes that it has, and the cells whose episodes it can give.

All that is changed or left out for its sake is said, by warnings.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.declare.spec import BY_CLASS, Cell, EvalSpec
from benchmarks.runs.build import pixel_mean
from benchmarks.runs.episodes import episodes_of
from benchmarks.runs.tasks import groups, split
from vma.data import DataSet
from vma.data.episodes import Episodes, EpisodeSpec
from vma.errors import InputError

MOST_NAMED = 8  # cells
CPU = torch.device("cpu")


class TooFew(InputError):
    """A set has too few classes or drawings."""


def training_episode(
    episode: EpisodeSpec,
    data: DataSet,
    *,
    classes: int | None = None,
    shots: int | None = None,
    targets: int | None = None,
) -> EpisodeSpec:
    """The episodes of a training with what is given instead of its own; and, unless `classes` are given, with
    fewer of them where the set has no more with enough drawings.

    Raises:
        TooFew: if no class has enough drawings, or not as many as `classes`.
    """
    if episode.protocol not in BY_CLASS:
        return episode
    asked = {"classes": classes, "shots": shots, "targets_per_class": targets}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if episode.fewest_shots is not None and shots is not None:
        given["fewest_shots"] = min(episode.fewest_shots, shots)
    episode = replace(episode, **given)
    needed = drawings(episode)
    counts = data.train.counts
    enough = int((counts >= needed).sum())
    if enough < (classes or 1):
        raise TooFew(
            f"{data.name}: an episode of training takes {needed} drawings of a class ({episode.targets_per_class} "
            f"targets, {episode.shots} examples), which {enough} of its {len(counts)} training classes have, the "
            f"largest {int(counts.max())}: give fewer --train-targets, --train-shots or --train-classes"
        )
    if enough < len(counts):
        warnings.warn(
            f"{data.name}: {len(counts) - enough} of its {len(counts)} training classes have fewer than {needed} "
            "drawings and take no part in training",
            stacklevel=2,
        )
    if enough < episode.classes:
        warnings.warn(
            f"{data.name}: episodes of training have {enough} classes instead of {episode.classes}: no more have "
            f"{needed} drawings",
            stacklevel=2,
        )
        episode = replace(episode, classes=enough)
    return episode


def drawings(episode: EpisodeSpec) -> int:
    """How many drawings a class must have to take part in such episodes."""
    return episode.targets_per_class + episode.shots * (episode.protocol == "per_class")


def possible(cells: Sequence[Cell], data: DataSet, *, train: bool = True) -> list[Cell]:
    """Those of the cells whose episodes these data can give, before anything is trained or evaluated.

    Of cells that share their targets those are left out that fewer classes have drawings for.

    Args:
        train: whether their models are to be trained, for which there must be something to learn.

    Raises:
        InputError: if none is left, or all training images are blank or all ink.
    """
    if train:
        pixel_mean(data)
    cannot_train = {spec: _cause(partial(episodes_of, spec, data, CPU)) for spec in {c.train for c in cells}}
    why: dict[Cell, str] = {}
    for group in groups(cells):
        eligible: dict[Cell, int] = {}  # classes that can have the target
        for cell in group:
            evaluation = cell.eval
            cause = cannot_train[cell.train] if train else None
            if cause is None and evaluation.task != "wallclock":  # which makes updates alone
                cause = _cause(partial(Episodes, split(data, evaluation), evaluation.episode, evaluation.seed))
            if cause is not None:
                why[cell] = cause
            elif evaluation.episode.protocol in BY_CLASS:
                eligible[cell] = int((split(data, evaluation).counts >= drawings(evaluation.episode)).sum())
        most = max(eligible.values(), default=0)
        why |= {
            cell: f"{most - own} of the classes that the others draw their targets from have too few drawings for it"
            for cell, own in eligible.items()
            if own < most
        }
    kept = [cell for cell in cells if cell not in why]
    first = next(iter(why.values()), "there is none")
    if not kept:
        raise TooFew(f"{data.name} can fill no cell: {first}")
    if why:
        named = list(dict.fromkeys(words(cell.eval) for cell in why))
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        warnings.warn(
            f"{data.name}: {len(why)} of {len(cells)} cells are left out, those of {', '.join(named[:MOST_NAMED])}"
            f"{more}; the first since {first}",
            stacklevel=2,
        )
    return kept


def _cause(draw: Callable[[], object]) -> str | None:
    try:
        draw()
    except InputError as error:
        return str(error)
    return None


def words(evaluation: EvalSpec) -> str:
    """A cell by what is in its memory."""
    episode = evaluation.episode
    if episode.protocol not in BY_CLASS:
        return f"{episode.num_entries} entries"
    of = "of each of" if episode.protocol == "per_class" else "of"
    return f"{episode.shots} {of} {episode.classes} classes"
