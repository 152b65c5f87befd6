"""Episodes: targets and the memory that they share, as a pure function of (seed, step)."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vma.errors import InputError, check_name, check_number, check_pixels, check_whole

PROTOCOLS = ("per_class", "gmn", "sequence", "recall", "none")
SHIFTS = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))  # corners of an image in one with an edge of a pixel; none first
MOST = 2**18  # targets of an episode, and entries: more than any data set here has images
MOST_IN_SEQUENCES = 2**12  # objects, each of which sees or does not see each other one


@runtime_checkable
class Images(Protocol):
    """What an episode is drawn from: images (N, 1, H, W), usually of uint8, whose pixels are 0 (paper) to 1 (ink), and
    the offsets (C + 1,) of their classes.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def offsets(self) -> Tensor: ...


@dataclass(frozen=True)
class Episode:
    """B targets and one memory of M entries; the index tensors name images of the set that both were drawn from.

    `visible` says which entries a target sees, where not all of them.

    Raises:
        InputError: for pixels outside 0 to 1; not on CUDA devices, which are asked for no value.
    """

    x: Float[Tensor, "B C H W"]
    memory: Float[Tensor, "M C H W"] | None
    x_index: Int[Tensor, " B"]
    memory_index: Int[Tensor, " M"] | None
    x_class: Int[Tensor, " B"]
    memory_class: Int[Tensor, " M"] | None
    visible: Bool[Tensor, "B M"] | None = None

    def __post_init__(self) -> None:
        if not self.x.is_cuda:
            check_pixels("the targets", self.x)
            if self.memory is not None:
                check_pixels("the images in memory", self.memory)

    @property
    def duplicated(self) -> Tensor:
        """(B,) bool: whether the very image of the target is in the memory that it sees."""
        if self.memory_index is None:
            return torch.zeros_like(self.x_index, dtype=torch.bool)
        same = self.x_index[:, None] == self.memory_index
        return (same if self.visible is None else same & self.visible).any(1)

    def seen(self, rows: Int[Tensor, " b"] | None = None) -> dict[str, Any]:
        """What a model's `forward` has to be told of the memory that these targets see: nothing if they see all."""
        if self.visible is None:
            return {}
        return {"visible": self.visible if rows is None else self.visible[rows]}


@dataclass(frozen=True)
class EpisodeSpec:
    """How an episode is drawn. The defaults are the paper's for few-shot training (section 4.2).

    - per_class: `classes` random classes, `targets_per_class` drawings of each as targets and `shots` other ones of
      each in memory.
    - gmn: memory holds `shots` objects in total, each a drawing drawn with replacement from one of `classes` classes,
      so that a target can be among them (the evaluator of Generative Matching Networks). The first classes have the
      targets, which are distinct.
    - sequence: `sequences` sequences of `shots` objects, each of which is a target that sees those before it in its
      sequence (the training of Generative Matching Networks). A sequence has `classes` classes, drawn with replacement,
      and so are each object's class from among them and its drawing.
    - recall: `memory_size` random images in memory, targets drawn from them with replacement (section 4.1).
    - none: random targets and no memory.

    `target_classes` gives targets to the first few of the classes alone. With classes of one size, raising `classes` or
    `shots` leaves the targets as they are (and under `per_class` only adds to memory), so that cells of a table share
    their targets and differences between them are paired.

    `turned` makes new classes from old ones: in each episode every class is turned as a whole, targets and memory, to
    one of so many orientations (4: by multiples of 90 degrees; 8: mirrored too). With `upright` at least that share of
    classes is left as it is drawn. With `fewest_shots` under `per_class` each episode has its own number of examples,
    between that and `shots`, evenly on a logarithmic scale; no CUDA graph can hold such episodes.

    Raises:
        InputError: for a field out of its range, or fields that contradict each other.
    """

    protocol: str = "per_class"
    classes: int = 8
    targets_per_class: int = 4
    shots: int = 4
    target_classes: int | None = None
    memory_size: int | None = None
    turned: int | None = None
    upright: float | None = None
    fewest_shots: int | None = None
    sequences: int | None = None

    def __post_init__(self) -> None:
        check_name("protocol", self.protocol, PROTOCOLS)
        for name in ("classes", "targets_per_class", "shots"):
            check_whole(name, getattr(self, name), 1, MOST)
        if self.target_classes is not None:
            check_whole("target_classes", self.target_classes, 1, self.classes)
        if (self.memory_size is not None) != (self.protocol == "recall"):
            raise InputError(
                "memory_size is given with protocol recall, and only with it: elsewhere classes and shots decide it"
            )
        if self.memory_size is not None:
            check_whole("memory_size", self.memory_size, 1, MOST)
        if self.turned not in (None, 4, 8):
            raise InputError(f"turned is {self.turned}, must be 4 (rotations), 8 (reflections too) or left out")
        if self.upright is not None:
            check_number("upright", self.upright, 1.0)
        if self.fewest_shots is not None:
            check_whole("fewest_shots", self.fewest_shots, 1, self.shots)
            if self.protocol != "per_class":
                raise InputError(f"fewest_shots is given with protocol {self.protocol}: it is for per_class")
        if self.protocol not in ("per_class", "gmn") and self.turned:
            raise InputError(f"turned is given with protocol {self.protocol}: it is for classes")
        if (self.sequences is not None) != (self.protocol == "sequence"):
            raise InputError("sequences is given with protocol sequence, and only with it")
        if self.sequences is not None:
            check_whole("sequences", self.sequences, 1, MOST)
            check_whole("sequences x shots", self.num_targets, 1, MOST_IN_SEQUENCES)
            check_whole("sequences x classes", self.sequences * self.classes, 1, MOST)
        check_whole("classes x targets_per_class", self.num_targets, 1, MOST)
        if self.protocol == "per_class":
            check_whole("classes x shots", self.num_entries, 1, MOST)

    @property
    def num_targets(self) -> int:
        """B."""
        if self.sequences is not None:
            return self.sequences * self.shots
        classes = self.classes if self.target_classes is None else self.target_classes
        return classes * self.targets_per_class

    @property
    def num_entries(self) -> int:
        """|M|."""
        sizes = {
            "per_class": self.classes * self.shots,
            "gmn": self.shots,
            "sequence": self.num_targets,
            "recall": self.memory_size or 0,
            "none": 0,
        }
        return sizes[self.protocol]


class Episodes:
    """The episodes of one spec and seed over one set of images: `episodes(step)` gives the same one always, on every
    device.

    Random choices sort a counter-based hash of (seed, step, what is chosen from), so there is no sampler state to save.
    `step` is an int, or a tensor () of int64 on the set's device, whose value the host never asks for: so a CUDA graph
    draws its own episodes.

    Args:
        images: the set; its tensors decide the device.
        spec: how to draw.
        seed: of all episodes.

    Raises:
        InputError: if the set has too few classes, drawings or images for the spec, or pixels outside 0 to 1.
    """

    def __init__(self, images: Images, spec: EpisodeSpec, seed: int) -> None:
        check_pixels("the images", images.images)
        self.images, self.spec, self.seed = images.images, spec, seed
        self.offsets = images.offsets
        counts = self.offsets.diff()
        self.drawings = int(counts.max())
        few_shot = spec.targets_per_class + spec.shots * (spec.protocol == "per_class")
        needed = 1 if spec.protocol == "sequence" else few_shot
        self.eligible = (counts >= needed).nonzero()[:, 0]
        if spec.protocol in ("per_class", "gmn") and len(self.eligible) < spec.classes:
            raise InputError(
                f"{spec.classes} classes with {needed} drawings each are needed, the set has {len(self.eligible)}: "
                "use a larger set, or fewer classes and shots"
            )
        if spec.protocol == "recall" and spec.num_entries > len(self.images):
            raise InputError(
                f"memory_size is {spec.memory_size}, the set has {len(self.images)} images: lower memory_size"
            )

    def __call__(self, step: int | Tensor) -> Episode:
        spec = self.spec
        if spec.sequences is not None:
            return self._sequences(step, spec.sequences, spec.shots)
        if spec.protocol in ("per_class", "gmn"):
            x_index, memory_index = self._few_shot(step)
        elif spec.protocol == "recall":
            everything = torch.arange(len(self.images), device=self.offsets.device)
            memory_index = everything[self._keys(step, 0, everything).topk(spec.num_entries, largest=False).indices]
            x_index = memory_index[self._below(spec.num_entries, step, 1, spec.num_targets)]
        else:
            x_index, memory_index = self._below(len(self.images), step, 0, spec.num_targets), None
        x_class = self._class_of(x_index)
        memory_class = None if memory_index is None else self._class_of(memory_index)
        return Episode(
            x=self._drawn(step, x_index, x_class),
            memory=None if memory_index is None else self._drawn(step, memory_index, memory_class),
            x_index=x_index,
            memory_index=memory_index,
            x_class=x_class,
            memory_class=memory_class,
        )

    def _drawn(self, step: int | Tensor, index: Tensor, of_class: Tensor | None) -> Tensor:
        """These images, those of a class turned alike."""
        images = self.images[index].float()
        if of_class is None or self.spec.turned is None:
            return images
        orientation = _scale(self._keys(step, 5, of_class), self.spec.turned)
        if self.spec.upright is not None:
            kept = _scale(self._keys(step, 8, of_class), 2**20) < self.spec.upright * 2**20
            orientation = orientation.masked_fill(kept, 0)
        return turned(images, orientation)

    def _few_shot(self, step: int | Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spec
        classes = self.eligible[self._keys(step, 0, self.eligible).argsort()[: spec.classes]]
        starts, counts = self.offsets[classes], self.offsets[classes + 1] - self.offsets[classes]
        position = torch.arange(self.drawings, device=classes.device)
        index = starts[:, None] + position
        keys = self._keys(step, 1, index).masked_fill(position >= counts[:, None], torch.iinfo(torch.int64).max)
        index = index.gather(1, keys.argsort(1))  # each class's drawings in random order, ragged ones' gaps last
        targets = index[: spec.target_classes, : spec.targets_per_class].flatten()
        if spec.protocol == "per_class":
            return targets, index[:, spec.targets_per_class :][:, : self._shots(step)].flatten()
        member = self._below(spec.classes, step, 2, spec.shots)
        drawing = _scale(self._keys(step, 3, torch.arange(spec.shots, device=classes.device)), counts[member])
        return targets, starts[member] + drawing

    def _shots(self, step: int | Tensor) -> int:
        """Examples a class in this episode."""
        spec = self.spec
        if spec.fewest_shots is None:
            return spec.shots
        u = int(self._below(2**20, step, 9, 1)) / 2**20
        return min(spec.shots, int(spec.fewest_shots * ((spec.shots + 1) / spec.fewest_shots) ** u))

    def _sequences(self, step: int | Tensor, sequences: int, length: int) -> Episode:
        spec = self.spec
        position = torch.arange(sequences * length, device=self.offsets.device)
        sequence = position // length
        classes = self.eligible[self._below(len(self.eligible), step, 0, sequences * spec.classes)]
        own = classes[sequence * spec.classes + self._below(spec.classes, step, 2, len(position))]
        drawing = _scale(self._keys(step, 3, position), self.offsets[own + 1] - self.offsets[own])
        index = self.offsets[own] + drawing
        images = self.images[index].float()
        visible = (sequence[:, None] == sequence) & (position[:, None] > position)
        return Episode(images, images, index, index, own, own, visible)

    def _keys(self, step: int | Tensor, stream: int, counter: Tensor) -> Tensor:
        return _keys(self.seed, step, stream, counter)

    def _below(self, bound: int, step: int | Tensor, stream: int, n: int) -> Tensor:
        """n integers in [0, bound), with replacement."""
        return _scale(self._keys(step, stream, torch.arange(n, device=self.offsets.device)), bound)

    def _class_of(self, index: Tensor) -> Tensor:
        return torch.searchsorted(self.offsets, index.contiguous(), right=True) - 1


def subsample_memory(episode: Episode, memory_size: int, seed: int, step: int) -> Episode:
    """The episode with `memory_size` entries of its memory, drawn at random, at least one of every class among them.

    A pure function of (seed, step), on every device the same. The entries of a smaller size are among those of a
    larger one, so that differences between sizes are paired.

    Raises:
        InputError: if there is no memory, or `memory_size` is below its number of classes or above M.
    """
    if episode.memory is None or episode.memory_index is None or episode.memory_class is None:
        raise InputError("memory_size is given for episodes without memory: leave it out")
    M, classes = len(episode.memory), len(episode.memory_class.unique())
    if not classes <= memory_size <= M:
        raise InputError(
            f"memory_size is {memory_size}, must lie between the {classes} classes in memory and its {M} entries"
        )
    slots = torch.arange(M, device=episode.memory_class.device)
    drawn = _keys(seed, step, 4, slots).argsort()
    grouped = drawn[episode.memory_class[drawn].argsort(stable=True)]
    first_of_class = torch.zeros_like(slots, dtype=torch.bool)
    first_of_class[grouped] = episode.memory_class[grouped].diff(prepend=slots[:1] - 1) != 0
    required = first_of_class[drawn]
    kept = torch.cat((drawn[required], drawn[~required]))[:memory_size].sort().values
    return replace(
        episode,
        memory=episode.memory[kept],
        memory_index=episode.memory_index[kept],
        memory_class=episode.memory_class[kept],
    )


def turned(images: Float[Tensor, "N C S S"], orientation: Int[Tensor, " N"]) -> Float[Tensor, "N C S S"]:
    """Each image turned by `orientation` mod 4 quarter turns, and mirrored from 4 on."""
    N, C, size, _ = images.shape
    place = torch.arange(size, device=images.device)
    row, column = place[:, None].expand(N, size, size), place.expand(N, size, size)
    turns, mirrored = orientation % 4, (orientation >= 4)[:, None, None]
    column = torch.where(mirrored, size - 1 - column, column)
    for turn in range(1, 4):
        more = (turns >= turn)[:, None, None]
        row, column = torch.where(more, column, row), torch.where(more, size - 1 - row, column)
    source = (row * size + column).flatten(1)[:, None].expand(N, C, size * size)
    return images.flatten(2).gather(2, source).unflatten(2, (size, size))


def shifted_memory(episode: Episode) -> Episode:
    """The episode with four copies of each entry in memory too, shifted by one pixel up, down, left and right; what
    comes in at the edge is blank. A copy has the index and the class of its entry.

    Raises:
        InputError: if there is no memory.
    """
    if episode.memory is None or episode.memory_index is None or episode.memory_class is None:
        raise InputError("entries are to be shifted in episodes without memory: give a protocol that brings one")
    edged = torch.nn.functional.pad(episode.memory, (1, 1, 1, 1))
    height, width = episode.memory.shape[-2:]
    return replace(
        episode,
        memory=torch.cat([edged[..., top : top + height, left : left + width] for top, left in SHIFTS]),
        memory_index=episode.memory_index.repeat(len(SHIFTS)),
        memory_class=episode.memory_class.repeat(len(SHIFTS)),
    )


def _keys(seed: int, step: int | Tensor, stream: int, counter: Tensor) -> Tensor:
    """63-bit hashes of (seed, step, stream, counter)."""
    # a tensor of one number on the CPU goes into a device's kernels as a constant: it is never copied there
    salt = _mix(torch.tensor(seed))
    salt = _mix(_mix(salt ^ step) ^ stream)
    return _mix(salt ^ counter) & torch.iinfo(torch.int64).max


def _scale(keys: Tensor, bound: int | Tensor) -> Tensor:
    """63-bit hashes to integers in [0, bound) by their upper 31 bits; the bias is below bound / 2^31."""
    return (keys >> 32) * bound >> 31


def _mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors, whose products wrap around; shifts are made logical by masks."""
    value = value + -0x61C8864680B583EB
    value = (value ^ (value >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    value = (value ^ (value >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return value ^ (value >> 31 & 0x1FFFFFFFF)
