"""The update that a CUDA graph holds: on the CPU, on tensors without values, and, where there is a GPU, replayed."""

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import made, refused, seeded
from test_training import DATA, NONE, RECALL, UNLABELLED, image_set, metrics, weights
from test_training import SIZES as MLP
from test_training import SPEC as PER_CLASS
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode

import vma.graph
from baselines import PlainVAE, SoftAttentionVAE
from baselines.sampled import SampledGradientSoftAttention
from benchmarks.declare.spec import TrainSpec
from benchmarks.record.evaluated import Trained
from benchmarks.runs import build, training, watch
from benchmarks.runs.training import Stopped
from vma import ConvSizes, Terms, VariationalMemoryAddressing, checkpoint, iwae, vimco
from vma.addressing import Draw
from vma.data import DataSet
from vma.data.episodes import Episodes, EpisodeSpec
from vma.estimators import draw_all, draw_set, pathwise, rloo, score_of_set, wake
from vma.graph import WARM_UP, StaticUpdate
from vma.gumbel import GumbelAddressing
from vma.sampled import SampledGradientAddressing
from vma.training import NonFiniteBound, Update, fit

CONV = ConvSizes(image=(1, 8, 8), widths=(8,) * 6, hidden=None, latent=4, embedding=8)
FOUR_ENTRIES = EpisodeSpec(classes=2, targets_per_class=3, shots=2)


class ModelWithDraw(VariationalMemoryAddressing):
    """With a rule of its own to draw addresses."""

    rule: Draw

    def forward(self, *args: Any, **options: Any) -> Terms:
        return super().forward(*args, draw=self.rule, **options)


def with_draw(rule: Draw, **options: Any) -> ModelWithDraw:
    model = ModelWithDraw(MLP, **options)
    model.rule = rule
    return model


Cast = tuple[Callable[[], nn.Module], Callable[[Terms], Tensor], EpisodeSpec]
CASES: dict[str, Cast] = {
    "vma": (lambda: VariationalMemoryAddressing(CONV), vimco, PER_CLASS),
    "vma, MLP": (lambda: VariationalMemoryAddressing(MLP), vimco, RECALL),
    "vma, more entries than draws": (lambda: VariationalMemoryAddressing(CONV), vimco, replace(RECALL, memory_size=30)),
    "single path": (lambda: VariationalMemoryAddressing(CONV, z_gradient="single"), rloo, PER_CLASS),
    "set": (lambda: with_draw(draw_set, z_gradient="dreg"), score_of_set, PER_CLASS),
    "all": (lambda: with_draw(draw_all), wake, FOUR_ENTRIES),
    "gumbel": (lambda: GumbelAddressing(CONV), pathwise, PER_CLASS),
    "tied": (lambda: VariationalMemoryAddressing(CONV, tied=True), vimco, PER_CLASS),
    "learned memory": (lambda: VariationalMemoryAddressing(MLP, memory_shape=(7,), learned_entries=5), vimco, NONE),
    "soft, images": (lambda: SoftAttentionVAE(CONV), iwae, PER_CLASS),
    "soft, features": (lambda: SoftAttentionVAE(CONV, read="features"), iwae, replace(PER_CLASS, protocol="gmn")),
    "vma, sampled gradient": (lambda: SampledGradientAddressing(CONV, gradient_entries=2), vimco, RECALL),
    "soft, sampled gradient": (lambda: SampledGradientSoftAttention(CONV, gradient_entries=2), iwae, RECALL),
    "vae": (lambda: PlainVAE(CONV), iwae, PER_CLASS),
}
EXACT = 2**-7  # a learning rate that float32 holds exactly
FEW = ("vma", "set", "learned memory", "soft, features", "vae")  # which are no long test
each = pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.long) for n in CASES])


def episodes_of(name: str, device: str = "cpu") -> Episodes:
    return Episodes(image_set().to(device), CASES[name][2], 0)


def make(name: str, device: str = "cpu") -> Any:
    return made(lambda: CASES[name][0]().to(device))


def capturable(model: nn.Module, rate: float = EXACT) -> torch.optim.Adam:
    """Adam as a CUDA graph can hold it."""
    lr = torch.full((), rate, device=next(model.parameters()).device)
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True, capturable=True)


def static(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str, updates: range, **fields: Any
) -> StaticUpdate:
    fields = {"clip": None, "episodes_per_update": 1, "dtype": torch.float32} | fields
    return StaticUpdate(Update(model, episodes_of(name), CASES[name][1], optimizer, 4, seeded(), **fields), updates)


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, name: str, updates: range, **options: Any) -> Any:
    device = next(model.parameters()).device.type
    options["generator"] = seeded(device=device)
    return fit(model, episodes_of(name, device), CASES[name][1], optimizer, 4, updates, **options)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- the update, without a graph


@each
@pytest.mark.parametrize(("n", "clip"), [(1, None), (2, 0.1)])
def test_the_static_update_is_that_of_fit(name: str, n: int, clip: float | None) -> None:
    """It counts and draws its episodes by a tensor, and Adam takes its rate and steps from tensors."""
    one, other = make(name), make(name)
    adam = torch.optim.Adam(one.parameters(), lr=EXACT, fused=True)
    update = static(other, capturable(other), name, range(5, 15), clip=clip, episodes_per_update=n)
    for number, terms in plain(one, adam, name, range(5, 15), clip=clip, episodes_per_update=n):
        assert update.index == number
        made = update()
        assert all(torch.equal(made.tensors[field], value) for field, value in terms.tensors.items())
        assert not any(value.requires_grad for value in made.tensors.values())
        update.check()
    assert same(weights(one), weights(other))


def test_the_static_update_counts_in_the_steps_of_its_range() -> None:
    model = make("vae")
    update = static(model, capturable(model), "vae", range(3, 20, 4))
    for number in (3, 7, 11):
        assert update.index == number
        update()


def test_a_broken_bound_changes_no_weights_from_there_on_and_is_remembered() -> None:
    model = make("vma")
    optimizer = capturable(model)
    update = static(model, optimizer, "vma", range(7, 20))
    update()
    before = weights(model)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    good = model.prior_head.bias.detach().clone()
    with torch.no_grad():
        model.prior_head.bias.fill_(torch.nan)
    broken = update()
    with torch.no_grad():
        model.prior_head.bias.copy_(good)
    after = update()  # whose own bound is finite
    assert not iwae(broken).isfinite().all()
    assert iwae(after).isfinite().all()
    assert same(weights(model), before)
    for index, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state[index][key]) for key, value in entry.items())
    with pytest.raises(NonFiniteBound, match=r"^the bound is not finite at update 8, seed 0: log_rz broke$"):
        update.check()


def test_a_gradient_that_is_not_finite_is_no_broken_bound() -> None:
    """As without a graph: it is the next bound that tells."""
    model = make("vae")
    one = static(model, capturable(model), "vae", range(9))
    one.update = replace(one.update, objective=lambda terms: iwae(terms) * torch.nan)
    one()
    one.check()
    one()
    with pytest.raises(NonFiniteBound, match="update 1"):
        one.check()


def test_a_graph_is_refused_on_a_cpu() -> None:
    model = make("vae")
    with refused("graph is given for a model on cpu: it needs one on a CUDA device"):
        next(plain(model, capturable(model), "vae", range(9), graph=True))


@pytest.mark.cuda
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.1, fused=True, capturable=True),
        lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1), fused=True, capturable=True),
        lambda model: torch.optim.Adam(model.parameters(), lr=torch.full((), 0.1, device="cuda"), fused=True),
    ],
)
def test_an_optimizer_that_no_graph_can_hold_is_refused(optimizer: Any) -> None:
    model = make("vae", "cuda")
    with refused(r"^graph is given with an optimizer that it cannot hold: make it with"):
        next(plain(model, optimizer(model), "vae", range(9), graph=True))


@pytest.mark.parametrize("held", [False, True])
def test_the_rate_of_an_update_goes_into_a_tensor_where_there_is_one(held: bool) -> None:
    model = make("vae")
    optimizer = capturable(model) if held else torch.optim.Adam(model.parameters())
    rate = optimizer.param_groups[0]["lr"]
    base = float(rate)
    for number, _ in plain(model, optimizer, "vae", range(3), schedule=lambda number: 2.0**-number):
        assert optimizer.param_groups[0]["lr"] == base * 2.0**-number
        assert (optimizer.param_groups[0]["lr"] is rate) == held


def test_a_state_goes_into_an_optimizer_that_a_graph_can_hold() -> None:
    straight = make("vma")
    whole = static(straight, capturable(straight), "vma", range(8))
    for _ in range(8):
        whole()

    model = make("vma")
    optimizer = capturable(model)
    first = static(model, optimizer, "vma", range(5))
    for _ in range(5):
        first()
    packed = {k: v.clone() for k, v in checkpoint.pack_training(model, optimizer, first.update.generator).items()}

    resumed = make("vma")
    optimizer = capturable(resumed, 123.0)
    second = static(resumed, optimizer, "vma", range(5, 8))
    checkpoint.unpack_training(packed, resumed, optimizer, second.update.generator)
    [group] = optimizer.param_groups
    assert isinstance(group["lr"], Tensor)
    assert group["capturable"]
    assert all(entry["step"] == 5 for entry in optimizer.state.values())
    group["lr"].fill_(EXACT)
    for _ in range(3):
        second()
    assert same(weights(straight), weights(resumed))


# --- on tensors that have a device and no values


def without_values(name: str, device: str, episodes: Episodes, dtype: torch.dtype = torch.bfloat16) -> StaticUpdate:
    """The update of a case, of fake tensors; within a FakeTensorMode."""
    model, episodes = CASES[name][0](), copy.copy(episodes)

    def fake(tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)

    for part in model.modules():
        for key, parameter in part.named_parameters(recurse=False):
            setattr(part, key, nn.Parameter(fake(parameter)))
        for key, buffer in part.named_buffers(recurse=False):
            setattr(part, key, fake(buffer))
    for key in ("images", "offsets", "eligible"):
        setattr(episodes, key, fake(getattr(episodes, key)))
    optimizer = torch.optim.Adam(model.parameters(), lr=EXACT, fused=True, capturable=True)
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), EXACT, device=device)
    return StaticUpdate(Update(model, episodes, CASES[name][1], optimizer, 4, None, dtype, 1.0, 2), range(5, 9))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_value_decides_what_the_update_does(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have none to be asked for: shapes that depend on values, and reads by the host, raise."""
    # torch's CPU build cannot differentiate fake CUDA tensors: what is chosen for CUDA runs on the CPU's
    monkeypatch.setattr(FakeTensor, "is_cuda", True, raising=False)
    episodes = episodes_of(name)
    with FakeTensorMode():
        update = without_values(name, "cpu", episodes, dtype)
        before = [p.shape for p in update.update.model.parameters()]
        for _ in range(2):
            terms = update()
        targets = 2 * CASES[name][2].num_targets
        assert isinstance(terms.log_px, FakeTensor)
        assert (terms.log_px.shape, terms.kl_a.shape) == ((4, targets), (targets,))
        assert [p.shape for p in update.update.model.parameters()] == before


# --- runs

SPEC = TrainSpec(dataset="tiny", image_size=8, network="tiny", threads=1, episode=PER_CLASS)
GROWING = replace(SPEC, episode=RECALL, growth=((4, 2), (8, 9)))


@pytest.fixture
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    monkeypatch.setattr(build, "sizes", lambda spec: CONV)
    monkeypatch.setattr(watch, "LOG_EVERY", 2)
    monkeypatch.setattr(watch, "VALIDATE_EVERY", 4)


def as_if_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the CPU take the way of a graph, whose replays make the update anew."""

    class Graph:
        def __init__(self, update: StaticUpdate, terms: Terms) -> None:
            self.update, self.terms = update, terms

        def replay(self) -> None:
            for name, value in self.update().tensors.items():
                self.terms.tensors[name].copy_(value)

    def capture(update: StaticUpdate, stream: Any) -> tuple[Graph, Terms]:
        B = update.update.episodes(0).x.shape[0] * update.update.episodes_per_update
        terms = Terms(*torch.zeros(4, 4, B), kl_a=torch.zeros(B))
        return Graph(update, terms), terms

    monkeypatch.setattr(vma.graph, "capture", capture)
    monkeypatch.setattr(vma.graph, "on_side_stream", lambda update, stream: update())
    monkeypatch.setattr(vma.graph, "check_capturable", lambda update: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    for module in (build, training):
        monkeypatch.setattr(module, "uses_graph", lambda spec, device: spec.path is None)


def run(spec: TrainSpec = SPEC, device: str = "cpu", data: DataSet = DATA, **options: Any) -> Trained:
    return training.train(spec, data, torch.device(device), **options)


@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize(
    ("spec", "data"),
    [(SPEC, DATA), (replace(SPEC, episodes_per_update=2, warmup=4), DATA), (GROWING, UNLABELLED)],
    ids=["plain", "several episodes", "growing memory"],
)
def test_a_run_by_graphs_makes_the_updates_of_one_without(
    spec: TrainSpec, data: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = replace(spec, learning_rate=EXACT)
    eager, lines = run(spec, data=data, updates=15), metrics(spec)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    as_if_captured(monkeypatch)
    held = run(spec, data=data, updates=15)
    torch.testing.assert_close(weights(eager.model), weights(held.model), rtol=0, atol=1e-6)
    for one, other in zip(lines, metrics(spec), strict=True):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize("ends", ["the host looks", "the run ends", "the run is stopped"])
def test_a_run_by_graphs_saves_nothing_after_a_broken_bound(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_captured(monkeypatch)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    every = 8 if ends == "the host looks" else 100
    monkeypatch.setattr(vma.graph, "CHECK_EVERY", every)
    monkeypatch.setattr(training, "CHECK_EVERY", every)
    spec = replace(SPEC, model="vae")
    good = run(spec, updates=4)
    made: list[int] = []

    def episodes_that_break(*args: Any) -> Any:
        [(until, episodes)] = stages(*args)

        def broken(number: Any) -> Any:
            episode = episodes(number)
            return replace(episode, x=episode.x / (number != 6))  # 0 / 0, and infinity

        return [(until, broken)]

    def progress(done: int) -> None:
        made.append(done)
        if ends == "the run is stopped" and done == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    stages = training.stages_of
    with monkeypatch.context() as patch:
        patch.setattr(training, "stages_of", episodes_that_break)
        for part in (vma.networks.densities, vma.data.episodes):  # which would stop it before its bound is made
            patch.setattr(part, "check_pixels", lambda *_: None)
        with pytest.raises(NonFiniteBound, match=r"update 6, seed 0: log_px.* broke"):
            run(spec, updates=20, progress=progress)
    assert made[-1] == {"the host looks": 7, "the run ends": 19, "the run is stopped": 10}[ends]
    again = run(spec, updates=4)
    assert again.updates == 4
    assert same(weights(again.model), weights(good.model))


def test_a_graph_is_for_cuda_and_not_for_the_reference_path() -> None:
    devices = [torch.device("cpu"), torch.device("cuda"), torch.device("cuda", 1)]
    assert [build.uses_graph(SPEC, device) for device in devices] == [False, True, True]
    assert not any(build.uses_graph(replace(SPEC, path="reference"), device) for device in devices)


def test_what_the_reference_path_asks_of_cuda_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[Any, ...]:
        cudnn = torch.backends.cudnn
        flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
        return *flags, torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = state()
    with training.deterministic_float32():
        assert state() == (True, False, True, False, True, ":4096:8")
    assert state() == before


# --- with a GPU


def astray(one: list[Tensor], other: list[Tensor], start: list[Tensor]) -> float:
    """How far apart two trainings have come, of how far they have come."""
    ends = [torch.cat([weight.flatten().cpu() for weight in part]) for part in (one, other, start)]
    return ((ends[0] - ends[1]).norm() / (ends[1] - ends[2]).norm()).item()


@pytest.mark.cuda
@each
@pytest.mark.parametrize(("n", "clip", "dtype"), [(1, None, torch.float32), (2, 0.1, torch.bfloat16)])
def test_a_replayed_update_is_that_of_fit(name: str, n: int, clip: float | None, dtype: torch.dtype) -> None:
    one, other = make(name, "cuda"), make(name, "cuda")
    options: dict[str, Any] = {"clip": clip, "dtype": dtype, "episodes_per_update": n}
    eager = plain(one, capturable(one, 1e-3), name, range(5, 25), **options)
    held = plain(other, capturable(other, 1e-3), name, range(5, 25), graph=True, **options)
    start, tolerance = weights(one), 1e-3 if dtype == torch.float32 else 3e-2
    for (number, terms), (counted, replayed) in zip(eager, held, strict=True):
        assert number == counted
        torch.testing.assert_close(iwae(replayed), iwae(terms).detach(), rtol=tolerance, atol=20 * tolerance)
    assert astray(weights(other), weights(one), start) < 20 * tolerance


@pytest.mark.cuda
def test_replays_take_the_generator_on_and_overwrite_the_terms() -> None:
    one, other = make("vma", "cuda"), make("vma", "cuda")
    states, bounds, places = [], [], []
    generators = [seeded(device="cuda") for _ in range(2)]
    episodes = Episodes(image_set().to("cuda"), PER_CLASS, 0)
    for model, generator, graph in zip((one, other), generators, (False, True), strict=True):
        updates = fit(model, episodes, vimco, capturable(model, 1e-3), 4, range(9), generator=generator, graph=graph)
        for number, terms in updates:
            states.append(generator.get_state())
            bounds.append(iwae(terms).detach())
            if graph and number >= WARM_UP:
                places.append(terms.log_px.data_ptr())
    assert same(states[:9], states[9:])
    assert len({tuple(bound.tolist()) for bound in bounds[9:]}) == 9
    assert len(places) == 9 - WARM_UP
    assert len(set(places)) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["vma", "vma, MLP", "soft, features", "vae"])
def test_the_host_waits_for_nothing_between_its_looks(name: str) -> None:
    model = make(name, "cuda")
    adam = capturable(model)
    steps = plain(model, adam, name, range(60), graph=True, schedule=lambda number: 1 / (1 + number))
    for _ in range(WARM_UP + 1):  # the last of them is captured, which waits
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = [iwae(next(steps)[1]).mean() for _ in range(40)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(seen).isfinite().all()


@pytest.mark.cuda
def test_a_replayed_update_that_breaks_changes_no_weights() -> None:
    model = make("vma", "cuda")
    bias = model.prior_head.bias.detach()
    steps = plain(model, capturable(model), "vma", range(40), graph=True)
    for _ in range(10):
        next(steps)
    before, good = weights(model), bias.clone()
    bias.fill_(torch.nan)
    next(steps)
    bias.copy_(good)
    for _ in range(5):
        next(steps)
    assert same(weights(model), before)
    with pytest.raises(NonFiniteBound, match=r"update 10, seed 0: log_rz broke"):
        steps.close()


@pytest.mark.cuda
@pytest.mark.usefixtures("_apart")
@pytest.mark.parametrize("spec", [SPEC, GROWING, replace(SPEC, dtype="bfloat16")], ids=["plain", "growing", "bfloat16"])
def test_a_run_on_a_gpu_goes_on_where_it_was_stopped(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Up to rounding: other kernels may run before a graph is captured than in it."""
    data = UNLABELLED if spec is GROWING else DATA
    with pytest.raises(Stopped):
        run(spec, "cuda", data, updates=14, progress=lambda done: done == 7 and os.kill(os.getpid(), signal.SIGINT))
    resumed, lines = run(spec, "cuda", data, updates=14), metrics(spec, "cuda")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    straight = run(spec, "cuda", data, updates=14)
    for logged in (lines, metrics(spec, "cuda")):
        assert [line["update"] for line in logged] == [*range(2, 15, 2)]
    start = weights(build.build_model(spec, data, torch.device("cpu")))
    assert astray(weights(resumed.model), weights(straight.model), start) < 0.05


@pytest.mark.cuda
@pytest.mark.usefixtures("_apart")
def test_the_reference_path_gives_the_same_weights_each_time_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = replace(SPEC, path="reference")
    first = run(spec, "cuda", updates=10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert same(weights(run(spec, "cuda", updates=10).model), weights(first.model))
