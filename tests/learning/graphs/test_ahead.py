"""Another process traces a network, and this one finds the graph."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.learning.backbones import build_network
from leukoscope.learning.graphs import export
from leukoscope.learning.graphs.ahead import traced_meanwhile
from leukoscope.learning.graphs.export import onnx_bytes


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A small network's, with no graph kept."""
    monkeypatch.setenv("LEUKOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export, "_recent", OrderedDict())
    whole = load_recipe("quick")
    model = whole.model.model_copy(update={"backbone": "test_resnet", "weights": "none"})
    preprocess = whole.preprocess.model_copy(update={"size_px": 64})
    return whole.model_copy(update={"model": model, "preprocess": preprocess})


def test_the_graph_is_there_when_the_other_work_is_done(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_meanwhile(recipe, 4):
        assert not list(tmp_path.glob("cache/graphs/*"))
    assert len(list(tmp_path.glob("cache/graphs/*"))) == 1
    monkeypatch.setattr(export, "_traced", lambda *_: pytest.fail("traced again"))
    network = build_network(recipe.model, num_classes=4, size_px=64, seed=7)
    assert onnx_bytes(network, recipe.preprocess)


def test_an_error_meanwhile_is_passed_on_at_once(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the other work"), traced_meanwhile(recipe, 4):
        raise ValueError("of the other work")
    assert not list(tmp_path.glob("cache/graphs/*"))


def test_where_nothing_is_kept_no_process_is_started(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "off")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process"))
    with traced_meanwhile(recipe, 4):
        pass
