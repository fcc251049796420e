"""Networks: a backbone of timm or a small CNN, pooling, and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.core.errors import ConfigError
from leukoscope.learning.catalogue import BACKBONES, ModelInfo, list_models
from leukoscope.learning.feature_models import FeatureHead
from leukoscope.learning.heads import (
    GatedAttention,
    build_extra_convolutions,
    build_hidden,
    flattened_gradient,
    head_gradient,
    initialise,
)
from leukoscope.learning.lean import TimmNetwork, torchvision
from leukoscope.learning.weights import (
    Levels,
    WeightsRecord,
    channels_of,
    keep_stages,
    layout_of,
    load_weights,
    probe_backbone,
    timm_backbone,
    token_grid,
)

__all__ = [
    "BACKBONES",
    "ModelInfo",
    "Network",
    "ToInput",
    "build_network",
    "evaluating",
    "list_models",
]


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


class ToInput(nn.Module):
    """(N, S, S, 3) uint8 RGB to (N, 3, S, S) float32, normalised as a specification says."""

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean = torch.tensor(spec.mean).reshape(1, 3, 1, 1)
        std = torch.tensor(spec.std).reshape(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch."""
        scale, shift = cast(Tensor, self.scale), cast(Tensor, self.shift)
        return image.permute(0, 3, 1, 2).float() * scale + shift


class Network(nn.Module):
    """A classifier: ``backbone`` → ``extra`` → map → pooled → ``hidden`` → ``dropout`` → ``head``.

    ``features`` are always what the last linear layer reads, so that logits are
    ``features @ head.weight.T + head.bias`` (unless ``clamp_logits`` cuts them).

    Attributes:
        config: The configuration that it was built from.
        size_px: Side of its input.
        seed: Seed of the random weights.
        weights_record: Where the backbone's weights came from.
        num_features: D, the width of ``features``.
        gradcam_layer: The layer whose output is the feature map; None where the network has no
            map that its output depends on (transformers without a grid).
        has_class_maps: Whether the head is linear on the mean of the map, weighted by attention
            or not, batch norm between them allowed, so that class activation maps are exact
            (Zhou et al. 2016).
        has_gradient_maps: Whether, otherwise, the gradient through the head can be written out,
            so that a graph gives Grad-CAM (see ``head_gradient``).
        exported: The last ONNX graph made of it and a hash of what went in; see ``export``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: ModelConfig,
        *,
        num_classes: int,
        size_px: int,
        seed: int,
        weights_record: WeightsRecord,
    ) -> None:
        super().__init__()
        self.config, self.size_px, self.seed = config, size_px, seed
        self.weights_record = weights_record
        self.backbone = backbone
        raw, pooled, averages = probe_backbone(backbone, config.backbone, size_px)
        self._layout = layout_of(backbone, raw)
        self._prefix = int(getattr(backbone, "num_prefix_tokens", 0))
        self._grid = token_grid(raw, self._prefix) if self._layout == "tokens" else (0, 0)
        self.gradcam_layer = None if self._layout == "tokens" else nn.Identity()
        self.extra, channels = build_extra_convolutions(config, channels_of(raw, self._layout))
        if self._layout == "tokens" and (len(self.extra) or config.pooling != "native"):
            raise ConfigError(
                f"{config.backbone} has no feature map for model.conv, squeeze_excite, "
                f"{config.pooling}",
                hint="choose a convolutional backbone, see `leukoscope models list`",
            )
        width = pooled.shape[1]
        if config.conv:
            width = channels
        elif config.pooling == "flatten":
            width = raw[0].numel()
        self.attention = None
        if config.pooling == "attention":
            width = channels_of(raw, self._layout)
            self.attention = GatedAttention(width)
        self.hidden = build_hidden(config, width)
        self.dropout = nn.Dropout(config.dropout)
        self.num_features = config.hidden[-1] if config.hidden else width
        self.head = nn.Linear(self.num_features, num_classes)
        initialise(config, self.hidden, self.head)
        self.exported: tuple[str, bytes] = ("", b"")
        averages = bool(config.conv) or (averages and config.pooling == "native")
        between = [type(layer) for layer in self.hidden]
        exact = between in ([], [nn.BatchNorm1d])
        self.has_class_maps = exact and (averages or self.attention is not None)
        # A norm of a flattened map would mix the places.
        flattened = config.pooling == "flatten" and not config.conv and config.input_norm == "none"
        self.has_gradient_maps = (
            not self.has_class_maps and self.gradcam_layer is not None and (averages or flattened)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) float32 to logits (N, K) float32."""
        return self.logits_of(self.features(x))

    def predict(self, x: Tensor) -> Tensor:
        """Logits (N, K) as the recipe predicts: over its views; :meth:`forward` takes one view."""
        return self.logits_of(self.map_and_average(x)[1])

    def logits_of(self, features: Tensor) -> Tensor:
        """(N, D) features to (N, K) logits."""
        logits = cast(Tensor, self.head(self.dropout(features)))
        limit = self.config.clamp_logits
        return logits.clamp(-limit, limit) if limit else logits

    def head_logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, K) logits of features (n, D) that are at hand, in evaluation mode."""
        with evaluating(self), torch.inference_mode():
            return np.asarray(self.logits_of(torch.from_numpy(features)).numpy(), np.float32)

    def map_and_average(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (N, C, h, w) of the image as it is, and features (N, D) over its views.

        The last layer is linear, so that the mean of the features gives the mean of the logits.
        One after the other, or the memory of that many images would be needed; in an exported
        graph all go through in one pass, or it would hold that many copies of the network.
        """
        if self.config.test_time == "none":
            return self.map_and_features(x)
        shown = views(x, self.config.test_time)
        if torch.compiler.is_exporting():
            grid, features = self.map_and_features(torch.cat(shown))
            by_view = (len(shown), -1)
            return torch.unflatten(grid, 0, by_view)[0], torch.unflatten(features, 0, by_view).mean(
                0
            )
        grid, first = self.map_and_features(x)
        others = [self.map_and_features(view)[1] for view in shown[1:]]
        return grid, torch.stack([first, *others]).mean(0)

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) float32 to (N, D) float32, the input of the last layer."""
        return self.map_and_features(x)[1]

    def map_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map (N, C, h, w) and features (N, D) of one pass."""
        limit = self.config.clamp_input
        x = x.clamp(-limit, limit) if limit else x
        return self.map_and_features_of(cast(TimmNetwork, self.backbone).forward_features(x))

    def map_and_features_of(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The same from what the backbone gives before its pooling, in its own layout."""
        if self._layout == "tokens":
            tokens = raw[:, self._prefix :].transpose(1, 2)
            grid = tokens.reshape(*tokens.shape[:2], *self._grid)
        else:
            assert self.gradcam_layer is not None
            raw = raw.permute(0, 3, 1, 2) if self._layout == "NHWC" else raw
            grid = self.gradcam_layer(self.extra(raw))
            raw = grid.permute(0, 2, 3, 1) if self._layout == "NHWC" else grid
        return grid, self.hidden(self._pool(grid, raw))

    def _pool(self, grid: Tensor, raw: Tensor) -> Tensor:
        if self.config.conv:
            return grid.mean((2, 3))
        if self.config.pooling == "flatten":
            return grid.flatten(1)
        if self.attention is not None:
            return cast(Tensor, (grid * self.attention(grid)).sum((2, 3)))
        return cast(TimmNetwork, self.backbone).forward_head(raw, pre_logits=True)

    def to_input(self, spec: PreprocessSpec) -> nn.Module:
        """What turns preprocessed pixels into this network's input."""
        return ToInput(spec)

    def class_maps(self, grid: Tensor) -> Tensor:
        """Class activation maps (N, K, h, w) of a map (N, C, h, w); see ``has_class_maps``.

        Their mean over all places is the logits but for a constant. In evaluation a batch norm
        before the linear layer only scales each channel and adds a constant to each logit, so it
        folds into the weights; attention scales each place.
        """
        weight = self.head.weight
        if len(self.hidden):
            norm = cast(nn.BatchNorm1d, self.hidden[0])
            assert norm.running_var is not None
            weight = weight * (norm.weight / torch.sqrt(norm.running_var + norm.eps))
        if self.attention is not None:
            grid = grid * self.attention(grid) * (grid.shape[2] * grid.shape[3])
        return torch.einsum("kc,nchw->nkhw", weight, grid)

    def gradient_maps(self, grid: Tensor) -> Tensor:
        """Grad-CAM before its ReLU (N, K, h, w) of a map (N, C, h, w); see ``has_gradient_maps``.

        Selvaraju et al. 2017, eq. 1 and 2, but for the positive factor of a mean over places.
        """
        if self.config.pooling == "flatten" and not self.config.conv:
            weight = flattened_gradient(self.hidden, self.head, grid)
        else:
            weight = head_gradient(self.hidden, self.head, grid.mean((2, 3)))
        return torch.einsum("nkc,nchw->nkhw", weight, grid)

    @property
    def channels_last(self) -> bool:
        """The backbone's own maps are (N, h, w, C), as in Swin transformers."""
        return self._layout == "NHWC"

    def set_linear_head(self, weight: NDArray[np.generic], bias: NDArray[np.generic]) -> None:
        """Put a fitted linear classifier in place of the head.

        Args:
            weight: (K, D), on raw features.
            bias: (K,).

        Raises:
            ConfigError: The network has other layers in its head (their random weights would be
                kept), or the shapes differ.
        """
        if self.config.hidden:
            raise ConfigError(
                f"model.hidden = {list(self.config.hidden)}: a linear head has no hidden layers",
                hint='set model.hidden = [] or training.method = "gradient"',
            )
        if len(self.hidden) or len(self.extra):
            raise ConfigError(
                "model.conv, squeeze_excite, input_norm: a linear head has no such layers",
                hint='leave them out or set training.method = "gradient"',
            )
        if weight.shape != tuple(self.head.weight.shape):
            raise ConfigError(
                f"expected a head of {tuple(self.head.weight.shape)}, got {weight.shape}"
            )
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(np.asarray(weight, np.float32)))
            self.head.bias.copy_(torch.from_numpy(np.asarray(bias, np.float32)))

    def set_feature_head(self, head: FeatureHead) -> None:
        """Put a fitted classifier that is no linear layer in place of the head."""
        self.head = cast(Any, head)
        self.has_class_maps = self.has_gradient_maps = False


def views(x: Tensor, kind: str) -> list[Tensor]:
    """The views of an image that a prediction averages; first the image as it is.

    Args:
        x: (N, C, S, S).
        kind: ``flips`` (4) or ``dihedral`` (8), as in ``model.test_time``.

    Returns:
        That many of (N, C, S, S).
    """
    turned = [x, torch.rot90(x, 1, (2, 3))] if kind == "dihedral" else [x]
    axes: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
    return [image.flip(over) if over else image for image in turned for over in axes]


def build_network(config: ModelConfig, *, num_classes: int, size_px: int, seed: int = 0) -> Network:
    """Build a network with the weights that a recipe names, in evaluation mode.

    Args:
        seed: For all that is random: the head, hidden layers, and the backbone where
            ``weights`` is ``none``. The global random state stays as it is.

    Raises:
        UnknownNameError: No such backbone here or in timm.
        WeightsError: The weights are not at hand or do not fit.
        ConfigError: The backbone cannot work at this size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = OWN.get(config.backbone)
        backbone = own() if own else timm_backbone(config, size_px)
        if config.pooling == "flatten" and hasattr(backbone, "pre_logits"):
            backbone.pre_logits = nn.Identity()  # VGG's two widest layers, which nothing reads
        record = load_weights(backbone, config, seed=seed)
        if config.levels:
            backbone = Levels(backbone, config.backbone, config.levels, size_px, top=config.top)
        else:
            backbone = keep_stages(backbone, config.backbone, config.stages)
        network = Network(
            backbone,
            config,
            num_classes=num_classes,
            size_px=size_px,
            seed=seed,
            weights_record=record,
        )
    return network.eval()


def check_networks(recipes: Iterable[Recipe]) -> None:
    """Build the network of each recipe once, so that what cannot be built is said at once.

    Raises:
        UnknownNameError: No such backbone here or in timm.
        WeightsError: The weights are not at hand or do not fit.
        ConfigError: The backbone cannot work at this size.
    """
    seen: list[tuple[ModelConfig, int]] = []
    for recipe in recipes:
        key = (recipe.model, recipe.preprocess.size_px)
        if key not in seen:
            seen.append(key)
            build_network(recipe.model, num_classes=2, size_px=recipe.preprocess.size_px)


@contextmanager
def evaluating(network: Network) -> Iterator[Network]:
    """The network in evaluation mode; afterwards in the mode that it had."""
    was_training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(was_training)


def pass_black_image(network: Network, hooks: Iterable[RemovableHandle]) -> None:
    """Call a network once in evaluation mode, for what its hooks note; they are removed."""
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, 3, network.size_px, network.size_px))
    finally:
        for hook in hooks:
            hook.remove()
