"""Heat maps against their definitions, computed by hand, and on a planted patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.learning.attribution import (
    METHODS,
    find_layer,
    find_method,
    grad_cam,
    grad_cam_plus_plus,
    integrate,
)
from leukoscope.learning.backbones import Network, build_network

PATCH = (slice(40, 56), slice(8, 24))  # rows and columns of the planted patch


@pytest.fixture
def network() -> Network:
    config = ModelConfig(backbone="cnn-baseline", weights="none", hidden=(8,))
    return build_network(config, num_classes=3, size_px=64, seed=4)


@pytest.fixture
def batch() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "side"), [("cnn-baseline", 8), ("test_mambaout", 2)])
def test_grad_cam_is_the_weighted_sum_of_maps(name: str, side: int, batch: Tensor) -> None:
    config = ModelConfig(backbone=name, weights="none", hidden=(8,))
    network = build_network(config, num_classes=3, size_px=64, seed=4).train()
    heat = grad_cam(network, batch, [2, 0, 1])
    assert network.training
    assert heat.shape == (3, side, side)
    assert heat.dtype == np.float32
    network.eval()
    for row, target in enumerate((2, 0, 1)):
        grid, features = network.map_and_features(batch[row : row + 1])
        (gradient,) = torch.autograd.grad(network.head(features)[0, target], grid)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * grid).sum(1))[0].detach()
        if expected.max() > 0:
            expected /= expected.max()
        np.testing.assert_allclose(heat[row], expected.numpy(), atol=1e-4)
    assert heat.max() == 1


def test_grad_cam_plus_plus_follows_its_equations(network: Network, batch: Tensor) -> None:
    heat = grad_cam_plus_plus(network, batch, [2, 0, 1])
    for row, target in enumerate((2, 0, 1)):
        grid, features = network.map_and_features(batch[row : row + 1])
        (gradient,) = torch.autograd.grad(network.head(features)[0, target], grid)
        expected = np.zeros(grid.shape[2:])
        for a, g in zip(grid[0].detach().numpy(), gradient[0].numpy(), strict=True):
            below = 2 * g**2 + a.sum() * g**3
            alpha = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)
            expected += (alpha * np.maximum(g, 0)).sum() * a
        expected = np.maximum(expected, 0)
        np.testing.assert_allclose(heat[row], expected / expected.max(), atol=1e-4)


def test_integrated_gradients_sum_to_the_gain_of_logit(network: Network, batch: Tensor) -> None:
    gain = integrate(network, batch, [2, 0, 1]).sum((1, 2, 3))
    blank = batch.mean((2, 3), keepdim=True).expand_as(batch)
    with torch.no_grad():
        expected = (network(batch) - network(blank))[torch.arange(3), torch.tensor([2, 0, 1])]
    torch.testing.assert_close(gain, expected, atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def patch_network() -> Network:
    """Its logit of class 1 is the brightness that the map keeps, so that only a patch can speak."""
    config = ModelConfig(backbone="bn-cnn", weights="none")
    network = build_network(config, num_classes=2, size_px=64, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # all paths are positive: brighter raises, nothing else can
        network.head.weight[0] = 0
    return network


@pytest.mark.parametrize("name", METHODS)
def test_every_method_lights_the_planted_patch(name: str, patch_network: Network) -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, *PATCH] = 1
    heat = torch.from_numpy(METHODS[name](patch_network, image, [1]))[:, None]
    wide = torch.nn.functional.interpolate(heat, (64, 64), mode="bilinear")[0, 0]
    assert wide.max() <= 1
    top, left = divmod(int(wide.argmax()), 64)
    assert 36 <= top < 60
    assert 4 <= left < 28
    near = torch.zeros(64, 64, dtype=torch.bool)
    near[28:64, 0:36] = True  # the patch and the reach of one cell of the 8 × 8 map
    assert wide[near].sum() / wide.sum() > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_nothing_speaks_for_a_class_without_weights(name: str, patch_network: Network) -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, *PATCH] = 1
    heat = METHODS[name](patch_network, image, [0])
    assert heat.shape[0] == 1
    assert not heat.any()


@pytest.mark.parametrize("name", METHODS)
def test_images_of_a_batch_do_not_touch_each_other(
    name: str, network: Network, batch: Tensor
) -> None:
    together = METHODS[name](network, batch, [2, 0, 1])
    alone = METHODS[name](network, batch[1:2], [0])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4)
    assert network.training is False


def test_it_depends_on_the_weights_and_the_class() -> None:
    config = ModelConfig(backbone="cnn-baseline", weights="none")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    x = x.expand(8, -1, -1, -1)
    first, again, other = (
        grad_cam(build_network(config, num_classes=8, size_px=32, seed=seed), x, range(8))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert len(np.unique(first.reshape(8, -1), axis=0)) > 3  # classes differ


def test_another_layer_by_name(network: Network, batch: Tensor) -> None:
    assert find_layer(network, "layers.3") is network.backbone.get_submodule("layers.3")
    assert find_layer(network, "backbone.layers.3") is find_layer(network, "layers.3")
    for method in (grad_cam, grad_cam_plus_plus):
        assert method(network, batch, [0, 0, 0], layer="layers.3").shape == (3, 32, 32)
        np.testing.assert_array_equal(
            method(network, batch, [0, 1, 2], layer="layers.8"), method(network, batch, [0, 1, 2])
        )


def test_a_layer_that_is_changed_in_place_is_seen_before_the_change(batch: Tensor) -> None:
    config = ModelConfig(backbone="alexnet", weights="none")
    network = build_network(config, num_classes=2, size_px=64, seed=0)
    for method in (grad_cam, grad_cam_plus_plus):
        before = method(network, batch[:1], [0], layer="features.6")  # a convolution
        after = method(network, batch[:1], [0], layer="features.7")  # its ReLU, in place
        assert np.abs(before - after).max() > 0.01


def test_an_unknown_layer_is_answered_with_the_nearest(network: Network) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown layer of cnn-baseline .layer\.8."
    ) as caught:
        find_layer(network, "layer.8")
    assert "Did you mean 'layers.8'" in str(caught.value)
    with pytest.raises(ConfigError, match=r".hidden\.0\.linear. gives 8 values"):
        find_layer(network, "hidden.0.linear")


def test_a_transformer_has_no_map() -> None:
    config = ModelConfig(backbone="test_vit", weights="none")
    network = build_network(config, num_classes=2, size_px=64)
    with pytest.raises(ConfigError, match="test_vit has no feature map"):
        grad_cam(network, torch.zeros(1, 3, 64, 64), [0])
    with pytest.raises(ConfigError, match="test_vit has no feature map"):
        grad_cam(network, torch.zeros(1, 3, 64, 64), [0], layer="blocks.0")


@pytest.mark.parametrize("name", ["occlusion", "integrated-gradients"])
def test_methods_of_the_input_work_on_a_transformer_and_take_no_layer(name: str) -> None:
    config = ModelConfig(backbone="test_vit", weights="none")
    network = build_network(config, num_classes=2, size_px=64)
    heat = METHODS[name](network, torch.rand(1, 3, 64, 64), [1])
    assert np.isfinite(heat).all()
    with pytest.raises(ConfigError, match="looks at no layer, got 'blocks'"):
        METHODS[name](network, torch.rand(1, 3, 64, 64), [1], layer="blocks")


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown method 'gradcam'") as caught:
        find_method("gradcam")
    assert "Did you mean 'grad-cam'?" in str(caught.value)
