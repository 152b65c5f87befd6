"""Specs of any values: each is trained and evaluated with finite numbers, or refused in a line that names a field."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from helpers import CPU, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.declare import spec
from benchmarks.declare.spec import Cell, EvalSpec, TrainSpec, eval_spec, train_spec
from benchmarks.plan.fill import possible
from benchmarks.runs import build, clock, tasks
from benchmarks.runs.training import train
from benchmarks.runs.weights import spec_at
from reports.command import one_line
from vma import checkpoint
from vma.data import DataSet, ImageSet
from vma.data.episodes import EpisodeSpec
from vma.data.images import make_data_set
from vma.errors import InputError
from vma.training import NonFiniteBound

Fields = dict[str, Any]

EPISODE = {"protocol": "per_class", "classes": 2, "targets_per_class": 1, "shots": 2}
RECALL = {"protocol": "recall", "classes": 2, "targets_per_class": 1, "memory_size": 4}
SEQUENCE = {"protocol": "sequence", "classes": 2, "shots": 3, "sequences": 2}
NO_MEMORY = {"protocol": "none", "classes": 2, "targets_per_class": 1}
SMALL = {"dataset": "tiny", "image_size": 8, "network": "tiny-mlp", "num_samples": 2, "threads": 1}
TRAININGS: tuple[Fields, ...] = (
    SMALL | {"episode": EPISODE},
    SMALL | {"episode": EPISODE, "network": "tiny", "tied": True},
    SMALL | {"episode": EPISODE, "path": "reference"},
    SMALL | {"episode": EPISODE, "gradient_entries": 1},
    SMALL | {"episode": RECALL, "growth": [[2, 1]], "episodes_per_update": 2},
    SMALL | {"episode": NO_MEMORY, "learned_entries": 3, "memory_shape": [7]},
    SMALL | {"episode": NO_MEMORY, "learned_entries": 3, "network": "tiny"},
    SMALL | {"episode": EPISODE, "model": "soft", "read": "images"},
    SMALL | {"episode": EPISODE, "model": "soft", "read": "features", "gradient_entries": 1},
    SMALL | {"episode": EPISODE, "model": "vae", "num_samples": 1},
    SMALL | {"episode": SEQUENCE, "model": "gmn", "network": "tiny", "skips": True, "rate_steps": [[1, 1e-4]]},
    SMALL | {"episode": EPISODE, "model": "gmn", "network": "gmn", "image_size": 12},
)
# What is in order for some trainings and contradicts others; SMALL_NUMBERS are for the fields that are not here.
SMALL_NUMBERS = (None, True, False, 0, 1, 2, 3, 5)
ORDERLY: dict[str, tuple[Any, ...]] = {
    "model": ("vma", "soft", "vae", "gmn", "no.such:model", "torch.nn:Identity"),
    "read": (None, "images", "features"),
    "image_size": (1, 2, 5, 9),
    "network": ("tiny", "tiny-mlp", "small", "gmn"),
    "episode": (
        EPISODE,
        RECALL,
        NO_MEMORY,
        SEQUENCE,
        EPISODE | {"protocol": "gmn", "shots": 5},
        EPISODE | {"target_classes": 1},
    ),
    "similarity": ("paper", "inner", "cosine"),
    "prior": ("learned", "flat"),
    "learning_rate": (1e-3, 1, 1e-300, 1e30),
    "weight_decay": (0.0, 1e-3, 1e30),
    "clip": (1.0, 1e-30, 1e30),
    "rate_steps": (None, [], [[1, 1e-3]], [[1, 1e-3], [2, 1e-4]], [[2, 1e-3], [1, 1e-4]]),
    "beta2": (0.9, 0.99),
    "strength": ("softplus", "clipped"),
    "memory_shape": (None, [3], [1, 8, 8], [2, 8, 8]),
    "growth": (None, [], [[1, 1]], [[2, 1], [3, 2]], [[3, 1], [2, 2]], [[1, 2], [2, 1]]),
    "estimator": ("vimco", *spec.ESTIMATORS),
    "z_gradient": ("iwae", "stl", "dreg", "single"),
    "path": (None, "reference"),
    "seed": (1, 2**31 - 1),
    "dtype": ("float32", "bfloat16"),
    "split": ("train", "validation", "test"),
    "task": (None, *(name for name in tasks.TASKS if name), "wallclock"),
    "protocol": ("per_class", "gmn", "sequence", "recall", "none"),
}
ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 10**6 + 10**4, 10**9 + 1, 2**31, 2**63, 10**30, 1.0, 2.5, -0.0, 1e39]
    ),
    st.sampled_from([math.nan, math.inf, -math.inf, "", "x", "vma ", "4", "nan", "\ud800", "a\nb", "x" * 300]),
    st.sampled_from([[], [4], [[4]], [[4, 1, 2]], [[[4]]], [0, 8, 8], [4] * 40, [10**5, 10**5], {}, {"a": 1}, [None]]),
    st.integers(min_value=-(10**20), max_value=0),
    st.floats(max_value=0),
    st.text(max_size=5),
)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without the tests' checks of types, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@cache
def data_set(image_size: int) -> DataSet:
    """Random images; some are blank, and one class has two drawings in the place of six."""
    generator = seeded(image_size)

    def images(classes: int) -> ImageSet:
        counts = torch.tensor([2, *[6] * (classes - 1)])
        shape = (int(counts.sum()), 1, image_size, image_size)
        drawn = torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)
        drawn[::5] = 0
        return ImageSet(drawn, torch.nn.functional.pad(counts.cumsum(0), (1, 0)))

    return make_data_set("tiny", images(8), images(3), images(5))


def changed(values: Fields, known: tuple[str, ...], changes: int) -> st.SearchStrategy[Fields]:
    """The fields with up to so many of those that are known changed to what is in order elsewhere, or to anything."""
    sources = {name: st.sampled_from(ORDERLY.get(name, SMALL_NUMBERS)) | ODD for name in known}
    sources["episode"] = st.sampled_from(ORDERLY["episode"])  # other than these it is no fields at all: see below
    some = st.sets(st.sampled_from(known), max_size=changes)
    return some.flatmap(lambda names: st.fixed_dictionaries({name: sources[name] for name in sorted(names)})).map(
        lambda new: values | new
    )


def names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def trainings() -> st.SearchStrategy[Fields]:
    def whole(values: Fields) -> st.SearchStrategy[Fields]:
        episodes = changed(values["episode"], names(EpisodeSpec), 1).map(lambda episode: values | {"episode": episode})
        return changed(values, names(TrainSpec), 2) | episodes

    return st.sampled_from(TRAININGS).flatmap(whole)


def cells() -> st.SearchStrategy[Fields]:
    def whole(training: Fields) -> st.SearchStrategy[Fields]:
        evaluation = {"episode": training["episode"], "num_samples": 3, "targets": 2, "threads": 1}
        cell = {"train": training, "updates": 2}
        return st.tuples(
            changed(cell, ("updates", "variant"), 1) | st.just(cell), changed(evaluation, names(EvalSpec), 2)
        ).map(lambda parts: parts[0] | {"eval": parts[1]})

    return trainings().flatmap(whole)


def made(values: Fields) -> Cell:
    """The cell, its fields as JSON has them."""
    with unchecked():
        read = json.loads(json.dumps(values))
        return Cell(**read | {"train": train_spec(read["train"]), "eval": eval_spec(read["eval"])})


def ran(cell: Cell) -> None:
    """Train for two updates and evaluate."""
    data = data_set(cell.train.image_size)
    possible([cell], data)
    if cell.eval.task == "wallclock":
        results = [result for _, result in clock.time_updates([cell], data, CPU, lambda done, total: None)]
    else:
        trained = train(cell.train, data, CPU, updates=2)
        results = tasks.evaluate_group(trained, [cell], data, CPU, lambda done, total: None)
    for result in results:
        assert all(math.isfinite(metric["value"]) for metric in result.metrics), result.metrics


def complaint(values: Fields, use: Callable[[], object]) -> str | None:
    """What is wrong with how a spec is used; None if it runs, or is refused in a line that names a field."""
    try:
        use()
    except InputError as error:
        message = one_line(str(error))
        named = {name for kind in (TrainSpec, EvalSpec, EpisodeSpec, Cell) for name in names(kind)}
        if not any(name in message for name in named | {"does not say what was trained"}):
            return f"said {message!r}"
    except NonFiniteBound as error:  # which the command says in a line too
        wild = max(values["train"].get(name, 0) for name in ("learning_rate", "weight_decay"))
        return None if wild >= 1 else f"{error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_any_spec_runs_or_is_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(clock, "peak_of_updates", lambda *_: 0)  # collects garbage, which takes long

    @given(cells())
    @settings(max_examples=150)
    def attempt(values: Fields) -> None:
        assert complaint(values, lambda: ran(made(values))) is None

    attempt()


def test_any_metadata_of_a_checkpoint_are_a_spec_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    anything = st.recursive(ODD, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part))
    unknown = st.tuples(trainings(), st.text(max_size=5), ODD).map(lambda parts: parts[0] | {parts[1]: parts[2]})

    @given(anything | trainings() | unknown)
    @settings(max_examples=200)
    def attempt(values: Any) -> None:
        meta = {"spec": json.loads(json.dumps(values))}
        monkeypatch.setattr(checkpoint, "load", lambda *_, **__: checkpoint.Checkpoint({}, meta))
        with unchecked():
            assert complaint({"train": {}}, lambda: spec_at(Path("weights"))) is None

    attempt()


def test_the_names_of_a_spec_are_those_that_something_is_made_of() -> None:
    assert {*tasks.TASKS, "wallclock"} == {None, *spec.TASKS}
    for network in spec.NETWORKS:
        assert build.sizes(TrainSpec(model="vae", network=network)).image == (1, 26, 26)
