"""Figures: each is drawn from what is there, leaves gaps where nothing is, and says on itself what its rows are not."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.declared import DECLARED
from reports.drawing import save
from reports.figures import FIGURES
from reports.models import MODELS
from reports.results import PAPER, Results, read_results

PICTURES = ("2b", "3", "4a")


def drawn(results: Results, name: str) -> Figure:
    figure = FIGURES[name].draw(results)
    assert figure is not None
    return figure


def axes_of(figure: Figure) -> list[Axes]:
    parts = [figure, *figure.subfigs]
    return list(dict.fromkeys(axis for part in parts for axis in part.axes if axis.axison))


def words_of(figure: Figure) -> str:
    texts = [text.get_text() for text in figure.texts]
    legends = [*figure.legends, *(axis.get_legend() for axis in axes_of(figure))]
    texts += [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    for axis in axes_of(figure):
        texts += [axis.get_title(), axis.get_xlabel(), axis.get_ylabel(), *(text.get_text() for text in axis.texts)]
    return "\n".join(texts)


def line(axis: Axes, label: str) -> Any:
    [found] = [line for line in axis.lines if line.get_label() == label]
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_whole_folder_draws_every_figure_with_labelled_axes(name: str, made: Results) -> None:
    figure = drawn(made, name)
    assert FIGURES[name].missing(made) == []
    assert FIGURES[name].caption.endswith(".")
    assert "SMOKE" not in words_of(figure)
    if name in PICTURES:
        assert any(axis.images for axis in axes_of(figure))
        return
    labelled = [axis for axis in axes_of(figure) if axis.get_xlabel()]
    assert labelled
    assert any(axis.get_ylabel() for axis in axes_of(figure))


@pytest.mark.parametrize("name", FIGURES)
def test_smoke_figures_are_watermarked_and_have_none_of_the_papers_marks(name: str, smoke: Results) -> None:
    figure = FIGURES[name].draw(smoke)
    if figure is None:
        assert name in ("training", "gmn-matching", "recipes")  # a smoke run is too short for such a line of its log
        return
    words = words_of(figure)
    assert "SMOKE RUN - not results" in words
    assert "Not the paper's data: strokes." in words
    assert "the paper's" not in words.replace("Not the paper's data", "")


@pytest.mark.parametrize("name", FIGURES)
def test_without_its_rows_there_is_no_figure_and_what_is_missing_is_named(name: str, made: Results) -> None:
    results = replace(made, rows=made.rows[~made.rows.experiment.isin(FIGURES[name].experiments)])
    assert FIGURES[name].draw(results) is None
    assert len(FIGURES[name].missing(results)) == len(FIGURES[name].experiments)
    assert all("not run" in words for words in FIGURES[name].missing(results))


@pytest.mark.long
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_from_a_few_of_its_cells(name: str, made: Results) -> None:
    rows = made.rows
    for keep in (rows.model == "vma", rows.num_samples != rows.num_samples.min(), rows.index % 3 == 0):
        FIGURES[name].draw(replace(made, rows=rows[keep]))


@pytest.mark.parametrize("name", ["2b", "3", "4a", "2a", "training", "5a", "ablations"])
def test_figures_without_their_files_are_left_out_or_drawn_without_them(
    name: str, made: Results, tmp_path: Path
) -> None:
    figure = FIGURES[name].draw(replace(made, folder=tmp_path))
    assert (figure is None) == (name in ("2b", "3", "4a", "training", "ablations"))


def test_a_missing_cell_breaks_its_line_and_is_named(made: Results) -> None:
    rows = made.rows
    gone = (rows.experiment == "fewshot") & (rows.model == "vma") & (rows.shots == 4)
    results = replace(made, rows=rows[~gone])
    axis = axes_of(drawn(results, "4b"))[1]
    values = line(axis, "VMA, K = 4").get_ydata()
    assert np.isnan(values).tolist() == [False, False, True, False, False]
    assert FIGURES["4b"].missing(results) == ["fewshot: vma, shots 4, K 4", "fewshot: vma, shots 4, K 1000"]


def test_a_line_goes_through_the_mean_over_seeds_and_every_seed_is_a_dot(made: Results) -> None:
    axis = axes_of(drawn(made, "4b"))[1]
    rows = made.of("fewshot", model="vma", metric="nll", num_samples=4, shots=8)
    assert len(rows) == 2
    curve = line(axis, "VMA, K = 4")
    assert curve.get_ydata()[3] == pytest.approx(rows.value.mean())
    dots = [dot for dot in axis.lines if dot.get_marker() == "." and list(dot.get_xdata()) == [8, 8]]
    assert sorted(rows.value) in [sorted(dot.get_ydata()) for dot in dots]
    assert curve.get_color() == MODELS["vma"].colour


def test_the_recall_figure_has_its_curves_and_its_line_at_log_m(made: Results) -> None:
    curves = axes_of(drawn(made, "2a"))[0]
    assert line(curves, "log 256 = 5.55").get_ydata() == [np.log(256)] * 2
    log = made.training_log(made.of("recall", recipe="paper", train_memory_size=256).iloc[0])
    assert line(curves, "NLL").get_ydata() == pytest.approx(-log.bound)


def test_a_figure_says_where_models_were_not_trained_for_equally_long(made: Results) -> None:
    assert "Updates: VMA 60,000, soft attention 30,000." in words_of(drawn(made, "5a"))
    assert "Updates: " not in words_of(drawn(made, "2a"))  # one model
    assert "Updates: VMA 60,000, plain VAE 30,000." in words_of(drawn(made, "4b"))  # which shows no soft attention
    equal = replace(made, rows=made.rows.assign(updates=7))
    assert "Updates: " not in words_of(drawn(equal, "5a"))


def test_the_lookup_shows_the_first_two_targets_of_different_classes(made: Results) -> None:
    found = made.arrays(made.of("lookup").iloc[0])
    figure = drawn(made, "3")
    first, second = figure.subfigs
    assert np.array_equal(first.axes[0].images[0].get_array(), found["x"][0])
    assert np.array_equal(second.axes[0].images[0].get_array(), found["x"][1])
    heights = sorted(bar.get_height() for bar in first.axes[1].patches)[-80:]
    assert heights[-2] == pytest.approx(found["q"][0].max())
    assert np.array_equal(first.axes[2].images[0].get_array(), found["memory"][0][found["top"][0][0]])


def test_dirty_rows_and_stand_in_data_are_said_on_the_figure(made: Results) -> None:
    assert "Made by code that differs from any commit: inner." in words_of(drawn(made, "ablations"))
    assert "differs from any commit" not in words_of(drawn(made, "5a"))
    rows = made.rows.assign(dataset=made.rows.dataset.replace("mnist_larochelle", "mnist_gmn"))
    words = words_of(drawn(replace(made, rows=rows), "learned-mnist"))
    assert "Not the paper's data: mnist_gmn." in words
    assert "the paper's KL_a, 2.5 ± 0.3" in words  # near enough to stand beside it


@pytest.mark.parametrize("name", ["2b", "classification"])
def test_equal_results_give_equal_files(name: str, made: Results, tmp_path: Path) -> None:
    first = save(drawn(made, name), tmp_path / "a", name)
    again = save(drawn(made, name), tmp_path / "b", name)
    assert [path.name for path in first] == [f"{name}.svg", f"{name}.pdf", f"{name}.png"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix
        assert b"Date>" not in one.read_bytes()


def test_what_the_project_has_so_far_is_drawn(tmp_path: Path) -> None:
    results = read_results(PAPER.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout that cannot be: in some panels no run has a test NLL
        save(drawn(results, "training"), tmp_path, "training")
    present = [name for name, spec in FIGURES.items() if spec.draw(results) is not None]
    assert "table1" in present
    assert set(DECLARED) <= {experiment for spec in FIGURES.values() for experiment in spec.experiments}
