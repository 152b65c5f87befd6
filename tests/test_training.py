"""The training loop, and runs that are interrupted, refused and taken up again by `benchmarks.runs.training.train`."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers import CPU, made, refused, same, seeded
from torch import Tensor, nn

from baselines import PlainVAE, SoftAttentionVAE
from benchmarks.declare.spec import ESTIMATORS, TrainSpec
from benchmarks.record.evaluated import Trained
from benchmarks.runs import build, states, training, watch
from benchmarks.runs.episodes import episodes_of, validation_episodes
from benchmarks.runs.states import run_folder
from benchmarks.runs.training import Stopped
from benchmarks.runs.weights import ship
from vma import MLPSizes, Terms, VariationalMemoryAddressing, checkpoint, iwae, pretrained, vimco
from vma.data import DataSet, ImageSet
from vma.data.episodes import Episode, Episodes, EpisodeSpec
from vma.estimators import geometric_leave_one_out, leave_one_out
from vma.training import NonFiniteBound, fit

SIZES = MLPSizes(image=(1, 8, 8), widths=(12, 8), latent=2, embedding=4)
SPEC = EpisodeSpec(classes=3, targets_per_class=2, shots=2)
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[Terms], Tensor]]] = {
    "vma": (lambda: VariationalMemoryAddressing(SIZES), vimco),
    "soft": (lambda: SoftAttentionVAE(SIZES, read="features"), iwae),
    "vae": (lambda: PlainVAE(SIZES), iwae),
}


def image_set(seed: int = 0) -> ImageSet:
    """8 classes of 6 noisy copies of a prototype: there is something to learn."""
    generator = seeded(seed)
    prototypes = torch.rand(8, 1, 1, 8, 8, generator=generator) < 0.3
    noise = torch.rand(8, 6, 1, 8, 8, generator=generator) < 0.05
    return ImageSet((prototypes ^ noise).flatten(0, 1).to(torch.uint8), torch.arange(0, 49, 6))


def make(name: str = "vma") -> Any:
    return made(MODELS[name][0])


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def start(
    model: nn.Module, optimizer: torch.optim.Optimizer, updates: range, **options: Any
) -> Iterator[tuple[int, Terms]]:
    objective = vimco if isinstance(model, VariationalMemoryAddressing) else iwae
    return fit(model, Episodes(image_set(), SPEC, 0), objective, optimizer, 4, updates, generator=seeded(), **options)


# --- the loop


@pytest.mark.parametrize("name", MODELS)
def test_fit_raises_the_bound(name: str) -> None:
    model = make(name)
    yielded = [*start(model, torch.optim.Adam(model.parameters(), lr=1e-2), range(60))]
    assert [update for update, _ in yielded] == [*range(60)]
    bounds = [iwae(terms).mean().item() for _, terms in yielded]
    assert sum(bounds[-10:]) / 10 > sum(bounds[:3]) / 3 + 2


def test_a_broken_bound_stops_before_the_update() -> None:
    model = make()
    nn.init.constant_(model.decoder.layers[-1].bias, torch.nan)
    before = weights(model)
    with pytest.raises(NonFiniteBound, match=r"not finite at update 7, seed \d+: log_px broke"):
        next(start(model, torch.optim.Adam(model.parameters()), range(7, 9)))
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("clip", [None, 1e-2, 1e6])
def test_clip_bounds_the_norm_of_the_gradient(clip: float | None) -> None:
    model = make()
    before = weights(model)
    next(start(model, torch.optim.SGD(model.parameters(), lr=1.0), range(1), clip=clip))
    moved = torch.stack([(p - b).norm() for p, b in zip(weights(model), before, strict=True)]).norm()
    if clip == 1e-2:
        assert moved.item() == pytest.approx(clip, rel=1e-3)
    else:
        assert 1 < moved < 1e6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 3])
def test_an_update_on_several_episodes_is_accumulated_gradients(name: str, n: int) -> None:
    """Update u is made on episodes nu ... nu + n - 1, each with its own memory, and the mean over all their targets."""
    one, other, objective = make(name).double(), make(name).double(), MODELS[name][1]
    drawn = Episodes(image_set(), SPEC, 0)

    def episodes(number: int) -> Episode:
        episode = drawn(number)
        return replace(episode, x=episode.x.double(), memory=episode.memory.double())

    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-2) for model in (one, other)]
    generators = [seeded(), seeded()]
    options = {"generator": generators[0], "episodes_per_update": n}
    for update, terms in fit(one, episodes, objective, optimizers[0], 4, range(5, 7), **options):
        optimizers[1].zero_grad()
        for number in range(n * update, n * update + n):
            episode = episodes(number)
            part = other(episode.x, other.encode_memory(episode.memory), 4, generator=generators[1])
            (-objective(part).mean() / n).backward()
        optimizers[1].step()
        assert terms.log_px.shape == (4, n * SPEC.num_targets)
        assert terms.kl_a.shape == (n * SPEC.num_targets,)
        torch.testing.assert_close(iwae(terms)[-SPEC.num_targets :], iwae(part))
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-10, atol=1e-12)


# --- runs


DATA = DataSet("tiny", image_set(0), image_set(1), image_set(2), "0" * 64)
UNLABELLED = DataSet(
    "tiny", *(ImageSet(p.images, p.offsets[[0, -1]]) for p in (DATA.train, DATA.validation, DATA.test)), "2" * 64
)
NONE = EpisodeSpec("none", classes=3, targets_per_class=2)
RECALL = EpisodeSpec("recall", classes=3, targets_per_class=2, memory_size=20)
MODEL_SPECS: dict[str, dict[str, Any]] = {
    "vma": {},
    "soft": {"read": "images"},
    "vae": {},
    "learned memory": {
        "model": "vma",
        "learned_entries": 5,
        "memory_shape": (7,),
        "episode": NONE,
        "weight_decay": 0.1,
    },
    "growing memory": {"model": "vma", "episode": RECALL, "growth": ((4, 2), (8, 7))},
    "nvil": {"model": "vma", "estimator": "nvil"},  # whose baselines go on too
    "several episodes": {"model": "soft", "read": "features", "episodes_per_update": 3},
}


@pytest.fixture(autouse=True)
def _small_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    monkeypatch.setattr(build, "sizes", lambda spec: SIZES)
    monkeypatch.setattr(watch, "LOG_EVERY", 2)
    monkeypatch.setattr(watch, "VALIDATE_EVERY", 4)


def train(name: str = "vma", data: DataSet = DATA, **options: Any) -> Trained:
    return training.train(train_spec(name), data, CPU, **options)


def train_spec(name: str = "vma") -> TrainSpec:
    fields = {"model": name, "episode": SPEC, **MODEL_SPECS[name]}
    return TrainSpec(dataset="tiny", image_size=8, network="mlp", threads=1, **fields)


def metrics(spec: TrainSpec | None = None, device: str = "cpu") -> list[dict[str, Any]]:
    """The lines of a run's log without the seconds."""
    folder = run_folder(spec or train_spec(), torch.device(device))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def equal(one: Trained, other: Trained) -> bool:
    return same(one.model, other.model)


def at_update(monkeypatch: pytest.MonkeyPatch, update: int, action: Callable[[], None]) -> None:
    """Have `action` happen once, right after the update, before the run's loop sees it."""

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[tuple[int, Terms]]:
        for done, terms in fit(*args, **kwargs):
            if done == update:
                action()
            yield done, terms

    monkeypatch.setattr(training, "fit", interrupted)


@pytest.mark.parametrize("name", MODEL_SPECS)
@pytest.mark.parametrize(("signalled", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_exactly(
    name: str, signalled: int, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        at_update(patch, 4, lambda: os.kill(os.getpid(), signalled))
        before = signal.getsignal(signalled)
        with pytest.raises(Stopped) as stopped:
            train(name, updates=12)
        assert stopped.value.code == code
        assert signal.getsignal(signalled) == before
    resumed = train(name, updates=12)
    lines = metrics(train_spec(name))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    straight = train(name, updates=12)
    assert straight.updates == resumed.updates == 12
    assert equal(straight, resumed)
    for one, other in zip(lines, metrics(train_spec(name)), strict=True):  # the other means go from start to start
        assert one["update"] == other["update"]
        assert one.get("validation_bound") == other.get("validation_bound")
    assert [line["update"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert ["validation_bound" in line for line in lines] == [False, True] * 3


def test_a_crash_costs_the_updates_since_the_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lines of the log after the checkpoint, and a torn one, are written again and stand there once."""

    def crash() -> None:
        raise RuntimeError("the machine went down")

    assert train(updates=3).updates == 3
    with monkeypatch.context() as patch:
        at_update(patch, 7, crash)
        with pytest.raises(RuntimeError, match="the machine went down"):
            train(updates=10)
    assert [line["update"] for line in metrics()] == [2, 3, 4, 6]
    with open(run_folder(train_spec(), CPU) / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"update": 8, "bou')
    resumed = train(updates=10)
    assert [line["update"] for line in metrics()] == [2, 3, 4, 6, 8, 10]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert equal(resumed, train(updates=10))


def test_a_broken_bound_leaves_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    good = train(updates=3)

    def breaking(model: nn.Module, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Terms]]:
        nn.init.constant_(model.get_submodule("prior_head").bias, torch.nan)
        return fit(model, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", breaking)
        with pytest.raises(NonFiniteBound, match="update 3, seed 0: log_rz"):
            train(updates=6)
    assert equal(train(updates=3), good)


def test_a_run_that_has_enough_updates_is_only_loaded() -> None:
    trained = train(updates=5)
    for again in (train(updates=5), train(updates=2), train(seconds=trained.seconds)):
        assert again.updates == 5
        assert again.seconds == trained.seconds
        assert equal(again, trained)
    assert [line["update"] for line in metrics()] == [2, 4, 5]


def test_a_budget_of_seconds_ends_a_run_over_all_its_starts() -> None:
    first = train(seconds=1e-6)
    assert first.updates == 1
    assert first.seconds >= 1e-6
    assert train(seconds=1e-6).updates == 1
    assert train(seconds=first.seconds + 1e-6).updates == 2


def test_a_restart_forgets() -> None:
    first = train(updates=4)
    train(updates=6)
    again = train(updates=4, restart=True)
    assert again.updates == 4
    assert equal(first, again)
    assert [line["update"] for line in metrics()] == [2, 4]


@pytest.mark.parametrize("named_by_an_earlier_version", [False, True])
def test_a_run_goes_on_with_other_threads_and_precision_and_says_so(
    named_by_an_earlier_version: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    one = train_spec()
    other = replace(one, threads=2, dtype="bfloat16")
    folder = run_folder(one, CPU)
    assert run_folder(other, CPU) == folder
    begun = train(updates=3)
    assert begun.train_id == one.train_id
    assert not capsys.readouterr().err.count("rounding")
    if named_by_an_earlier_version:
        folder.rename(folder.with_name(folder.name.replace(one.run_id, other.train_id)))
    try:
        gone_on = training.train(other, DATA, CPU, updates=5)
    finally:
        torch.set_num_threads(1)
    assert (gone_on.updates, gone_on.train_id, gone_on.trained_as) == (5, one.train_id, begun.trained_as)
    assert "begun in float32 on 1 CPU threads, it continues in bfloat16 on 2 CPU threads" in capsys.readouterr().err
    assert states.state_before(other, CPU) == (begun.trained_as, 5, gone_on.seconds)
    again = training.train(replace(other, threads=1), DATA, CPU, updates=2, restart=True)  # which is a run of its own
    assert again.trained_as["dtype"] == "bfloat16"


def test_a_run_that_begins_says_where_another_device_has_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    train(updates=2)
    folder = run_folder(train_spec(), CPU)
    folder.rename(folder.with_name(f"{folder.name}-cuda"))
    assert train(updates=1).updates == 1
    said = capsys.readouterr().err
    assert f"{folder}-cuda has a state of this run, made on cuda: --device cuda continues from it" in said


def annealed_spec() -> TrainSpec:
    return replace(train_spec(), recipe="annealed", decay_from=6, decay_updates=10)


def test_a_rate_may_be_constant_before_it_decays() -> None:
    rate = build.schedule(annealed_spec())
    assert [rate(update) for update in (0, 5, 6)] == [1] * 3
    assert rate(8) == pytest.approx(0.5)
    assert rate(10) == rate(11) == 0
    warm = build.schedule(replace(train_spec(), warmup=4, decay_updates=10))
    assert [warm(update) for update in (0, 5)] == pytest.approx([0.25, 0.5])
    with refused("decay_from is 6, decay_updates 6: must end after it begins"):
        replace(annealed_spec(), decay_updates=6)


@pytest.mark.parametrize("trunk_updates", [0, 2, 6, 7])
def test_a_run_with_a_trunk_begins_where_that_ends(trunk_updates: int) -> None:
    """Whether the trunk is not there, has begun, has come so far, or has gone too far, the weights are the same."""
    spec = annealed_spec()
    if trunk_updates:
        train(updates=trunk_updates)
    made: list[int] = []
    annealed = training.train(spec, DATA, CPU, updates=10, progress=made.append)
    assert annealed.updates == 10
    assert made == list(range(1 if trunk_updates == 7 else trunk_updates + 1, 11))
    assert [line["update"] for line in metrics(spec)] == [2, 4, 6, 8, 10]
    trunk = train(updates=6)  # which is as it was
    assert trunk.updates == max(6, trunk_updates)
    assert not equal(trunk, annealed)
    assert equal(annealed, training.train(spec, DATA, CPU, updates=10, restart=True))


@pytest.mark.parametrize("estimator", ["vimco", "nvil"])
def test_a_run_may_begin_from_shipped_weights(estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a new optimizer and generator; resumed it does what it does undisturbed."""
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    shipped = train(updates=3)
    path = ship(shipped, DATA, tmp_path)
    spec = replace(train_spec(), start=f"{path.stem}-3", estimator=estimator)
    model = build.build_model(spec, DATA, CPU)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    training.begin(spec, model, DATA, CPU)
    for name, value in model.state_dict().items():
        kept = name.startswith("baseline.")
        assert torch.equal(value, fresh[name] if kept else shipped.model.state_dict()[name].half().float()), name
    straight = training.train(spec, DATA, CPU, updates=4)
    assert straight.updates == 4
    training.train(spec, DATA, CPU, updates=2, restart=True)
    path.unlink()  # it is no longer asked for
    assert equal(straight, training.train(spec, DATA, CPU, updates=4))
    with refused("is no name of trained weights"):
        training.train(spec, DATA, CPU, updates=4, restart=True)


def test_weights_that_a_run_cannot_begin_from_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    shipped = train(updates=3)
    name = ship(shipped, DATA, tmp_path).stem
    begun = replace(train_spec(), start=f"{name}-3")
    with pytest.raises(checkpoint.CheckpointError, match=r"start is .*-2, and it has 3 updates"):
        training.train(replace(begun, start=f"{name}-2"), DATA, CPU, updates=1)
    with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
        training.train(replace(begun, prior="flat"), DATA, CPU, updates=1)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "geometric"])
def test_every_estimator_trains(estimator: str) -> None:
    """It changes q(a|x), and yields the bound of its own draws."""
    spec = replace(train_spec(), estimator=estimator, num_samples=2)
    model = build.build_model(spec, DATA, CPU)
    before, after = weights(model.addressing), weights(training.train(spec, DATA, CPU, updates=2).model.addressing)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"estimator": "rloo", "num_samples": 1}, "num_samples is 1, must be 2 or more for vma: rloo needs two"),
        ({"estimator": "set-wake", "num_samples": 7}, "num_samples of a set of entries is 7, must be 2 or more"),
        ({"estimator": "gumbel", "path": "reference"}, "path is reference with estimator gumbel"),
        ({"estimator": "all-wake", "gradient_entries": 2}, "gradient_entries is given with estimator all-wake"),
        ({"z_gradient": "single", "estimator": "set-score"}, "z_gradient is single with estimator set-score"),
        ({"growth": ((4, 2),)}, "growth is given with protocol per_class: it needs protocol recall"),
        ({"episode": RECALL, "growth": ((8, 2), (4, 7))}, "growth goes through memories of 8, 4, 20 entries"),
        ({"episode": RECALL, "growth": ((4, 7), (8, 7))}, "growth has stages until updates 7, 7, must ascend from"),
    ],
)
def test_trainings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with refused(f"^{message}"):
        training.train(replace(train_spec(), **fields), DATA, CPU, updates=1)


def test_the_updates_of_a_trunk_count_as_made_before() -> None:
    spec = annealed_spec()
    assert states.trained_before(spec, CPU) == (0, 0.0)
    trunk = train(updates=4)
    assert states.trained_before(spec, CPU) == (4, trunk.seconds)
    assert training.train(spec, DATA, CPU, updates=4).updates == 4  # and nothing of its own is there yet
    assert training.train(spec, DATA, CPU, updates=8).updates == 8
    train(updates=9)
    assert states.trained_before(spec, CPU)[0] == 8


def test_a_trunk_that_goes_on_meanwhile_is_left_where_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the trunk and the reading of its state, that state may have gone on."""
    spec, folder = annealed_spec(), run_folder(annealed_spec(), CPU)
    straight = training.train(spec, DATA, CPU, updates=10)
    shutil.rmtree(folder)
    train(updates=7)
    point = run_folder(train_spec(), CPU) / "checkpoint.safetensors"
    monkeypatch.setattr(training, "branch_point", lambda spec, device: point)
    assert equal(training.train(spec, DATA, CPU, updates=10), straight)  # by the state before, of 6 updates
    shutil.rmtree(folder)
    train(updates=8)
    with refused("it has 8 updates, this run leaves it at 6: start again"):
        training.train(spec, DATA, CPU, updates=10)


def test_two_processes_do_not_train_one_run() -> None:
    folder = run_folder(train_spec(), CPU)
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"), refused("another process is training this run"):
        train(updates=1)
    assert train(updates=1).updates == 1


def test_a_run_does_not_go_on_with_other_data() -> None:
    train(updates=2)
    with refused("was trained on other tiny data"):
        train(updates=4, data=replace(DATA, sha256="1" * 64))
    assert train(updates=3).updates == 3


# --- what is made of a spec


def build_model(**fields: Any) -> Any:
    return build.build_model(replace(train_spec(), **fields), DATA, CPU)


def test_a_memory_that_grows_has_the_size_of_its_stage() -> None:
    spec = replace(train_spec("growing memory"), episodes_per_update=2)
    grown, final = episodes_of(spec, UNLABELLED, CPU), Episodes(UNLABELLED.train, RECALL, spec.seed)
    sizes = [len(grown(number).memory) for number in range(20)]
    assert sizes == [4] * 4 + [8] * 10 + [20] * 6  # until updates 2 and 7
    assert torch.equal(grown(17).memory_index, final(17).memory_index)
    for number in (3, 4):  # of any order: a resumed run asks for later ones first
        smaller = Episodes(UNLABELLED.train, replace(RECALL, memory_size=sizes[number]), spec.seed)
        assert torch.equal(grown(number).memory_index, smaller(number).memory_index)
    constant = episodes_of(train_spec(), DATA, CPU)
    assert torch.equal(constant(5).x_index, Episodes(DATA.train, SPEC, 0)(5).x_index)


def test_a_learned_memory_is_built_as_the_spec_says() -> None:
    assert build_model(episode=NONE, learned_entries=5, memory_shape=(7,)).memory.shape == (5, 7)
    assert build_model(episode=NONE, learned_entries=5).memory.shape == (5, 1, 8, 8)
    assert build_model(episode=NONE, learned_entries=5, tied=True).tied
    assert build_model().memory is None
    assert not build_model().tied


def test_a_learned_memory_alone_has_no_weight_decay() -> None:
    spec = train_spec("learned memory")
    model = build.build_model(spec, UNLABELLED, CPU)
    optimizer = build.build_optimizer(spec, model)
    networks, memory = optimizer.param_groups
    assert [p is model.memory for p in memory["params"]] == [True]
    assert {id(p) for p in networks["params"]} == {id(p) for p in model.parameters()} - {id(model.memory)}
    assert (networks["weight_decay"], memory["weight_decay"]) == (0.1, 0.0)
    assert networks["lr"] == memory["lr"] == spec.learning_rate
    [only] = build.build_optimizer(train_spec(), make()).param_groups
    assert len(only["params"]) == len([*make().parameters()])


def test_the_estimator_is_the_specs() -> None:
    terms = Terms(*torch.randn(4, 3, 4, generator=seeded()), kl_a=torch.zeros(4))
    names = {"vimco": leave_one_out, "geometric": geometric_leave_one_out}
    for estimator, baseline in names.items():
        objective = build.build_objective(replace(train_spec(), estimator=estimator), make())
        assert torch.equal(objective(terms), vimco(terms, baseline))
    assert build.build_objective(train_spec("soft"), make("soft")) is iwae


def test_validation_episodes_are_like_those_of_training_as_far_as_the_set_goes() -> None:
    def size(data: DataSet, **fields: Any) -> tuple[int, int]:
        episode = validation_episodes(replace(train_spec(), **fields), data, CPU)(0)
        return len(episode.x), 0 if episode.memory is None else len(episode.memory)

    assert size(DATA) == (6, 6)
    assert size(DATA, episode=replace(SPEC, classes=9)) == (16, 16)  # of 8 classes
    assert size(UNLABELLED, model="vae", episode=NONE) == (6, 0)
    assert size(UNLABELLED, episode=RECALL) == (6, 20)
    assert size(UNLABELLED, episode=replace(RECALL, memory_size=100)) == (6, 48)
