"""What is computed of a trained model: each task's metrics, and the arrays that figures and paired intervals are made
of.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from baselines.soft_attention import SoftAttentionVAE, SoftEncoded
from benchmarks.declare.spec import BY_CLASS, NEEDLESS, Cell, EvalSpec, TrainSpec
from benchmarks.record.evaluated import Result, Trained
from benchmarks.runs.build import DRAWS, DTYPES, SURROGATES, build_model, build_objective, build_optimizer
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
from vma.protocol import EmbeddingModel, Model
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
Found = tuple[list[dict[str, Any]], dict[str, np.ndarray]]  # metrics, and arrays by name
Item = TypeVar("Item")


def split(data: DataSet, evaluation: EvalSpec) -> ImageSet:
    """The images that an evaluation draws from."""
    return {"train": data.train, "validation": data.validation, "test": data.test}[evaluation.split]


@dataclass(frozen=True)
class Evaluation:
    """A trained model, and what of it is evaluated, on which data and device; `progress` is told how many of how many
    episodes are done.
    """

    trained: Trained
    spec: EvalSpec
    data: DataSet
    device: torch.device
    progress: Progress

    @property
    def model(self) -> Any:
        """What a task asks of it, the model of its cells has."""
        return self.trained.model

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.spec.dtype]

    @property
    def images(self) -> ImageSet:
        return split(self.data, self.spec)

    @cached_property
    def draw(self) -> Callable[[int], Episode]:
        """The episode of each step."""
        episodes = Episodes(self.images.to(self.device), self.spec.episode, self.spec.seed)
        size, seed = self.spec.memory_size, self.spec.seed
        return episodes if size is None else lambda step: subsample_memory(episodes(step), size, seed, step)

    def episodes(self) -> Iterator[Episode]:
        """All of them, one after the other."""
        return map(self.draw, _told(self.spec.steps, self.progress))

    def generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.spec.seed)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


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
    parts = [Evaluation(trained, cell.eval, data, device, progress) for cell in group]
    torch.set_num_threads(parts[0].spec.threads)
    started = time.monotonic()
    if not _shares(group[0]):
        found = [TASKS[parts[0].spec.task](parts[0])]
    else:
        scores = _together(parts) if isinstance(trained.model, EmbeddingModel) else _each_alone(parts)
        found = [(bound_metrics(one, part), bound_arrays(one)) for one, part in zip(scores, parts, strict=True)]
    seconds = (time.monotonic() - started) / len(group)
    return [Result(cell, *result, seconds) for cell, result in zip(group, found, strict=True)]


def _together(parts: Sequence[Evaluation]) -> list[Scores]:
    first = parts[0]
    steps = list(
        evaluate_memories(
            first.model,
            [part.draw for part in parts],
            _told(first.spec.steps, first.progress),
            first.spec.num_samples,
            seed=first.spec.seed,
            dtype=first.dtype,
        )
    )
    return [join([step[i] for step in steps]) for i in range(len(parts))]


def _each_alone(parts: Sequence[Evaluation]) -> list[Scores]:
    """Soft attention reads all of a memory for every sample, so cells share no more than the encoding of the images;
    of other models it is not known whether they could.
    """
    known = _encoded_once(parts[0]) if isinstance(parts[0].model, SoftAttentionVAE) else None
    scores = []
    for i, part in enumerate(parts):

        def told(done: int, total: int, before: int = i, progress: Progress = part.progress) -> None:
            progress(total * before + done, total * len(parts))

        scores.append(_scores(replace(part, progress=told), known))
    return scores


def _encoded_once(of: Evaluation) -> Callable[[Episode], SoftEncoded]:
    """What gives the encoded memory of an episode: the images that it is made of are encoded beforehand."""
    images = of.images.images.to(of.device)
    with evaluating(of.model), of.autocast():
        encoded = SoftEncoded.join([of.model.encode_memory(part.float()) for part in images.split(ENCODED_AT_ONCE)])

    def known(episode: Episode) -> SoftEncoded:
        assert episode.memory_index is not None
        return encoded.take(episode.memory_index)

    return known


def _told(items: Sequence[Item], progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items):
        progress(done, len(items))
        yield item
    progress(len(items), len(items))


def _scores(of: Evaluation, encode: Callable[[Episode], Any] | None = None) -> Scores:
    steps = _told(of.spec.steps, of.progress)
    return evaluate(of.model, of.draw, steps, of.spec.num_samples, seed=of.spec.seed, dtype=of.dtype, encode=encode)


def _bound(of: Evaluation) -> Found:
    scores = _scores(of)
    return bound_metrics(scores, of), bound_arrays(scores)


def bound_metrics(scores: Scores, of: Evaluation) -> list[dict[str, Any]]:
    """Each metric of `Scores` with its standard error; under `gmn` also for the targets that are duplicated in memory
    and for those that are not, but of a model without a memory.
    """
    parts = {"all": scores}
    protocol = of.spec.episode.protocol
    if protocol == "gmn" and of.trained.spec.model != "vae":
        parts |= {"duplicated": scores.where(scores.duplicated), "new": scores.where(~scores.duplicated)}
    by_class = protocol in BY_CLASS and of.images.num_classes > 1
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


def _recall(of: Evaluation) -> Found:
    """The bound, and q(a|x) of the entry that the target is."""
    metrics, arrays = _bound(of)
    own = [own_entry_probability(of.model, episode, of.dtype) for episode in map(of.draw, of.spec.steps)]
    p_exact = torch.cat(own).cpu().numpy().astype(np.float32)
    metrics.append(
        metric_of("p_exact", float(p_exact.mean()), clustered_stderr(p_exact, arrays["x_index"]), len(p_exact))
    )
    return metrics, arrays | {"p_exact": p_exact}


@torch.no_grad()
def _learned(of: Evaluation) -> Found:
    """The bound, the entropy of p(a) over the learned memory, and samples of its likeliest entries (Figure 2B)."""
    metrics, arrays = _bound(of)
    model = of.model
    with of.autocast():
        encoded = model.encode_memory(None)
        log_p = encoded.keys.log_p.double()
        rows = log_p.topk(min(LEARNED_ROWS, len(log_p))).indices
        addresses = rows.repeat_interleave(LEARNED_COLUMNS)
        drawn = model.sample(encoded, len(addresses), generator=of.generator(), addresses=addresses)
    entropy = -(log_p.exp() * log_p).sum().item()
    metrics.append(metric_of("entropy_pa", entropy, None, len(log_p)))
    arrays |= {
        "log_pa": log_p.cpu().numpy().astype(np.float32),
        "sample_addresses": rows.cpu().numpy(),
        "sample_means": _grey(drawn.means).reshape(len(rows), LEARNED_COLUMNS, *drawn.means.shape[-2:]),
    }
    return metrics, arrays


@torch.no_grad()
def _samples(of: Evaluation) -> Found:
    """`num_samples` draws from p(x|M) for each episode's memory, of which the first entry is shown (Figure 4A)."""
    model, generator = of.model, of.generator()
    memory, classes, means = [], [], []
    for episode in of.episodes():
        assert episode.memory is not None
        assert episode.memory_class is not None
        with of.autocast():
            drawn = model.sample(model.encode_memory(episode.memory), of.spec.num_samples, generator=generator)
        memory.append(_binary(episode.memory[:1]))
        classes.append(int(episode.memory_class[0]))
        means.append(_grey(drawn.means))
    images = np.stack(means)
    arrays = {"memory": np.concatenate(memory), "memory_class": np.array(classes), "samples": images}
    return [metric_of("images", float(images.shape[0] * images.shape[1]), None, len(memory))], arrays


@torch.no_grad()
def _lookup(of: Evaluation) -> Found:
    """Where each episode's first target looks (Figure 3), its reconstruction from there and samples of that entry."""
    model, generator = of.model, of.generator()
    found: dict[str, list[np.ndarray]] = {}
    for episode in of.episodes():
        assert episode.memory is not None
        assert episode.memory_class is not None
        x = episode.x[:1]
        with of.autocast():
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


def _classification(of: Evaluation) -> Found:
    """Accuracy by the mass of q(a|x) on each class; by p(x|c) (`classification-likelihood`); or by p(x|c) with shifted
    copies of each entry in memory too (`classification-shifted`).
    """
    generator, rule = of.generator(), RULES[of.spec.task]
    accuracies = []
    for drawn in of.episodes():
        episode = shifted_memory(drawn) if rule == "shifted" else drawn
        num_samples = 0 if rule == "address" else of.spec.num_samples
        said = classify(of.model, episode, num_samples, generator=generator, dtype=of.dtype)
        log_p = said.feed_forward if rule == "address" else said.likelihood
        assert log_p is not None
        accuracies.append(said.correct(log_p, episode.x_class).double().mean().item())
    values = np.array(accuracies)
    low, high = (end if np.isfinite(end) else None for end in interval(values))
    metric = metric_of("accuracy", float(values.mean()), clustered_stderr(values), len(values))
    metric |= {"rule": rule, "low": low, "high": high}
    return [metric], {rule: values.astype(np.float32)}


def _divergences(of: Evaluation) -> Found:
    """KL(p(a|x) || q(a|x)) and the other way round, over all entries, with `num_samples` draws of z for each."""
    generator = of.generator()
    values, classes = [], []
    for episode in of.episodes():
        found = address_divergences(of.model, episode, of.spec.num_samples, generator=generator, dtype=of.dtype)
        values.append(torch.stack(found).cpu().numpy())
        classes.append(episode.x_class.cpu().numpy())
    arrays = dict(zip(("kl_p_q", "kl_q_p"), np.concatenate(values, 1), strict=True))
    x_class = np.concatenate(classes)
    metrics = [metric_of(name, float(v.mean()), clustered_stderr(v, x_class), len(v)) for name, v in arrays.items()]
    return metrics, {name: v.astype(np.float32) for name, v in arrays.items()} | {"x_class": x_class}


def _gradient_noise(of: Evaluation) -> Found:
    """Signal to noise, |E g|^2 / E|g - E g|^2, of an update's gradient at these weights, over `num_samples` draws of
    addresses and noise for the same targets: that of h^q, the parameters of q(a|x) alone, by every estimator
    (`snr_a`), and that of q(z|m, x) by every gradient of z (`snr_z`), which `rule` names.

    Weights that NVIL has trained are measured by NVIL alone, whose baseline is a part of them.
    """
    spec = of.trained.spec
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
    for key, (changed, start) in _told([*own.items()], of.progress):
        value = _signal_to_noise(of, changed, start)
        metric, rule = key.split()
        metrics.append(metric_of(metric, value, None, of.spec.num_samples) | {"rule": rule})
    return metrics, {}


def _signal_to_noise(of: Evaluation, spec: TrainSpec, start: str) -> float:
    """Of the gradient, by the estimators of `spec`, of the parameters whose names begin so: its signal over its noise,
    both summed over the episodes.

    Raises:
        InputError: if there is no noise.
    """
    model: Any = build_model(spec, of.data, of.device)
    model.load_state_dict(of.model.state_dict())
    objective = build_objective(spec, model)
    update = Update(
        model,
        of.draw,
        objective,
        build_optimizer(spec, model),  # which makes no step
        spec.num_samples,
        of.generator(),
        of.dtype,
        clip=None,
        episodes_per_update=1,
        draw=DRAWS.get(spec.estimator),
    )
    parameters = [p for name, p in model.named_parameters() if name.startswith(start)]
    signal = noise = 0.0
    n = of.spec.num_samples
    for step in of.spec.steps:
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


def _grey(means: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) Bernoulli means of one channel as (n, H, W) bytes."""
    return (means[:, 0].float() * 255).round().to(torch.uint8).cpu().numpy()


def _binary(images: torch.Tensor) -> np.ndarray:
    return images[:, 0].to(torch.uint8).cpu().numpy()


TASKS: dict[str | None, Callable[[Evaluation], Found]] = {
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
