"""What a figure is, and how a function becomes one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import matplotlib as mpl
from matplotlib.figure import Figure

from reports.drawing import STYLE, annotate
from reports.results import Results, missing_cells

Draw = Callable[[Results], Figure | None]


@dataclass(frozen=True)
class FigureSpec:
    """A figure: what it is called, what it shows, the experiments that it is made of, and what draws it."""

    name: str
    title: str
    caption: str
    experiments: tuple[str, ...]
    draw: Draw

    def missing(self, results: Results) -> list[str]:
        """The declared cells that the figure lacks, in words: they are gaps in it."""
        return [line for experiment in self.experiments for line in missing_cells(results, experiment)]


FIGURES: dict[str, FigureSpec] = {}


def figure(name: str, title: str, caption: str, *experiments: str) -> Callable[[Draw], Draw]:
    """Enter a function into FIGURES; what it draws gets the common style, notes and, of smoke runs, the watermark."""

    def enter(draw: Draw) -> Draw:
        @wraps(draw)
        def whole(results: Results) -> Figure | None:
            with mpl.rc_context(STYLE):
                made = draw(results)
                if made is not None:
                    annotate(made, results, experiments)
            return made

        FIGURES[name] = FigureSpec(name, title, caption, experiments, whole)
        return whole

    return enter
