"""Every recipe of the box trains one epoch, is exported, answers the same, and explains itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.learning.attribution import grad_cam, grad_cam_plus_plus
from leukoscope.learning.backbones import ToInput, build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.features import predict_logits
from leukoscope.learning.graphs.export import onnx_bytes, open_session
from leukoscope.learning.trainer import train_gradient

CLASSES = ("benign", "early_pre_b", "pre_b", "pro_b")
# Networks that would take long are replaced by a small one of the same kind; the head, the loss,
# the optimiser and the schedule stay those of the recipe. Others get a smaller side.
SMALL = {
    "tf_efficientnetv2_s": "test_efficientnet",
    "tf_efficientnet_lite0": "test_efficientnet",
    "efficientnet_b0": "test_efficientnet",
    "efficientnet_b3": "test_efficientnet",
    "densenet121": "test_resnet",
    "resnet18": "test_resnet",
    "resnet50": "test_resnet",
    "inception_v3": "test_resnet",
    "vgg16": "alexnet",
}
SIDE = {"alexnet": 96}


def shrink(name: str) -> Recipe:
    """The recipe with a small backbone, random weights, and one epoch."""
    published = load_recipe(name)
    backbone = SMALL.get(published.model.backbone, published.model.backbone)
    changes = [
        f"model.backbone={backbone}",
        "model.weights=none",
        f"preprocess.size_px={SIDE.get(backbone, 32)}",
        "training.epochs=1",
        "training.precision=fp32",
    ]
    if len(published.model.hidden) > 2:  # 6 million weights of the residual head: an eighth
        changes.append(f"model.hidden={[max(8, w // 8) for w in published.model.hidden]}")
    frozen = published.training.freeze
    if backbone != published.model.backbone and frozen != "all" and frozen > 3:
        changes.append("training.freeze=3")  # it has five blocks
    if published.training.cached_views:  # tests/learning/test_frozen.py covers these
        changes.append("training.cached_views=0")
    return load_recipe(name, changes)


def different() -> list[str]:
    """Of recipes that differ in nothing that is tried here (steps, inner folds), the first."""
    found: dict[str, str] = {}
    for name in list_recipes():
        if isinstance(load_recipe(name).training, GradientTraining):
            tried = {"model", "training", "augmentation", "preprocess"}
            recipe = shrink(name).model_dump(mode="json", include=tried)
            recipe["preprocess"]["steps"] = []
            found.setdefault(json.dumps(recipe), name)
    return list(found.values())


def sets_of(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """Four classes that differ in redness: 32 training, 8 validation images."""
    side = recipe.preprocess.size_px
    y = np.arange(40) % 4
    pixels = np.random.default_rng(0).integers(0, 60, (40, side, side, 3), dtype=np.uint8)
    pixels[..., 0] += (y * 60).astype(np.uint8)[:, None, None]
    return ImageSet(pixels[:32], y[:32]), ImageSet(pixels[32:], y[32:])


@pytest.mark.parametrize("name", different())
def test_recipe(name: str, tmp_path: Path, parity: Callable[..., float]) -> None:
    recipe = shrink(name)
    spec = recipe.preprocess
    train, val = sets_of(recipe)
    network = build_network(recipe.model, num_classes=4, size_px=spec.size_px, seed=1)
    before = copy.deepcopy(network.state_dict())
    result = train_gradient(
        network, recipe, train, val, tmp_path, seed=3, class_names=CLASSES, resume=False
    )
    assert result.epochs == 1
    assert result.history[0]["skipped"] == 0
    moved = [k for k, v in network.state_dict().items() if not torch.equal(v, before[k])]
    assert "head.weight" in moved
    assert isinstance(recipe.training, GradientTraining)
    backbone_moved = any(key.startswith("backbone.") for key in moved)
    assert backbone_moved == (recipe.training.freeze != "all")

    model = onnx_bytes(network, spec, CLASSES)
    assert parity(network, model, val.images, spec) < np.inf
    session = open_session(model)
    (logits,) = session.run(["logits"], {"image": val.images})
    ours = predict_logits(network, val.images, spec)
    np.testing.assert_array_equal(logits.argmax(1), ours.argmax(1))
    outputs = [output.name for output in session.get_outputs()]
    gives_maps = network.has_class_maps or network.has_gradient_maps
    assert ("maps" in outputs) == gives_maps

    batch = ToInput(spec)(torch.from_numpy(val.images))
    for method in (grad_cam, grad_cam_plus_plus):
        heat = method(network, batch, ours.argmax(1))
        assert heat.shape == (8, *network.map_and_features(batch)[0].shape[2:])
        assert np.isfinite(heat).all()
        assert heat.max() <= 1


# backbone and side, width of the pooled features, and of the last layer's input
PUBLISHED = [
    ("residual-head-alexnet", 9216, 16),
    ("residual-head-vgg16", 25088, 16),
    ("leaky-cnn", 28090, 32),
    ("stable-efficientnet-b3-se", 1536, 128),
]


@pytest.mark.parametrize(("name", "pooled", "features"), PUBLISHED)
def test_widths_are_the_published_ones(name: str, pooled: int, features: int) -> None:
    changes = ["model.weights=none"]
    if name.startswith("residual"):
        changes.append("training.cached_views=0")
    recipe = load_recipe(name, changes)
    network = build_network(recipe.model, num_classes=4, size_px=recipe.preprocess.size_px, seed=0)
    first = next(m for m in network.hidden.modules() if isinstance(m, torch.nn.Linear))
    assert first.in_features == pooled
    assert network.num_features == features


def test_the_head_of_s4_is_as_published() -> None:
    recipe = load_recipe(
        "stable-efficientnet-b3", ["model.weights=none", "model.backbone=test_efficientnet"]
    )
    network = build_network(recipe.model, num_classes=2, size_px=32, seed=0)
    parts = [m for m in network.hidden.modules() if not list(m.children()) and not _idle(m)] + [
        network.dropout,
        network.head,
    ]
    assert [type(part).__name__ for part in parts] == [
        *("LayerNorm", "Linear", "LayerNorm", "GELU", "Dropout"),
        *("Linear", "LayerNorm", "GELU", "Dropout", "Linear"),
    ]
    assert [p.p for p in parts if isinstance(p, torch.nn.Dropout)] == [0.2, 0.1]


def _idle(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Identity) or getattr(module, "p", 1) == 0


def test_further_convolutions_keep_the_class_maps(images: np.ndarray) -> None:
    recipe = load_recipe(
        "double-transfer-efficientnet-b3",
        ["model.weights=none", "model.backbone=test_resnet", "model.conv=[24]"],
    )
    network = build_network(recipe.model, num_classes=3, size_px=64, seed=0)
    assert network.has_class_maps
    assert network.num_features == 24
    model = onnx_bytes(network, recipe.preprocess.model_copy(update={"size_px": 64}))
    logits, _, maps = open_session(model).run(None, {"image": images})
    bias = network.head.bias.detach().numpy()
    np.testing.assert_allclose(maps.mean((2, 3)) + bias, logits, atol=1e-4)
