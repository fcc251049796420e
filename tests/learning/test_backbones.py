"""One contract for all networks: the small CNN, the packaged one, and timm's three layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.imaging.preprocess import normalise
from leukoscope.learning.backbones import BACKBONES, Network, ToInput, build_network, list_models

# backbone, weights, side, channels and side of the map, has class maps
CASES = [
    ("cnn-baseline", "none", 64, 128, 8, False),
    ("bn-cnn", "none", 64, 128, 8, True),
    ("leaky-cnn", "none", 64, 10, 13, False),
    ("alexnet", "none", 96, 256, 2, False),
    ("tf_efficientnet_lite0", "imagenet", 64, 1280, 2, True),
    ("test_resnet", "none", 64, 96, 2, True),
    ("test_mambaout", "none", 64, 64, 2, False),  # channels last
    ("test_vit", "none", 64, 64, 4, False),  # tokens
]


@pytest.mark.parametrize(("name", "weights", "size", "channels", "side", "maps"), CASES)
def test_contract(name: str, weights: str, size: int, channels: int, side: int, maps: bool) -> None:
    config = ModelConfig(backbone=name, weights=weights, dropout=0.5)
    network = build_network(config, num_classes=3, size_px=size, seed=2)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grid, _ = network.map_and_features(x)
        features, logits = network.features(x), network(x)
        by_hand = network.head(features)
    assert not network.training
    assert grid.shape == (2, channels, side, side)
    assert features.shape == (2, network.num_features)
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, by_hand)
    assert network.has_class_maps == maps
    if maps:
        torch.testing.assert_close(features, grid.mean((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "level", "channels", "side"),
    [("tf_efficientnet_lite0", 3, 40, 8), ("test_resnet", 2, 32, 16), ("test_mambaout", 1, 16, 16)],
)
def test_the_first_feature_levels_give_what_the_whole_backbone_has_there(
    name: str, level: int, channels: int, side: int
) -> None:
    config = ModelConfig(backbone=name, weights="none")
    whole = build_network(config, num_classes=3, size_px=64)
    cut = build_network(config.model_copy(update={"stages": level}), num_classes=3, size_px=64)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inside = whole.backbone.forward_intermediates(  # type: ignore[operator]
            x, indices=[level - 1], intermediates_only=True
        )[0]
        grid, features = cut.map_and_features(x)
    assert grid.shape == (2, channels, side, side)
    torch.testing.assert_close(grid, inside)
    torch.testing.assert_close(features, grid.mean((2, 3)))
    assert cut.has_class_maps == (name != "test_mambaout")  # channels last
    sizes = [sum(p.numel() for p in network.backbone.parameters()) for network in (whole, cut)]
    assert sizes[1] < sizes[0] / 2  # what lies above is gone
    # The record is that of the weights as published, whatever is kept of them.
    assert cut.weights_record.sha256 == whole.weights_record.sha256


@pytest.mark.parametrize(
    ("name", "stages", "says"),
    [
        ("test_resnet", 9, "has 5 feature levels"),
        ("cnn-baseline", 1, "no feature levels to stop at"),
    ],
)
def test_feature_levels_that_a_backbone_does_not_have(name: str, stages: int, says: str) -> None:
    config = ModelConfig(backbone=name, weights="none", stages=stages)
    with pytest.raises(ConfigError, match=says):
        build_network(config, num_classes=2, size_px=64)


def test_levels_side_by_side_are_the_means_of_each() -> None:
    config = ModelConfig(backbone="test_resnet", weights="none", levels=(2, 4))
    network = build_network(config, num_classes=2, size_px=64)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = network.features(x)
        single = [
            build_network(
                ModelConfig(backbone="test_resnet", weights="none", stages=stages),
                num_classes=2,
                size_px=64,
            ).features(x)
            for stages in (2, 4)
        ]
    torch.testing.assert_close(found, torch.cat(single, dim=1))
    assert network.has_class_maps


def test_the_last_layer_stands_after_the_levels() -> None:
    x = torch.randn(2, 3, 64, 64)

    def features(**levels: Any) -> torch.Tensor:
        config = ModelConfig(backbone="tf_efficientnet_lite0", weights="none", **levels)
        network = build_network(config, num_classes=2, size_px=64)
        assert network.has_class_maps
        with torch.no_grad():
            return network.features(x)

    found = features(levels=(3, 5), top=True)
    torch.testing.assert_close(found, torch.cat([features(levels=(3, 5)), features()], dim=1))


def test_a_last_layer_of_tokens_cannot_stand_beside_levels() -> None:
    config = ModelConfig(backbone="test_vit", weights="none", levels=(1,), top=True)
    with pytest.raises(ConfigError, match="no map beside its levels"):
        build_network(config, num_classes=2, size_px=64)


def test_the_last_layer_alone_needs_no_levels() -> None:
    with pytest.raises(ValueError, match=r"goes beside model\.levels"):
        ModelConfig(top=True)


def test_levels_whose_grids_do_not_divide_are_refused() -> None:
    config = ModelConfig(backbone="tf_efficientnet_lite0", weights="none", levels=(3, 5))
    with pytest.raises(ConfigError, match="do not divide"):
        build_network(config, num_classes=2, size_px=336)


@pytest.mark.parametrize("name", ["cnn-baseline", "test_resnet"])
def test_the_seed_decides_all_that_is_random_and_leaves_the_global_state(name: str) -> None:
    config = ModelConfig(backbone=name, weights="none", hidden=(5,))
    before = torch.get_rng_state()
    first, second, other = (
        build_network(config, num_classes=2, size_px=32, seed=seed).state_dict()
        for seed in (7, 7, 8)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    for key in ("head.weight", "hidden.0.linear.weight"):
        assert not torch.equal(first[key], other[key])
    kernel = next(key for key in first if key.startswith("backbone.") and first[key].ndim == 4)
    assert not torch.equal(first[kernel], other[kernel])


def test_the_small_cnn_is_that_of_s0() -> None:
    config = ModelConfig(backbone="cnn-baseline", weights="none", hidden=(128,), dropout=0.5)
    network = build_network(config, num_classes=4, size_px=128, seed=0)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert shapes == [
        (32, 3, 3, 3),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
        (128, 128 * 16 * 16),
        (4, 128),
    ]
    assert network.dropout.p == 0.5
    assert network.num_features == 128


def test_to_input_is_the_normalisation_of_imaging(images: np.ndarray, spec: PreprocessSpec) -> None:
    ours = ToInput(spec)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ours, normalise(images, spec), atol=1e-5)


def test_a_linear_head_needs_a_network_without_hidden_layers(lite: Network) -> None:
    hidden = build_network(
        ModelConfig(backbone="test_resnet", weights="none", hidden=(5,)),
        num_classes=2,
        size_px=32,
        seed=0,
    )
    with pytest.raises(ConfigError, match=r"model\.hidden = \[5\]"):
        hidden.set_linear_head(np.zeros((2, 5)), np.zeros(2))
    with pytest.raises(ConfigError, match=r"expected a head of \(4, 1280\), got \(3, 1280\)"):
        lite.set_linear_head(np.zeros((3, 1280)), np.zeros(3))


def test_an_unknown_backbone_gets_our_names_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tf_efficientnet_lite0'") as caught:
        build_network(
            ModelConfig(backbone="tf_eficientnet_lite0", weights="none"), num_classes=2, size_px=64
        )
    assert len(caught.value.choices) < 20


def test_a_size_that_cannot_work_is_named() -> None:
    config = ModelConfig(backbone="test_vit", weights="none")
    with pytest.raises(ConfigError, match="test_vit cannot work on 20 px"):
        build_network(config, num_classes=2, size_px=20)


def test_list_models_agrees_with_timm_and_with_what_is_installed() -> None:
    import timm

    models = {model.name: model for model in list_models()}
    assert models.keys() == BACKBONES.keys()
    assert models["tf_efficientnet_lite0"].weights_at_hand
    assert not models["cnn-baseline"].weights_at_hand
    for name, model in models.items():
        if model.hub_id:
            published = timm.get_pretrained_cfg(name)
            assert (model.hub_id, model.input_size, model.licence.lower()) == (
                published.hf_hub_id,
                published.input_size[-1],
                published.license,
            )


def test_the_listed_numbers_of_parameters(lite: Network) -> None:
    small = build_network(
        ModelConfig(backbone="cnn-baseline", weights="none"), num_classes=2, size_px=32
    )
    for network in (lite, small):
        counted = sum(p.numel() for p in network.backbone.parameters())
        assert counted == BACKBONES[network.config.backbone].parameters


def test_attention_starts_as_the_mean_and_its_maps_add_up() -> None:
    config = ModelConfig(backbone="test_efficientnet", weights="none", pooling="attention")
    network = build_network(config, num_classes=3, size_px=64, seed=1)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        grid, features = network.map_and_features(x)
        assert torch.allclose(features, grid.mean((2, 3)), atol=1e-5)
        network.attention.weigh.weight.normal_()
        weights = network.attention(grid)
        assert torch.allclose(weights.sum((1, 2, 3)), torch.ones(2))
        assert weights.std() > 0
        maps = network.class_maps(grid)
        assert torch.allclose(maps.mean((2, 3)) + network.head.bias, network(x), atol=1e-4)
    with pytest.raises(ConfigError, match="attention"):
        build_network(
            config.model_copy(update={"backbone": "test_vit"}), num_classes=3, size_px=160, seed=1
        )
