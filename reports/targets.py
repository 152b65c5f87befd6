"""The values at each target: one Parquet file an experiment, a line a target."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vma.errors import InputError
from vma.statistics import Values


class Key(NamedTuple):
    """What names an evaluated cell."""

    train_id: str
    updates: int
    eval_id: str


def path(folder: Path, experiment: str) -> Path:
    """Where a folder of results keeps an experiment's values at each target."""
    return folder / "targets" / f"{experiment}.parquet"


def pictures_path(folder: Path, experiment: str, key: Key) -> Path:
    """Where it keeps a cell's other arrays: what a figure shows."""
    return folder / "pictures" / f"{experiment}-{key.train_id}-{key.updates}-{key.eval_id}.npz"


def read(file: Path) -> dict[Key, dict[str, Values]]:
    """The arrays of each cell by name, each (n,) in the order of its targets; none if there is no file.

    Raises:
        InputError: if the file is damaged; names it.
    """
    if not file.exists():
        return {}
    try:
        return dict(_cells(pq.read_table(file)))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{file} is damaged ({' '.join(str(error).split())}): restore it, or delete it and evaluate its cells again"
        ) from None


def _cells(table: pa.Table) -> Iterator[tuple[Key, dict[str, Values]]]:
    ids = [table[name].to_numpy() for name in Key._fields]
    columns = {
        name: table[name].combine_chunks() for name in table.column_names if name not in (*Key._fields, "target")
    }
    # lines of a cell stand together
    starts = np.flatnonzero(np.any([one[1:] != one[:-1] for one in ids], axis=0)) + 1
    for start, end in pairwise([0, *starts.tolist(), len(table)]):
        parts = {name: column.slice(start, end - start) for name, column in columns.items()}
        arrays = {name: part.to_numpy(zero_copy_only=False) for name, part in parts.items() if not part.null_count}
        train_id, updates, eval_id = (one[start] for one in ids)
        yield Key(str(train_id), int(updates), str(eval_id)), arrays


def read_pictures(file: Path) -> dict[str, Values]:
    """The other arrays of a cell by name; none if there is no file.

    Raises:
        InputError: if the file is damaged; names it.
    """
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{file} is damaged ({' '.join(str(error).split())}): restore it, or delete it and evaluate the cell again"
        ) from None


def encoded(cells: Mapping[Key, Mapping[str, Values]]) -> bytes:
    """The file with these cells. Equal cells give equal bytes, whatever their order."""
    tables = []
    for key, arrays in sorted(cells.items()):
        n = len(next(iter(arrays.values())))
        columns: dict[str, Any] = {name: pa.repeat(value, n) for name, value in key._asdict().items()}
        columns |= {"target": pa.array(np.arange(n, dtype=np.int32))}
        tables.append(pa.table(columns | {name: pa.array(arrays[name]) for name in sorted(arrays)}))
    whole = pa.concat_tables(tables, promote_options="permissive")
    first = [*Key._fields, "target"]
    whole = whole.select([*first, *sorted(set(whole.column_names) - set(first))])
    buffer = pa.BufferOutputStream()
    pq.write_table(whole, buffer, compression="zstd", compression_level=12)
    return bytes(buffer.getvalue())
