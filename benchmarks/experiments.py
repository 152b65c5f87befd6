"""Each table and figure as data: what is trained, and the cells that are evaluated."""

from dataclasses import replace

from benchmarks.spec import Cell, EvalSpec, TrainSpec
from vma.data.episodes import EpisodeSpec

TABLE1_CLASSES = (1, 2, 4, 16)
TABLE1_SHOTS = (1, 2, 3, 4, 5, 10, 19)
TABLE1_NUM_SAMPLES = 1000
SCALING_CLASSES = (1, 2, 4, 8, 16, 32, 64, 96, 144)


def table1_training() -> dict[str, TrainSpec]:
    """The three models of Table 1 on GMN's Omniglot: the reduced network and 3e-4 L2 on all parameters (section 4.2).

    Open in the text, and decided here: episodes of 8 classes x 4 targets with 4 examples a class in memory, as in the
    few-shot experiments; 3e-4 of the two learning rates; soft attention on the very same episodes with one sample
    (section 5), reading features rather than images (see the README for how the two compare on validation classes); the
    plain VAE with one sample too.
    """
    vma = TrainSpec(dataset="omniglot_gmn", image_size=28, network="small", weight_decay=3e-4)
    return {
        "vma": vma,
        "soft": replace(vma, model="soft", read="features", num_samples=1),
        "vae": replace(vma, model="vae", num_samples=1),
    }


def table1_cells(train: TrainSpec, protocol: str, targets: int) -> list[Cell]:
    """The cells of one model in Table 1: one target an episode, the same targets in each cell. A plain VAE has one
    cell.
    """

    def cell(classes: int, shots: int) -> Cell:
        episode = EpisodeSpec(protocol, classes, targets_per_class=1, shots=shots, target_classes=1)
        return Cell(train, EvalSpec(episode, TABLE1_NUM_SAMPLES, targets, dtype=train.dtype, threads=train.threads))

    if train.model == "vae":
        return [cell(1, 1)]
    return [cell(classes, shots) for classes in TABLE1_CLASSES for shots in TABLE1_SHOTS]


def scaling_training() -> TrainSpec:
    """The model of Figure 5A: 45/5 Omniglot, 8 classes x 4 targets, 4 examples a class in memory."""
    return TrainSpec()


def scaling_cell(train: TrainSpec, classes: int, shots: int, num_samples: int, targets: int) -> Cell:
    """One point of Figure 5A: episodes of `classes` classes, each with `shots` entries in memory and one target beside
    them.
    """
    episode = EpisodeSpec("per_class", classes, targets_per_class=1, shots=shots)
    return Cell(train, EvalSpec(episode, num_samples, targets, dtype=train.dtype, threads=train.threads))
