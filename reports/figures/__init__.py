"""Figures, one file each: an experiment drawn from its frame and its arrays, beside the paper's values and theory.

A new one gets a file, and its name below: they stand on the page in this order.
"""

from importlib import import_module

from reports.figures.spec import FIGURES as FIGURES

FILES = (
    *("recall", "learned_samples", "learned_mnist", "learned_omniglot", "lookup", "samples", "fewshot", "scaling"),
    *("shots", "table1", "gmn", "ablations", "classification", "estimators", "wallclock", "recipes", "training"),
)

for name in FILES:  # each enters its figures into FIGURES
    import_module(f"reports.figures.{name}")
