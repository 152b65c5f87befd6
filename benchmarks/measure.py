"""From a cell to rows: take or train its model, evaluate it, and say everything about where the numbers come from."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import store
from benchmarks.build import DTYPES, build_model
from benchmarks.spec import Cell, TrainSpec, identity
from benchmarks.training import Trained, train, validation_episodes
from vma import checkpoint
from vma.data import DATASETS, DataSet, ImageSet
from vma.data.episodes import Episodes
from vma.errors import InputError
from vma.evaluation import METRICS, Scores, evaluate

WEIGHTS = store.ROOT / "results" / "checkpoints"


def weights_path(spec: TrainSpec, folder: Path = WEIGHTS) -> Path:
    """Where the weights of a spec are shipped; threads and precision do not matter."""
    return folder / f"{spec.model}-{spec.dataset}-{spec.science_id}.safetensors"


def shipped(spec: TrainSpec, data: DataSet, device: torch.device) -> Trained | None:
    """The model with the weights that the project ships for a spec on the same data, None if there are none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = weights_path(spec)
    if not path.exists():
        return None
    model = build_model(spec, data, device)
    meta = checkpoint.load_weights(path, model)
    if meta["data_sha256"] != data.sha256:
        return None
    commits = tuple(meta.get("commits", ["unknown"]))
    return Trained(model, spec, meta["update"], meta["seconds"], meta["spec"], commits, shipped=True)


def ship(trained: Trained, data: DataSet, folder: Path) -> Path:
    """Write the weights in half precision with what `shipped` needs; they take part in no resumed training."""
    path = weights_path(trained.spec, folder)
    meta = {
        "spec": trained.trained_as,
        "update": trained.updates,
        "seconds": trained.seconds,
        "commits": list(trained.commits),
        "data_sha256": data.sha256,
    }
    checkpoint.save_weights(path, trained.model, meta)
    return path


def offer_weights(trained: Trained, data: DataSet, out: Path) -> None:
    """Ship the weights beside the committed rows, if these are where the rows go and the weights were trained here."""
    committed = out.resolve() == (store.ROOT / "results").resolve()
    if committed and not trained.shipped and data.name in DATASETS and data.name != "strokes":
        print(f"weights: {ship(trained, data, WEIGHTS)}")


def obtain(
    spec: TrainSpec, data: DataSet, device: torch.device, *, updates: int | None, seconds: float, from_scratch: bool
) -> Trained:
    """The shipped model; or one trained for `updates`, or without that number for `seconds` in all.

    Raises:
        CheckpointError: if shipped weights or the state of an earlier start are damaged.
    """
    if updates is None and not from_scratch:
        found = shipped(spec, data, device)
        if found is not None:
            print(f"{describe(spec)}: shipped weights, {found.updates:,} updates")
            return found
    limit = f"{updates:,} updates" if updates else f"{seconds / 60:.1f} minutes in all"
    print(f"{describe(spec)}: no shipped weights used; training for {limit}")
    trained = train(spec, data, device, updates=updates, seconds=None if updates else seconds, restart=from_scratch)
    if updates is not None and trained.updates > updates:
        print(f"{describe(spec)}: an earlier start made more updates than {updates:,}; --from-scratch forgets it")
    print(f"{describe(spec)}: {trained.updates:,} updates in {trained.seconds / 60:.1f} minutes")
    return trained


def describe(spec: TrainSpec) -> str:
    """A model's name for messages."""
    return spec.model if spec.read is None else f"{spec.model} ({spec.read})"


def check_cells(cells: Iterable[Cell], data: DataSet) -> None:
    """Refuse, before anything is trained, cells whose episodes cannot be drawn from these data.

    Raises:
        InputError: if a split has too few classes or drawings, or if the cells cannot share their targets.
    """
    eligible = set()
    for cell in cells:
        Episodes(data.train, cell.train.episode, cell.train.seed)
        validation_episodes(cell.train, data, torch.device("cpu"))
        episodes = Episodes(_split(data, cell), cell.eval.episode, cell.eval.seed)
        eligible.add(tuple(episodes.eligible.tolist()))
    if len(eligible) > 1:
        raise InputError(
            f"{data.name}: some classes have drawings for the small cells of this experiment only, and all cells share "
            "their targets; leave those classes out"
        )


def _split(data: DataSet, cell: Cell) -> ImageSet:
    return {"train": data.train, "validation": data.validation, "test": data.test}[cell.eval.split]


def measure(trained: Trained, cell: Cell, data: DataSet, device: torch.device) -> tuple[Scores, float]:
    """The scores of a cell and the seconds that they took."""
    torch.set_num_threads(cell.eval.threads)
    episodes = Episodes(_split(data, cell).to(device), cell.eval.episode, cell.eval.seed)
    started = time.monotonic()
    scores = evaluate(
        trained.model,
        episodes,
        cell.eval.steps,
        cell.eval.num_samples,
        seed=cell.eval.seed,
        dtype=DTYPES[cell.eval.dtype],
    )
    return scores, time.monotonic() - started


def rows_of(
    experiment: str,
    cell: Cell,
    trained: Trained,
    scores: Scores,
    data: DataSet,
    seconds: float,
    origin: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row for each metric, and under `gmn` for the targets that are duplicated in memory and those that are not."""
    groups = {"all": scores}
    if cell.eval.episode.protocol == "gmn" and cell.train.model != "vae":
        groups |= {"duplicated": scores.where(scores.duplicated), "new": scores.where(~scores.duplicated)}
    by_class = cell.eval.episode.protocol in ("per_class", "gmn") and data.test.num_classes > 1
    rows = []
    for targets, group in groups.items():
        if len(group) == 0:
            continue
        for metric in METRICS:
            value, stderr = group.summary(metric, by_class)
            values = {
                "metric": metric,
                "value": value,
                "stderr": stderr if np.isfinite(stderr) else None,
                "n": len(group),
            }
            rows.append(
                {**row_keys(experiment, cell, trained, data, origin), "targets": targets, "seconds": seconds, **values}
            )
    return rows


def row_keys(experiment: str, cell: Cell, trained: Trained, data: DataSet, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What the rows of a cell share."""
    return {
        **origin,
        **cell.row(),
        "experiment": experiment,
        "updates": trained.updates,
        "train_id": trained.train_id,
        "train_commits": " ".join(trained.commits),
        "eval_id": cell.eval.eval_id,
        "data_sha256": data.sha256,
    }


def stored(rows: Iterable[Mapping[str, Any]], cell: Cell, trained: Trained, data: DataSet) -> list[dict[str, Any]]:
    """The rows of exactly this cell, at this number of updates and on these data."""
    key = {
        "train_id": trained.train_id,
        "updates": trained.updates,
        "eval_id": cell.eval.eval_id,
        "data_sha256": data.sha256,
    }
    return [dict(row) for row in rows if all(row[k] == v for k, v in key.items())]


def record(
    folder: Path, experiment: str, cell: Cell, trained: Trained, rows: list[dict[str, Any]], scores: Scores
) -> None:
    """Append a cell's rows, its specs, and its per-target values, from which paired differences can be made."""
    name = f"{trained.train_id}-{trained.updates}-{cell.eval.eval_id}.npz"
    arrays = {metric: getattr(scores, metric).astype(np.float32) for metric in METRICS}
    targets = {"x_index": scores.x_index, "x_class": scores.x_class, "duplicated": scores.duplicated}
    store.write_artifact(folder / "artifacts" / name, {**arrays, **targets})
    store.record_specs(
        folder / "specs.jsonl",
        {trained.train_id: trained.trained_as, cell.eval.eval_id: identity(cell.eval)},
    )
    store.append_rows(folder / f"{experiment}.jsonl", rows)
