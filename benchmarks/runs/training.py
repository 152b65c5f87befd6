"""Train a spec, resumably: its checkpoints, its log and its progress live in one folder of the user's cache."""

import json
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.declare.spec import BY_CLASS, SETTINGS, TrainSpec, identity, spec_id
from benchmarks.record.evaluated import Trained
from benchmarks.record.locks import Busy, locked
from benchmarks.record.store import ROOT, code_state, read_rows, write_text
from benchmarks.runs import watch
from benchmarks.runs.build import (
    DTYPES,
    build_draw,
    build_model,
    build_objective,
    build_optimizer,
    schedule,
    uses_graph,
)
from vma import checkpoint
from vma.data import DataSet, cache_dir
from vma.data.episodes import Episode, Episodes, EpisodeSpec
from vma.errors import InputError
from vma.graph import CHECK_EVERY
from vma.objectives import Terms
from vma.pretrained import weights_file
from vma.protocol import Model
from vma.training import NonFiniteBound, fit

SAVE_SECONDS = 60.0
ENDLESS = 2**62  # an update that no run reaches

logger = logging.getLogger("vma")


class Stopped(SystemExit):
    """A signal ended the run after its state was saved; exits with 128 + the signal's number."""


def run_folder(spec: TrainSpec, device: torch.device) -> Path:
    """Where the state of a run is kept: checkpoint.safetensors, metrics.jsonl, spec.json, and pictures of it.

    Whatever its precision and its threads, it is one run. Devices have random streams of their own, so a run on another
    one is another run.
    """
    dataset = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.dataset)[-40:]
    on = "" if device.type == "cpu" else f"-{device.type}"
    begun = cache_dir() / "runs" / f"{spec.model}-{dataset}-{spec.train_id}{on}"  # by an earlier version
    return begun if begun.exists() else begun.with_name(f"{spec.model}-{dataset}-{spec.run_id}{on}")


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
        with (
            locked(folder / "lock", wait=wait),
            deterministic_float32() if plain else nullcontext(),
        ):
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
        if _has_state(run.path):
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
    name = spec.model if spec.read is None else f"{spec.model} ({spec.read})"
    before, started = run.seconds, time.monotonic()
    saved = started
    with (
        caught_signals() as caught,
        tqdm(total=updates, initial=run.updates, desc=f"train {name}", unit="update", mininterval=1) as bar,
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
            draw=build_draw(spec),
        )


def _validation(spec: TrainSpec, data: DataSet, device: torch.device) -> Episodes | None:
    """The validation episodes; where the data have not enough for any, none, which it says."""
    try:
        return validation_episodes(spec, data, device)
    except InputError as error:
        print(f"training goes without validation: of the validation images, {error}", file=sys.stderr)
        return None


def other_settings(trained_as: Mapping[str, Any], spec: TrainSpec) -> str | None:
    """What is said where a run that was begun with some `SETTINGS` goes on with those of `spec`; None with the same."""
    before, now = (f"{s['dtype']} on {s['threads']} CPU threads" for s in (trained_as, identity(spec)))
    if before == now:
        return None
    return f"begun in {before}, it continues in {now}: rounding differs from that of an undisturbed run"


def elsewhere(spec: TrainSpec, device: torch.device) -> str | None:
    """What is said where a run begins that another kind of device has a state of; None if there is none."""
    for other in {"cpu", "cuda"} - {device.type}:
        folder = run_folder(spec, torch.device(other))
        if _has_state(folder / "checkpoint.safetensors"):
            return (
                f"{folder} has a state of this run, made on {other}: --device {other} continues from it; here it begins"
            )
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


def _has_state(path: Path) -> bool:
    """Whether a checkpoint or the one before it is there; a broken link is no new start."""
    return any(map(os.path.lexists, (path, path.with_name(path.name + ".previous"))))


def branch_point(spec: TrainSpec, device: torch.device) -> Path | None:
    """The checkpoint of the trunk that a run without a state of its own begins from, whether it is there yet or not;
    None if the run has a state or no trunk, or the trunk has gone too far.
    """
    if spec.trunk is None or _has_state(run_folder(spec, device) / "checkpoint.safetensors"):
        return None
    path = run_folder(spec.trunk, device) / "checkpoint.safetensors"
    if _has_state(path) and trained_before(spec.trunk, device)[0] > (spec.decay_from or 0):
        return None
    return path


def trained_before(spec: TrainSpec, device: torch.device) -> tuple[int, float]:
    """The updates of a run that the user's cache holds, its trunk's among them, and the seconds that they took."""
    return state_before(spec, device)[1:]


def state_before(spec: TrainSpec, device: torch.device) -> tuple[dict[str, Any], int, float]:
    """The identity of the spec with which a run began, or else will begin, and what `trained_before` gives."""
    trunk = branch_point(spec, device)
    path = trunk or run_folder(spec, device) / "checkpoint.safetensors"
    of = spec if trunk is None else spec.trunk
    try:
        meta = checkpoint.load(path, accept=lambda state: check_meta(state.meta, of)).meta
    except checkpoint.CheckpointError:
        return identity(spec), 0, 0.0  # there is none; or it is damaged, and the job that goes on from it will say so
    return (meta["spec"] if trunk is None else identity(spec)), meta["update"], meta["seconds"]


def training_commit() -> str:
    """What a checkpoint says of the code that trains: the commit, with `+` where the code differs from it, or
    `unknown`.
    """
    commit, dirty = code_state(ROOT)
    return "unknown" if commit is None else commit + "+" * bool(dirty)


def episodes_of(spec: TrainSpec, data: DataSet, device: torch.device) -> Callable[[int], Episode]:
    """The training episode of each step, a pure function of it, with the memory size of the stage that its update is
    in.

    Raises:
        InputError: as `stages_of`.
    """
    stages, per_update = stages_of(spec, data, device), spec.episodes_per_update or 1
    if len(stages) == 1:  # these take the step from the device too
        return stages[0][1]

    def episodes(step: int) -> Episode:
        return next(own for until, own in stages if step // per_update < until)(step)

    return episodes


def stages_of(spec: TrainSpec, data: DataSet, device: torch.device) -> list[tuple[int, Episodes]]:
    """The stages of training: until which update, and the episodes of all updates with its memory size.

    Raises:
        InputError: if the training set has too few classes, drawings or images.
    """
    images = data.train.to(device)
    grown = [(until, replace(spec.episode, memory_size=size)) for size, until in spec.growth or ()]
    return [(until, Episodes(images, own, spec.seed)) for until, own in (*grown, (ENDLESS, spec.episode))]


def validation_episodes(spec: TrainSpec, data: DataSet, device: torch.device) -> Episodes:
    """Episodes of the validation images, like those of training; of fewer classes, or with a smaller memory to recall,
    where there are not as many that have the drawings.

    Raises:
        InputError: if no validation class has enough drawings.
    """
    validation = data.validation
    episode = replace(spec.episode, turned=None, shifted=None, upright=None, fewest_shots=None)
    if spec.episode.fewest_shots is not None:  # as many as the paper's, so that curves can be compared
        episode = replace(episode, shots=min(episode.shots, EpisodeSpec.shots))
    if episode.protocol in BY_CLASS:
        needed = episode.targets_per_class + episode.shots * (episode.protocol == "per_class")
        enough = int((validation.counts >= needed).sum())
        episode = replace(episode, classes=max(1, min(episode.classes, enough)))
    elif episode.memory_size is not None:
        episode = replace(episode, memory_size=min(episode.memory_size, len(validation.images)))
    return Episodes(validation.to(device), episode, spec.seed)


def check_meta(meta: Mapping[str, Any], spec: TrainSpec | None = None) -> None:
    """Refuse a checkpoint whose meta do not say what was trained, or that is of another run than that of `spec`.

    Raises:
        CheckpointError: naming what is wrong.
    """
    kinds = {"spec": dict, "update": int, "seconds": float, "data_sha256": str}
    for key, kind in kinds.items():
        if type(meta.get(key)) is not kind:
            raise checkpoint.CheckpointError(f"its {key} is {meta.get(key)!r:.80}; {checkpoint.RESTORE}")
    commits = meta.get("commits", [])  # the first states had none
    if not isinstance(commits, list) or not all(isinstance(commit, str) for commit in commits):
        raise checkpoint.CheckpointError(f"its commits are {commits!r:.80}; {checkpoint.RESTORE}")
    if meta["update"] < 0 or not 0 <= meta["seconds"] < math.inf:
        raise checkpoint.CheckpointError(
            f"it has {meta['update']} updates in {meta['seconds']} s; {checkpoint.RESTORE}"
        )
    if spec is None:
        return
    try:
        own = replace(spec, **{name: meta["spec"].get(name) for name in SETTINGS})
    except InputError as error:
        raise checkpoint.CheckpointError(f"{error}; {checkpoint.RESTORE}") from None
    if spec_id(meta["spec"]) != own.train_id:
        raise checkpoint.CheckpointError(
            f"it is the state of another run, {spec_id(meta['spec'])} and not {own.train_id}; {checkpoint.RESTORE}"
        )


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
