"""What is computed of a trained model: each task's metrics, and the arrays that figures and paired intervals are made
of.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from baselines.soft_attention import SoftAttentionVAE, SoftEncoded
from benchmarks.declare.spec import BY_CLASS, NEEDLESS, Cell, EvalSpec, TrainSpec
from benchmarks.record.evaluated import Result, Trained
from benchmarks.runs.build import (
    DTYPES,
    SURROGATES,
    build_draw,
    build_model,
    build_objective,
    build_optimizer,
)
from vma.data import DataSet, ImageSet
from vma.data.episodes import Episode, Episodes, EpisodeSpec, shifted_memory, subsample_memory
from vma.errors import InputError
from vma.evaluation import (
    METRICS,
    Scores,
    address_divergences,
    classify,
    evaluate,
    evaluate_memories,
    evaluating,
    join,
    own_entry_probability,
)
from vma.model import Z_GRADIENTS
from vma.protocol import EmbeddingModel, Model, has_address
from vma.statistics import clustered_stderr, interval
from vma.training import Update

SAMPLES_EACH = 4  # samples beside a reconstruction, in the lookups
LEARNED_ROWS, LEARNED_COLUMNS = 12, 12  # entries that are shown, and samples of each
ENCODED_AT_ONCE = 64  # images
TOP = 5  # entries that a lookup shows, as Figure 3 does

RULES: dict[str | None, str] = {
    "classification": "address",
    "classification-likelihood": "likelihood",
    "classification-shifted": "shifted",
}

Progress = Callable[[int, int], None]
Item = TypeVar("Item")


def split(data: DataSet, evaluation: EvalSpec) -> ImageSet:
    """The images that an evaluation draws from."""
    return {"train": data.train, "validation": data.validation, "test": data.test}[evaluation.split]


def draw(data: DataSet, evaluation: EvalSpec, device: torch.device) -> Callable[[int], Episode]:
    """The episodes of an evaluation."""
    episodes = Episodes(split(data, evaluation).to(device), evaluation.episode, evaluation.seed)
    if evaluation.memory_size is None:
        return episodes
    size, seed = evaluation.memory_size, evaluation.seed
    return lambda step: subsample_memory(episodes(step), size, seed, step)


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells of one training in the groups that are evaluated together: those that share their one target an episode
    and differ in memory, which is then encoded once for all. Every other cell is a group of its own.
    """
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        evaluation = cell.eval
        protocol, unlike = evaluation.episode.protocol, replace(evaluation, episode=EpisodeSpec(), memory_size=None)
        found.setdefault((cell.train, protocol, unlike) if _shares(cell) else cell, []).append(cell)
    return list(found.values())


def unfinished(model: Model, cells: Iterable[Cell], missing: Collection[EvalSpec]) -> list[list[Cell]]:
    """What to evaluate for the missing ones among the cells of one training, group by group.

    By a model that embeds entries one by one a group is evaluated whole, also where some of its cells are recorded:
    they share their draws, and a cell that was left when a run was killed gets the numbers that it would have got
    undisturbed.
    """
    touched = [group for group in groups(cells) if any(cell.eval in missing for cell in group)]
    return [
        group if isinstance(model, EmbeddingModel) else [cell for cell in group if cell.eval in missing]
        for group in touched
    ]


def _shares(cell: Cell) -> bool:
    """Whether a cell's one target an episode can be evaluated with other memories beside it."""
    return (
        cell.train.model not in NEEDLESS
        and cell.train.learned_entries is None
        and cell.eval.task is None
        and cell.eval.episode.num_targets == 1
    )


def evaluate_group(
    trained: Trained, group: Sequence[Cell], data: DataSet, device: torch.device, progress: Progress
) -> list[Result]:
    """The results of one group of `groups`.

    Args:
        progress: told how many of how many episodes are done.
    """
    cell = group[0]
    torch.set_num_threads(cell.eval.threads)
    if _shares(cell):
        return _memories(trained, group, data, device, progress)
    started = time.monotonic()
    metrics, arrays = TASKS[cell.eval.task](trained, cell.eval, data, device, progress)
    return [Result(cell, metrics, arrays, time.monotonic() - started)]


def _memories(
    trained: Trained, group: Sequence[Cell], data: DataSet, device: torch.device, progress: Progress
) -> list[Result]:
    started = time.monotonic()
    if isinstance(trained.model, EmbeddingModel):
        scores = _address_scores(trained, group, data, device, progress)
    else:
        scores = _each_alone(trained.model, group, data, device, progress)
    seconds = (time.monotonic() - started) / len(group)
    return [
        Result(cell, bound_metrics(s, cell.eval, data), bound_arrays(s), seconds)
        for cell, s in zip(group, scores, strict=True)
    ]


def _address_scores(
    trained: Trained, group: Sequence[Cell], data: DataSet, device: torch.device, progress: Progress
) -> list[Scores]:
    first = group[0].eval
    parts = list(
        evaluate_memories(
            trained.model,
            [draw(data, cell.eval, device) for cell in group],
            _told(first.steps, progress),
            first.num_samples,
            seed=first.seed,
            dtype=DTYPES[first.dtype],
        )
    )
    return [join([part[i] for part in parts]) for i in range(len(group))]


def _each_alone(
    model: Model, group: Sequence[Cell], data: DataSet, device: torch.device, progress: Progress
) -> list[Scores]:
    """Soft attention reads all of a memory for every sample, so cells share no more than the encoding of the images;
    of other models it is not known whether they could.
    """
    known = _encoded_once(model, group[0].eval, data, device) if isinstance(model, SoftAttentionVAE) else None
    scores = []
    for i, cell in enumerate(group):

        def told(done: int, total: int, before: int = i) -> None:
            progress(total * before + done, total * len(group))

        scores.append(_scores(model, cell.eval, data, device, told, known))
    return scores


def _encoded_once(
    model: SoftAttentionVAE, evaluation: EvalSpec, data: DataSet, device: torch.device
) -> Callable[[Episode], SoftEncoded]:
    """What gives the encoded memory of an episode: the images that it is made of are encoded beforehand."""
    images = split(data, evaluation).images.to(device)
    with evaluating(model), _autocast(evaluation, device):
        encoded = SoftEncoded.join([model.encode_memory(part.float()) for part in images.split(ENCODED_AT_ONCE)])

    def known(episode: Episode) -> SoftEncoded:
        assert episode.memory_index is not None
        return encoded.take(episode.memory_index)

    return known


def _told(items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items):
        progress(done, len(items))
        yield item
    progress(len(items), len(items))


def _scores(
    model: Model,
    evaluation: EvalSpec,
    data: DataSet,
    device: torch.device,
    progress: Progress,
    encode: Callable[[Episode], Any] | None = None,
) -> Scores:
    return evaluate(
        model,
        draw(data, evaluation, device),
        _told(evaluation.steps, progress),
        evaluation.num_samples,
        seed=evaluation.seed,
        dtype=DTYPES[evaluation.dtype],
        encode=encode,
    )


def _bound(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    scores = _scores(trained.model, evaluation, data, device, progress)
    metrics = bound_metrics(scores, evaluation, data, trained.spec.model != "vae")
    return metrics, bound_arrays(scores)


def bound_metrics(
    scores: Scores, evaluation: EvalSpec, data: DataSet, conditioned: bool = True
) -> list[dict[str, Any]]:
    """Each metric of `Scores` with its standard error; under `gmn` also for the targets that are duplicated in memory
    and for those that are not.
    """
    parts = {"all": scores}
    if evaluation.episode.protocol == "gmn" and conditioned:
        parts |= {"duplicated": scores.where(scores.duplicated), "new": scores.where(~scores.duplicated)}
    by_class = evaluation.episode.protocol in BY_CLASS and split(data, evaluation).num_classes > 1
    found = []
    for targets, part in parts.items():
        for metric in METRICS if len(part) else ():
            value, stderr = part.summary(metric, by_class)
            found.append(metric_of(metric, value, stderr, len(part)) | {"targets": targets})
    return found


def bound_arrays(scores: Scores) -> dict[str, np.ndarray]:
    """Per-target values, from which paired differences are made."""
    arrays = {metric: getattr(scores, metric).astype(np.float32) for metric in METRICS}
    return arrays | {"x_index": scores.x_index, "x_class": scores.x_class, "duplicated": scores.duplicated}


def metric_of(metric: str, value: float, stderr: float | None, n: int) -> dict[str, Any]:
    finite = stderr if stderr is not None and np.isfinite(stderr) else None
    return {"metric": metric, "value": value, "stderr": finite, "n": n, "targets": "all"}


def _recall(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The bound, and q(a|x) of the entry that the target is."""
    metrics, arrays = _bound(trained, evaluation, data, device, progress)
    episodes = draw(data, evaluation, device)
    own = [own_entry_probability(trained.model, episodes(s), DTYPES[evaluation.dtype]) for s in evaluation.steps]
    p_exact = torch.cat(own).cpu().numpy().astype(np.float32)
    metrics.append(
        metric_of("p_exact", float(p_exact.mean()), clustered_stderr(p_exact, arrays["x_index"]), len(p_exact))
    )
    return metrics, arrays | {"p_exact": p_exact}


@torch.no_grad()
def _learned(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The bound, the entropy of p(a) over the learned memory, and samples of its likeliest entries (Figure 2B)."""
    metrics, arrays = _bound(trained, evaluation, data, device, progress)
    model: Any = trained.model
    with _autocast(evaluation, device):
        encoded = model.encode_memory(None)
        log_p = encoded.keys.log_p.double()
        rows = log_p.topk(min(LEARNED_ROWS, len(log_p))).indices
        addresses = rows.repeat_interleave(LEARNED_COLUMNS)
        drawn = model.sample(encoded, len(addresses), generator=_generator(evaluation, device), addresses=addresses)
    entropy = -(log_p.exp() * log_p).sum().item()
    metrics.append(metric_of("entropy_pa", entropy, None, len(log_p)))
    arrays |= {
        "log_pa": log_p.cpu().numpy().astype(np.float32),
        "sample_addresses": rows.cpu().numpy(),
        "sample_means": _grey(drawn.means).reshape(len(rows), LEARNED_COLUMNS, *drawn.means.shape[-2:]),
    }
    return metrics, arrays


@torch.no_grad()
def _samples(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """`num_samples` draws from p(x|M) for each episode's memory, of which the first entry is shown (Figure 4A)."""
    model: Any = trained.model
    episodes, generator = draw(data, evaluation, device), _generator(evaluation, device)
    memory, classes, means = [], [], []
    for step in _told(evaluation.steps, progress):
        episode = episodes(step)
        assert episode.memory is not None
        assert episode.memory_class is not None
        with _autocast(evaluation, device):
            drawn = model.sample(model.encode_memory(episode.memory), evaluation.num_samples, generator=generator)
        memory.append(_binary(episode.memory[:1]))
        classes.append(int(episode.memory_class[0]))
        means.append(_grey(drawn.means))
    images = np.stack(means)
    arrays = {"memory": np.concatenate(memory), "memory_class": np.array(classes), "samples": images}
    return [metric_of("images", float(images.shape[0] * images.shape[1]), None, len(memory))], arrays


@torch.no_grad()
def _lookup(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Where each episode's first target looks (Figure 3), its reconstruction from there and samples of that entry."""
    model: Any = trained.model
    episodes, generator = draw(data, evaluation, device), _generator(evaluation, device)
    found: dict[str, list[np.ndarray]] = {}
    for step in _told(evaluation.steps, progress):
        episode = episodes(step)
        assert episode.memory is not None
        assert episode.memory_class is not None
        x = episode.x[:1]
        with _autocast(evaluation, device):
            encoded = model.encode_memory(episode.memory)
            log_q, log_p = model.address(x, encoded)
            top = log_q[0].topk(min(TOP, log_q.shape[1])).indices
            reconstruction = model.reconstruct(x, encoded, addresses=top[:1])
            drawn = model.sample(encoded, SAMPLES_EACH, generator=generator, addresses=top[:1].expand(SAMPLES_EACH))
        part = {
            "x": _binary(x)[0],
            "x_class": episode.x_class[0].cpu().numpy(),
            "memory": _binary(episode.memory),
            "memory_class": episode.memory_class.cpu().numpy(),
            "q": log_q[0].exp().float().cpu().numpy(),
            "p": log_p.exp().float().cpu().numpy(),
            "top": top.cpu().numpy(),
            "reconstruction": _grey(reconstruction)[0],
            "samples": _grey(drawn.means),
        }
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    arrays = {name: np.stack(values) for name, values in found.items()}
    own = np.where(arrays["memory_class"] == arrays["x_class"][:, None], arrays["q"], 0).sum(1)
    return [metric_of("class_mass", float(own.mean()), clustered_stderr(own, arrays["x_class"]), len(own))], arrays


def _classification(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Accuracy by the mass of q(a|x) on each class; by p(x|c) (`classification-likelihood`); or by p(x|c) with shifted
    copies of each entry in memory too (`classification-shifted`).
    """
    episodes, generator = draw(data, evaluation, device), _generator(evaluation, device)
    rule = RULES[evaluation.task]
    accuracies = []
    for step in _told(evaluation.steps, progress):
        episode = shifted_memory(episodes(step)) if rule == "shifted" else episodes(step)
        said = classify(
            trained.model,
            episode,
            0 if rule == "address" else evaluation.num_samples,
            generator=generator,
            dtype=DTYPES[evaluation.dtype],
        )
        log_p = said.feed_forward if rule == "address" else said.likelihood
        assert log_p is not None
        accuracies.append(said.correct(log_p, episode.x_class).double().mean().item())
    values = np.array(accuracies)
    low, high = (end if np.isfinite(end) else None for end in interval(values))
    metric = metric_of("accuracy", float(values.mean()), clustered_stderr(values), len(values))
    metric |= {"rule": rule, "low": low, "high": high}
    return [metric], {rule: values.astype(np.float32)}


def _divergences(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """KL(p(a|x) || q(a|x)) and the other way round, over all entries, with `num_samples` draws of z for each."""
    assert has_address(trained.model)  # as its cell says
    episodes, generator = draw(data, evaluation, device), _generator(evaluation, device)
    values, classes = [], []
    for step in _told(evaluation.steps, progress):
        episode = episodes(step)
        found = address_divergences(
            trained.model, episode, evaluation.num_samples, generator=generator, dtype=DTYPES[evaluation.dtype]
        )
        values.append(torch.stack(found).cpu().numpy())
        classes.append(episode.x_class.cpu().numpy())
    arrays = dict(zip(("kl_p_q", "kl_q_p"), np.concatenate(values, 1), strict=True))
    x_class = np.concatenate(classes)
    metrics = [metric_of(name, float(v.mean()), clustered_stderr(v, x_class), len(v)) for name, v in arrays.items()]
    return metrics, {name: v.astype(np.float32) for name, v in arrays.items()} | {"x_class": x_class}


def _gradient_noise(
    trained: Trained, evaluation: EvalSpec, data: DataSet, device: torch.device, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Signal to noise, |E g|^2 / E|g - E g|^2, of an update's gradient at these weights, over `num_samples` draws of
    addresses and noise for the same targets: that of h^q, the parameters of q(a|x) alone, by every estimator
    (`snr_a`), and that of q(z|m, x) by every gradient of z (`snr_z`), which `rule` names.

    Weights that NVIL has trained are measured by NVIL alone, whose baseline is a part of them.
    """
    spec = trained.spec
    own: dict[str, tuple[TrainSpec, str]] = {}
    if spec.estimator == "nvil":
        own["snr_a nvil"] = (spec, "addressing.embed_query.")
    else:
        plain = replace(spec, estimator=TrainSpec.estimator, z_gradient=TrainSpec.z_gradient)
        for name in SURROGATES:
            own[f"snr_a {name}"] = (replace(plain, estimator=name), "addressing.embed_query.")
        for name in Z_GRADIENTS:
            own[f"snr_z {name}"] = (replace(plain, z_gradient=name), "posterior.")
    metrics = []
    for key, (changed, start) in _told([*own.items()], progress):
        value = _signal_to_noise(trained.model, changed, start, evaluation, data, device)
        metric, rule = key.split()
        metrics.append(metric_of(metric, value, None, evaluation.num_samples) | {"rule": rule})
    return metrics, {}


def _signal_to_noise(
    weights: Model, spec: TrainSpec, start: str, evaluation: EvalSpec, data: DataSet, device: torch.device
) -> float:
    """Of the gradient of the parameters whose names begin so: its signal over its noise, both summed over the episodes.

    Raises:
        InputError: if there is no noise.
    """
    model: Any = build_model(spec, data, device)
    model.load_state_dict(weights.state_dict())
    objective = build_objective(spec, model)
    update = Update(
        model,
        draw(data, evaluation, device),
        objective,
        build_optimizer(spec, model),  # which makes no step
        spec.num_samples,
        _generator(evaluation, device),
        DTYPES[evaluation.dtype],
        clip=None,
        episodes_per_update=1,
        draw=build_draw(spec),
    )
    parameters = [p for name, p in model.named_parameters() if name.startswith(start)]
    signal = noise = 0.0
    n = evaluation.num_samples
    for step in evaluation.steps:
        total, squares = [torch.zeros_like(p, dtype=torch.float64) for p in parameters], 0.0
        for _ in range(n):
            found = torch.autograd.grad(objective(update.terms(step)).mean(), parameters)
            for sum_, gradient in zip(total, found, strict=True):
                sum_ += gradient
                squares += float(gradient.double().square().sum())
        mean = sum(float(sum_.square().sum()) for sum_ in total) / n**2
        variance = (squares / n - mean) * n / (n - 1)
        signal, noise = signal + mean - variance / n, noise + variance
    if noise == 0:
        raise InputError("the gradient of q(a|x) has no noise: give an episode whose memory has two entries or more")
    return signal / noise


def _autocast(evaluation: EvalSpec, device: torch.device) -> torch.autocast:
    dtype = DTYPES[evaluation.dtype]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _generator(evaluation: EvalSpec, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(evaluation.seed)


def _grey(means: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) Bernoulli means of one channel as (n, H, W) bytes."""
    return (means[:, 0].float() * 255).round().to(torch.uint8).cpu().numpy()


def _binary(images: torch.Tensor) -> np.ndarray:
    return images[:, 0].to(torch.uint8).cpu().numpy()


TASKS: dict[str | None, Callable[..., tuple[list[dict[str, Any]], dict[str, np.ndarray]]]] = {
    None: _bound,
    "recall": _recall,
    "learned": _learned,
    "samples": _samples,
    "lookup": _lookup,
    "classification": _classification,
    "classification-likelihood": _classification,
    "classification-shifted": _classification,
    "address-divergences": _divergences,
    "gradient-noise": _gradient_noise,
}
