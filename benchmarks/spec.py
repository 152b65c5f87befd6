"""What a run is: frozen specs of a training, of an evaluation and of the cell that they make together."""

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.store import spec_id
from vma.data.episodes import EpisodeSpec


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
    seed: int = 0
    dtype: str = "float32"
    threads: int = 2

    @property
    def train_id(self) -> str:
        """The hash that names the run."""
        return spec_id(identity(self))

    @property
    def science_id(self) -> str:
        """The hash of what decides the numbers up to rounding: all but the precision and the number of threads."""
        return spec_id({k: v for k, v in identity(self).items() if k not in ("dtype", "threads")})


def identity(spec: Any) -> dict[str, Any]:
    """The fields of a spec that are not None, nested ones too: a field that is added with the default None changes no
    hash.
    """
    return asdict(spec, dict_factory=lambda items: {k: v for k, v in items if v is not None})


@dataclass(frozen=True)
class EvalSpec:
    """One evaluation: how many targets of which split, drawn how, and with how many samples each."""

    episode: EpisodeSpec
    num_samples: int = 4
    targets: int = 1000
    split: str = "test"
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
    """What is trained and what is evaluated."""

    train: TrainSpec
    eval: EvalSpec

    def row(self) -> dict[str, Any]:
        """The keys of a result row that the specs decide."""
        train, evaluation, memory = self.train, self.eval, self.train.episode
        conditioned = train.model != "vae"
        return {
            "model": train.model,
            "read": train.read,
            "recipe": train.recipe,
            "dataset": train.dataset,
            "split": evaluation.split,
            "protocol": evaluation.episode.protocol if conditioned else "none",
            "train_seed": train.seed,
            "learning_rate": train.learning_rate,
            "train_classes": memory.classes if conditioned else None,
            "train_shots": memory.shots if conditioned else None,
            "train_memory_size": memory.num_entries if conditioned else None,
            "train_num_samples": train.num_samples,
            "train_protocol": memory.protocol if conditioned else "none",
            "classes": evaluation.episode.classes if conditioned else None,
            "shots": evaluation.episode.shots if conditioned else None,
            "memory_size": evaluation.episode.num_entries if conditioned else None,
            "num_samples": evaluation.num_samples,
            "threads": evaluation.threads,
            "dtype": evaluation.dtype,
        }
