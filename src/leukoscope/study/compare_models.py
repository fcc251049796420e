"""Cost and layers of each compared recipe, measured once and kept beside the comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.core.files import read_json, sha256_json, write_json
from leukoscope.study.environment import cpu_name

SCHEMA = 1


def measure_recipes(
    recipes: Mapping[str, Recipe],
    *,
    num_classes: int,
    cache: Path,
    threads: int,
    latency: bool,
    tell: Callable[[int, int], None],
) -> tuple[dict[str, Any], list[str]]:
    """Complexity and layers of every recipe.

    ``cache`` keeps measurements: equal networks are measured once. Without ``latency`` nothing is
    exported and timed.

    Returns:
        Label → ``{"complexity", "layers"}``, and notes on what could not be measured.
    """
    if find_spec("torch") is None:
        return {}, ["torch is not installed: parameters, latency and diagrams are left out."]
    found, notes = {}, []
    for done, (label, recipe) in enumerate(recipes.items()):
        tell(done, len(recipes))
        try:
            found[label] = _cached(recipe, num_classes, cache, threads, latency)
        except LeukoscopeError as error:
            notes.append(f"{label}: cost not measured ({error.message}).")
    return found, notes


def _cached(
    recipe: Recipe, num_classes: int, cache: Path, threads: int, latency: bool
) -> dict[str, Any]:
    model = recipe.model.model_dump(mode="json") | {"weights": ""}
    size = recipe.preprocess.size_px
    key = sha256_json([SCHEMA, model, size, num_classes, threads, latency, cpu_name()])
    path = cache / f"{recipe.model.backbone}-{key[:16]}.json"
    if path.is_file():
        try:
            return dict(read_json(path))
        except (DataError, TypeError, ValueError):
            path.unlink()  # damaged: measure again
    value = _measure(recipe, num_classes, threads, latency)
    write_json(path, value)
    return value


def _measure(recipe: Recipe, num_classes: int, threads: int, latency: bool) -> dict[str, Any]:
    from leukoscope.learning.complexity import measure_complexity, untrained_network
    from leukoscope.learning.diagrams import describe_layers

    network = untrained_network(recipe, num_classes)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    complexity = measure_complexity(network, recipe, threads=threads, latency=latency)
    return {
        "complexity": {
            **complexity.to_json(),
            "cpu": cpu_name(),
            "load": None if busy is None else round(busy, 1),
            "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        },
        "layers": [block.to_json() for block in describe_layers(network)],
    }
