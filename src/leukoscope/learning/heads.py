"""Heads: what stands between a backbone's feature map and the last linear layer."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from leukoscope.config.recipe import ModelConfig

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class SqueezeExcite(nn.Module):
    """Weigh each channel by a number in 0–1 that hangs on all channels' means (Hu et al. 2018).

    Args:
        channels: Of the feature map.
        reduction: Divides the number of channels inside.
    """

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
        channels: Of the feature map.
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
    """Linear, norm, activation, dropout; a residual block adds a projection of its input.

    Args:
        before: Width of its input.
        after: Width of its output.
        config: Norm, activation, residual.
        dropout: Rate.
    """

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
    """Convolutions and squeeze-excite after the backbone, and the channels they give.

    Args:
        config: The recipe's model.
        channels: Of the backbone's feature map.
    """
    layers: list[nn.Module] = []
    for width in config.conv:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    if config.squeeze_excite:
        layers.append(SqueezeExcite(channels, config.squeeze_excite))
    return nn.Sequential(*layers), channels


def build_hidden(config: ModelConfig, width: int) -> nn.Sequential:
    """From pooled features (N, width) to the last linear layer's input.

    Args:
        config: The recipe's model.
        width: D of the pooled features.
    """
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
