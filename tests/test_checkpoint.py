"""Checkpoints: exact continuation, what does not fit, shipped weights. Damage, kills, full disks: `tests/faults`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import refused, seeded
from torch import nn

from vma import checkpoint
from vma.checkpoint import CheckpointError, load, pack_training, save, unpack_training
from vma.optimisers import Muon

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "rng": torch.arange(5, dtype=torch.uint8)}
META: dict[str, Any] = {"spec": {"learning_rate": 3e-4, "name": "é"}, "update": 5, "none": None}
Run = tuple[nn.Module, torch.optim.Optimizer, torch.Generator]
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, fused=True)


def fresh(seed: int = 0, hidden: int = 8, device: str = "cpu", make: Make = adam) -> Run:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 4)).to(device)
    return model, make(model.parameters()), seeded(seed, device)


def train(run: Run, updates: int) -> None:
    model, optimizer, generator = run
    for _ in range(updates):
        x = torch.randn(16, 4, generator=generator, device=generator.device)
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


def damage(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


# --- going on from a checkpoint


def muon(parameters: Iterable[nn.Parameter]) -> Muon:
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in parameters:
        parts[p.dim() > 1].append(p)
    return Muon(parts[True], parts[False], lr=0.02, adam_lr=1e-2, weight_decay=0.1)


OPTIMIZERS: dict[str, Make] = {
    "Adam": adam,
    "SGD": torch.optim.SGD,  # which keeps nothing
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
    "Adafactor": torch.optim.Adafactor,
    "RMSprop": torch.optim.RMSprop,
    "Muon": muon,
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(path: Path, name: str, device: str) -> None:
    straight, first, second = (fresh(seed, device=device, make=OPTIMIZERS[name]) for seed in (0, 0, 1))
    for model, _, _ in (straight, first, second):
        model[3].bias.requires_grad = False  # which no gradient reaches
    train(straight, 10)
    train(first, 5)
    save(path, pack_training(*first), META)
    unpack_training(load(path).tensors, *second)
    train(second, 5)
    assert_equal(pack_training(*straight), pack_training(*second))


def test_a_state_that_no_file_can_hold_is_refused_when_it_is_saved() -> None:
    run = fresh(make=torch.optim.LBFGS)
    run[1].step(lambda: run[0](torch.ones(2, 4)).square().mean())
    with pytest.raises(CheckpointError, match=r"the state of LBFGS cannot be saved: '.*' of parameter 0 is a "):
        pack_training(*run)


def test_moments_lie_in_memory_like_their_parameter() -> None:
    def fresh() -> Run:
        torch.manual_seed(0)
        model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.Adam(model.parameters(), lr=1e-2, fused=True), torch.Generator()

    def update(run: Run, number: int) -> None:
        run[1].zero_grad()
        images = torch.randn(2, 4, 5, 5, generator=seeded(number))
        run[0](images).square().mean().backward()
        run[1].step()

    straight, resumed = fresh(), fresh()
    for number in range(3):
        update(straight, number)
    unpack_training(pack_training(*straight), *resumed)
    for run in (straight, resumed):
        update(run, 3)
    assert_equal(pack_training(*straight), pack_training(*resumed))


def _replace(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: tensors.pop("rng"), "'rng' is missing"),
        (lambda tensors: tensors.pop("optimizer.1.exp_avg"), r"'optimizer.1.exp_avg' is missing"),
        (_replace("model.9.bias", torch.zeros(1)), r"'model.9.bias' is unknown"),
        (_replace("optimizer.0.max_exp_avg_sq", torch.zeros(8, 4)), "max_exp_avg_sq' is unknown"),
        (_replace("model.0.bias", torch.zeros(9)), r"is torch.float32 \[9\] and must be torch.float32 \[8\]"),
        (_replace("rng", torch.zeros(16, dtype=torch.uint8)), "'rng' is torch.uint8"),
        (_replace("optimizer.params", torch.tensor(5)), "has 5 parameters and this one 6"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    spoil: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    run = fresh()
    train(run, 2)
    tensors = pack_training(*run)
    spoil(tensors)
    other = fresh(seed=1)
    before = {name: tensor.clone() for name, tensor in pack_training(*other).items()}
    with refused(message, CheckpointError):
        unpack_training(tensors, *other)
    assert_equal(before, pack_training(*other))


# --- one file


def test_round_trip_of_every_kind_of_tensor(path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {
        **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.bool, torch.uint8, torch.int64)},
        "transposed": base.reshape(3, 4).T,
        "expanded": torch.ones(1).expand(5),
        "shared": base,
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.ones(2)),
        "not finite": torch.tensor([float("inf"), float("-inf"), -0.0]),
    }
    save(path, tensors, META)
    loaded = load(path)
    assert isinstance(loaded, checkpoint.Checkpoint)
    assert loaded.meta == META
    assert_equal(tensors, loaded.tensors)


def test_a_damaged_newest_does_not_push_out_the_good_previous(path: Path) -> None:
    save(path, TENSORS, {"update": 1})
    save(path, TENSORS, {"update": 2})
    damage(path)
    save(path, TENSORS, {"update": 3})
    assert load(path).meta == {"update": 3}
    damage(path)
    assert load(path).meta == {"update": 1}


# --- shipped weights


def test_weights_are_halved_and_come_back_in_the_models_dtype(path: Path) -> None:
    model, other = fresh()[0], fresh(seed=1)[0]
    checkpoint.save_weights(path, model, META)
    stored = load(path).tensors
    assert stored["model.0.weight"].dtype == torch.float16
    assert stored["model.1.num_batches_tracked"].dtype == torch.int64
    assert checkpoint.load_weights(path, other) == META
    for name, tensor in model.state_dict().items():
        assert other.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(other.state_dict()[name], tensor.half().to(tensor.dtype))
    checkpoint.save_weights(path, model, META, dtype=torch.float32)
    checkpoint.load_weights(path, other)
    assert_equal(model.state_dict(), other.state_dict())
    assert list(path.parent.iterdir()) == [path]


def test_weights_for_another_model_are_refused(path: Path) -> None:
    checkpoint.save_weights(path, fresh(hidden=9)[0], META)
    with pytest.raises(CheckpointError, match=r"'model.0.bias' is torch.float32 \[9\]"):
        checkpoint.load_weights(path, fresh()[0])
    checkpoint.save_weights(path, nn.Linear(4, 8), META)
    with pytest.raises(CheckpointError, match=r"'model.0.bias' is missing"):
        checkpoint.load_weights(path, fresh()[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(path: Path, value: float) -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    with pytest.raises(CheckpointError, match=r"'model.weight' has values that are not finite as torch.float16"):
        checkpoint.save_weights(path, model, META)
    assert not path.exists()
    save(path, model.half().state_dict(prefix="model."), META)
    with pytest.raises(CheckpointError, match="not finite"):
        checkpoint.load_weights(path, nn.Linear(1, 1))
