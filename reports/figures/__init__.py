"""Figures, one file each: an experiment drawn from its frame and its arrays, beside the paper's values and theory.

A new one gets a file, and a line below: they stand on the page in this order.
"""

# isort: off
from reports.figures import (
    recall as recall,
    learned_samples as learned_samples,
    learned_mnist as learned_mnist,
    learned_omniglot as learned_omniglot,
    lookup as lookup,
    samples as samples,
    fewshot as fewshot,
    scaling as scaling,
    shots as shots,
    table1 as table1,
    gmn as gmn,
    ablations as ablations,
    classification as classification,
    estimators as estimators,
    wallclock as wallclock,
    recipes as recipes,
    training as training,
)

# isort: on
from reports.figures.spec import FIGURES as FIGURES
