"""Backbones of timm: building one, and what its feature map looks like."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.learning.catalogue import nearest


def timm_backbone(config: ModelConfig, size_px: int) -> nn.Module:
    """A backbone of timm without its classifier, weights not yet loaded.

    Raises:
        UnknownNameError: timm has no such backbone.
        ConfigError: It cannot work at this size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of its own renamed models
        import timm

        if not timm.is_model(config.backbone):
            choices = nearest(config.backbone, timm.list_models())
            raise UnknownNameError("backbone", config.backbone, choices)
        published = timm.get_pretrained_cfg(config.backbone)
        fixed = bool(published and published.fixed_input_size)
        options: dict[str, Any] = {"img_size": size_px} if fixed else {}
        try:
            model = timm.create_model(config.backbone, pretrained=False, num_classes=0, **options)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise _does_not_fit(config.backbone, size_px, error) from error
    return model


def keep_stages(backbone: nn.Module, name: str, stages: int) -> nn.Module:
    """The first feature levels of a backbone of timm, averaged; changed in place.

    Args:
        backbone: As :func:`timm_backbone` gives it.
        name: Of the backbone, for messages.
        stages: How many of timm's ``feature_info``; 0 leaves the backbone as it is.

    Raises:
        ConfigError: It has no such levels.
    """
    if not stages:
        return backbone
    levels = getattr(backbone, "feature_info", ())
    network = cast(Any, backbone)
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
    network.prune_intermediate_layers([stages - 1], prune_norm=True, prune_head=False)
    network.reset_classifier(0, "avg")
    return backbone


def _does_not_fit(name: str, size_px: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name} cannot work on {size_px} px images ({error})",
        hint="change preprocess.size_px, e.g. to 224",
    )


def probe(backbone: nn.Module, name: str, size_px: int) -> tuple[Tensor, Tensor, bool]:
    """One pass with a blank image: feature map, pooled features, whether pooling is the mean."""
    network = cast(Any, backbone.eval())
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
