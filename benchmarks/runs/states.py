"""The states of runs in the user's cache: where they are, how far they have come, and whether they can be used."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.declare.spec import SETTINGS, TrainSpec, identity, spec_id
from vma import checkpoint
from vma.data import cache_dir
from vma.errors import InputError


def run_folder(spec: TrainSpec, device: torch.device) -> Path:
    """Where the state of a run is kept: checkpoint.safetensors, metrics.jsonl, spec.json, and pictures of it.

    Whatever its precision and its threads, it is one run. Devices have random streams of their own, so a run on another
    one is another run.
    """
    dataset = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.dataset)[-40:]
    on = "" if device.type == "cpu" else f"-{device.type}"
    begun = cache_dir() / "runs" / f"{spec.model}-{dataset}-{spec.train_id}{on}"  # by an earlier version
    return begun if begun.exists() else begun.with_name(f"{spec.model}-{dataset}-{spec.run_id}{on}")


def has_state(path: Path) -> bool:
    """Whether a checkpoint or the one before it is there; a broken link is no new start."""
    return any(map(os.path.lexists, (path, path.with_name(path.name + ".previous"))))


def branch_point(spec: TrainSpec, device: torch.device) -> Path | None:
    """The checkpoint of the trunk that a run without a state of its own begins from, whether it is there yet or not;
    None if the run has a state or no trunk, or the trunk has gone too far.
    """
    if spec.trunk is None or has_state(run_folder(spec, device) / "checkpoint.safetensors"):
        return None
    path = run_folder(spec.trunk, device) / "checkpoint.safetensors"
    if has_state(path) and trained_before(spec.trunk, device)[0] > (spec.decay_from or 0):
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
        if has_state(folder / "checkpoint.safetensors"):
            return (
                f"{folder} has a state of this run, made on {other}: --device {other} continues from it; here it begins"
            )
    return None


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
