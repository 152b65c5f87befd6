"""Command lines of any flags and values: each runs, or costs one line that names the flag and what is allowed, and
then leaves nothing behind.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import memory_size, run, samples, scaling, table1
from benchmarks.declare import experiments
from benchmarks.declare.experiments import Experiment
from benchmarks.declare.spec import Cell, EvalSpec, TrainSpec
from benchmarks.plan import cli, selection
from benchmarks.record import store
from benchmarks.runs import training, weights
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import train
from reports import __main__ as reports
from reports import command as shared
from vma import data
from vma.data.episodes import EpisodeSpec
from vma.errors import DataUnavailable

EPISODE = EpisodeSpec(classes=2, targets_per_class=1, shots=1)
TINY = TrainSpec(dataset="strokes", image_size=8, network="tiny-mlp", episode=EPISODE, num_samples=2, threads=1)
SHORT = ["--dataset", "strokes", "--image-size", "8", "--threads", "1"]
REMEDIES = ("must", "give", "leave", "use", "Expected", "lists", "lower", "add", "make", "mend", "name one", "restore")


@cache
def strokes(size: int | None) -> data.DataSet:
    return data.load("strokes", image_size=size)


def load(name: str, *, image_size: int | None = None, **options: Any) -> data.DataSet:
    """Of the data sets that are made or read from a folder; the others are nowhere."""
    if name == "strokes" and image_size in (None, 8, 12):
        return strokes(image_size)
    if name in data.DATASETS and name != "strokes":
        raise DataUnavailable(f"{name} was found nowhere; use --dataset strokes", ("cache: not there",))
    return data.load(name, image_size=image_size, **options)


# Of each command the module, and what each line begins with so that it ends soon.
COMMANDS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "table1": (table1, ("--updates", "1", "--targets", "2")),
    "scaling": (scaling, ("--updates", "1", "--targets", "2")),
    "memory-size": (memory_size, ("--checkpoint", "{weights}", "--targets", "2")),
    "samples": (samples, ("--checkpoint", "{weights}", "--out", "out.png")),
    "run": (run, ("one", "--dry-run")),
    "reports": (reports, ("--results", "empty", "--out", "out")),
}
# Values that are in order for some command.
GOOD = {
    "--dataset": ("strokes", "folder:{root}/draw\nings", "folder:{root}/draw ings é", "folder:{root}/same"),
    "--image-size": ("8", "12"),
    "--device": ("auto", "cpu"),
    "--dtype": ("auto", "float32"),
    "--threads": ("1", "2"),
    "--fallback": ("strokes",),
    "--out": ("out", "new/out", "out é", "o\nut", "\udcff", "out.png", "new/é.png", "results"),
    "--checkpoint": ("{weights}",),
    "--image": ("{root}/few/0/0.png", "{root}/draw\nings/1/2.png"),
    "--ink": ("dark", "light"),
    "--models": ("vma", "soft", "vae"),
    "--protocol": ("gmn", "per_class"),
    "--memory-size": ("2", "8", "2000"),
    "--targets": ("2", "8", "16"),
    "--executor": ("local", "dask"),
    "--minutes": ("1", "0.001"),
    "--only": ("vma-0",),
    "--results": ("empty",),
    "--readme": ("file",),
    **dict.fromkeys(("--seed", "--seeds"), ("0", "2147483647")),
}

# What a user, a script or an accident may put in the place of a value, beside any text.
WHOLE = ("-1", "0", "1", "2", "3", "10000000000", "2147483648", "9223372036854775808", "9" * 30)
ODD = (
    *(" ", "-", "--", "00", "1_0", "١٢", "1.5", "0x10", "1e3", "1e400", "nan", "inf", "-inf", "None", "1e-9"),
    *("9" * 5000, "true", "x", "é", "a b", "a\nb", "a\0b", "\x1b[31m", "\udcff", "\ud800", "│", "─" * 9),
    *("--x", "---", "-x", "@x", "[1]", "1,2", "$HOME", "~no-such-user/x", "x" * 300, "/".join(["y" * 200] * 30)),
    *("file", "file/x", "link", "link/x", "dangling", "loop", "/dev/null", "/proc/x", "folder:", "folder:file"),
    *("folder:~no-such-user", "folder:a\nb", "folder:" + "x" * 300, "cuda", "cuda:99", "cpu:1", "meta", "dask://x"),
    *("omniglot45_5", "all", "", "folder:{root}/blank", "folder:{root}/ink", "folder:{root}/few", "there"),
)


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Small models, no data but the built-in ones, no results of the project; gives the weights of a small model and a
    folder of folders of drawings.
    """
    root = tmp_path_factory.mktemp("root")
    trained = {"vma": TINY, "soft": replace(TINY, model="soft", read="features"), "vae": replace(TINY, model="vae")}
    cells = [Cell(part, EvalSpec(EPISODE, 2, 2), 1) for part in trained.values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        # more than one thread is slow on a machine that does other things, and this asks for up to a thousand
        patch.setattr(torch, "set_num_threads", lambda number: None)
        for module in (cli, selection):
            patch.setattr(module, "load", load)
        for module in (store, training):
            patch.setattr(module, "ROOT", root)
        patch.setattr(weights, "WEIGHTS", root / "weights")
        patch.setattr(table1, "table1_training", lambda: trained)
        patch.setattr(scaling, "scaling_training", lambda: TINY)
        patch.setattr(scaling, "SCALING_CLASSES", (1, 2))
        for name, value in (("CLASSES", (1, 2)), ("SHOTS", (1,)), ("NUM_SAMPLES", 3)):
            patch.setattr(experiments, f"TABLE1_{name}", value)
        patch.setattr(run, "EXPERIMENTS", {"one": lambda: Experiment("one", "", "", tuple(cells))})
        train(TINY, strokes(8), CPU, updates=1)
        for name in ("draw\nings", "draw ings é"):
            draw_images(root / name, 8, lambda random: random.integers(0, 2, (8, 8)))
        draw_images(root / "few", 3, lambda random: random.integers(0, 2, (8, 8)))
        draw_images(root / "same", 8, lambda random: np.eye(8))
        draw_images(root / "blank", 8, lambda random: np.zeros((8, 8)))
        draw_images(root / "ink", 8, lambda random: np.ones((8, 8)))
        yield {"root": root, "weights": run_folder(TINY, CPU) / "checkpoint.safetensors"}


def draw_images(folder: Path, classes: int, draw: Callable[[np.random.Generator], np.ndarray]) -> None:
    """Three drawings of each class."""
    random = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"{c}").mkdir(parents=True)
        for i in range(3):
            Image.fromarray((255 * (1 - draw(random))).astype(np.uint8)).save(folder / f"{c}" / f"{i}.png")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder to work in, with what can be in the way of a path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("empty", "there"):
            (folder / part).mkdir()
        (folder / "file").write_text("text", encoding="utf-8")
        for link, target in (("link", "there"), ("dangling", "nowhere"), ("loop", "loop")):
            (folder / link).symlink_to(target)
        with contextlib.chdir(folder):
            yield folder


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: what it is, of files the hash too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def call(module: ModuleType, argv: Sequence[str]) -> int:
    if hasattr(module, "main"):
        return module.main(argv)
    return cli.run_command(module.Options, module.run, module.__name__, argv)


def complaint(module: ModuleType, argv: Sequence[str]) -> str | None:
    """What is wrong with how a command takes a command line; None if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    with workplace() as folder:
        before = contents(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = call(module, argv)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        if code == 0:
            if module is not run:
                return None if "Wrote" in out.getvalue() else "wrote nothing"
            return None if contents(folder) == before else "wrote in a dry run"
        if code not in (1, 2):
            return f"exit code {code}"
        if contents(folder) != before:
            return f"left {contents(folder).keys() - before.keys()} behind"
    said = err.getvalue()
    lines = [line for line in said.split("\n") if line and not line.startswith(("\r", "warning: "))]  # without bars
    first, *more = lines or [""]
    if not first.startswith("error: ") or not first.isprintable() or len(first) > 1100:
        return f"said {said[:2000]!r}"
    if any(not line.startswith("  ") for line in more) or (more and "found nowhere" not in first):
        return f"said more than a line: {said[:2000]!r}"
    flags = {f"--{part.strip('-').partition('=')[0]}" for part in argv if part.startswith("--")} | {"--checkpoint"}
    fields_ = {flag.strip("-").replace("-", "_") for flag in flags} | {"Unrecognized options", "experiment"}
    values = {shared.one_line(part.rpartition("=")[2].removeprefix("folder:")) for part in argv} - {"", "-", "--"}
    if code == 2 and not any(name in first for name in flags | fields_ | values):
        return f"named no flag: {first}"
    if not any(word in first for word in REMEDIES):
        return f"said nothing of what is allowed: {first}"
    return None


def command_lines(module: ModuleType, start: Sequence[str], places: dict[str, Path]) -> st.SearchStrategy[list[str]]:
    flags = [f"--{field.name.replace('_', '-')}" for field in fields(module.Options) if field.name != "names"]

    def sampled(values: Sequence[str]) -> st.SearchStrategy[str]:
        return st.sampled_from([value.format(**places) if "{" in value else value for value in values])

    def pieces(flag: str) -> st.SearchStrategy[list[str]]:
        good = sampled(GOOD.get(flag, ("1", "2", "3")))
        value = st.one_of(good, good, sampled(WHOLE), sampled(ODD), st.text(min_size=1, max_size=8))
        values = st.one_of(value.map(lambda one: [one]), st.lists(value, max_size=3))
        return values.map(lambda them: [flag, *them]) | value.map(lambda one: [f"{flag}={one}"])

    some = st.lists(st.sampled_from(flags).flatmap(pieces), min_size=1, max_size=3)
    stray = st.lists(sampled(ODD), max_size=1) if module is run else st.just([])
    begin = [part.format(**places) for part in (*start, *(SHORT if "--threads" in flags else []))]
    return st.tuples(some, stray).map(lambda them: [*begin, *(part for one in them[0] for part in one), *them[1]])


@pytest.mark.parametrize("name", COMMANDS)
def test_any_command_line_runs_or_costs_one_line(name: str, places: dict[str, Path]) -> None:
    module, start = COMMANDS[name]

    @given(command_lines(module, start, places))
    @settings(max_examples=60)
    def attempt(argv: list[str]) -> None:
        assert complaint(module, argv) is None

    attempt()


def test_a_sweep_takes_any_name_of_a_folder(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What its processes are told, log and write, for names with line ends, quotes and bytes that are no UTF-8."""
    one = Experiment("one", "", "", (Cell(replace(TINY, model="vae"), EvalSpec(EPISODE, 2, 2), 1),))
    monkeypatch.setattr(run, "EXPERIMENTS", {"one": lambda: one})
    with workplace() as folder:
        out = folder / "o\nu't" / "\udcff"
        argv = ["one", "--updates", "1", *SHORT, "--dataset", f"folder:{places['root']}/draw\nings"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = run.main([*argv, "--out", str(out)])
        rows = store.read_rows(out / "one.jsonl")
        assert code == 0
        assert {row["metric"] for row in rows} == {"nll", "kl_a", "kl_z", "log_px"}
