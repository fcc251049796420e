"""Grad-CAM against its definition, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import ConfigError
from leukoscope.learning.backbones import build_network
from leukoscope.learning.gradcam import grad_cam


@pytest.mark.parametrize(("name", "side"), [("cnn-baseline", 8), ("test_mambaout", 2)])
def test_it_is_the_weighted_sum_of_maps(name: str, side: int) -> None:
    config = ModelConfig(backbone=name, weights="none", hidden=(8,))
    network = build_network(config, num_classes=3, size_px=64, seed=4).train()
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    heat = grad_cam(network, x, [2, 0, 1])
    assert network.training
    assert heat.shape == (3, side, side)
    assert heat.dtype == np.float32
    network.eval()
    for row, target in enumerate((2, 0, 1)):
        grid, features = network.map_and_features(x[row : row + 1])
        (gradient,) = torch.autograd.grad(network.head(features)[0, target], grid)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * grid).sum(1))[0].detach()
        if expected.max() > 0:
            expected /= expected.max()
        np.testing.assert_allclose(heat[row], expected.numpy(), atol=1e-4)
    assert heat.max() == 1


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


def test_a_transformer_has_no_map() -> None:
    config = ModelConfig(backbone="test_vit", weights="none")
    network = build_network(config, num_classes=2, size_px=64)
    with pytest.raises(ConfigError, match="test_vit has no feature map"):
        grad_cam(network, torch.zeros(1, 3, 64, 64), [0])
