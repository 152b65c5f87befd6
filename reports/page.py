"""The one page, one file: what holds, Table 1, figures, what is looked up, tables, and where each number comes from."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from reports import figures, tables
from reports.declared import DECLARED, declared
from reports.models import MODELS
from reports.results import SUITE, Results, missing_cells, stand_ins
from reports.verdicts import JUDGED, MEANINGS, VERDICTS, Outcome, span

TEMPLATES = Path(__file__).parent / "templates"
ICONS = {
    "not reproduced": "✕",
    "near": "≈",
    "reproduced": "✓",
    "other data": "◇",
    "not run": "○",
    "quoted": "❝",
}
METRICS = {"nll": "NLL", "kl_a": "KL_a", "kl_z": "KL_z", "nll_excess": "NLL above the optimum"}
# What a reader asks of a row first; the other fields follow.
FIRST = (
    *("value", "stderr", "low", "high", "q25", "q75", "n", "metric", "experiment", "model", "read", "variant"),
    *("recipe", "dataset", "split", "updates", "train_seed", "train_id", "eval_id", "commit", "dirty"),
    *("train_commits", "data_sha256", "device", "dtype", "threads", "torch", "created", "seconds"),
)
BY = {"": "", f"-{SUITE}": ", by the suite's recipe"}  # of `Results.recipes`
PICTURE = "4a"  # the figure that stands beside the lookups and not among the others


def render(results: Results, outcomes: Sequence[Outcome], drawings: Mapping[str, str]) -> str:
    """The page.

    Args:
        results: a folder of results.
        outcomes: what became of each claim, see `claims.assess`.
        drawings: the figures that could be drawn, by name, as SVG.

    Raises:
        InputError: if an artifact is damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # whole files of ours, which no value of a row enters
    for name in ("page.css", "page.js"):
        environment.globals[name.replace(".", "_")] = (TEMPLATES / name).read_text(encoding="utf-8")
    experiments = _experiments(outcomes)
    sources = {outcome.id: _sources_of(outcome) for outcome in outcomes if outcome.rows}
    by_recipe = results.recipes.items()
    shown = [
        _figure(of, name, drawings, recipe)
        for name in figures.FIGURES
        for recipe, of in by_recipe
        if not recipe or name + recipe in drawings
    ]
    listed = [
        _table(of, name, recipe)
        for name, spec in tables.TABLES.items()
        for recipe, of in by_recipe
        if spec.experiments or not recipe
    ]
    return environment.get_template("page.html").render(
        results=results,
        title="SMOKE RUN - not results - VMA" if results.smoke else "VMA: the paper's numbers and ours",
        outcomes={outcome.id: outcome for outcome in outcomes},
        experiments=experiments,
        quoted=[outcome for outcome in outcomes if outcome.verdict == "quoted"],
        classes=declared("table1", "classes"),
        shots=declared("table1", "shots"),
        meanings=MEANINGS,
        icons=ICONS,
        metrics=METRICS,
        models=MODELS,
        counts={v: sum(o.verdict == v for o in outcomes) for v in VERDICTS if v != "quoted"},
        not_run=[part["name"] for part in experiments if any(o.verdict == "not run" for o in part["outcomes"])],
        stand_ins=[name for name in stand_ins(results.rows) if name not in JUDGED],
        dirty=sorted(results.rows[results.rows.dirty].experiment.unique()),
        sources=sources,
        specs=_specs(results, outcomes),
        figures=[figure for figure in shown if figure["of"] != PICTURE],
        pictures=[figure for figure in shown if figure["of"] == PICTURE],
        tables=[one for one in listed if one["lines"] or one["name"] in {*tables.TABLES} - {tables.OWN}],
        by_suite=sum(o.recipe == SUITE for o in outcomes),
        gaps={name: missing_cells(results, name) for name in DECLARED},
        lookups=lookups(results),
    )


def lookups(results: Results) -> str | None:
    """The lookups of Figure 3 as JSON, None if there are none. Images are base64: `x` and `memory` eight pixels of 0 or
    1 a byte, each image padded to whole bytes; `reconstruction` and `samples` a byte of 0 to 255 each.

    Raises:
        InputError: if the artifact is damaged.
    """
    rows = results.of("lookup", metric="class_mass")
    arrays = None if rows.empty else results.arrays(rows.iloc[0])
    if arrays is None:
        return None
    targets, entries, height, width = arrays["memory"].shape
    packed = {
        name: _base64(np.packbits(arrays[name].reshape(-1, height * width).astype(bool), axis=1))
        for name in ("x", "memory")
    }
    grey = {name: _base64(arrays[name].astype(np.uint8)) for name in ("reconstruction", "samples")}
    data = {
        "height": height,
        "width": width,
        "entries": entries,
        "samplesEach": arrays["samples"].shape[1],
        **packed,
        **grey,
        "targets": [
            {
                "class": int(arrays["x_class"][t]),
                "classes": arrays["memory_class"][t].tolist(),
                "q": [round(float(value), 5) for value in arrays["q"][t]],
                "p": [round(float(value), 5) for value in arrays["p"][t]],
                "top": arrays["top"][t].tolist(),
            }
            for t in range(targets)
        ],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _experiments(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """What became of the paper's numbers of each experiment, all but quoted ones; in the paper's order."""
    parts: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.verdict != "quoted":
            parts.setdefault(outcome.experiment, []).append(outcome)
    found = []
    for name, part in parts.items():
        failed = [outcome for outcome in part if outcome.verdict == "not reproduced"]
        ends = span([f"{d:+.1f}" for d in sorted(o.difference for o in failed if o.difference is not None)])
        unit = "points" if any(outcome.unit == "%" for outcome in failed) else "nats"
        words = ", ".join(f"{outcome.ours}, the paper {outcome.paper}" for outcome in failed)
        counts = {verdict: sum(outcome.verdict == verdict for outcome in part) for verdict in VERDICTS}
        missed = [outcome for outcome in part if outcome.verdict in ("near", "not reproduced")]
        found.append(
            {
                "name": name,
                "where": DECLARED[name].paper,
                "what": DECLARED[name].what,
                "outcomes": part,
                "counts": [(verdict, count) for verdict, count in counts.items() if count],
                "by": f"{ends} {unit}" if ends else words,  # how far those miss that are not reproduced
                "notes": dict.fromkeys(outcome.note for outcome in missed if outcome.note),
                "updates": " and ".join(dict.fromkeys(outcome.updates for outcome in part if outcome.updates)),
                "commands": dict.fromkeys(outcome.command for outcome in part),
            }
        )
    return found


def _figure(results: Results, name: str, drawings: Mapping[str, str], recipe: str) -> dict[str, Any]:
    spec = figures.FIGURES[name]
    svg = drawings.get(name + recipe)
    return {
        "of": name,
        "name": name + recipe,
        "title": spec.title + BY[recipe],
        "caption": spec.caption,
        "gaps": spec.missing(results),
        "source": None
        if svg is None
        else "data:image/svg+xml;base64," + _base64(np.frombuffer(svg.encode(), np.uint8)),
    }


def _table(results: Results, name: str, recipe: str) -> dict[str, Any]:
    spec = tables.TABLES[name]
    frame = spec.frame(results)
    grid = pd.DataFrame() if frame.empty else spec.grid(frame)
    return {
        "name": name + recipe,
        "heading": spec.title + BY[recipe],
        "title": "" if frame.empty else tables.title(results, name, frame).replace(f"{spec.title}. ", ""),
        "columns": list(grid.columns),
        "lines": grid.to_numpy().tolist(),
    }


def _sources_of(outcome: Outcome) -> list[dict[str, Any]]:
    return [_sources("", outcome.rows), *(_sources(part.label, part.rows) for part in outcome.beside)]


def _sources(label: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows behind a number: what they share, and a line of a table for each with what they do not."""
    rows = list({(row["train_id"], row["eval_id"], row["metric"], row.get("rule")): row for row in rows}.values())
    names = [name for name in dict.fromkeys((*FIRST, *rows[0])) if any(row.get(name) is not None for row in rows)]
    texts = {name: [_text(row.get(name)) for row in rows] for name in names}
    shared = [(name, texts[name][0]) for name in names if len(set(texts[name])) == 1]
    varying = [name for name in names if len(set(texts[name])) > 1]
    lines = list(zip(*(texts[name] for name in varying), strict=True))
    return {"label": label, "shared": shared, "names": varying, "lines": lines}


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return "" if value is None else str(value)


def _specs(results: Results, outcomes: Iterable[Outcome]) -> dict[str, str]:
    parts = [rows for outcome in outcomes for rows in (outcome.rows, *(part.rows for part in outcome.beside))]
    used = sorted({str(row[key]) for rows in parts for row in rows for key in ("train_id", "eval_id")})
    return {key: json.dumps(results.specs[key], indent=1) for key in used if key in results.specs}
