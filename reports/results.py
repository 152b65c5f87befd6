"""A folder of results as one tidy frame, with the arrays, logs and specs beside it, and the rules of what counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reports import lines, targets
from reports.declared import DECLARED, keys_apart
from reports.models import MODELS
from reports.targets import Key
from vma.errors import InputError as InputError
from vma.statistics import Values

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

# What a time depends on beside its cell: times on different machines are never one line, nor is the last of them right.
SETTING = ("device", "threads", "dtype")
TIMED = "wallclock"

SUITE = "suite"  # the recipe of our own that stands beside the paper's
GMN_VARIANTS = ("gmn-own", "gmn-suite", "gmn-suite-skips")
SAMPLED = "sampled-gradient"  # the variant whose memory has a gradient for some of its entries alone


@dataclass(frozen=True, eq=False)
class Results:
    """What a results folder holds.

    - rows: one metric of one cell and seed a line, columns TEXT, NUMBERS and `dirty` (True also where the commit is
      unknown) at least; null is NaN. Only what counts, see `read_results`.
    - paper: the paper's numbers, see `paper_numbers`.
    - specs: the spec behind each train_id and eval_id.
    - smoke: whether all rows are of smoke runs, and so say nothing.
    - left_out: one line for each kind of row that does not count, and why.
    - suite: as rows, those of the suite's own recipe, under the name of the recipe in whose place they stand.
    - own: as rows, those of models of the user's own, which stand beside the suite's where a frame tells models apart.
    """

    folder: Path
    rows: pd.DataFrame
    paper: pd.DataFrame
    specs: dict[str, dict[str, Any]]
    smoke: bool
    left_out: tuple[str, ...]
    suite: pd.DataFrame
    own: pd.DataFrame
    _targets: dict[str, dict[Key, dict[str, Values]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def with_own(self) -> "Results":
        """The same with the rows of the user's own models, but for the suite's recipe, among the others."""
        own = self.own[self.own.recipe != SUITE]
        return self if own.empty else replace(self, rows=pd.concat([self.rows, own], ignore_index=True))

    @property
    def recipes(self) -> dict[str, "Results"]:
        """What there is by the paper's recipe and by the suite's, by a suffix for names: "" and "-suite"."""
        own = self.own[self.own.recipe == SUITE].assign(recipe="paper")
        suite = replace(self, rows=self.suite, suite=self.suite.iloc[:0], left_out=(), own=own)
        return {"": self} | ({f"-{SUITE}": suite} if len(self.suite) else {})

    def began_from(self, train_id: str) -> tuple[str, int] | None:
        """The name and the updates of the weights that a run began from, if it began from any."""
        name, _, updates = (self.specs.get(train_id, {}).get("start") or "").rpartition("-")
        return (name, int(updates)) if name else None

    def updates_in_all(self, row: Row) -> int:
        """The updates of a row's run, and those of the weights that it began from."""
        began = self.began_from(row["train_id"])
        return int(row["updates"]) + (began[1] if began else 0)

    def of(self, experiment: str, **where: Any) -> pd.DataFrame:
        """The rows of an experiment that fit, see `select`."""
        return select(self.rows, experiment=experiment, **where)

    def arrays(self, row: Row) -> dict[str, Values] | None:
        """The arrays of a row's cell by name: values at each target, and what figures show; None if there are none.

        Raises:
            InputError: if their file is damaged; names it.
        """
        experiment, key = row["experiment"], Key(row["train_id"], int(row["updates"]), row["eval_id"])
        if experiment not in self._targets:
            self._targets[experiment] = targets.read(targets.path(self.folder, experiment))
        pictures = targets.pictures_path(self.folder, experiment, key)
        found = {**self._targets[experiment].get(key, {}), **targets.read_pictures(pictures)}
        return found or None

    def training_logs(self, train_id: str) -> list[Path]:
        """The files that hold the log of a training run: one, or none."""
        return sorted((self.folder / "training").glob(f"*-{train_id}.jsonl"))

    def training_log(self, row_or_train_id: Row | str, also: Sequence[str] = ()) -> pd.DataFrame | None:
        """The log of a training run: update, bound, kl_a, kl_z (nats), seconds and validation_bound (mostly NaN), and
        what `also` names; of a row, up to the row's updates. None if there is no log.

        Raises:
            InputError: if the file has a bad line; names it.
        """
        paths = self.training_logs(row_or_train_id if isinstance(row_or_train_id, str) else row_or_train_id["train_id"])
        if not paths:
            return None
        columns = ["update", "bound", "kl_a", "kl_z", "seconds", "validation_bound", *also]
        log = _numbers(pd.DataFrame(read_lines(paths[0])).reindex(columns=columns), columns, paths[0])
        return log if isinstance(row_or_train_id, str) else log[log["update"] <= row_or_train_id["updates"]]


def read_results(folder: Path) -> Results:
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
    rows = rows.assign(weight_decay=rows.weight_decay.fillna(decay.astype(float)))
    own = rows.recipe.isin((SUITE, f"smoke-{SUITE}"))
    suite, _ = _that_count(_in_place_of_each(rows[own], specs), any_recipe=True)
    suite = suite.assign(recipe="smoke" if smoke.all() else "paper")
    rows, left_out = _that_count(rows[~own])
    known, beside = rows.model.isin(MODELS), suite.model.isin(MODELS)
    of_user = pd.concat([rows[~known], suite[~beside].assign(recipe=SUITE)], ignore_index=True)
    return Results(folder, rows[known], paper_numbers(), specs, bool(smoke.all()), left_out, suite[beside], of_user)


def _in_place_of_each(rows: pd.DataFrame, specs: Mapping[str, Any]) -> pd.DataFrame:
    """Few-shot rows of a model that saw several numbers of examples in training: it stands in the place of the models
    that the paper trains, one for each number.
    """
    several = {key for key, spec in specs.items() if (spec.get("episode") or {}).get("fewest_shots")}
    drawn = (rows.experiment == "fewshot") & rows.train_id.isin(several)
    return rows.assign(train_shots=rows.train_shots.mask(drawn, rows.shots))


def only(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Results:
    """Results of these rows alone, as a command has just made them; arrays lie in `folder`."""
    frame = frame_of(rows, folder)
    return Results(folder, frame, paper_numbers(), {}, False, (), frame.iloc[:0], frame.iloc[:0])


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
    pairs = rows[["experiment", "dataset"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted({data for name, data in pairs if name in DECLARED and data not in DECLARED[name].datasets})


def missing_cells(results: Results, experiment: str) -> list[str]:
    """The declared cells of an experiment that have no row, in words; one line if there is no row at all.

    Nothing for smoke runs, which evaluate what is small, and for experiments without declared cells.
    """
    if results.smoke or experiment not in DECLARED:
        return []
    # other data stand in the place of the declared ones
    cells = [{k: v for k, v in cell.items() if k != "dataset"} for cell in DECLARED[experiment].cells]
    rows = results.of(experiment)
    if rows.empty:
        return [f"{experiment}: not run ({len(cells)} cells)"]
    known = rows[list(cells[0])].astype(object)
    found = set(known.where(known.notna(), None).itertuples(index=False, name=None))
    missing = [cell for cell in cells if tuple(cell.values()) not in found]
    # a cell is told by the keys that tell it apart from the others of its model
    of = {name: [cell for cell in cells if cell["model"] == name] for name in {cell["model"] for cell in missing}}
    keys = {name: keys_apart(alike, alike[0]) for name, alike in of.items()}
    return [f"{experiment}: {_in_words(cell, keys[cell['model']])}" for cell in missing]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, without what a crash left unfinished; none if it is missing.

    Raises:
        InputError: for a bad line elsewhere; names file and line.
    """
    return lines.parse(path.read_bytes(), path) if path.exists() else []


def _read_rows(path: Path) -> pd.DataFrame:
    found = read_lines(path)
    for number, line in enumerate(found, start=1):
        absent = [key for key in NEEDED if line.get(key) is None]
        if absent:
            raise InputError(f"{path}, line {number}, has no {', '.join(absent)}: correct or delete the line")
        wrong = [key for key in TEXT if not isinstance(line.get(key), str | None)]
        if wrong:
            raise InputError(f"{path}, line {number}, has no text as {', '.join(wrong)}: correct or delete the line")
    return frame_of(found, path)


def frame_of(rows: Sequence[Mapping[str, Any]], path: Path) -> pd.DataFrame:
    """Rows as the frame that `Results` has.

    Raises:
        InputError: naming `path`, if there is text where a number belongs.
    """
    frame = pd.DataFrame(list(rows))
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


def _that_count(rows: pd.DataFrame, any_recipe: bool = False) -> tuple[pd.DataFrame, tuple[str, ...]]:
    left_out: list[str] = []
    kept = []

    def keep(part: pd.DataFrame, fits: "pd.Series[bool]", key: str, why: str) -> pd.DataFrame:
        others = part[~fits]
        if len(others):
            values = ", ".join(map(str, sorted(others[key].unique())))
            experiment = others.experiment.iloc[0]
            left_out.append(f"{experiment}: {len(others)} rows with {key} {values} do not count, since {why}")
        return part[fits]

    for name, part in rows.groupby("experiment", sort=False):
        experiment, declared = str(name), DECLARED.get(str(name))
        if declared is not None:
            known = any_recipe | part.recipe.str.startswith("smoke") | part.recipe.isin(declared.recipes)
            part = keep(part, known, "recipe", "the experiment declares another recipe")
            own = part.dataset.isin(declared.datasets)
            chosen = declared.datasets if own.any() else tuple(part.dataset.iloc[-1:])
            part = keep(part, part.dataset.isin(chosen), "dataset", f"there are rows on {' and '.join(chosen)}")
        # of the same cell the row of the most targets counts, and of several such the last
        part = part.sort_values("n", kind="stable")
        apart = SETTING if experiment == TIMED else ()
        whole = [*CELL, *apart, "train_seed", "updates"]
        most = ~(part.n < part.groupby(whole, dropna=False).n.transform("max"))
        part = keep(part, most, "n", "there are rows of the same cells over more targets")
        part = part[~part.duplicated(whole, keep="last")]
        varied = {"read", "targets", "metric", "rule", *(declared.cells[0] if declared else CELL)}
        told = [*(key for key in CELL if key in varied), *apart]
        last = ~part.duplicated([*told, "train_seed", "updates"], keep="last")
        part = keep(part, last, "train_id", "later rows differ in nothing that the experiment varies")
        largest = part.updates == part.groupby(told, dropna=False).updates.transform("max")
        kept.append(keep(part, largest, "updates", "there are rows of the same cells after more updates"))
    return pd.concat([rows.iloc[:0], *kept], ignore_index=True), tuple(left_out)


def _in_words(cell: Mapping[str, Any], keys: Iterable[str]) -> str:
    names = {"memory_size": "|M|", "train_memory_size": "trained with |M|", "num_samples": "K"}
    return ", ".join(
        str(cell[key]) if isinstance(cell[key], str) else f"{names.get(key, key.replace('_', ' '))} {cell[key]}"
        for key in keys
        if cell[key] is not None
    )
