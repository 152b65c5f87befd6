"""The runner: what it plans, what it skips, and what is left of a sweep that was stopped, killed or doubled."""

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CPU, error_line, refused

from benchmarks import run
from benchmarks.declare.experiments import EXPERIMENTS, SMOKE_UPDATES, Experiment, smoke
from benchmarks.declare.spec import Cell, EvalSpec, TrainSpec
from benchmarks.execute import sweep
from benchmarks.plan import cli
from benchmarks.plan import selection as planning
from benchmarks.plan.estimate import Measured
from benchmarks.plan.jobs import Job, from_json
from benchmarks.record import store
from reports import targets
from reports.targets import Key
from vma.data import load
from vma.data.episodes import EpisodeSpec
from vma.errors import DataUnavailable

ROOT = Path(__file__).parents[1]
UPDATES = 120
DURATION = r"\d[\d.]* (?:s|min|h)"

EPISODE = EpisodeSpec(classes=4, targets_per_class=2, shots=2)
TRAIN = TrainSpec(recipe="smoke", dataset="strokes", image_size=8, network="tiny", episode=EPISODE, dtype="float32")
VAE = replace(TRAIN, model="vae", num_samples=1)
BROKEN = replace(VAE, learning_rate=1e30)


def cell(train: TrainSpec, num_samples: int = 2, targets: int = 16, **more: Any) -> Cell:
    return Cell(train, EvalSpec(EPISODE, num_samples, targets, **more), UPDATES)


def single(classes: int, shots: int) -> Cell:
    """A cell that shares its draws with the others of its experiment."""
    episode = EpisodeSpec(classes=classes, targets_per_class=1, shots=shots, target_classes=1)
    return Cell(TRAIN, EvalSpec(episode, 2, 16), UPDATES)


def declare(name: str, *cells: Cell) -> Callable[[], Experiment]:
    return lambda: Experiment(name, "", "", cells)


TINY = {
    "one": declare("one", cell(TRAIN), cell(VAE)),
    "two": declare("two", replace(cell(TRAIN), variant="same"), cell(TRAIN, 3)),
    "fails": declare("fails", cell(BROKEN), cell(VAE)),
    "classes": declare("classes", single(2, 2), single(4, 2)),
    "shots": declare("shots", replace(single(4, 2), variant="same"), single(4, 1)),
    "times": declare("times", replace(cell(TRAIN, targets=2, task="wallclock"), updates=None)),
}


def command(*arguments: object) -> int:
    """The runner on the tiny experiments, and its jobs too within this process, unless arguments say how they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "EXPERIMENTS", TINY)
        patch.setattr(run, "in_process", lambda options: options.jobs is None and options.executor == "local")
        try:
            return run.main([*map(str, arguments), "--dtype", "float32"])
        except SystemExit as stop:
            return int(stop.code or 0)


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    """The rows of an experiment without what may differ between two runs."""
    found = [{k: v for k, v in row.items() if k not in ("seconds", "created")} for row in read(out, name)]
    return sorted(found, key=lambda row: (row["train_id"], row["eval_id"], row["metric"]))


def read(out: Path, name: str) -> list[dict[str, Any]]:
    return store.read_rows(out / f"{name}.jsonl")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def until(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.02)
    return found


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was trained before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of `one` and `two` as they are to be."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert command("one", "two", "--out", out) == 0
    return out


def planned(*arguments: str) -> list[Job]:
    options = cli.parse(run.Options, "", list(arguments))
    options = replace(options, threads=1, out=Path("/out"))
    found = planning.Data(options)
    declared = [EXPERIMENTS[name]() for name in run.check(options)]
    chosen = [smoke(experiment) for experiment in declared] if options.smoke else declared
    cells = [asked for experiment in chosen for asked in planning.resolved(experiment, options, found, CPU)]
    return planning.planned(cells, options, found, CPU, None, 1)


def test_what_several_experiments_train_is_trained_once() -> None:
    plan = planned("all", "--smoke")
    trained = [job.train for job in plan if not job.timed]
    assert len({spec.train_id for spec in trained}) == len(trained)
    (shared,) = [job for job in plan if "samples" in job.experiments and job.train.recipe == "smoke"]
    assert {"fewshot", "samples", "lookup", "scaling", "shots", "classification"} <= set(shared.experiments)
    (timed,) = [job for job in plan if job.timed]
    assert timed.experiments == ["estimators", "wallclock"]
    declared = sum(len(smoke(EXPERIMENTS[name]()).cells) for name in EXPERIMENTS)
    assert sum(len(job.cells) for job in plan) == declared
    assert {job.updates for job in plan if job.train.decay_from is None and not job.timed} == {SMOKE_UPDATES}
    assert {job.updates for job in plan if job.train.decay_from} == {SMOKE_UPDATES * 11 // 10}


def test_only_takes_the_runs_of_these_names() -> None:
    plan = planned("samples", "fewshot", "--smoke")
    cells = [asked for job in plan for asked in job.cells]
    (shared,) = [job for job in plan if "samples" in job.experiments and job.train.recipe == "smoke"]
    assert planning.chosen(cells, ()) == cells
    assert planning.chosen(cells, (shared.name, shared.name)) == list(shared.cells)
    assert planning.chosen(cells, (f"vma-{shared.train.train_id}",)) == list(shared.cells)
    with refused("--only 'vma-0' is no run of these experiments: --dry-run, without --only"):
        planning.chosen(cells, (shared.name, "vma-0"))


def test_each_seed_is_a_run_of_its_own() -> None:
    seeds = planned("samples", "--smoke", "--seeds", "0", "1", "2")
    assert [job.train.seed for job in seeds] == [0, 1, 2] * 2  # by both recipes
    assert {job.cells[0][1].eval.seed for job in seeds} == {0}


def test_the_minutes_of_training_are_shared() -> None:
    shared = planned("shots", "--dataset", "strokes", "--minutes", "1")
    assert [(job.updates, job.seconds) for job in shared] == [(None, 12.0)] * 5


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_job_is_one_line_of_json_and_back(name: str) -> None:
    for job in planned(name, "--smoke", "--seeds", "3"):
        line = job.to_json()
        assert "\n" not in line
        assert from_json(line) == job


class AtOnce(Executor):
    """Each job ends at once, with the next of the codes that its name has."""

    def __init__(self, codes: dict[str, list[int]]) -> None:
        self.codes, self.ran = codes, []  # type: ignore[var-annotated]

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> "Future[Any]":
        job = from_json(arguments[0])
        self.ran.append(job.name)
        future: Future[Any] = Future()
        future.set_result((self.codes[job.name].pop(0), ["the end"]))
        return future


def made_job(name: str, out: Path, asked: Cell | None = None) -> Job:
    return Job(name, (("one", asked or cell(TRAIN)),), out, "cpu", updates=1)


def test_failed_jobs_are_tried_again_and_bad_input_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = {"good": [0], "killed": [-9, 1, 0], "bad": [2], "dead": [1, 143, -9]}
    executor = AtOnce({name: list(part) for name, part in codes.items()})
    failures = sweep.run_jobs([made_job(name, tmp_path) for name in codes], executor, 2, tmp_path)
    assert [(f.job.name, f.code, f.attempts, f.tail) for f in failures] == [
        ("bad", 2, 1, ["the end"]),
        ("dead", -9, 3, ["the end"]),
    ]
    assert sorted(executor.ran) == sorted(name for name, part in codes.items() for _ in part)
    assert "killed (one): failed (exit code -9), tried again (1 of 2)" in capsys.readouterr().out
    assert not list((tmp_path / ".locks").glob("sweep-*"))


def test_what_measures_time_runs_last_and_alone(tmp_path: Path) -> None:
    (timed,) = TINY["times"]().cells
    names = ["wallclock", "a", "b"]
    executor = AtOnce({"wallclock": [0], "a": [1, 1, 0], "b": [0]})
    jobs = [made_job(name, tmp_path, timed if name == "wallclock" else None) for name in names]
    assert sweep.run_jobs(jobs, executor, 2, tmp_path) == []
    assert executor.ran[-1] == "wallclock"
    assert len(executor.ran) == 5


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    code, (line,) = sweep.run_job(replace(made_job("a", tmp_path / "elsewhere"), token="0").to_json())
    assert code == 2
    assert "machines of a cluster need to share --out" in line


def test_a_sweep_whose_scheduler_is_lost_ends(tmp_path: Path) -> None:
    class Lost(AtOnce):
        def submit(self, function: Any, /, *arguments: Any, **_: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(sweep.ExecutorLost, match="scheduler is lost"):
        sweep.run_jobs([made_job("a", tmp_path)], Lost({}), 2, tmp_path)
    assert not list((tmp_path / ".locks").glob("sweep-*"))


def test_a_sweep_writes_rows_of_each_experiment_and_what_lies_beside_them(undisturbed: Path) -> None:
    one, two = rows(undisturbed, "one"), rows(undisturbed, "two")
    assert len(one) == len(two) == 2 * 4
    assert {row["updates"] for row in one + two} == {UPDATES}
    assert {row["variant"] for row in two} == {"same", None}
    shared = {row["metric"]: row["value"] for row in one if row["model"] == "vma"}
    assert shared == {row["metric"]: row["value"] for row in two if row["variant"] == "same"}
    for row in one + two:
        values = targets.read(targets.path(undisturbed, row["experiment"]))
        assert len(values[Key(row["train_id"], UPDATES, row["eval_id"])]["nll"]) == row["n"]
        (path,) = (undisturbed / "training").glob(f"{row['model']}-strokes-*-{row['train_id']}.jsonl")
        log = store.read_rows(path)
        assert [line["update"] for line in log] == [100, UPDATES]
    known = {line["id"] for line in store.read_rows(undisturbed / "specs.jsonl")}
    assert known == {row[key] for row in one + two for key in ("train_id", "eval_id")}


def test_what_has_its_rows_is_skipped(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(undisturbed)
    assert command("one", "two", "--out", undisturbed) == 0
    assert files(undisturbed) == before
    said = capsys.readouterr().out
    assert "2 runs, 2 of them done already" in said
    assert "2/2" in said
    assert said.splitlines()[-1].endswith(f"python -m reports --results {undisturbed}")


def test_the_same_command_goes_on_with_another_number_of_threads(
    empty_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # two wait for each other on a busy machine
    out = ("--out", tmp_path / "out")
    assert command("one", *out, "--updates", UPDATES // 2) == 0
    assert "rounding" not in capsys.readouterr().out
    assert command("one", *out, "--threads", 2, "--dry-run") == 0
    assert capsys.readouterr().out.count(f"{UPDATES // 2}/{UPDATES}") == 2
    assert command("one", *out, "--threads", 2) == 0
    said = capsys.readouterr().out
    assert said.count("begun in float32 on 1 CPU threads, it continues in float32 on 2 CPU threads: rounding") == 2
    found = read(tmp_path / "out", "one")
    assert {(row["updates"], row["threads"]) for row in found} == {(UPDATES // 2, 1), (UPDATES, 2)}
    assert len({row["train_id"] for row in found}) == 2  # of the two models, as they began
    assert command("one", *out, "--threads", 2) == 0
    assert "2 runs, 2 of them done already" in capsys.readouterr().out


def test_an_evaluation_of_two_experiments_has_the_same_numbers_in_both(tmp_path: Path) -> None:
    """Which draws it gets depends on what is evaluated beside it."""

    def shared(name: str) -> list[dict[str, Any]]:
        return [row for row in read(tmp_path, name) if (row["classes"], row["shots"]) == (4, 2)]

    def numbers(name: str) -> dict[str, float]:
        """By the rows that count."""
        return {row["metric"]: row["value"] for row in shared(name)}

    def mean(name: str) -> float:
        """Of the values at each target."""
        (evaluation,) = {row["eval_id"] for row in shared(name)}
        values = targets.read(targets.path(tmp_path, name))
        (found,) = (arrays["nll"] for key, arrays in values.items() if key.eval_id == evaluation)
        return float(found.mean())

    assert command("classes", "--out", tmp_path) == 0
    first = numbers("classes")
    assert command("shots", "--out", tmp_path) == 0
    assert numbers("shots") == numbers("classes") == first
    assert mean("classes") == mean("shots") == pytest.approx(first["nll"])
    assert {row["variant"] for row in read(tmp_path, "shots")} == {"same", None}
    assert len(read(tmp_path, "shots")) == len(read(tmp_path, "classes")) == 2 * 4

    until(lambda: store.provenance(CPU)["created"] > max(row["created"] for row in read(tmp_path, "shots")))
    assert command("shots", "--out", tmp_path, "--again") == 0
    assert numbers("shots") == numbers("classes") != first
    assert mean("classes") == mean("shots") == pytest.approx(numbers("classes")["nll"])
    assert {row["variant"] for row in read(tmp_path, "classes")} == {None}
    assert len(read(tmp_path, "shots")) == 4 * 4
    assert len(read(tmp_path, "classes")) == 3 * 4


def test_a_dry_run_says_what_is_done_and_writes_nothing(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(undisturbed)
    assert command("one", "two", "--out", undisturbed, "--updates", 10 * UPDATES, "--dry-run") == 0
    assert files(undisturbed) == before
    table = capsys.readouterr().out
    assert re.search(rf"vma-\w+ +strokes, \S.* +one two +0/3 +{UPDATES}/1,200 +{DURATION} +{DURATION}\n", table), table
    assert re.search(rf"Time in all, 1 runs at a time: {DURATION}\.", table), table
    assert command("one", "--out", undisturbed, "--dry-run") == 0
    assert re.search(rf"vae-\w+ +strokes, \S.* +one +1/1 +{UPDATES}/{UPDATES} +0 s +0 s\n", capsys.readouterr().out)
    assert command("one", "--seeds", 1, "--out", tmp_path / "new", "--dry-run") == 0
    table = capsys.readouterr().out
    assert re.search(rf"vma-\w+ +strokes, \S.* seed 1 +one +0/1 +0/{UPDATES} +unknown +unknown\n", table), table
    assert not (tmp_path / "new").exists()


def test_the_updates_of_a_trunk_are_estimated_once() -> None:
    """A run that goes on from another one takes the time of its own updates alone, if the other one runs too."""
    plan = planned("recipes", "--smoke")
    annealed = next(job for job in plan if job.train.trunk)
    own = (annealed.updates or 0) - SMOKE_UPDATES
    measured = Measured([])
    measured.seconds_per_update = dict.fromkeys([("vma", None, "tiny", 8)], 2.0)
    assert measured.training(annealed, CPU) == 2.0 * (SMOKE_UPDATES + own)
    assert measured.training(annealed, CPU, plan) == 2.0 * own
    further = [replace(job, updates=SMOKE_UPDATES + 1) for job in plan]
    for job, beside in ((annealed, further), (replace(annealed, restart=True), plan)):
        assert measured.training(job, CPU, beside) == 2.0 * (SMOKE_UPDATES + own)


@pytest.fixture
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="needs dask, the extra [cluster]")
    options = {"processes": False, "dashboard_address": None, "host": "127.0.0.1", "protocol": "tcp"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, memory_limit=0, **options) as cluster:
        yield cluster.scheduler_address.replace("tcp", "dask")


@pytest.mark.long
def test_a_cluster_gives_the_same_results_as_this_machine(
    undisturbed: Path, tmp_path: Path, scheduler: str, empty_cache: Path
) -> None:
    assert command("one", "two", "--out", tmp_path / "out", "--executor", scheduler) == 0
    assert empty_cache.exists()
    for name in ("one", "two"):
        assert rows(tmp_path / "out", name) == rows(undisturbed, name)
        assert targets.path(tmp_path / "out", name).read_bytes() == targets.path(undisturbed, name).read_bytes()
    for path in (undisturbed / "training").iterdir():
        logs = [store.read_rows(folder / "training" / path.name) for folder in (undisturbed, tmp_path / "out")]
        one, other = ([line | {"seconds": None} for line in log] for log in logs)
        assert one == other


def test_the_own_cluster_is_open_to_this_machine_alone() -> None:
    pytest.importorskip("distributed", reason="needs dask, the extra [cluster]")
    psutil = pytest.importorskip("psutil")

    def listening() -> set[Any]:
        return {c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}

    before = listening()
    with sweep.open_executor("dask", 2) as executor:
        assert executor.submit(os.getpid).result() == os.getpid()
        opened = listening() - before
    assert {address.ip for address in opened} <= {"127.0.0.1"}


MISTAKES = {  # of several options together; tests/faults tries any value of each
    "two limits": (["one", "--updates", "3", "--minutes", "1"], "--updates and --minutes"),
    "smoke on other data": (["one", "--smoke", "--dataset", "strokes"], "--smoke has data of its own"),
    "smoke among real rows": (["one", "--smoke", "--out", str(ROOT / "results")], "--smoke writes no rows to"),
    "a scheduler on another machine": (["one", "--executor", "dask://10.0.0.7:8786"], "has no TLS"),
    "a scheduler by its name": (["one", "--executor", "dask://gpu7:8786"], "has no TLS"),
    "jobs of a cluster": (["one", "--executor", "dask://127.0.0.1:1", "--jobs", "2"], "up to its workers"),
    "another command's name": (["one", "memory-size"], "memory-size is run alone"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    assert words in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_without_dask_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command("one", "--executor", "dask") == 2
    assert "pip install 'distributed>=2025.1'" in capsys.readouterr().err


def only(*names: str) -> Callable[..., Any]:
    """A loader by which these names can be had, all with the same small images."""

    def find(name: str, **_: Any) -> Any:
        if name not in names:
            raise DataUnavailable(f"{name} is nowhere", ("cache: not there",))
        return replace(load("strokes", image_size=8), name=name)

    return find


def test_data_that_cannot_be_had_are_replaced_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = replace(TRAIN, dataset="mnist_larochelle")
    monkeypatch.setitem(TINY, "digits", declare("digits", cell(digits)))
    arguments = ["digits", "--out", tmp_path / "out", "--dry-run"]

    monkeypatch.setattr(planning, "load", only("mnist_gmn", "strokes"))
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert "--stand-ins takes mnist_gmn in its place" in said
    assert said.splitlines()[-1].endswith("--dataset strokes")

    assert command(*arguments, "--stand-ins") == 0
    assert capsys.readouterr().out.startswith("mnist_gmn STANDS IN FOR mnist_larochelle")

    monkeypatch.setattr(planning, "load", only("strokes"))
    assert command(*arguments, "--stand-ins", "--fallback", "strokes") == 0
    assert "BUILT-IN CHARACTERS (strokes), NOT THE PAPER'S DATA" in capsys.readouterr().out
