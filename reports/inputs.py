"""What a figure is made of, as one hash: a figure whose inputs have not changed need not be drawn again."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from reports import declared, targets
from reports.results import PAPER, Results

CODE = (Path(__file__).parent, Path(__file__).parents[1] / "vma" / "statistics.py")


def of_figure(results: Results, experiments: Iterable[str]) -> str:
    """The hash of the code that draws and of `of_rows`."""
    return _digest([*_code(), of_rows(results, experiments).encode()])


def of_rows(results: Results, experiments: Iterable[str]) -> str:
    """The hash of the experiments' rows, arrays and training logs, the paper's numbers and what is declared."""
    names, folder = set(experiments), results.folder
    rows = pd.concat([results.rows, results.suite])
    rows = rows[rows.experiment.isin(names)]
    files = [PAPER, declared.PATH]
    for name in sorted(names):
        files += [folder / f"{name}.jsonl", targets.path(folder, name), *sorted(folder.glob(f"pictures/{name}-*"))]
    for train_id in sorted(rows.train_id.unique()):
        files += results.training_logs(str(train_id))
    return _digest(part for file in files if file.exists() for part in (file.name.encode(), file.read_bytes()))


@cache
def _code() -> tuple[bytes, ...]:
    files = [file for place in CODE for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return (mpl.__version__.encode(), *(file.read_bytes() for file in files))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]
