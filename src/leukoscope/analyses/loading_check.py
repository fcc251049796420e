"""Does a backbone load: build it, fill in its weights, send one image through."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leukoscope.config.recipe import ModelConfig
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.catalogue import ModelInfo, backbone_info


@dataclass(frozen=True)
class LoadingCheck:
    """Result of loading a backbone and running one image through it.

    Attributes:
        weights: Where the weights came from.
        weights_sha256: Hash of the tensors as loaded.
        pretrained: Whether the weights are trained ones.
        parameters: Number of parameters of the backbone, and of the whole network with its head.
        shapes: Shape of ``input``, ``feature map``, ``features`` and ``logits`` for one image.
        forward_ms: Time of one pass, ms, median of three, on this machine's processor.
        gradcam_layer: Name of the module whose output is the feature map; empty where none is.
        gradcam_map: Shape of the Grad-CAM map; empty where the network has no feature map.
        exact_class_maps: Whether the head is linear on averages: class maps need no gradient.
    """

    info: ModelInfo
    weights: str
    weights_sha256: str
    pretrained: bool
    parameters: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    forward_ms: float
    gradcam_layer: str
    gradcam_map: tuple[int, ...]
    exact_class_maps: bool


def check_loading(
    name: str, *, weights: str | None = None, size_px: int | None = None, num_classes: int = 4
) -> LoadingCheck:
    """Build a backbone with a linear head and send one grey image through it.

    Args:
        name: A backbone, of the list or of timm.
        weights: ``imagenet``, ``none``, or a file or folder. Default: ``imagenet`` where those
            weights are on this machine, else ``none``.
        size_px: Side of the input. Default: what the weights were trained on.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: The weights asked for are not at hand or do not fit.
        ConfigError: The backbone cannot work at this size.
    """
    info = backbone_info(name)
    chosen = weights or ("imagenet" if info.weights_at_hand else "none")
    size = size_px or info.input_size
    network = build_network(
        ModelConfig(backbone=name, weights=chosen), num_classes=num_classes, size_px=size
    )
    batch = torch.zeros(1, 3, size, size)  # after normalisation: a grey image
    with torch.no_grad():
        grid, features = network.map_and_features(batch)
        logits = network(batch)
    has_map = network.gradcam_layer is not None
    return LoadingCheck(
        info=info,
        weights=network.weights_record.source,
        weights_sha256=network.weights_record.sha256,
        pretrained=chosen != "none",
        parameters={
            "backbone": _parameters(network.backbone),
            "network": _parameters(network),
        },
        shapes={
            "input": tuple(batch.shape),
            "feature map": tuple(grid.shape),
            "features": tuple(features.shape),
            "logits": tuple(logits.shape),
        },
        forward_ms=_time_ms(network, batch),
        gradcam_layer=_layer_of_map(network, batch),
        gradcam_map=grad_cam(network, batch, [0]).shape if has_map else (),
        exact_class_maps=network.has_class_maps,
    )


def _time_ms(network: Network, batch: torch.Tensor) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            network(batch)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[1]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layer_of_map(network: Network, batch: torch.Tensor) -> str:
    """The outermost module that hands out the very tensor that is the feature map."""
    seen: list[tuple[str, Any]] = []

    def watch(name: str) -> Any:
        return lambda module, inputs, output: seen.append((name, output))

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.backbone.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            raw = network.backbone.forward_features(batch)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, output in seen if output is raw]
    return min(names, key=lambda name: name.count("."), default="")
