"""The declared experiments: whole, hashable, readable back, and drawable on the data that they name."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from benchmarks.declare import __main__ as declare
from benchmarks.declare.experiments import (
    EXPERIMENTS,
    Experiment,
    estimator_trainings,
    recall_training,
    smoke,
    table1_training,
)
from benchmarks.declare.spec import ESTIMATORS, Cell, eval_spec, identity, train_spec
from benchmarks.record import store
from benchmarks.runs import tasks
from benchmarks.runs.weights import weights_path
from vma import checkpoint
from vma.data import load
from vma.data.episodes import Episodes
from vma.model import Z_GRADIENTS

STROKES = load("strokes", image_size=12)
DECLARED = {name: declare() for name, declare in EXPERIMENTS.items()}
SMOKE = {name: smoke(experiment) for name, experiment in DECLARED.items()}


def every(experiments: Iterable[Experiment]) -> list[Cell]:
    return [cell for experiment in experiments for cell in experiment.cells]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_is_and_has_no_cell_twice(name: str) -> None:
    for experiment in (DECLARED[name], SMOKE[name]):
        assert experiment.name == name
        assert experiment.paper
        assert experiment.what
        assert len(set(experiment.cells)) == len(experiment.cells) > 0


@pytest.mark.parametrize("cell", {c.train: c for c in every([*DECLARED.values(), *SMOKE.values()])}.values())
def test_specs_are_read_back_from_json(cell: Cell) -> None:
    assert train_spec(json.loads(json.dumps(identity(cell.train)))) == cell.train
    assert eval_spec(json.loads(json.dumps(identity(cell.eval)))) == cell.eval


def test_a_training_is_asked_for_one_number_of_updates() -> None:
    asked: dict[str, set[int | None]] = {}
    for cell in every(DECLARED.values()):
        asked.setdefault(cell.train.train_id, set()).add(cell.updates)
    assert all(len(updates) == 1 for updates in asked.values())


def test_smoke_runs_have_ids_of_their_own() -> None:
    real, tiny = every(DECLARED.values()), every(SMOKE.values())
    assert not {c.train.train_id for c in real} & {c.train.train_id for c in tiny}
    assert all(c.train.recipe.startswith("smoke") and c.train.dataset == "strokes" for c in tiny)


def test_new_fields_left_the_ids_of_committed_results_as_they_were() -> None:
    vma = replace(table1_training()["vma"], dtype="bfloat16", threads=1)
    assert vma.train_id == "8ddbd0e0b199"
    assert vma.science_id == "1794fc2f129d"
    rows = store.read_rows(store.ROOT / "results" / "table1.jsonl")
    cells = [replace(c, eval=replace(c.eval, dtype="bfloat16", threads=1)) for c in DECLARED["table1"].cells]
    assert {row["eval_id"] for row in rows if (row["threads"], row["dtype"]) == (1, "bfloat16")} <= {
        c.eval.eval_id for c in cells
    }


def test_scaling_and_shots_share_their_targets_and_pass_2500_entries() -> None:
    for name in ("scaling", "shots"):
        cells = [c for c in DECLARED[name].cells if c.train.model == "vma" and c.eval.num_samples == 4]
        first = {int(Episodes(STROKES.test, c.eval.episode, 0)(3).x_index) for c in cells}
        assert len(first) == 1
        assert max(c.eval.episode.num_entries for c in cells) == 144 * 19


def test_a_memory_that_grows_ends_at_its_size() -> None:
    assert recall_training(64, grown=True).growth is None
    assert recall_training(256, grown=True).growth == ((64, 6000),)
    assert recall_training(2048, grown=True).growth == ((64, 6000), (256, 12_000), (1024, 18_000))
    assert recall_training(2048, grown=False).growth is None


def test_ablations_change_one_thing_each() -> None:
    trainings = {c.variant: c.train for c in DECLARED["ablations"].cells}
    control = identity(trainings.pop("control"))
    for variant, train in trainings.items():
        changed = {k for k in identity(train) | control if identity(train).get(k) != control.get(k)}
        assert len(changed) == 1, variant


def test_estimators_change_what_their_name_says_and_begin_from_shipped_weights() -> None:
    trainings = estimator_trainings()
    for way in ("started", "scratch"):
        control = identity(trainings[f"{way}-vimco"])
        for name in (*ESTIMATORS, *Z_GRADIENTS[1:]):
            changed = identity(trainings[f"{way}-{name}"]).items() ^ control.items()
            assert dict(changed) in ({"estimator": name}, {"z_gradient": name})
    starts = {train.start for name, train in trainings.items() if name.startswith("started-")}
    path = weights_path(table1_training()["vma"])
    assert starts == {f"{path.stem}-{checkpoint.load(path).meta['update']}"}


def test_groups_hold_what_shares_targets() -> None:
    cells = DECLARED["scaling"].cells
    by_group = tasks.groups(cells)
    assert sorted(map(id, (c for group in by_group for c in group))) == sorted(map(id, cells))
    vma = [group for group in by_group if group[0].train.model == "vma"]
    assert [len(group) for group in vma] == [27] * 4  # K = 4 and K = 1,000, by both recipes
    assert all(len({c.train for c in group}) == 1 for group in by_group)
    assert all(len(group) == 1 for group in tasks.groups(DECLARED["fewshot"].cells))


def test_what_readers_without_torch_see_is_what_is_declared() -> None:
    assert declare.PATH.read_text(encoding="utf-8") == declare.text(), "python -m benchmarks.declare writes it anew"


def test_declared_cells_are_told_apart_by_the_least_keys() -> None:
    for name, experiment in EXPERIMENTS.items():
        found = declare.declared(experiment())
        own = [cell for cell in experiment().cells if cell.train.recipe != "suite"]
        assert len(found["cells"]) == len(found["smoke"]) == len(own)
        assert len({tuple(cell) for cell in found["cells"]}) == len(found["cells"]), name
