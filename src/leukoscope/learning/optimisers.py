"""Optimisers, rates by stage, schedules of the rate, and what of a network is frozen."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.optim import lr_scheduler

from leukoscope.config.training import (
    ConstantRate,
    CosineSchedule,
    GradientTraining,
    OneCycle,
    StepSchedule,
)
from leukoscope.core.errors import TrainingError
from leukoscope.learning.activations import Trainable, backbone_blocks
from leukoscope.learning.depthwise import is_depthwise


def build_optimizer(network: Trainable, config: GradientTraining) -> torch.optim.Optimizer:
    """The optimiser of a recipe, over the weights that are not frozen; the head's come first."""
    weights = _by_stage(network, config)
    lr, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr, weight_decay=decay)
    if config.optimizer == "adamax":
        return torch.optim.Adamax(weights, lr, weight_decay=decay)
    return torch.optim.Adam(weights, lr, weight_decay=decay)


def _by_stage(network: Trainable, config: GradientTraining) -> list[dict[str, Any]]:
    """Groups of weights and their rates: one, or the head and each stage before it."""
    if config.stage_decay == 1:
        return [{"params": [p for p in network.parameters() if p.requires_grad]}]
    stages = backbone_stages(network.backbone)
    inside = {id(p) for stage in stages for p in stage}
    head = [p for p in network.parameters() if id(p) not in inside]
    groups = [[p for p in part if p.requires_grad] for part in (head, *reversed(stages))]
    return [
        {"params": group, "lr": config.learning_rate * config.stage_decay**below}
        for below, group in enumerate(groups)
        if group
    ]


def backbone_stages(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The weights of each stage, from the input on.

    timm says what a stage is (the stem and four in a ResNet); of the networks that are built
    here, each block of :func:`backbone_blocks` is one.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        return [list(block.parameters()) for block in backbone_blocks(backbone)]
    from timm.models import group_parameters

    stage_of = cast(dict[str, int], group_parameters(backbone, matcher(coarse=True), reverse=True))
    stages: dict[int, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        stages.setdefault(stage_of[name], []).append(parameter)
    return [stages[number] for number in sorted(stages)]


def build_schedule(
    optimizer: torch.optim.Optimizer, config: GradientTraining, batches: int
) -> dict[str, Any] | None:
    """The schedule of a recipe, as Lightning takes it; None where the rate stays.

    Args:
        optimizer: Whose rate it changes.
        config: Schedule, rate and number of epochs.
        batches: In one epoch.
    """
    plan = config.schedule
    if isinstance(plan, ConstantRate):
        return None
    if isinstance(plan, OneCycle):
        schedule: lr_scheduler.LRScheduler = lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=max(2, config.epochs * batches),
            pct_start=plan.warmup,
            cycle_momentum=False,
            div_factor=plan.start_divisor,
            final_div_factor=plan.end_divisor,
        )
        return {"scheduler": schedule, "interval": "step"}
    if isinstance(plan, StepSchedule):
        schedule = lr_scheduler.StepLR(optimizer, plan.every, plan.factor)
    elif isinstance(plan, CosineSchedule):
        steps = config.epochs * (batches if plan.per == "batch" else 1)
        schedule = _cosine(optimizer, steps, plan.floor)
    else:
        schedule = lr_scheduler.ExponentialLR(optimizer, plan.factor)
    return {"scheduler": schedule, "interval": "step" if plan.per == "batch" else "epoch"}


def _cosine(optimizer: torch.optim.Optimizer, steps: int, floor: float) -> lr_scheduler.LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    if len(rates) == 1 or not floor:
        return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=floor * rates[0])

    def share(step: int) -> float:  # torch's cosine has one floor for all groups
        return floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2

    return lr_scheduler.LambdaLR(optimizer, share)


def freeze(network: Trainable, config: GradientTraining) -> tuple[nn.Module, ...]:
    """Switch off the gradients of what a recipe freezes, and on those of all the rest.

    Returns:
        The parts that have to stay in evaluation mode, or their statistics would change.

    Raises:
        TrainingError: More blocks than the backbone has.
    """
    blocks = backbone_blocks(network.backbone)
    if config.freeze == "all":
        frozen: tuple[nn.Module, ...] = (network.backbone,)
    elif config.freeze > len(blocks):
        raise TrainingError(
            f"training.freeze = {config.freeze}, but {network.config.backbone} has "
            f"{len(blocks)} blocks",
            hint='set training.freeze = "all" to train the head only',
        )
    else:
        frozen = blocks[: config.freeze]
    network.requires_grad_(True)
    for part in frozen:
        part.requires_grad_(False)
    inside = list(network.backbone.modules())
    if config.freeze_depthwise:
        for layer in filter(is_depthwise, inside):
            layer.requires_grad_(False)
    norms = [layer for layer in inside if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return (*frozen, *norms) if config.freeze_norm else frozen
