"""Leukoscope: blood-smear images to a leukemia classifier that knows how far to trust it.

Research software, not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from leukoscope.core.program import __version__ as __version__

if TYPE_CHECKING:
    from leukoscope.analyses.compare.runs import compare_runs
    from leukoscope.analyses.scikit_learn import LeukoscopeClassifier, cv_splits
    from leukoscope.config.loading import list_recipes
    from leukoscope.datasets.audit.run import audit
    from leukoscope.datasets.layouts.load import load_dataset
    from leukoscope.datasets.splits import make_splits
    from leukoscope.learning.attribution import grad_cam
    from leukoscope.learning.catalogue import list_models
    from leukoscope.runtime.predictor import load_bundle
    from leukoscope.study.run import run_study

__all__ = [
    "LeukoscopeClassifier",
    "audit",
    "compare_runs",
    "cv_splits",
    "grad_cam",
    "list_models",
    "list_recipes",
    "load_bundle",
    "load_dataset",
    "make_splits",
    "run_study",
]

_HOMES = {
    "LeukoscopeClassifier": "leukoscope.analyses.scikit_learn",
    "audit": "leukoscope.datasets.audit.run",
    "compare_runs": "leukoscope.analyses.compare.runs",
    "cv_splits": "leukoscope.analyses.scikit_learn",
    "grad_cam": "leukoscope.learning.attribution",
    "list_models": "leukoscope.learning.catalogue",
    "list_recipes": "leukoscope.config.loading",
    "load_bundle": "leukoscope.runtime.predictor",
    "load_dataset": "leukoscope.datasets.layouts.load",
    "make_splits": "leukoscope.datasets.splits",
    "run_study": "leukoscope.study.run",
}


def __dir__() -> list[str]:
    """The public names, imported or not, so that completion shows them."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import leukoscope`` is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'leukoscope' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
