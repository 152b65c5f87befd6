"""Train a spec, resumably: its checkpoints, its log and its progress live in one folder of the user's cache."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.declare.spec import TrainSpec, identity
from benchmarks.record.evaluated import Trained
from benchmarks.record.locks import Busy, locked
from benchmarks.record.store import ROOT, code_state, read_rows, write_text
from benchmarks.runs import watch
from benchmarks.runs.build import (
    DRAWS,
    DTYPES,
    build_model,
    build_objective,
    build_optimizer,
    schedule,
    uses_graph,
)
from benchmarks.runs.episodes import ENDLESS, stages_of, validation_episodes
from benchmarks.runs.states import branch_point, check_meta, elsewhere, has_state, other_settings, run_folder
from vma import checkpoint
from vma.data import DataSet
from vma.data.episodes import Episodes
from vma.errors import InputError
from vma.graph import CHECK_EVERY
from vma.objectives import Terms
from vma.pretrained import weights_file
from vma.protocol import Model
from vma.training import NonFiniteBound, fit

SAVE_SECONDS = 60.0

logger = logging.getLogger("vma")


class Stopped(SystemExit):
    """A signal ended the run after its state was saved; exits with 128 + the signal's number."""


def train(
    spec: TrainSpec,
    data: DataSet,
    device: torch.device,
    *,
    updates: int | None = None,
    seconds: float | None = None,
    restart: bool = False,
    wait: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Trained:
    """Train until `updates` were made or `seconds` of training were spent, both counted over all earlier starts of this
    run.

    The run goes on from its checkpoint unless `restart`. An interrupted and resumed run makes the very updates of an
    uninterrupted one; with another precision or another number of threads it goes on too, with other rounding, and says
    so. Where another process trains this run, `wait` waits for its end and goes on from there. A run
    with a trunk (`TrainSpec.trunk`) begins where the trunk ends, which is trained first as far as it has to be; if the
    trunk has gone further, or with `restart`, it makes all updates itself. A run with a start (`TrainSpec.start`) makes
    its first update on those weights. `progress` is told the number of updates after each.

    Raises:
        InputError: if the run is being trained by another process and not to `wait`, or its checkpoint cannot be used.
        NonFiniteBound: if the bound breaks; the last checkpoint stays.
        Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    folder = run_folder(spec, device)
    plain = spec.path == "reference" and device.type == "cuda"
    try:
        with locked(folder / "lock", wait=wait), deterministic_float32() if plain else nullcontext():
            if spec.trunk is not None and not restart and branch_point(spec, device) is not None:
                until = min(spec.decay_from or 0, updates or ENDLESS)
                train(spec.trunk, data, device, updates=until, seconds=seconds, wait=wait, progress=progress)
            torch.set_num_threads(spec.threads)
            run = Run.opened(spec, data, device, restart)
            signalled = None if run.has(updates, seconds) else _train(run, data, updates, seconds, progress)
    except Busy as owner:
        raise InputError(f"{owner} is training this run ({folder}): wait for it, or choose another --seed") from None
    if signalled is not None:
        how = "--updates without --from-scratch goes on" if restart else "the same command goes on from there"
        print(f"stopped after {run.updates:,} updates, which are saved; {how}", file=sys.stderr)
        raise Stopped(128 + signalled)
    return Trained(run.model, spec, run.updates, run.seconds, run.trained_as, run.commits)


@dataclass
class Run:
    """A run where it stands: what its checkpoint holds."""

    spec: TrainSpec
    folder: Path
    data_sha256: str
    model: Model
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    trained_as: dict[str, Any]  # this and `commits` as in `Trained`
    updates: int = 0  # made over all starts
    seconds: float = 0.0
    commits: tuple[str, ...] = ()

    @classmethod
    def opened(cls, spec: TrainSpec, data: DataSet, device: torch.device, restart: bool) -> "Run":
        """The run where it goes on: from its checkpoint, the trunk's, the weights that it starts from, or new ones.

        Raises:
            InputError: as `train`.
        """
        folder, model = run_folder(spec, device), build_model(spec, data, device)
        optimizer, generator = build_optimizer(spec, model), torch.Generator(device).manual_seed(spec.seed)
        run = cls(spec, folder, data.sha256, model, optimizer, generator, identity(spec))
        if restart:
            for old in (run.path, run.path.with_name(run.path.name + ".previous")):
                old.unlink(missing_ok=True)
        lines: Iterable[str] = ()
        if has_state(run.path):
            run.load(run.path, spec)
            lines = _lines_until(run.folder / watch.LOG, run.updates)
        elif spec.trunk is not None and not restart and (trunk := branch_point(spec, device)) is not None:
            run.load(trunk, spec.trunk)
            lines = _lines_until(trunk.with_name(watch.LOG), run.updates)
        else:
            if note := elsewhere(spec, device):
                print(note, file=sys.stderr)
            if spec.start is not None:
                begin(spec, model, data, device)
        write_text(folder / "spec.json", json.dumps(identity(spec), indent=1) + "\n")
        write_text(folder / watch.LOG, "".join(lines))
        return run

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def has(self, updates: int | None, seconds: float | None) -> bool:
        """Whether one of these was reached."""
        return (updates is not None and self.updates >= updates) or (seconds is not None and self.seconds >= seconds)

    def load(self, path: Path, of: TrainSpec) -> None:
        """Go on from a checkpoint of `of`: this run's own spec, or that of its trunk."""
        spec = self.spec

        def take(state: checkpoint.Checkpoint) -> None:
            check_meta(state.meta, of)
            if of is not spec and state.meta["update"] > (spec.decay_from or 0):  # it is trained on meanwhile
                raise checkpoint.CheckpointError(
                    f"it has {state.meta['update']:,} updates, this run leaves it at {spec.decay_from:,}: start again"
                )
            checkpoint.unpack_training(state.tensors, self.model, self.optimizer, self.generator)

        meta = checkpoint.load(path, accept=take).meta
        if meta["data_sha256"] != self.data_sha256:
            raise InputError(
                f"{path} was trained on other {spec.dataset} data: give the same --data, or --from-scratch"
            )
        self.updates, self.seconds = meta["update"], meta["seconds"]
        self.commits = tuple(meta.get("commits", ["unknown"]))
        if of is spec:
            self.trained_as = meta["spec"]
        if note := other_settings(meta["spec"], spec):
            print(f"{path}: {note}", file=sys.stderr)

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            NonFiniteBound: for weights that are not finite; the checkpoint before stays.
        """
        tensors = checkpoint.pack_training(self.model, self.optimizer, self.generator)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            # the bound was finite, and the update made of it was not: the next start would refuse what it left
            raise NonFiniteBound(
                f"weights are not finite after update {self.updates - 1}, seed {self.spec.seed}; "
                "the last good state is kept"
            )
        meta = {"spec": self.trained_as, "update": self.updates, "seconds": self.seconds}
        meta |= {"data_sha256": self.data_sha256, "commits": list(self.commits)}
        checkpoint.save(self.path, tensors, meta)


def _train(
    run: Run, data: DataSet, updates: int | None, seconds: float | None, progress: Callable[[int], None]
) -> int | None:
    """Train as `train` says, and save; the number of the signal that ended it, if one did."""
    spec, device, now = run.spec, run.generator.device, training_commit()
    if run.commits[-1:] != (now,):
        run.commits = (*run.commits, now)
    graph = uses_graph(spec, device)
    steps = _updates(run, stages_of(spec, data, device), updates or ENDLESS, graph)
    log = watch.Log(run.folder, spec, run.model, _validation(spec, data, device))
    before, started = run.seconds, time.monotonic()
    saved = started
    with (
        caught_signals() as caught,
        tqdm(total=updates, initial=run.updates, desc=f"train {spec.name}", unit="update", mininterval=1) as bar,
    ):
        for update, terms in steps:
            run.updates, run.seconds = update + 1, before + time.monotonic() - started
            log.add(terms)
            bar.update()
            progress(run.updates)
            stop = bool(caught) or run.has(updates, seconds)
            if run.updates % watch.LOG_EVERY == 0 or run.updates == updates:
                bar.set_postfix(log.write(run.updates, run.seconds))
            # with a graph, other updates may follow one whose bound broke: what would be saved is not known to be good
            if time.monotonic() - saved > SAVE_SECONDS and not (graph and run.updates % CHECK_EVERY):
                run.save()
                saved = time.monotonic()
            if stop:
                break
        steps.close()  # which looks at the bound
        run.save()
    return caught[0] if caught else None


def _updates(
    run: Run, stages: list[tuple[int, Episodes]], last: int, graph: bool
) -> Generator[tuple[int, Terms], None, None]:
    """The updates of a run from where it stands to `last`. A graph has the shapes of one stage, and ends with it."""
    spec = run.spec
    for until, episodes in stages:
        yield from fit(
            run.model,
            episodes,
            build_objective(spec, run.model),
            run.optimizer,
            spec.num_samples,
            range(run.updates, min(until, last)),
            generator=run.generator,
            dtype=DTYPES[spec.dtype],
            schedule=schedule(spec),
            kl_warmup=spec.kl_warmup or 0,
            clip=spec.clip,
            episodes_per_update=spec.episodes_per_update or 1,
            graph=graph,
            draw=DRAWS.get(spec.estimator),
        )


def _validation(spec: TrainSpec, data: DataSet, device: torch.device) -> Episodes | None:
    """The validation episodes; where the data have not enough for any, none, which it says."""
    try:
        return validation_episodes(spec, data, device)
    except InputError as error:
        print(f"training goes without validation: of the validation images, {error}", file=sys.stderr)
        return None


def begin(spec: TrainSpec, model: Model, data: DataSet, device: torch.device) -> None:
    """Load the weights that a run begins from. What they are not of, an estimator's own baseline, stays as it is.

    Raises:
        InputError: if there are none of that name.
        CheckpointError: if they have other updates, are damaged, or of other networks.
    """
    name, _, updates = (spec.start or "").rpartition("-")

    def check(state: checkpoint.Checkpoint) -> None:
        check_meta(state.meta)
        if state.meta["update"] != int(updates):
            raise checkpoint.CheckpointError(
                f"start is {spec.start}, and it has {state.meta['update']:,} updates: name those"
            )

    plain: Any = build_model(replace(spec, estimator=TrainSpec.estimator), data, device)
    checkpoint.load_weights(weights_file(name), plain, accept=check)
    model.load_state_dict(model.state_dict() | plain.state_dict())


def training_commit() -> str:
    """What a checkpoint says of the code that trains: the commit, with `+` where the code differs from it, or
    `unknown`.
    """
    commit, dirty = code_state(ROOT)
    return "unknown" if commit is None else commit + "+" * bool(dirty)


def _lines_until(log: Path, update: int) -> Iterator[str]:
    """The lines of a log up to an update: those after the checkpoint that a run goes on from are written again."""
    for line in read_rows(log):
        if line["update"] <= update:
            yield json.dumps(line) + "\n"


@contextmanager
def deterministic_float32() -> Iterator[None]:
    """What the reference path asks of CUDA: float32 that is not rounded on the way, and the same numbers each time.

    What has no deterministic kernel warns. That is the running sum of q(a|x), of which only a single row's is not.
    """
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    # without it cuBLAS is not deterministic; it is read when a process first multiplies on the device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM put their number into the list instead of ending the process; a second one ends it."""
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield caught
    finally:
        restore()
