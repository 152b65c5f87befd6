"""Trained weights: those that the project ships, found by the spec of their training, and any other file of them."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.declare.experiments import named
from benchmarks.declare.spec import MODELS, TrainSpec, train_spec
from benchmarks.record import store
from benchmarks.record.evaluated import Trained
from benchmarks.runs.build import build_model
from benchmarks.runs.states import check_meta
from vma import checkpoint
from vma.data import DATASETS, DataSet
from vma.errors import InputError, check_name
from vma.pretrained import WEIGHTS
from vma.protocol import Model


def weights_path(spec: TrainSpec, folder: Path = WEIGHTS) -> Path:
    """Where the weights of a spec are shipped; threads and precision do not matter."""
    names = {train.science_id: name for name, train in named().items()}
    return folder / f"{names.get(spec.science_id, f'{spec.model}-{spec.dataset}-{spec.science_id}')}.safetensors"


def shipped(spec: TrainSpec, data: DataSet, device: torch.device) -> Trained | None:
    """The model with the weights that the project ships for a spec on the same data, None if there are none for both.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = weights_path(spec)
    if data.name not in DATASETS or not path.exists():  # the name of a user's folder may be too long for a file's
        return None
    model = build_model(spec, None, device)
    meta = checkpoint.load_weights(path, model, accept=lambda state: check_meta(state.meta))
    # a name may have been given to another training since
    if meta["data_sha256"] != data.sha256 or train_spec(meta["spec"]).science_id != spec.science_id:
        return None
    return _trained(model, spec, meta, shipped=True)


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
    return _trained(model, spec, checkpoint.load_weights(path, model), shipped=False)


def _trained(model: Model, spec: TrainSpec, meta: dict[str, Any], shipped: bool) -> Trained:
    commits = tuple(meta.get("commits", ["unknown"]))  # the first states had none
    return Trained(model, spec, meta["update"], meta["seconds"], meta["spec"], commits, shipped)


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
