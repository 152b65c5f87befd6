"""What a model lacks is said before it is called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import vma
from baselines import PlainVAE
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec
from vma.errors import InputError
from vma.evaluation import evaluate_memories, own_entry_probability

SIZES = vma.MLPSizes(image=(1, 8, 8), widths=(6, 5), latent=2, embedding=3)


class Short(PlainVAE):
    """Written to a wrong idea of what a model is."""

    def forward(self, x: Any, encoded: Any, num_samples: int, *, generator: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError("is not called")


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return Episodes(load("strokes", image_size=8).test, EpisodeSpec(classes=2, targets_per_class=1, shots=1), 0)


def test_training_and_evaluation_name_what_a_model_lacks(episodes: Episodes) -> None:
    model = Short(SIZES)
    optimizer = torch.optim.Adam(model.parameters())
    for call in (
        lambda: next(vma.fit(model, episodes, vma.iwae, optimizer, 1, range(1))),
        lambda: vma.evaluate(model, episodes, range(1), 1),
    ):
        with pytest.raises(InputError, match=r"^Short lacks the keyword chunk of forward: give what vma.protocol"):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda model, episodes: vma.classify(model, episodes(0), 1),
        lambda model, episodes: own_entry_probability(model, episodes(0)),
        lambda model, episodes: next(evaluate_memories(model, [episodes], range(1), 1)),
    ],
)
def test_a_model_without_an_address_is_told_so(call: Callable[[Any, Episodes], Any], episodes: Episodes) -> None:
    with pytest.raises(InputError, match=r"^PlainVAE (has no address|does not embed)"):
        call(PlainVAE(SIZES), episodes)
