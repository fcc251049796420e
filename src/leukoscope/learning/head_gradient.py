"""Grad-CAM of a head with hidden layers, written out so that an exported graph computes it.

The gradient of each logit with respect to the pooled features is carried back through the head by
the chain rule, layer by layer, in ordinary operations: no automatic differentiation is needed.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from leukoscope.learning.heads import FullyConnected


def head_gradient(hidden: nn.Sequential, head: nn.Linear, pooled: Tensor) -> Tensor:
    """Gradient of every logit with respect to the input of the hidden layers.

    Args:
        hidden: Norms and fully connected layers, as in evaluation.
        head: The last linear layer.
        pooled: (N, D) their input.

    Returns:
        (N, K, D).
    """
    given = []
    x = pooled
    for layer in hidden:
        given.append(x)
        x = layer(x)
    gradient = head.weight.expand(pooled.shape[0], -1, -1)
    for layer, before in zip(reversed(hidden), reversed(given), strict=True):
        gradient = _through(layer, before, gradient)
    return gradient


def flattened_gradient(hidden: nn.Sequential, head: nn.Linear, grid: Tensor) -> Tensor:
    """The same for a head that reads every place of a map (N, C, h, w), mean over the places.

    Averaging the weights before the product spares a gradient of C · h · w numbers.

    Returns:
        (N, K, C).
    """
    flat, channels = grid.flatten(1), grid.shape[1]
    if not len(hidden):
        return _by_channel(head, channels).expand(grid.shape[0], -1, -1)
    first = cast(FullyConnected, hidden[0])
    gradient = head_gradient(hidden[1:], head, first(flat))
    gradient, shortcut = _before_linear(first, flat, gradient)
    found = gradient @ _by_channel(first.linear, channels)
    if shortcut is not None and first.project is not None:
        linear = cast(nn.Linear, first.project[0])
        found = found + shortcut @ _by_channel(linear, channels)
    return found


def _by_channel(linear: nn.Linear, channels: int) -> Tensor:
    """Weights (after, C) of a layer that reads a flattened map, mean over the places."""
    return linear.weight.reshape(linear.out_features, channels, -1).mean(2)


def _through(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient (N, K, after) with respect to a layer's output to that of its input x."""
    if not isinstance(layer, FullyConnected):
        return _norm_gradient(layer, x, gradient)
    before, shortcut = _before_linear(layer, x, gradient)
    found = before @ layer.linear.weight
    if shortcut is not None and layer.project is not None:
        found = found + shortcut @ cast(nn.Linear, layer.project[0]).weight
    return found


def _before_linear(
    layer: FullyConnected, x: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradient with respect to the outputs of the linear layer and of the shortcut's."""
    inside = layer.linear(x)
    y = layer.norm(inside)
    if layer.project is not None:
        y = y + layer.project(x)
    gradient = gradient * _slope(layer.activation, y)[:, None]
    shortcut = None
    if layer.project is not None:
        linear, norm = layer.project
        shortcut = _norm_gradient(norm, linear(x), gradient)
    return _norm_gradient(layer.norm, inside, gradient), shortcut


def _norm_gradient(norm: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """Back through a norm in evaluation."""
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_var is not None
        return gradient * (norm.weight / torch.sqrt(norm.running_var + norm.eps))
    if isinstance(norm, nn.LayerNorm):
        deviation = torch.sqrt(x.var(1, correction=0, keepdim=True) + norm.eps)
        unit = ((x - x.mean(1, keepdim=True)) / deviation)[:, None]
        scaled = gradient * norm.weight
        along = (scaled * unit).mean(2, keepdim=True)
        return (scaled - scaled.mean(2, keepdim=True) - unit * along) / deviation[:, None]
    return gradient


def _slope(activation: nn.Module, y: Tensor) -> Tensor:
    """Derivative of an activation at y."""
    if isinstance(activation, nn.GELU):
        density = torch.exp(-y * y / 2) / math.sqrt(2 * math.pi)
        return (1 + torch.erf(y / math.sqrt(2))) / 2 + y * density
    below = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
    return torch.where(y > 0, 1.0, below)
