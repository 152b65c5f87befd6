"""Episodes: pure functions of (seed, step), the memory that each protocol promises, uniform choices, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import refused, seeded
from scipy.stats import chisquare
from torch import Tensor

from vma.data import ImageSet
from vma.data.episodes import Episode, Episodes, EpisodeSpec, _mix, shifted_memory, subsample_memory, turned

INT64 = torch.iinfo(torch.int64)
SPECS = {
    "per_class": EpisodeSpec(classes=4, targets_per_class=2, shots=3),
    "per_class, one target class": EpisodeSpec(classes=5, targets_per_class=3, shots=2, target_classes=1),
    "gmn": EpisodeSpec("gmn", classes=2, targets_per_class=5, shots=19, target_classes=1),
    "sequence": EpisodeSpec("sequence", classes=2, shots=6, sequences=4),
    "recall": EpisodeSpec("recall", classes=4, targets_per_class=4, memory_size=30),
    "none": EpisodeSpec("none", classes=4, targets_per_class=4),
}
each = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def image_set(drawings: list[int]) -> ImageSet:
    """Random images whose classes have so many drawings each."""
    images = torch.randint(0, 2, (sum(drawings), 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    return ImageSet(images, torch.tensor([0, *drawings]).cumsum(0))


EVEN = image_set([20] * 10)
RAGGED = image_set([3, 20, 5, 1, 7, 4, 9, 2, 6, 5])


def indices(episode: Episode) -> list[Any]:
    parts = (episode.x_index, episode.memory_index, episode.x_class, episode.memory_class)
    return [None if part is None else part.tolist() for part in parts]


def counts(index: list[Tensor], n: int) -> Tensor:
    return torch.bincount(torch.cat(index), minlength=n)


# --- purity


@each
def test_an_episode_is_a_pure_function_of_seed_and_step(spec: EpisodeSpec) -> None:
    forward, backward = Episodes(EVEN, spec, 7), Episodes(EVEN, spec, 7)
    first = {step: indices(forward(step)) for step in (0, 1, 2, 10**12)}
    assert {step: indices(backward(step)) for step in reversed(first)} == first
    others = [indices(Episodes(EVEN, spec, seed)(step)) for seed in (7, 8) for step in range(50)]
    assert len({str(other) for other in others}) == 100


@each
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_step_that_is_a_tensor_gives_the_same_episode(spec: EpisodeSpec, device: str) -> None:
    """It counts on the device, inside a CUDA graph."""
    episodes = Episodes(EVEN.to(device), spec, 7)
    for step in (0, 1, 2, 10**12):
        given, counted = episodes(step), episodes(torch.full((), step, device=device))
        assert indices(counted) == indices(given)
        assert torch.equal(counted.x, given.x)


@pytest.mark.cuda
@each
def test_an_episode_is_the_same_on_every_device(spec: EpisodeSpec) -> None:
    for part in (EVEN, RAGGED):
        spec = spec if part is EVEN else replace(spec, classes=2, targets_per_class=1)
        for step in range(20):
            assert indices(Episodes(part.to("cuda"), spec, 7)(step)) == indices(Episodes(part, spec, 7)(step))


@each
def test_what_an_episode_says_of_its_images_is_true(spec: EpisodeSpec) -> None:
    for step in range(20):
        episode = Episodes(EVEN, spec, 0)(step)
        assert len(episode.x) == spec.num_targets
        assert episode.x.dtype == torch.float32
        assert torch.equal(episode.x, EVEN.images[episode.x_index].float())
        assert torch.equal(episode.x_class, EVEN.labels[episode.x_index])
        if spec.protocol == "none":
            assert episode.memory is episode.memory_index is episode.memory_class is None
            assert not episode.duplicated.any()
            continue
        assert len(episode.memory) == spec.num_entries
        assert torch.equal(episode.memory, EVEN.images[episode.memory_index].float())
        assert torch.equal(episode.memory_class, EVEN.labels[episode.memory_index])
        seen = episode.seen().get("visible", torch.ones(len(episode.x), len(episode.memory), dtype=torch.bool))
        inside = [index in episode.memory_index[s] for index, s in zip(episode.x_index, seen, strict=True)]
        assert episode.duplicated.tolist() == inside


def splitmix64(value: int) -> int:
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & mask
    return value ^ (value >> 31)


def test_mix_is_splitmix64() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # the published first output for this seed
    drawn = torch.randint(INT64.min, INT64.max, (500,), generator=seeded())
    values = torch.cat((drawn, torch.tensor([0, 1, -1, INT64.min, INT64.max])))
    assert [v % 2**64 for v in _mix(values).tolist()] == [splitmix64(v % 2**64) for v in values.tolist()]


# --- protocols


@pytest.mark.parametrize("target_classes", [None, 1, 3])
def test_per_class_memory_has_other_drawings_of_the_targets_classes(target_classes: int | None) -> None:
    spec = EpisodeSpec(classes=4, targets_per_class=2, shots=3, target_classes=target_classes)
    for part in (EVEN, RAGGED):
        for step in range(30):
            episode = Episodes(part, spec, 0)(step)
            drawn = episode.x_index.tolist() + episode.memory_index.tolist()
            assert len(set(drawn)) == len(drawn)
            classes, shots = episode.memory_class.unique(return_counts=True)
            assert shots.tolist() == [3] * 4
            target_classes_drawn, targets = episode.x_class.unique(return_counts=True)
            assert targets.tolist() == [2] * (target_classes or 4)
            assert set(target_classes_drawn.tolist()) <= set(classes.tolist())
            assert (part.offsets.diff()[classes] >= 5).all()  # a class with fewer drawings is never chosen


@pytest.mark.parametrize("target_classes", [None, 1])
def test_more_shots_or_classes_only_add_memory(target_classes: int | None) -> None:
    """Cells of one table share their targets."""
    small = EpisodeSpec(classes=2, targets_per_class=2, shots=2, target_classes=target_classes)
    for step in range(30):
        base = Episodes(EVEN, small, 0)(step)
        memory = set(base.memory_index.tolist())
        for change in ({"shots": 3}, {"shots": 18}, {"classes": 3}, {"classes": 10, "shots": 9}):
            larger = Episodes(EVEN, replace(small, **change), 0)(step)
            assert memory < set(larger.memory_index.tolist())
            assert larger.x_index.tolist()[: len(base.x_index)] == base.x_index.tolist()
            assert target_classes is None or len(larger.x_index) == len(base.x_index)
        wider = Episodes(EVEN, replace(small, classes=5), 0)(step)  # the first entries are the very same, in order
        assert wider.memory_index.tolist()[: len(memory)] == base.memory_index.tolist()


def test_gmn_targets_do_not_depend_on_classes_or_shots() -> None:
    small = EpisodeSpec("gmn", classes=1, targets_per_class=3, shots=1, target_classes=1)
    for step in range(30):
        targets = indices(Episodes(EVEN, small, 0)(step))[0]
        entries = [indices(Episodes(EVEN, replace(small, classes=4, shots=n), 0)(step)) for n in (2, 5, 19)]
        assert all(x_index == targets for x_index, *_ in entries)
        assert all(entries[2][1][: len(memory)] == memory for _, memory, *_ in entries)


@pytest.mark.parametrize(("classes", "probability"), [(1, 0.6226), (2, 0.3819), (4, 0.2126)])
def test_gmn_memory_is_drawn_with_replacement(classes: int, probability: float) -> None:
    """A target is among 19 objects with probability 1 - (1 - 1/(20 C))^19; here all drawings of a class are targets."""
    assert probability == pytest.approx(1 - (1 - 1 / (20 * classes)) ** 19, abs=1e-4)
    episodes = Episodes(EVEN, EpisodeSpec("gmn", classes, 20, 19, target_classes=1), 0)
    drawn = [episodes(step) for step in range(150)]
    assert all(len(episode.memory) == 19 and len(episode.x_index.unique()) == 20 for episode in drawn)
    assert all(len(episode.memory_class.unique()) <= classes for episode in drawn)
    assert torch.cat([e.duplicated for e in drawn]).float().mean() == pytest.approx(probability, abs=0.03)
    assert chisquare(counts([e.memory_index % 20 for e in drawn], 20)).pvalue > 1e-3
    of_target = torch.cat([e.memory_class == e.x_class[0] for e in drawn]).float().mean()
    assert of_target == pytest.approx(1 / classes, abs=0.03)


def test_gmn_draws_stay_in_their_class_where_classes_are_ragged() -> None:
    episodes = Episodes(RAGGED, EpisodeSpec("gmn", classes=3, targets_per_class=4, shots=40, target_classes=1), 0)
    for step in range(30):
        episode = episodes(step)
        assert len(episode.memory_class.unique()) <= 3
        assert (RAGGED.offsets.diff()[episode.memory_class] >= 4).all()


def test_a_target_of_a_sequence_sees_what_came_before_it() -> None:
    episode = Episodes(EVEN, SPECS["sequence"], 0)(3)
    assert episode.x is episode.memory
    assert episode.x_index is episode.memory_index
    for b, row in enumerate(episode.visible.tolist()):
        assert [j for j, sees in enumerate(row) if sees] == [*range(b - b % 6, b)]
    rows = torch.tensor([5, 6, 23])
    assert torch.equal(episode.seen(rows)["visible"], episode.visible[rows])


def test_sequences_are_drawn_with_replacement() -> None:
    """Two classes of ten, each object's class and drawing from theirs: in a sequence of two, the second object is the
    first with probability (1/2 + 1/2 * 1/10) / 20.
    """
    episodes = Episodes(EVEN, EpisodeSpec("sequence", classes=2, shots=2, sequences=1000), 0)
    drawn = [episodes(step) for step in range(20)]
    assert chisquare(counts([e.x_class for e in drawn], 10)).pvalue > 1e-3
    assert chisquare(counts([e.x_index for e in drawn], 200)).pvalue > 1e-3
    pairs = torch.cat([e.x_class.view(-1, 2) for e in drawn])
    assert (pairs[:, 0] == pairs[:, 1]).float().mean() == pytest.approx(0.55, abs=0.015)
    second = torch.cat([e.duplicated.view(-1, 2) for e in drawn])
    assert not second[:, 0].any()
    assert second[:, 1].float().mean() == pytest.approx(0.0275, abs=0.005)
    for step in range(20):
        ragged = Episodes(RAGGED, EpisodeSpec("sequence", classes=3, shots=40, sequences=5), 0)(step)
        assert torch.equal(RAGGED.labels[ragged.x_index], ragged.x_class)
        assert all(len(classes.unique()) <= 3 for classes in ragged.x_class.view(5, 40))


def test_recall_has_every_target_in_memory() -> None:
    for step in range(50):
        episode = Episodes(RAGGED, SPECS["recall"], 0)(step)
        assert episode.duplicated.all()
        assert len(episode.memory_index.unique()) == 30
    whole = Episodes(RAGGED, EpisodeSpec("recall", memory_size=len(RAGGED.images)), 0)(0)
    assert sorted(whole.memory_index.tolist()) == [*range(len(RAGGED.images))]


# --- a part of memory


MEMORIES = ["per_class", "per_class, one target class", "gmn", "recall"]


@pytest.mark.parametrize("spec", [SPECS[name] for name in MEMORIES], ids=MEMORIES)
def test_a_part_of_memory_holds_every_class_and_the_parts_are_nested(spec: EpisodeSpec) -> None:
    for step in range(5):
        whole = Episodes(RAGGED if spec.protocol == "recall" else EVEN, spec, 0)(step)
        M, present = len(whole.memory), set(whole.memory_class.tolist())
        smaller: list[int] = []
        for size in range(len(present), M + 1):
            part = subsample_memory(whole, size, 3, step)
            assert len(part.memory) == len(part.memory_index) == len(part.memory_class) == size
            assert set(part.memory_class.tolist()) == present
            found = part.memory_index.tolist()
            rest = iter(whole.memory_index.tolist())
            assert all(index in rest for index in found)  # in memory's own order
            larger = iter(found)
            assert all(index in larger for index in smaller)
            smaller = found
            for index, image, label in zip(part.memory_index, part.memory, part.memory_class, strict=True):
                place = whole.memory_index.tolist().index(index.item())
                assert torch.equal(image, whole.memory[place])
                assert label == whole.memory_class[place]
            assert part.x is whole.x
            assert part.x_index is whole.x_index
        assert indices(part) == indices(whole)


def test_a_part_of_memory_is_a_pure_function_of_seed_and_step() -> None:
    whole = Episodes(EVEN, EpisodeSpec(shots=16, classes=2), 0)(0)
    parts = {(s, step): indices(subsample_memory(whole, 9, s, step))[1] for s in range(5) for step in range(9)}
    assert {key: indices(subsample_memory(whole, 9, *key))[1] for key in reversed(parts)} == parts
    assert len({str(part) for part in parts.values()}) == 45


@pytest.mark.cuda
def test_a_part_of_memory_is_the_same_on_every_device() -> None:
    for step in range(20):
        whole = [Episodes(EVEN.to(device), SPECS["gmn"], 7)(step) for device in ("cpu", "cuda")]
        one, other = (indices(subsample_memory(episode, 5, 1, step)) for episode in whole)
        assert one == other


def test_the_entries_of_a_part_of_memory_are_drawn_uniformly() -> None:
    """Which entry of a class is the one that stays for sure, and which others do."""
    whole = Episodes(EVEN, EpisodeSpec(classes=3, targets_per_class=1, shots=6), 0)(0)
    place = {index: i for i, index in enumerate(whole.memory_index.tolist())}
    for size in (3, 7):
        kept = [subsample_memory(whole, size, 0, step).memory_index for step in range(500)]
        drawn = torch.tensor([place[i] for i in torch.cat(kept).tolist()])
        assert chisquare(torch.bincount(drawn, minlength=18)).pvalue > 1e-3


@pytest.mark.parametrize("size", [3, 13])
def test_parts_of_memory_that_cannot_be_are_refused(size: int) -> None:
    message = f"memory_size is {size}, must lie between the 4 classes in memory and its 12 entries"
    with refused(f"^{message}$"):
        subsample_memory(Episodes(EVEN, SPECS["per_class"], 0)(0), size, 0, 0)


# --- uniformity


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("none", "sequence")])
def test_shifted_entries_stand_beside_their_own(name: str) -> None:
    episode = Episodes(EVEN, SPECS[name], 3)(2)
    shifted = shifted_memory(episode)
    entries, height, width = len(episode.memory), *episode.memory.shape[-2:]
    assert torch.equal(shifted.x, episode.x)
    copies = shifted.memory.split(entries)
    assert torch.equal(copies[0], episode.memory)
    found = set()
    for copy in copies[1:]:
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            moved = episode.memory.roll((down, right), (-2, -1))
            moved[..., [0] if down > 0 else [height - 1] if down < 0 else [], :] = 0
            moved[..., [0] if right > 0 else [width - 1] if right < 0 else []] = 0
            if torch.equal(moved, copy):
                found.add((down, right))
    assert len(found) == len(copies) - 1 == 4
    assert torch.equal(shifted.memory_index, episode.memory_index.repeat(5))
    assert torch.equal(shifted.memory_class, episode.memory_class.repeat(5))


def test_choices_are_uniform() -> None:
    few = [Episodes(EVEN, EpisodeSpec(classes=1, targets_per_class=1, shots=1), 3)(step) for step in range(600)]
    assert chisquare(counts([e.x_class for e in few], 10)).pvalue > 1e-3
    assert chisquare(counts([e.x_index % 20 for e in few], 20)).pvalue > 1e-3
    pair = [20 * (e.x_index % 20) + e.memory_index % 20 for e in few]
    off_diagonal = ~torch.eye(20, dtype=torch.bool).flatten()
    assert chisquare(counts(pair, 400)[off_diagonal]).pvalue > 1e-3
    plain = Episodes(RAGGED, EpisodeSpec("none", classes=1, targets_per_class=6200), 3)
    assert chisquare(counts([plain(0).x_index], len(RAGGED.images))).pvalue > 1e-3
    recall = [Episodes(RAGGED, EpisodeSpec("recall", 1, 1, memory_size=5), 3)(step) for step in range(400)]
    assert chisquare(counts([e.x_index for e in recall], len(RAGGED.images))).pvalue > 1e-3


# --- refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 2**10, "shots": 2**10}, "classes x shots is 1048576, must be 1 or more"),
        ({"target_classes": 9}, "target_classes is 9, must be 1 or more, a whole number up to 8"),
        ({"memory_size": 5}, "memory_size is given with protocol recall, and only with it"),
        ({"protocol": "recall"}, "memory_size is given with protocol recall, and only with it"),
        ({"sequences": 2}, "sequences is given with protocol sequence, and only with it"),
        ({"protocol": "sequence", "sequences": 2**11}, "sequences x shots is 8192"),
    ],
)
def test_specs_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with refused(f"^{message}"):
        EpisodeSpec(**fields)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EpisodeSpec(), "8 classes with 8 drawings each are needed, the set has 2"),
        (EpisodeSpec("gmn", shots=19), "8 classes with 4 drawings each are needed, the set has 7"),
        (EpisodeSpec("recall", memory_size=63), "memory_size is 63, the set has 62 images: lower memory_size"),
    ],
)
def test_sets_that_are_too_small_are_refused(spec: EpisodeSpec, message: str) -> None:
    with refused(f"^{message}"):
        Episodes(RAGGED, spec, 0)


@pytest.mark.parametrize("orientation", range(8))
def test_an_image_is_turned_and_mirrored_exactly(orientation: int) -> None:
    images = torch.rand(2, 1, 6, 6, generator=seeded())
    expected = torch.rot90(images, orientation % 4, (2, 3))
    found = turned(images, torch.full((2,), orientation))
    assert torch.equal(found, expected.flip(3) if orientation >= 4 else expected)


@pytest.mark.parametrize("upright", [None, 0.5])
def test_a_class_is_turned_as_a_whole(upright: float | None) -> None:
    images = image_set([6] * 9)
    plain = EpisodeSpec(classes=4, targets_per_class=2, shots=2)
    seen, same = set(), 0
    for step in range(60):
        before = Episodes(images, plain, 1)(step)
        after = Episodes(images, replace(plain, turned=8, upright=upright), 1)(step)
        assert torch.equal(before.x_index, after.x_index)
        drawn, changed = torch.cat((before.x, before.memory)), torch.cat((after.x, after.memory))
        for one in range(4):
            members = [2 * one, 2 * one + 1, 8 + 2 * one, 8 + 2 * one + 1]
            ways = [turned(drawn[members], torch.full((4,), orientation)) for orientation in range(8)]
            found = {orientation for orientation in range(8) if torch.equal(ways[orientation], changed[members])}
            assert found
            seen |= found if len(found) == 1 else set()
            same += 0 in found
    assert len(seen) == 8
    assert (same > 90) == (upright is not None)


def test_the_number_of_examples_is_drawn_anew_in_each_episode() -> None:
    spec = EpisodeSpec(classes=3, targets_per_class=4, shots=16, fewest_shots=1)
    drawn = Episodes(EVEN, spec, 3)
    found = []
    for step in range(200):
        episode, full = drawn(step), Episodes(EVEN, replace(spec, fewest_shots=None), 3)(step)
        found.append(len(episode.memory_index) // 3)
        assert torch.equal(episode.x_index, full.x_index)
        assert torch.equal(episode.memory_index.view(3, -1), full.memory_index.view(3, 16)[:, : found[-1]])
    assert {min(found), max(found)} == {1, 16}
    assert 0.35 < sum(n > 4 for n in found) / 200 < 0.55  # log(17 / 5) / log(17) = 0.43
