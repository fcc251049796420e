"""The cache of activations on disk: made once, checked, and done without where it does not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import GradientTraining, ModelConfig, Recipe
from leukoscope.core.errors import BundleError
from leukoscope.core.records import ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning import activations, features
from leukoscope.learning.backbones import build_network
from leukoscope.learning.features import predict_logits
from leukoscope.pipeline.features.store import InputStore, stored_features
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.progress import Progress

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    own = load_recipe("finetune", ["preprocess.size_px=32"])
    model = ModelConfig(backbone="test_efficientnet", weights="none")
    training = cast(GradientTraining, own.training)
    training = training.model_copy(update={"freeze": 3, "cached_views": 2})
    return own.model_copy(update={"model": model, "training": training})


def store_in(folder: Path, told: list[str]) -> InputStore:
    records = tuple(
        ImageRecord(f"i{n}", f"{n}.png", sha256=str(n), label=("all", "hem")[n % 2])
        for n in range(len(PIXELS))
    )
    progress = Progress(lambda step, done, total: told.append(step) if not total else None)
    return InputStore(
        RunFolder(folder), cast(Any, None), Labelled(records, ("all", "hem")), progress
    )


def test_the_cache_is_made_once_and_again_when_it_is_damaged(
    recipe: Recipe, tmp_path: Path
) -> None:
    told: list[str] = []
    found = store_in(tmp_path, told).views(recipe, PIXELS, 1)
    assert found is not None
    values = np.array(found[np.arange(6)])
    assert told == ["activations of finetune, 0 MB"]
    again = store_in(tmp_path, told).views(recipe, PIXELS, 1)
    assert again is not None
    assert len(told) == 1
    (file,) = (tmp_path / "cache" / "features").glob("views-*.npy")
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    mended = store_in(tmp_path, told).views(recipe, PIXELS, 1)
    assert mended is not None
    assert len(told) == 2
    assert np.array_equal(mended[np.arange(6)], values)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_cache_that_holds_a_pickle_is_deleted_unread(recipe: Recipe, tmp_path: Path) -> None:
    head = recipe.model_copy(update={"training": load_recipe("quick").training})
    store = store_in(tmp_path, [])
    path = store.features_path(head, "image", 0)
    path.parent.mkdir(parents=True)
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    weights = store.network(head, 0).weights_record.sha256
    assert stored_features(store.run, head, weights, store.data.records) is None
    assert not path.exists()


def refused(*_: object, **__: object) -> bytes:
    raise BundleError("cannot be written as ONNX")


def test_what_cannot_be_exported_is_predicted_by_torch(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(recipe.model, num_classes=2, size_px=32, seed=0)
    few = predict_logits(network, PIXELS, recipe.preprocess)
    monkeypatch.setattr(features, "MANY", 2)
    assert np.allclose(predict_logits(network, PIXELS, recipe.preprocess), few, atol=1e-4)
    monkeypatch.setattr(features, "onnx_bytes", refused)
    assert np.array_equal(predict_logits(network, PIXELS, recipe.preprocess), few)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("gpu", "a GPU computes them"),
        ("disk", "of disk are free"),
        ("chain", "no chain of blocks"),
        ("engine", "the inference engine cannot run"),
    ],
)
def test_training_goes_on_without_a_cache(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, said: str
) -> None:
    told: list[str] = []
    if reason == "gpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if reason == "disk":
        usage = shutil.disk_usage(tmp_path)._replace(free=10)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    if reason == "chain":
        model = ModelConfig(backbone="test_vit", weights="none")
        spec = recipe.preprocess.model_copy(update={"size_px": 160})
        recipe = recipe.model_copy(update={"model": model, "preprocess": spec})
    if reason == "engine":
        monkeypatch.setattr(activations, "part_bytes", refused)
    assert store_in(tmp_path, told).views(recipe, PIXELS, 1) is None
    assert said in told[-1]
    assert not list(tmp_path.rglob("*.npy"))


def test_shared_pixels_are_read_once_and_mapped(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InputStore, "stream", lambda *_: iter(PIXELS))
    store = replace(store_in(tmp_path, []), shared=True)
    assert (store.pixels(recipe) == PIXELS).all()
    monkeypatch.setattr(InputStore, "stream", lambda *_: pytest.fail("read again"))
    found = replace(store_in(tmp_path, []), shared=True).pixels(recipe)
    assert (found == PIXELS).all()
    assert not found.flags.owndata
