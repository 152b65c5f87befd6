"""Train a spec, resumably: its checkpoints, its log and its progress live in one folder of the user's cache."""

import json
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from baselines import GenerativeMatchingNetwork
from benchmarks import watch
from benchmarks.build import (
    DTYPES,
    build_draw,
    build_model,
    build_objective,
    build_optimizer,
    schedule,
    uses_graph,
)
from benchmarks.locks import Busy, locked
from benchmarks.spec import BY_CLASS, SETTINGS, TrainSpec, identity
from benchmarks.store import ROOT, append_lines, code_state, read_rows, spec_id, write_text
from vma import checkpoint
from vma.data import DataSet, cache_dir
from vma.data.episodes import Episode, Episodes, EpisodeSpec
from vma.errors import InputError
from vma.evaluation import Scores, evaluate
from vma.objectives import Terms, iwae
from vma.pretrained import weights_file
from vma.protocol import Model
from vma.training import CHECK_EVERY, NonFiniteBound, fit

LOG_EVERY = 100  # updates a line of metrics.jsonl, and one for what is left at the end
VALIDATE_EVERY = 1000
SAVE_SECONDS = 60.0
VALIDATION_EPISODES = range(8)
ENDLESS = 2**62  # an update that no run reaches

logger = logging.getLogger("vma")


class Stopped(SystemExit):
    """A signal ended the run after its state was saved; exits with 128 + the signal's number."""


@dataclass(frozen=True)
class Trained:
    """A trained model and what a row says of its training."""

    model: Model
    spec: TrainSpec
    updates: int
    seconds: float
    trained_as: dict[str, Any]  # the identity of the spec that its training began with, on whichever machine
    commits: tuple[str, ...]  # of the code that made the updates, in their order; see `training_commit`
    shipped: bool = False

    @property
    def train_id(self) -> str:
        """The hash that names the run."""
        return spec_id(self.trained_as)


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
            return _train(spec, data, device, folder, updates, seconds, restart, progress)
    except Busy as owner:
        raise InputError(f"{owner} is training this run ({folder}): wait for it, or choose another --seed") from None


def _train(
    spec: TrainSpec,
    data: DataSet,
    device: torch.device,
    folder: Path,
    updates: int | None,
    seconds: float | None,
    restart: bool,
    progress: Callable[[int], None],
) -> Trained:
    torch.set_num_threads(spec.threads)
    model = build_model(spec, data, device)
    optimizer = build_optimizer(spec, model)
    generator = torch.Generator(device).manual_seed(spec.seed)
    path = folder / "checkpoint.safetensors"
    done, spent, trained_as = 0, 0.0, identity(spec)
    commits: tuple[str, ...] = ()
    if restart:
        for old in (path, path.with_name(path.name + ".previous")):
            old.unlink(missing_ok=True)
    source, of = (path, spec) if _has_state(path) else (branch_point(spec, device), spec.trunk)
    if not restart and source is not None and of is not None:

        def take(state: checkpoint.Checkpoint) -> None:
            check_meta(state.meta, of)
            if of is not spec and state.meta["update"] > (spec.decay_from or 0):  # it is trained on meanwhile
                raise checkpoint.CheckpointError(
                    f"it has {state.meta['update']:,} updates, this run leaves it at {spec.decay_from:,}: start again"
                )
            checkpoint.unpack_training(state.tensors, model, optimizer, generator)

        meta = checkpoint.load(source, accept=take).meta
        if meta["data_sha256"] != data.sha256:
            raise InputError(
                f"{source} was trained on other {spec.dataset} data: give the same --data, or --from-scratch"
            )
        done, spent = meta["update"], meta["seconds"]
        commits = tuple(meta.get("commits", ["unknown"]))
        if of is spec:
            trained_as = meta["spec"]
        if note := other_settings(meta["spec"], spec):
            print(f"{source}: {note}", file=sys.stderr)
    else:
        if note := elsewhere(spec, device):
            print(note, file=sys.stderr)
        if spec.start is not None:
            begin(spec, model, data, device)
    write_text(folder / "spec.json", json.dumps(identity(spec), indent=1) + "\n")
    log = folder / "metrics.jsonl"
    before_now = log if source is None else source.with_name(log.name)
    write_text(log, "".join(_lines_until(before_now, done)))
    if (updates is not None and done >= updates) or (seconds is not None and spent >= seconds):
        return Trained(model, spec, done, spent, trained_as, commits)
    now = training_commit()
    if commits[-1:] != (now,):
        commits = (*commits, now)

    def save() -> None:
        tensors = checkpoint.pack_training(model, optimizer, generator)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            # the bound was finite, and the update made of it was not: the next start would refuse what it left
            raise NonFiniteBound(
                f"weights are not finite after update {done - 1}, seed {spec.seed}; the last good state is kept"
            )
        meta = {"spec": trained_as, "update": done, "seconds": spent, "data_sha256": data.sha256}
        meta["commits"] = list(commits)
        checkpoint.save(path, tensors, meta)

    graph = uses_graph(spec, device)
    last = updates if updates is not None else ENDLESS
    stages = stages_of(spec, data, device)
    validation: Episodes | None = None
    try:
        validation = validation_episodes(spec, data, device)
    except InputError as error:
        print(f"training goes without validation: of the validation images, {error}", file=sys.stderr)
    dtype = DTYPES[spec.dtype]

    def fitted() -> Generator[tuple[int, Terms], None, None]:
        # a graph has the shapes of one stage, and ends with it
        for until, episodes in stages:
            yield from fit(
                model,
                episodes,
                build_objective(spec, model),
                optimizer,
                spec.num_samples,
                range(done, min(until, last)),
                generator=generator,
                dtype=dtype,
                schedule=schedule(spec),
                kl_warmup=spec.kl_warmup or 0,
                clip=spec.clip,
                episodes_per_update=spec.episodes_per_update or 1,
                graph=graph,
                draw=build_draw(spec),
            )

    steps = fitted()
    name = spec.model if spec.read is None else f"{spec.model} ({spec.read})"
    window: list[torch.Tensor] = []
    saved = started = time.monotonic()
    before = spent
    with (
        caught_signals() as caught,
        tqdm(total=updates, initial=done, desc=f"train {name}", unit="update", mininterval=1) as bar,
    ):
        for update, terms in steps:
            done = update + 1
            spent = before + time.monotonic() - started
            window.append(torch.stack((iwae(terms).mean(), terms.kl_a.mean(), terms.kl_z.mean())).detach())
            bar.update()
            progress(done)
            stop = bool(caught) or (seconds is not None and spent >= seconds)
            if done % LOG_EVERY == 0 or done == updates:
                bound, kl_a, kl_z = torch.stack(window).mean(0).tolist()
                window.clear()
                line = {"update": done, "bound": bound, "kl_a": kl_a, "kl_z": kl_z, "seconds": spent}
                if validation is not None and done % VALIDATE_EVERY == 0:
                    scores = evaluate(model, validation, VALIDATION_EPISODES, spec.num_samples, dtype=dtype)
                    line["validation_bound"] = -scores.summary("nll", by_class=True)[0]
                    if isinstance(model, GenerativeMatchingNetwork):
                        line |= matching(model, validation(0), scores)
                # with a graph it may have broken since the last look: the next one says so, and JSON has no word for it
                if math.isfinite(bound):
                    append_lines(log, [line])
                    if validation is not None and done % watch.EVERY == 0:
                        watch.draw(folder, spec, model, validation, dtype)
                bar.set_postfix({k: f"{v:.2f}" for k, v in line.items() if k not in ("update", "seconds")})
            # with a graph, other updates may follow one whose bound broke: what would be saved is not known to be good
            if time.monotonic() - saved > SAVE_SECONDS and not (graph and done % CHECK_EVERY):
                save()
                saved = time.monotonic()
            if stop:
                break
        steps.close()  # which looks at the bound
        save()
    if caught:
        how = "--updates without --from-scratch continues" if restart else "the same command continues from there"
        print(f"stopped after {done:,} updates, which are saved; {how}", file=sys.stderr)
        raise Stopped(128 + caught[0])
    return Trained(model, spec, done, spent, trained_as, commits)


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


def matching(model: GenerativeMatchingNetwork, episode: Episode, scores: Scores) -> dict[str, float]:
    """Whether GMN's matching has begun: strength and entropy of its attention on an episode, see its `attention`; and
    of sequences' scores `gain`, by how many nats the NLL of their last objects is below that of their first.
    """
    found = model.attention(episode.x, model.encode_memory(episode.memory), **episode.seen())
    if episode.visible is not None:
        first = ~episode.visible.any(1).cpu().numpy()
        nll = scores.nll.reshape(-1, len(first))
        found["gain"] = float(nll[:, first].mean() - nll[:, np.roll(first, -1)].mean())
    return found


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

    plain: Any = build_model(replace(spec, estimator=None), data, device)
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
    """The training episodes by their number: a pure function of it, with the memory size of the stage that their update
    is in.

    Raises:
        InputError: as `stages_of`.
    """
    stages, per_update = stages_of(spec, data, device), spec.episodes_per_update or 1
    if len(stages) == 1:  # these take the number from the device too
        return stages[0][1]

    def episodes(number: int) -> Episode:
        return next(own for until, own in stages if number // per_update < until)(number)

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
