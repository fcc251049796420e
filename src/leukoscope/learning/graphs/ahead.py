"""A network traced in a process of its own, while this one does something else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from leukoscope.config.recipe import Recipe
from leukoscope.core.user_cache import user_cache

_CODE = "from leukoscope.learning.graphs.ahead import trace; trace()"


@contextmanager
def traced_meanwhile(recipe: Recipe, num_classes: int) -> Iterator[None]:
    """Another process traces the network of a recipe; afterwards its graph is in the user's cache.

    Tracing keeps one core busy, in Python, and threads would wait for each other. Where nothing is
    kept, or the other process fails, the network is traced when it is needed, and says what fails.
    """
    if user_cache("graphs") is None:
        yield
        return
    command = [sys.executable, "-c", _CODE, recipe.model_dump_json(), str(num_classes)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()


def trace() -> None:
    """What the other process does."""
    from leukoscope.learning.backbones import build_network
    from leukoscope.learning.graphs.export import onnx_bytes

    recipe, num_classes = Recipe.model_validate_json(sys.argv[1]), int(sys.argv[2])
    network = build_network(
        recipe.model, num_classes=num_classes, size_px=recipe.preprocess.size_px
    )
    onnx_bytes(network, recipe.preprocess)
