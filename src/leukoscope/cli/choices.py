"""The names that a parameter can take: what the guide offers and what the shell completes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

OTHER = "another one (type it)"
"""The guide's last choice where the names are not all."""


def completion(parameter: str) -> Callable[[str], list[str]]:
    """What the shell completes for a parameter: the names that begin with what was typed."""

    def names(incomplete: str) -> list[str]:
        offered = CHOICES[parameter]()
        return [name for name in offered if name.startswith(incomplete) and name != OTHER]

    return names


def _recipes() -> list[str]:
    from leukoscope.config.loading import list_recipes

    return [*list_recipes(), OTHER]


def _protocols() -> list[str]:
    from leukoscope.core.protocols import PROTOCOLS

    return list(PROTOCOLS)


def _probes() -> list[str]:
    from leukoscope.config.study import PROBES

    return list(PROBES)


def _variants() -> list[str]:
    from leukoscope.imaging.observation import PROBE_INPUTS

    return list(PROBE_INPUTS)


def _backbones() -> list[str]:
    from leukoscope.learning.catalogue import BACKBONES

    return [*BACKBONES, OTHER]


def _layouts() -> list[str]:
    from leukoscope.datasets.layouts.load import LAYOUTS

    return ["auto", *LAYOUTS]


def _frozen() -> list[str]:
    from leukoscope.datasets.frozen_passports import list_frozen

    return list(list_frozen())


def _public_sets() -> list[str]:
    from leukoscope.datasets.fetch_registry import PUBLIC_SETS

    return list(PUBLIC_SETS)


def _confounders() -> list[str]:
    from leukoscope.phantom.spec import CONFOUNDERS

    return list(CONFOUNDERS)


def _runs() -> list[str]:
    from leukoscope.analyses.cleanup import find_runs

    folder = Path("runs")
    return [*(run.name for run in find_runs(folder)), OTHER] if folder.is_dir() else []


CHOICES: Mapping[str, Callable[[], list[str]]] = MappingProxyType(
    {
        "recipe": _recipes,
        "protocol": _protocols,
        "probe": _probes,
        "probes": _probes,
        "backbone": _backbones,
        "layout": _layouts,
        "confound": _confounders,
        "variant": _variants,
        "engine": lambda: ["auto", "openvino", "onnxruntime"],
        "data fetch.name": _public_sets,
        "data frozen.name": _frozen,
        "frozen": _frozen,
        "recipes show.name": _recipes,
        "models show.name": _backbones,
        "runs clean.names": _runs,
    }
)
"""Choices of a parameter by ``command.name``, or by its name in every command."""
