"""From a cell to rows: take or train its model, evaluate it, and say everything about where the numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import store, tasks
from benchmarks.build import build_model
from benchmarks.cli import EvaluationOptions
from benchmarks.experiments import named
from benchmarks.spec import MODELS, Cell, TrainSpec, identity, train_spec
from benchmarks.tasks import Result
from benchmarks.training import Trained, check_meta, run_folder, train
from reports import targets
from reports.targets import Key
from vma import checkpoint
from vma.data import DATASETS, DataSet
from vma.errors import InputError, check_name
from vma.pretrained import WEIGHTS


def weights_path(spec: TrainSpec, folder: Path = WEIGHTS) -> Path:
    """Where the weights of a spec are shipped; threads and precision do not matter."""
    names = {train.science_id: name for name, train in named().items()}
    return folder / f"{names.get(spec.science_id, f'{spec.model}-{spec.dataset}-{spec.science_id}')}.safetensors"


def shipped(spec: TrainSpec, data: DataSet, device: torch.device) -> Trained | None:
    """The model with the weights that the project ships for a spec on the same data, None if there are none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = weights_path(spec)
    if data.name not in DATASETS or not path.exists():  # the name of a user's folder may be too long for a file's
        return None
    model = build_model(spec, None, device)
    meta = checkpoint.load_weights(path, model, accept=lambda state: check_meta(state.meta))
    if meta["data_sha256"] != data.sha256:
        return None
    commits = tuple(meta.get("commits", ["unknown"]))
    return Trained(model, spec, meta["update"], meta["seconds"], meta["spec"], commits, shipped=True)


def spec_at(path: Path) -> TrainSpec:
    """What was trained, by a file of weights or the state of a run.

    Raises:
        CheckpointError: if there is no such file, it is damaged, or it is of another program.
    """
    try:
        spec = train_spec(_meta(path)["spec"])
        check_name("model", spec.model, MODELS)  # a file that came from elsewhere may not say which code is run
        return spec
    except (KeyError, TypeError, InputError) as error:
        raise checkpoint.CheckpointError(f"{path} does not say what was trained ({error}); give another file") from None


def trained_at(path: Path, device: torch.device) -> Trained:
    """The model in a file of weights or in the state of a run.

    Raises:
        CheckpointError: as `spec_at`.
    """
    spec = spec_at(path)
    model = build_model(spec, None, device)
    meta = checkpoint.load_weights(path, model)
    commits = tuple(meta.get("commits", ["unknown"]))
    return Trained(model, spec, meta["update"], meta["seconds"], meta["spec"], commits)


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
    """Ship the weights beside the committed rows, if these are where the rows go, the weights were trained here, and
    none of as many updates are there.
    """
    committed = out.resolve() == (store.ROOT / "results").resolve()
    if committed and not trained.shipped and data.name in DATASETS and data.name != "strokes":
        path = weights_path(trained.spec)
        if not path.exists() or trained.updates > _meta(path)["update"]:
            print(f"weights: {ship(trained, data, WEIGHTS)}")


def _meta(path: Path) -> dict[str, Any]:
    """What a file of weights or the state of a run says of itself.

    Raises:
        CheckpointError: if there is no such file, it is damaged, or it does not say what was trained.
    """
    return checkpoint.load(path, previous=False, accept=lambda state: check_meta(state.meta)).meta


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
    print(
        f"{describe(spec)}: no shipped weights used; training for {limit}, with pictures in {run_folder(spec, device)}"
    )
    trained = train(spec, data, device, updates=updates, seconds=None if updates else seconds, restart=from_scratch)
    if updates is not None and trained.updates > updates:
        print(f"{describe(spec)}: an earlier start made more updates than {updates:,}; --from-scratch forgets it")
    state = run_folder(spec, device) / "checkpoint.safetensors"
    print(f"{describe(spec)}: {trained.updates:,} updates in {trained.seconds / 60:.1f} minutes, in {state}")
    return trained


def describe(spec: TrainSpec) -> str:
    """A model's name for messages."""
    return spec.model if spec.read is None else f"{spec.model} ({spec.read})"


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


def take_over(
    folder: Path, experiment: str, trained: Trained, cells: Iterable[Cell], data: DataSet, since: float = 0.0
) -> None:
    """Give the experiment, which has no rows of these cells, those that others in `folder` have of the very same
    evaluation, and the values at each target, unless they are older than `since` (seconds since 1970).

    Evaluated once more, beside other cells, they would come from other draws.
    """
    elsewhere = _rows_elsewhere(folder, experiment)
    rows = []
    arrays: dict[Key, Mapping[str, np.ndarray]] = {}
    for cell in cells:
        found = stored(elsewhere, cell, trained, data)
        last = max(found, key=lambda row: row["created"], default=None)
        if last is None or datetime.fromisoformat(last["created"]).timestamp() < since:
            continue
        key, other = Key(trained.train_id, trained.updates, cell.eval.eval_id), last["experiment"]
        known = targets.read(targets.path(folder, other))
        if key not in known:
            continue
        arrays[key] = known[key] | targets.read_pictures(targets.pictures_path(folder, other, key))
        # two experiments, or two variants, may have it
        numbers = {tuple(row.get(k) for k in _NUMBER): row for row in found if row["created"] == last["created"]}
        own = {"experiment": experiment, "variant": cell.variant}
        rows += [{**cell.row(), **row, **own} for row in numbers.values()]
    if rows:
        store.record_arrays(folder, experiment, arrays)
        store.append_rows(folder / f"{experiment}.jsonl", rows)


_NUMBER = ("metric", "targets", "rule")  # what tells apart the rows of one evaluation


def _rows_elsewhere(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """The rows of all other experiments in a folder."""
    paths = [path for path in sorted(folder.glob("*.jsonl")) if path.stem not in (experiment, "specs")]
    return [row for path in paths for row in store.read_rows(path) if "eval_id" in row]


def record(
    folder: Path,
    experiment: str,
    trained: Trained,
    results: Sequence[Result],
    data: DataSet,
    origin: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Write the arrays and specs of some cells of one training, then append all their rows at once; return the rows.

    A cell whose rows are there has everything else too, however the process ends. Where other experiments have earlier
    rows of a cell, they get these as well.
    """
    elsewhere = _rows_elsewhere(folder, experiment)
    rows: dict[str, list[dict[str, Any]]] = {experiment: []}
    arrays: dict[str, dict[Key, Mapping[str, np.ndarray]]] = {}
    for result in results:
        cell = result.cell
        key = Key(trained.train_id, trained.updates, cell.eval.eval_id)
        store.record_specs(
            folder / "specs.jsonl",
            {trained.train_id: trained.trained_as, cell.eval.eval_id: identity(cell.eval)},
        )
        shared = row_keys(experiment, cell, trained, data, origin) | {"seconds": result.seconds}
        others = stored(elsewhere, cell, trained, data)
        newest = {(row["experiment"], row.get("variant")): row["created"] for row in others}  # the last row counts
        for other, variant in [(experiment, cell.variant), *(k for k, at in newest.items() if at != origin["created"])]:
            keys = shared | {"experiment": other, "variant": variant}
            rows.setdefault(other, []).extend({**keys, **metric} for metric in result.metrics)
            arrays.setdefault(other, {})[key] = result.arrays
    for other, new in rows.items():
        store.record_arrays(folder, other, arrays[other])
        store.append_rows(folder / f"{other}.jsonl", new)
    return rows[experiment]


def evaluate_cells(
    experiment: str,
    options: EvaluationOptions,
    trained: Trained,
    cells: Iterable[Cell],
    data: DataSet,
    device: torch.device,
    origin: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The rows of some cells of one training: those that --out has already, and the others evaluated and recorded."""
    cells = list(dict.fromkeys(cells))

    def found() -> dict[Cell, list[dict[str, Any]]]:
        rows = [] if options.again else store.read_rows(options.out / f"{experiment}.jsonl")
        return {cell: stored(rows, cell, trained, data) for cell in cells}

    if not options.again:
        undone = [cell for cell, part in found().items() if not part]
        take_over(options.out, experiment, trained, undone, data)
    done = found()
    rows = [row for part in done.values() for row in part]
    missing = {cell.eval for cell, part in done.items() if not part}
    groups = tasks.unfinished(trained.model, cells, missing)
    with tqdm(desc=f"evaluate {describe(trained.spec)}", unit="episode") as bar:
        for i, group in enumerate(groups):

            def progress(done: int, total: int, before: int = i) -> None:
                bar.total, bar.n = total * len(groups), total * before + done
                bar.refresh()

            results = tasks.evaluate_group(trained, group, data, device, progress)
            results = [result for result in results if result.cell.eval in missing]
            rows += record(options.out, experiment, trained, results, data, origin)
    return rows
