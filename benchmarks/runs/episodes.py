"""The episodes that a run trains with, and those that validate it."""

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.declare.spec import BY_CLASS, TrainSpec
from vma.data import DataSet
from vma.data.episodes import Episode, Episodes, EpisodeSpec

ENDLESS = 2**62  # an update that no run reaches


def episodes_of(spec: TrainSpec, data: DataSet, device: torch.device) -> Callable[[int], Episode]:
    """The training episode of each step, a pure function of it, with the memory size of the stage that its update is
    in.

    Raises:
        InputError: as `stages_of`.
    """
    stages, per_update = stages_of(spec, data, device), spec.episodes_per_update or 1
    if len(stages) == 1:  # these take the step from the device too
        return stages[0][1]

    def episodes(step: int) -> Episode:
        return next(own for until, own in stages if step // per_update < until)(step)

    return episodes


def stages_of(spec: TrainSpec, data: DataSet, device: torch.device) -> list[tuple[int, Episodes]]:
    """The stages of training: until which update, and the episodes of all updates with its memory size.

    Raises:
        InputError: if the training set has too few classes, drawings or images.
    """
    images = data.train.to(device)
    grown = [(until, replace(spec.episode, memory_size=size)) for size, until in spec.growth or ()]
    return [(until, Episodes(images, own, spec.seed)) for until, own in (*grown, (ENDLESS, spec.episode))]


def validation_episodes(spec: TrainSpec, data: DataSet, device: torch.device) -> Episodes:
    """Episodes of the validation images, like those of training; of fewer classes, or with a smaller memory to recall,
    where there are not as many that have the drawings.

    Raises:
        InputError: if no validation class has enough drawings.
    """
    validation = data.validation
    episode = replace(spec.episode, turned=None, upright=None, fewest_shots=None)
    if spec.episode.fewest_shots is not None:  # as many as the paper's, so that curves can be compared
        episode = replace(episode, shots=min(episode.shots, EpisodeSpec.shots))
    if episode.protocol in BY_CLASS:
        needed = episode.targets_per_class + episode.shots * (episode.protocol == "per_class")
        enough = int((validation.counts >= needed).sum())
        episode = replace(episode, classes=max(1, min(episode.classes, enough)))
    elif episode.memory_size is not None:
        episode = replace(episode, memory_size=min(episode.memory_size, len(validation.images)))
    return Episodes(validation.to(device), episode, spec.seed)
