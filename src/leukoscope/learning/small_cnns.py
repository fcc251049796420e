"""Small networks of the reference studies, and AlexNet: what timm does not have.

Each answers to the two methods of timm's networks that
:class:`~leukoscope.learning.backbones.Network` uses: ``forward_features`` gives the feature map
(N, C, h, w), ``forward_head`` the pooled features (N, D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torchvision
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Layers one after the other, and a pooling.

    Args:
        layers: From the image to the feature map.
        pool: Average the map; otherwise it is flattened.
    """

    def __init__(self, layers: list[nn.Module], *, pool: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.pool = pool

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) to the feature map (N, C, h, w)."""
        return cast(Tensor, self.layers(x))

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """(N, C, h, w) to (N, C), or to (N, C·h·w) where nothing is averaged."""
        return x.mean((2, 3)) if self.pool else x.flatten(1)


class AlexNet(nn.Module):
    """torchvision's AlexNet without its fully connected layers: 9,216 features at 224 px."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.alexnet(weights=None).features

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) to the feature map (N, 256, h, w)."""
        return cast(Tensor, self.features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """(N, 256, h, w) to (N, 256·h·w)."""
        return x.flatten(1)


def _baseline() -> nn.Module:
    """Study S0: Conv32-pool-Conv64-pool-Conv128-pool, flattened."""
    layers: list[nn.Module] = []
    for channels, width in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return SmallCNN(layers, pool=False)


def _batch_norm() -> nn.Module:
    """Study S1: six convolutions with batch norm, averaged globally."""
    layers: list[nn.Module] = []
    widths = (3, 32, 32, 64, 64, 128, 128)
    for number in range(6):
        before, after = widths[number : number + 2]
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        if number % 2:
            layers.append(nn.MaxPool2d(2))
    return SmallCNN(layers, pool=True)


def _leaky() -> nn.Module:
    """Study S3: conv 3→5 (3×3), pool, conv 5→10 (5×5), pool; 10·53·53 = 28,090 at 224 px."""
    layers: list[nn.Module] = []
    for channels, width, kernel in ((3, 5, 3), (5, 10, 5)):
        layers += [nn.Conv2d(channels, width, kernel), nn.LeakyReLU(), nn.MaxPool2d(2)]
    return SmallCNN(layers, pool=False)


OWN: dict[str, Callable[[], nn.Module]] = {
    "alexnet": AlexNet,
    "bn-cnn": _batch_norm,
    "cnn-baseline": _baseline,
    "leaky-cnn": _leaky,
}
"""Networks by name that are built here and not by timm."""
