"""What a run is: frozen specs of a training, of an evaluation and of the cell that they make together."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.store import spec_id
from vma.data.episodes import EpisodeSpec

BY_CLASS = ("per_class", "gmn")  # protocols whose memories are made of classes


@dataclass(frozen=True)
class TrainSpec:
    """One training run. The defaults are the paper's for few-shot learning on the 45/5 split (section 4.2).

    The number of updates is no part of it: a run is a stream of updates that can be stopped and taken up anywhere, and
    a row says how many were made. Only a recipe whose learning rate decays names the update at which it ends.
    """

    model: str = "vma"
    read: str | None = None  # of soft attention: images or features
    recipe: str = "paper"
    dataset: str = "omniglot45_5"
    image_size: int = 26
    network: str = "paper"
    episode: EpisodeSpec = field(default_factory=EpisodeSpec)
    num_samples: int = 4
    similarity: str = "paper"
    prior: str = "learned"
    learning_rate: float = 3e-4
    weight_decay: float = 0.0  # L2 in the loss: adds weight_decay * w to the gradient before Adam scales it
    warmup: int = 0
    decay_updates: int | None = None
    clip: float | None = None
    learned_entries: int | None = None  # of a memory that is learned; the model then sees none in its episodes
    memory_shape: tuple[int, ...] | None = None  # of a learned entry; None is an image
    growth: tuple[tuple[int, int], ...] | None = None  # (memory size, until update), then the episode's
    episodes_per_update: int | None = None  # an update's minibatch holds the targets of that many episodes; None is 1
    tied: bool | None = None  # whether the embedding networks of q(a|x) share the other networks' pyramids
    estimator: str | None = None  # of the leave-one-out bound: None is the arithmetic mean, or "geometric"
    path: str | None = None  # of the computation: None is the fast one, or "reference"
    # embed all entries without gradient, those drawn and so many sampled ones with it; None is all with gradient
    gradient_entries: int | None = None
    seed: int = 0
    dtype: str = "float32"
    threads: int = 2

    @property
    def train_id(self) -> str:
        """The hash that names the run."""
        return spec_id(identity(self))

    @property
    def science_id(self) -> str:
        """The hash of what decides the numbers up to rounding: all but the path, the precision and the number of
        threads.
        """
        return spec_id({k: v for k, v in identity(self).items() if k not in ("dtype", "threads", "path")})


def identity(spec: Any) -> dict[str, Any]:
    """The fields of a spec that are not None, nested ones too: a field that is added with the default None changes no
    hash.
    """
    return asdict(spec, dict_factory=lambda items: {k: v for k, v in items if v is not None})


@dataclass(frozen=True)
class EvalSpec:
    """One evaluation: how many targets of which split, drawn how, with how many samples each, and what is computed.

    `task` None is the bound and its parts; the others are the names in `benchmarks.tasks`. `memory_size` leaves that
    many entries of each episode's memory, one of every class among them.
    """

    episode: EpisodeSpec
    num_samples: int = 4
    targets: int = 1000
    split: str = "test"
    task: str | None = None
    memory_size: int | None = None
    seed: int = 0
    dtype: str = "float32"
    threads: int = 2

    @property
    def steps(self) -> range:
        """The episodes that hold at least `targets` targets."""
        return range(-(-self.targets // self.episode.num_targets))

    @property
    def eval_id(self) -> str:
        """The hash that names the evaluation."""
        return spec_id(identity(self))


@dataclass(frozen=True)
class Cell:
    """What is trained and what is evaluated. `updates` is what the experiment asks of the training, None if nothing is
    to be trained; `variant` is its name among variants of one experiment.
    """

    train: TrainSpec
    eval: EvalSpec
    updates: int | None = None
    variant: str | None = None

    def row(self) -> dict[str, Any]:
        """The keys of a result row that the specs decide."""
        train, evaluation = self.train, self.eval
        conditioned = train.model != "vae"
        memory = train.learned_entries if train.learned_entries else train.episode.num_entries
        tested = train.learned_entries or evaluation.memory_size or evaluation.episode.num_entries
        trained_by_class = conditioned and train.episode.protocol in BY_CLASS
        tested_by_class = conditioned and evaluation.episode.protocol in BY_CLASS
        return {
            "model": train.model,
            "read": train.read,
            "recipe": train.recipe,
            "dataset": train.dataset,
            "split": evaluation.split,
            "protocol": evaluation.episode.protocol if conditioned else "none",
            "train_seed": train.seed,
            "learning_rate": train.learning_rate,
            "train_classes": train.episode.classes if trained_by_class else None,
            "train_shots": train.episode.shots if trained_by_class else None,
            "train_memory_size": memory if conditioned else None,
            "train_num_samples": train.num_samples,
            "train_protocol": train.episode.protocol if conditioned else "none",
            "classes": evaluation.episode.classes if tested_by_class else None,
            "shots": evaluation.episode.shots if tested_by_class else None,
            "memory_size": tested if conditioned else None,
            "num_samples": evaluation.num_samples,
            "threads": evaluation.threads,
            "dtype": evaluation.dtype,
            "weight_decay": train.weight_decay,
            "variant": self.variant,
        }


def train_spec(identity: Mapping[str, Any]) -> TrainSpec:
    """The training spec with this `identity`.

    Raises:
        TypeError: if it names a field that there is none of.
    """
    return TrainSpec(**{**_tuples(identity), "episode": EpisodeSpec(**identity["episode"])})


def eval_spec(identity: Mapping[str, Any]) -> EvalSpec:
    """The evaluation spec with this `identity`.

    Raises:
        TypeError: if it names a field that there is none of.
    """
    return EvalSpec(**{**identity, "episode": EpisodeSpec(**identity["episode"])})


def _tuples(value: Any) -> Any:
    """JSON has lists where a frozen spec has tuples."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
