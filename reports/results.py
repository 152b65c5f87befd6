"""A folder of results as one tidy frame, with the arrays, logs and specs beside it, and the rules of what counts."""

import itertools
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports import lines

PAPER = Path(__file__).resolve().parents[1] / "results" / "paper.csv"

Row = Mapping[str, Any] | pd.Series

TEXT = (
    *("experiment", "model", "read", "recipe", "dataset", "split", "protocol", "targets", "train_protocol", "metric"),
    *("train_id", "eval_id", "data_sha256", "commit", "torch", "device", "dtype", "created"),
    *("train_commits", "variant", "rule"),
)
NUMBERS = (
    *("train_seed", "updates", "learning_rate", "train_classes", "train_shots", "train_memory_size"),
    *("train_num_samples", "classes", "shots", "memory_size", "num_samples", "value", "stderr", "n"),
    *("threads", "seconds", "weight_decay", "low", "high", "q25", "q75"),
)
NEEDED = ("experiment", "model", "recipe", "dataset", "metric", "value", "updates", "train_id", "eval_id")

# What makes a cell and one of its metrics, whatever the seed, the machine and the number of updates.
CELL = (
    *("experiment", "model", "read", "recipe", "dataset", "split", "protocol", "targets", "learning_rate"),
    *("train_classes", "train_shots", "train_memory_size", "train_num_samples", "train_protocol", "classes", "shots"),
    *("memory_size", "num_samples", "metric", "variant", "weight_decay", "rule"),
)

# The data of the paper, by experiment. Rows on other data are shown and marked.
PAPERS_DATA = {
    **dict.fromkeys(("recall", "learned-mnist"), "mnist_larochelle"),
    "learned-omniglot": "omniglot28",
    **dict.fromkeys(("fewshot", "samples", "lookup", "scaling", "shots"), "omniglot45_5"),
    **dict.fromkeys(("classification", "ablations", "wallclock"), "omniglot45_5"),
    "table1": "omniglot_gmn",
}

# What a time depends on beside its cell: times on different machines are never one line, nor is the last of them right.
SETTING = ("device", "threads", "dtype")
TIMED = "wallclock"

# The recipes that experiments declare, where it is not "paper" alone. Smoke runs put "smoke" in its place or before it.
RECIPES = {"recall": ("paper", "grown"), "ablations": ("ablation",)}

LEARNED_MNIST_ENTRIES = (64, 128, 256, 512, 1024)
MEMORY_SIZES = (64, 128, 256, 512, 1024, 2048)  # of recall and of learned Omniglot
FEWSHOT_SHOTS = (1, 2, 4, 8, 16)
SCALING_CLASSES = (1, 2, 4, 8, 16, 32, 64, 96, 144)
TRAIN_SHOTS = (1, 4, 8)  # of Figure 5B
TABLE1_CLASSES = (1, 2, 4, 16)
TABLE1_SHOTS = (1, 2, 3, 4, 5, 10, 19)
GMN_VARIANTS = ("gmn-own", "gmn-suite", "gmn-suite-skips")
WAYS = ((5, 1), (5, 5), (20, 1), (20, 5))
VARIANTS = ("control", "flat-prior", "inner", "cosine", "tied", "geometric", "classes32", "lr1e-4")
WALLCLOCK_SIZES = (16, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096)
CHOICES = ("control", "inverted", "no-l2", "lr1e-4", "soft-features", "soft-images")
CHOICE_SAMPLES = (1, 4, 16, 64, 256, 1000)
SAMPLED = "sampled-gradient"  # the variant whose memory has a gradient for some of its entries alone
SAMPLED_SIZES = (128, 256, 512, 1024, 2048, 4096)


class InputError(ValueError):
    """A results folder cannot be used. The message is one line that names the cause and the remedy.

    The library's own error of this name stands in a package whose import loads torch, which takes seconds.
    """


@dataclass(frozen=True)
class Results:
    """What a results folder holds.

    - rows: one metric of one cell and seed a line, columns TEXT, NUMBERS and `dirty` (True also where the commit is
      unknown) at least; null is NaN. Only what counts, see `read_results`.
    - paper: the paper's numbers, see `paper_numbers`.
    - specs: the spec behind each train_id and eval_id.
    - smoke: whether all rows are of smoke runs, and so say nothing.
    - left_out: one line for each kind of row that does not count, and why.
    """

    folder: Path
    rows: pd.DataFrame
    paper: pd.DataFrame
    specs: dict[str, dict[str, Any]]
    smoke: bool
    left_out: tuple[str, ...]

    def of(self, experiment: str, **where: Any) -> pd.DataFrame:
        """The rows of an experiment that fit, see `select`."""
        return select(self.rows, experiment=experiment, **where)

    def artifact(self, row: Row) -> dict[str, np.ndarray[Any, Any]] | None:
        """The arrays of a row's cell by name, None if their file is not there.

        Raises:
            InputError: if the file is damaged; names it.
        """
        path = self.folder / "artifacts" / f"{row['train_id']}-{row['updates']}-{row['eval_id']}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{path} is damaged ({' '.join(str(error).split())}): restore it, or delete it and evaluate the cell "
                "again"
            ) from None

    def training_log(self, row_or_train_id: Row | str, also: Sequence[str] = ()) -> pd.DataFrame | None:
        """The log of a training run: update, bound, kl_a, kl_z (nats), seconds and validation_bound (mostly NaN), and
        what `also` names; of a row, up to the row's updates. None if there is no log.

        Raises:
            InputError: if the file has a bad line; names it.
        """
        train_id = row_or_train_id if isinstance(row_or_train_id, str) else row_or_train_id["train_id"]
        paths = sorted((self.folder / "training").glob(f"*-{train_id}.jsonl"))
        if not paths:
            return None
        columns = ["update", "bound", "kl_a", "kl_z", "seconds", "validation_bound", *also]
        log = _numbers(pd.DataFrame(read_lines(paths[0])).reindex(columns=columns), columns, paths[0])
        return log if isinstance(row_or_train_id, str) else log[log["update"] <= row_or_train_id["updates"]]


def read_results(folder: Path, paper: Path = PAPER) -> Results:
    """Read a results folder, and keep the rows that count.

    Of an experiment counts the recipe that it declares. Of one cell and metric, cells being told apart by what the
    experiment varies, counts the last row of each seed, and only seeds with the cell's largest number of updates. Where
    an experiment has rows on the paper's data, those on other data do not count; where it has none, those on the data
    of its last row.

    Raises:
        InputError: if the folder is missing, holds no rows or a damaged file, or mixes smoke rows with real ones.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give --results DIR, or make rows by python -m benchmarks.run")
    parts = [_read_rows(path) for path in sorted(folder.glob("*.jsonl")) if path.name != "specs.jsonl"]
    if not sum(map(len, parts)):
        raise InputError(f"{folder} holds no rows (*.jsonl): make some by python -m benchmarks.run --out {folder}")
    rows = pd.concat(parts, ignore_index=True)
    smoke = rows.recipe.str.startswith("smoke")
    if smoke.any() and not smoke.all():
        names = ", ".join(sorted(rows[smoke].experiment.unique()))
        raise InputError(
            f"{folder} mixes rows of smoke runs ({names}) with real ones: delete those whose recipe starts with smoke, "
            "or give smoke runs a folder of their own"
        )
    specs = _read_specs(folder / "specs.jsonl")
    # rows of Table 1 are older than this key
    decay = rows.train_id.map({key: spec.get("weight_decay") for key, spec in specs.items()})
    rows, left_out = _that_count(rows.assign(weight_decay=rows.weight_decay.fillna(decay.astype(float))))
    return Results(folder, rows, paper_numbers(paper), specs, bool(smoke.all()), left_out)


def paper_numbers(path: Path = PAPER) -> pd.DataFrame:
    """Every number of the paper, one a row: id, where, model, metric, value, classes, shots, ...

    `value` is as printed (one is "sometimes"), `number` the same where it is a number.
    """
    paper = pd.read_csv(path)
    return paper.assign(number=pd.to_numeric(paper.value, errors="coerce"))


def select(rows: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows whose columns have these values; None stands for null, a list or tuple for any of its values."""
    chosen = pd.Series(True, rows.index)
    for key, value in where.items():
        if value is None:
            chosen &= rows[key].isna()
        elif isinstance(value, list | tuple):
            chosen &= rows[key].isin(value)
        else:
            chosen &= rows[key] == value
    return rows[chosen]


def stand_ins(rows: pd.DataFrame) -> list[str]:
    """The names of data sets other than the paper's that rows are of."""
    own = rows.experiment.map(PAPERS_DATA)
    return sorted(rows.dataset[own.notna() & (rows.dataset != own)].unique())


def missing_cells(results: Results, experiment: str) -> list[str]:
    """The declared cells of an experiment that have no row, in words; one line if there is no row at all.

    Nothing for smoke runs, which evaluate what is small, and for experiments without declared cells.
    """
    declared = [] if results.smoke else CELLS.get(experiment, [])
    rows = results.of(experiment)
    if declared and rows.empty:
        return [f"{experiment}: not run ({len(declared)} cells)"]
    return [f"{experiment}: {_in_words(cell)}" for cell in declared if select(rows, **cell).empty]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, without what a crash left unfinished; none if it is missing.

    Raises:
        InputError: for a bad line elsewhere; names file and line.
    """
    try:
        return lines.parse(path.read_bytes()) if path.exists() else []
    except lines.BadLine as error:
        raise InputError(f"{path}, line {error.number}, is no JSON object: correct or delete the line") from None


def _read_rows(path: Path) -> pd.DataFrame:
    found = read_lines(path)
    for number, line in enumerate(found, start=1):
        absent = [key for key in NEEDED if line.get(key) is None]
        if absent:
            raise InputError(f"{path}, line {number}, has no {', '.join(absent)}: correct or delete the line")
        wrong = [key for key in TEXT if not isinstance(line.get(key), str | None)]
        if wrong:
            raise InputError(f"{path}, line {number}, has no text as {', '.join(wrong)}: correct or delete the line")
    frame = pd.DataFrame(found)
    others = [name for name in frame.columns if name not in (*TEXT, *NUMBERS, "dirty")]
    frame = frame.reindex(columns=[*TEXT, *NUMBERS, "dirty", *others])
    frame = _numbers(frame, NUMBERS, path)
    return frame.assign(dirty=[dirty is not False for dirty in frame.dirty], updates=frame.updates.astype(int))


def _read_specs(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {line["id"]: dict(line["spec"]) for line in read_lines(path)}
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{path} has a line without "id" or "spec": delete the line') from None


def _numbers(frame: pd.DataFrame, columns: Iterable[str], path: Path) -> pd.DataFrame:
    try:
        return frame.assign(**{name: pd.to_numeric(frame[name]) for name in columns})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} has text where a number belongs ({error}): correct or delete the line") from None


def _that_count(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    left_out = []
    kept = []
    for name, part in rows.groupby("experiment", sort=False):
        experiment = str(name)
        if experiment in PAPERS_DATA:
            declared = part.recipe.str.startswith("smoke") | part.recipe.isin(RECIPES.get(experiment, ("paper",)))
            left_out += _left_out(part[~declared], "recipe", "the experiment declares another recipe")
            part = part[declared]
            own = PAPERS_DATA[experiment]
            chosen = own if (part.dataset == own).any() else part.dataset.iloc[-1] if len(part) else own
            left_out += _left_out(part[part.dataset != chosen], "dataset", f"there are rows on {chosen}")
            part = part[part.dataset == chosen]
        # of the same cell the row of the most targets counts, and of several such the last
        part = part.sort_values("n", kind="stable")
        apart = SETTING if experiment == TIMED else ()
        whole = [*CELL, *apart, "train_seed", "updates"]
        same = part.duplicated(whole, keep="last")
        smaller = same & (part.n < part.groupby(whole, dropna=False).n.transform("max"))
        left_out += _left_out(part[smaller], "n", "there are rows of the same cells over more targets")
        part = part[~same]
        declared_keys = {key for cell in CELLS.get(experiment, ()) for key in cell}
        varied = {"model", "read", "targets", "metric", "rule"} | declared_keys
        told = [*(key for key in CELL if key in varied or experiment not in CELLS), *apart]
        alike = part.duplicated([*told, "train_seed", "updates"], keep="last")
        left_out += _left_out(part[alike], "train_id", "later rows differ in nothing that the experiment varies")
        part = part[~alike]
        largest = part.groupby(told, dropna=False).updates.transform("max")
        fewer = part[part.updates < largest]
        left_out += _left_out(fewer, "updates", "there are rows of the same cells after more updates")
        kept.append(part[part.updates == largest])
    return pd.concat(kept, ignore_index=True), tuple(left_out)


def _left_out(rows: pd.DataFrame, key: str, why: str) -> list[str]:
    if rows.empty:
        return []
    values = ", ".join(map(str, sorted(rows[key].unique())))
    return [f"{rows.experiment.iloc[0]}: {len(rows)} rows with {key} {values} do not count, since {why}"]


def _in_words(cell: Mapping[str, Any]) -> str:
    names = {
        "memory_size": "|M|",
        "train_memory_size": "trained with |M|",
        "num_samples": "K",
        "train_num_samples": "trained with K",
    }
    return ", ".join(
        str(value)
        if key in ("model", "read", "variant", "recipe")
        else f"{names.get(key, key.replace('_', ' '))} {value}"
        for key, value in cell.items()
        if value is not None
    )


def _grid(**axes: Any) -> list[dict[str, Any]]:
    """Every combination; an axis that is no tuple has one value."""
    values = [axis if isinstance(axis, tuple) else (axis,) for axis in axes.values()]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


BOTH = (4, 1000)  # values of K: the paper's of its figures, and that of its table

# What each experiment declares, as far as figures and tables show it: the least that tells its cells apart.
CELLS: dict[str, list[dict[str, Any]]] = {
    "recall": [
        cell
        for size in MEMORY_SIZES
        for tested in ((size, 2048) if size == 256 else (size,))
        for cell in _grid(recipe=("paper", "grown"), train_memory_size=size, memory_size=tested, num_samples=BOTH)
    ],
    "learned-mnist": [
        cell
        for split, num_samples in (("train", 4), ("test", 4), ("test", 1000))
        for cell in (
            *_grid(model="vma", memory_size=LEARNED_MNIST_ENTRIES, split=split, num_samples=num_samples),
            *_grid(model="vae", split=split, num_samples=num_samples),
        )
    ],
    "learned-omniglot": [
        cell
        for weight_decay, sizes, last in ((0.0, MEMORY_SIZES, 1000), (3e-4, (256,), 5000))
        for split, num_samples in (("train", 4), ("test", 4), ("test", last))
        for cell in (
            *_grid(model="vma", weight_decay=weight_decay, memory_size=sizes, split=split, num_samples=num_samples),
            *_grid(model="vae", weight_decay=weight_decay, split=split, num_samples=num_samples),
        )
    ],
    "fewshot": [
        *_grid(model="vma", shots=FEWSHOT_SHOTS, num_samples=BOTH),
        *_grid(model="vae", num_samples=BOTH),
        *_grid(
            model="soft",
            read=("features", "images"),
            train_classes=(2, 8),
            train_shots=16,
            classes=(1, 2, 8),
            num_samples=BOTH,
        ),
        *_grid(model="soft", train_shots=4, classes=(1, 2, 8), shots=16, num_samples=BOTH),
        *_grid(model="soft", train_shots=4, classes=8, shots=4, num_samples=BOTH),
    ],
    "samples": _grid(model="vma"),
    "lookup": _grid(model="vma"),
    "scaling": [
        *_grid(model="vma", classes=SCALING_CLASSES, shots=(4, 16, 19), num_samples=BOTH),
        *_grid(model="soft", train_classes=(2, 8), classes=SCALING_CLASSES, shots=(4, 16), num_samples=BOTH),
    ],
    "shots": [
        *_grid(model="vma", train_shots=TRAIN_SHOTS, shots=tuple(range(1, 20)), num_samples=BOTH),
        *_grid(model="vae", num_samples=BOTH),
    ],
    "table1": [
        *_grid(
            model=("vma", "soft"),
            train_protocol="per_class",
            protocol=("per_class", "gmn"),
            classes=TABLE1_CLASSES,
            shots=TABLE1_SHOTS,
        ),
        *_grid(model="vma", train_protocol="gmn", protocol="gmn", classes=TABLE1_CLASSES, shots=TABLE1_SHOTS),
        *_grid(model="vae", variant=(None, "gmn-vae")),
        *_grid(
            model="gmn",
            variant=GMN_VARIANTS,
            protocol=("per_class", "gmn"),
            classes=TABLE1_CLASSES,
            shots=TABLE1_SHOTS,
        ),
        *_grid(model="gmn", variant=GMN_VARIANTS, protocol="none"),
    ],
    "classification": [
        {"classes": c, "shots": s, "rule": r} for c, s in WAYS for r in ("address", "likelihood", "shifted")
    ],
    "ablations": _grid(variant=VARIANTS, num_samples=BOTH),
    "recipes": [
        *_grid(
            dataset="omniglot45_5", recipe=("paper", "annealed", "fast"), classes=(1, 8, 144), shots=4, num_samples=BOTH
        ),
        *_grid(dataset="omniglot_gmn", recipe=("paper", "annealed"), classes=(1, 16), shots=(1, 19), num_samples=1000),
    ],
    "choices": [
        *_grid(variant=CHOICES, num_samples=4),
        *_grid(variant="k", model=("vma", "vae"), num_samples=CHOICE_SAMPLES),
    ],
    "wallclock": [
        *_grid(model="vma", train_num_samples=4, train_memory_size=WALLCLOCK_SIZES, variant=None),
        *_grid(
            model="soft",
            read=("images", "features"),
            train_num_samples=(1, 4),
            train_memory_size=WALLCLOCK_SIZES,
            variant=None,
        ),
        *_grid(model="vma", train_num_samples=4, train_memory_size=SAMPLED_SIZES, variant=SAMPLED),
        *_grid(model="soft", read="features", train_num_samples=1, train_memory_size=SAMPLED_SIZES, variant=SAMPLED),
        *_grid(model="vae"),
    ],
}
