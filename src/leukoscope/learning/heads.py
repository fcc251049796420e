"""Heads between a backbone's feature map and the last linear layer, and Grad-CAM through them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from leukoscope.config.recipe import ModelConfig

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class SqueezeExcite(nn.Module):
    """Weigh each channel by a number in 0–1 depending on all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inside = max(1, channels // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(channels, inside), nn.ReLU(), nn.Linear(inside, channels), nn.Sigmoid()
        )

    def forward(self, grid: Tensor) -> Tensor:
        """(N, C, h, w) to the same."""
        return grid * cast(Tensor, self.weigh(grid.mean((2, 3))))[:, :, None, None]


class GatedAttention(nn.Module):
    """A mean over the places of a map whose weights are learnt (Ilse et al. 2018, eq. 9).

    Args:
        inside: Width of the layers that weigh a place.
    """

    def __init__(self, channels: int, inside: int = 64) -> None:
        super().__init__()
        self.look, self.gate = nn.Conv2d(channels, inside, 1), nn.Conv2d(channels, inside, 1)
        self.weigh = nn.Conv2d(inside, 1, 1)
        nn.init.zeros_(self.weigh.weight)  # training starts from the plain mean

    def forward(self, grid: Tensor) -> Tensor:
        """Weights (N, 1, h, w), with a sum of 1 over each image, of a map (N, C, h, w)."""
        scores = self.weigh(self.look(grid).tanh() * self.gate(grid).sigmoid())
        return cast(Tensor, scores.flatten(2).softmax(2).reshape(scores.shape))


class FullyConnected(nn.Module):
    """Linear, norm, activation, dropout; a residual block adds a projection of its input."""

    def __init__(self, before: int, after: int, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        self.norm = _norm(config.norm, after)
        # Normalised as the shortcut of a ResNet is: at the published rate of 0.1 it would run away.
        self.project = (
            nn.Sequential(nn.Linear(before, after, bias=False), _norm(config.norm, after))
            if config.residual
            else None
        )
        self.activation = _ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before) to (N, after)."""
        y = self.norm(self.linear(x))
        if self.project is not None:
            y = y + self.project(x)
        return cast(Tensor, self.dropout(self.activation(y)))


def build_extra_convolutions(config: ModelConfig, channels: int) -> tuple[nn.Sequential, int]:
    """Convolutions and squeeze-excite after the backbone, and the channels they give."""
    layers: list[nn.Module] = []
    for width in config.conv:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    if config.squeeze_excite:
        layers.append(SqueezeExcite(channels, config.squeeze_excite))
    return nn.Sequential(*layers), channels


def build_hidden(config: ModelConfig, width: int) -> nn.Sequential:
    """From pooled features (N, width) to the last linear layer's input."""
    layers: list[nn.Module] = []
    if config.input_norm != "none":
        layers.append(_norm(config.input_norm, width))
    last = len(config.hidden) - 1
    for number, (before, after) in enumerate(pairwise((width, *config.hidden))):
        # The rate before the logits is `dropout`, which stands outside.
        rate = config.hidden_dropout if number < last else 0.0
        layers.append(FullyConnected(before, after, config, rate))
    return nn.Sequential(*layers)


def initialise(config: ModelConfig, *parts: nn.Module) -> None:
    """Draw the linear layers of a head as a recipe says, biases zero.

    ``xavier`` keeps the variance from layer to layer (Glorot & Bengio 2010, eq. 16); ``small``
    draws from N(0, 0.01²), as AlexNet was (Krizhevsky et al. 2012).
    """
    if config.init == "default":
        return
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Linear):
                if config.init == "xavier":
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _norm(name: str, width: int) -> nn.Module:
    return _NORMS[name](width) if name in _NORMS else nn.Identity()


def head_gradient(hidden: nn.Sequential, head: nn.Linear, pooled: Tensor) -> Tensor:
    """Gradient of every logit with respect to the input of the hidden layers.

    Args:
        hidden: Norms and fully connected layers, as in evaluation.
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
