"""Frozen depthwise convolutions give what the layers they replace give."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from leukoscope.learning.optimisers import FrozenDepthwise, fast_depthwise, is_depthwise


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [8, 9, 11])
def test_output_and_gradient_are_the_layers_own(
    same: bool, size: int, stride: int, side: int
) -> None:
    torch.manual_seed(size * stride + side)
    if same:
        layer = Conv2dSame(6, 6, size, stride=stride, groups=6, bias=False)
    else:
        layer = nn.Conv2d(6, 6, size, stride, size // 2, groups=6, bias=False)
    assert is_depthwise(layer)
    fast = FrozenDepthwise(layer)
    assert fast.state_dict().keys() == layer.state_dict().keys()
    x, gradients = torch.rand(2, 6, side, side), []
    weight = torch.rand_like(layer(x))
    for module in (layer, fast):
        own = x.clone().requires_grad_()
        y = module(own)
        (y * weight).sum().backward()
        assert own.grad is not None
        gradients.append((y.detach(), own.grad))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-6)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)


def test_only_frozen_depthwise_layers_are_replaced_and_come_back() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=True),
    )
    network.requires_grad_(False)
    network[1].requires_grad_(True)
    layers, names = list(network), list(network.state_dict())
    with fast_depthwise(network):
        assert [isinstance(part, FrozenDepthwise) for part in network] == [True, *[False] * 3]
        assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(network, layers, strict=True))
