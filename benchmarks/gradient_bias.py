"""What it does to the gradient that a sample of the entries gets one: no bias, and how much noise."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from benchmarks.declare.experiments import scaling_training
from benchmarks.declare.spec import MOST_SAMPLES, MOST_SEED, TrainSpec
from benchmarks.plan.cli import (
    EvaluationOptions,
    check_option,
    check_writable,
    open_data,
    resolve_device,
    resolve_spec,
    run_command,
    warning,
)
from benchmarks.record import store
from benchmarks.runs.build import DTYPES, build_model, build_objective
from benchmarks.runs.weights import shipped
from reports import tables
from vma import iwae
from vma.addressing import draw_addresses
from vma.data import DataSet
from vma.data.episodes import MOST, Episode, Episodes, EpisodeSpec
from vma.errors import InputError

# what the entries' gradients go through: all parameters, and each part of them, by the beginnings of their names
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "vma": {"all": ("",), "embedding": ("addressing.embed_memory.",)},
    "soft": {"all": ("",), "embedding": ("embed_memory.",), "features": ("memory_pyramid.", "conditioner.")},
}


@dataclass(frozen=True)
class Options(EvaluationOptions):
    """Compare the gradient of an update whose memory has a gradient through a sample of its entries with the exact one.

    The same targets, memory, addresses and noise in both; the sample is drawn again and again. Takes the few-shot
    weights that the project ships, on training images; models without shipped weights are untrained. Writes
    gradient_bias.csv to --out and prints it.
    """

    out: Path = Path("reproduced/timing")
    """Folder for gradient_bias.csv."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the networks. In bfloat16 both gradients are rounded, each its own way, which is no bias of the sample."""
    again: Annotated[bool, tyro.conf.Suppress] = False  # nothing is kept from earlier runs
    reference: Annotated[bool, tyro.conf.Suppress] = False  # which samples nothing
    models: tuple[Literal["vma", "soft"], ...] = ("vma", "soft")
    """vma with K = 4; soft attention over features with K = 1."""
    memory_size: tuple[int, ...] = (256, 1024, 4096)
    """Entries, random images; soft attention is measured up to 1,024, where its exact gradient fits into memory."""
    gradient_entries: tuple[int, ...] = (16, 64, 256)
    """Entries in the sample; those below the memory's."""
    repeats: int = 8
    """Samples drawn."""
    targets: int = 32
    """In the update, a multiple of 8 drawn from the memory's images."""
    seed: int = 0
    """Of the episode, its draws and the samples."""


SOFT_ENTRIES = 1024  # at most


def uniform(mass: Tensor, *others: Tensor) -> Tensor:
    """A proposal that draws from all entries alike, in the place of a model's own, which goes by their probability."""
    return torch.ones_like(mass[0])


def run(options: Options) -> None:
    check_option("--memory-size", options.memory_size, 1, MOST)
    check_option("--gradient-entries", options.gradient_entries, 1, MOST)
    check_option("--repeats", options.repeats, 2, MOST_SAMPLES)  # a spread needs two
    check_option("--targets", options.targets, 8, MOST)
    check_option("--seed", options.seed, 0, MOST_SEED)
    if options.targets % 8:
        raise InputError(f"--targets is {options.targets}, must be a multiple of 8")
    if not options.models:
        raise InputError(f"--models is empty, must be one or more of {', '.join(PARTS)}")
    sizes = {
        name: [size for size in options.memory_size if name == "vma" or size <= SOFT_ENTRIES] for name in options.models
    }
    if min(options.gradient_entries) >= max(max(own, default=0) for own in sizes.values()):
        raise InputError(
            f"--gradient-entries must have a number below one of --memory-size, which is {SOFT_ENTRIES:,} at most for "
            "soft"
        )
    device = resolve_device(options)
    data, _ = open_data(options, "omniglot45_5")
    hard = resolve_spec(scaling_training(), options, data, device, 0)
    torch.set_num_threads(hard.threads)
    specs = {"vma": hard, "soft": replace(hard, model="soft", read="features", num_samples=1)}
    episodes = {
        size: Episodes(data.train, EpisodeSpec("recall", 8, options.targets // 8, memory_size=size), options.seed)
        for size in options.memory_size
    }
    check_writable(options.out)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        for size in sizes[name]:
            rows += measure(specs[name], data, episodes[size](0), options, device)
    frame = pd.DataFrame(rows)
    store.write_text(options.out / "gradient_bias.csv", frame.to_csv(index=False, float_format="%.4g"))
    title = (
        f"{'. '.join(['Gradients through a sample of the entries', *warning(data)])}. {data.name}, "
        f"{options.targets} targets, {options.dtype}. The bias is |mean - exact| / |exact| over {options.repeats} "
        "samples, beside what an unbiased gradient of this standard deviation would show on average."
    )
    shown = frame.drop(columns=["data", "dtype", "repeats"]).map(lambda v: f"{v:.3g}" if isinstance(v, float) else v)
    print("\n" + tables.markdown(shown.map(str), title))
    print(*warning(data), f"Wrote {options.out / 'gradient_bias.csv'}.", sep=". ")


def measure(
    spec: TrainSpec, data: DataSet, episode: Episode, options: Options, device: torch.device
) -> Iterator[dict[str, Any]]:
    """The rows of one model and memory: each number of entries, proposal and part of the parameters."""
    trained = shipped(spec, data, device)
    exact: Any = build_model(spec, data, device) if trained is None else trained.model
    updates = 0 if trained is None else trained.updates
    assert episode.memory is not None
    x, memory, M, K = episode.x.to(device), episode.memory.to(device), len(episode.memory), spec.num_samples
    generator = torch.Generator(device).manual_seed(options.seed)
    draws = {"noise": torch.randn(K, len(x), exact.sizes.latent, generator=generator, device=device)}
    objective = build_objective(spec, exact)

    def gradient(
        model: Any, encoded: Any, sample_seed: int, parts: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        sample = torch.Generator(device).manual_seed(sample_seed)
        with torch.autocast(device.type, DTYPES[spec.dtype], enabled=spec.dtype != "float32"):
            terms = model(x, encoded, K, generator=sample, **draws)
        own = [(key, p) for key, p in model.named_parameters() if key.startswith(parts)]
        names, parameters = zip(*own, strict=True)
        # the keys of a memory are the same for all samples, and so is the graph behind them
        found = torch.autograd.grad(objective(terms).mean(), parameters, retain_graph=True)
        return iwae(terms).detach(), dict(zip(names, found, strict=True))

    def encode(model: Any) -> Any:
        with torch.autocast(device.type, DTYPES[spec.dtype], enabled=spec.dtype != "float32"):
            return model.encode_memory(memory)

    encoded = encode(exact)
    if spec.model == "vma":
        with torch.no_grad():
            draws["addresses"] = draw_addresses(exact.address(x, encoded)[0], K, generator)
    bound, wanted = gradient(exact, encoded, 0, ("",))
    del encoded
    model: Any = build_model(replace(spec, gradient_entries=1), data, device)
    model.load_state_dict(exact.state_dict())
    encoded = encode(model)
    proposals = {"probability": model.proposal, "uniform": uniform}
    # the gradients of all other parameters are exact
    sampled = tuple(start for starts in PARTS[spec.model].values() for start in starts if start)
    cells = [(n, proposal) for n in options.gradient_entries if n < M for proposal in proposals]
    with tqdm(total=len(cells) * options.repeats, desc=f"{spec.model}, {M} entries", unit="sample") as bar:
        for n, proposal in cells:
            model.gradient_entries, model.proposal = n, proposals[proposal]
            total = {key: torch.zeros_like(value) for key, value in wanted.items()}
            squares = dict.fromkeys(wanted, 0.0)  # of the distance from the exact gradient
            difference = 0.0
            for repeat in range(options.repeats):
                found_bound, found = gradient(model, encoded, options.seed + 1 + repeat, sampled)
                difference = max(difference, float((found_bound - bound).abs().max()))
                for key, value in found.items():
                    distance = value - wanted[key]
                    total[key] += distance
                    squares[key] += float(distance.double().square().sum())
                bar.update()
            for part, starts in PARTS[spec.model].items():
                keys = [key for key in wanted if key.startswith(starts)]
                yield {
                    "model": spec.model,
                    "memory_size": M,
                    "gradient_entries": n,
                    "proposal": proposal,
                    "parameters": part,
                    "bound_difference": difference,
                    **_relative(keys, wanted, total, squares, options.repeats),
                    "repeats": options.repeats,
                    "dtype": spec.dtype,
                    "updates": updates,
                    "data": data.name,
                }


def _relative(
    keys: Sequence[str],
    wanted: dict[str, Tensor],
    total: dict[str, Tensor],
    squares: dict[str, float],
    repeats: int,
) -> dict[str, float]:
    """Bias and standard deviation of the gradient of some parameters, by the sums of its distances from the exact one
    and of their squares, in parts of the exact one's norm.

    Raises:
        InputError: if that is zero, as with images that are all alike.
    """

    def square(tensors: dict[str, Tensor]) -> float:
        return sum(float(tensors[key].double().square().sum()) for key in keys)

    norm = square(wanted) ** 0.5
    if norm == 0:
        raise InputError("the gradient is zero, and no bias is relative to that: give a --dataset whose images differ")
    bias = square(total) / repeats**2
    variance = max(0.0, sum(squares[key] for key in keys) / repeats - bias) * repeats / (repeats - 1)
    return {
        "relative_bias": bias**0.5 / norm,
        "relative_bias_expected_from_repeats": (variance / repeats) ** 0.5 / norm,
        "relative_sd": variance**0.5 / norm,
    }


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Options, run, "benchmarks.gradient_bias", argv)


if __name__ == "__main__":
    sys.exit(main())
