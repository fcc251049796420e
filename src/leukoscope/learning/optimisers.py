"""Optimisers, schedules of the learning rate, and what of a network is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
from leukoscope.learning.backbones import Network
from leukoscope.learning.frozen import HeadOnly


def build_optimizer(network: nn.Module, config: GradientTraining) -> torch.optim.Optimizer:
    """The optimiser of a recipe, over the weights that are not frozen."""
    weights = [p for p in network.parameters() if p.requires_grad]
    lr, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr, weight_decay=decay)
    if config.optimizer == "adamax":
        return torch.optim.Adamax(weights, lr, weight_decay=decay)
    return torch.optim.Adam(weights, lr, weight_decay=decay)


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
            config.learning_rate,
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
        schedule = lr_scheduler.CosineAnnealingLR(
            optimizer, steps, eta_min=plan.floor * config.learning_rate
        )
    else:
        schedule = lr_scheduler.ExponentialLR(optimizer, plan.factor)
    return {"scheduler": schedule, "interval": "step" if plan.per == "batch" else "epoch"}


def backbone_blocks(backbone: nn.Module) -> tuple[nn.Module, ...]:
    """Parts of a backbone that hold weights, from the input on; sequences are unfolded.

    In a ResNet these are the first convolution, its norm, and each residual block.
    """
    return tuple(_unfold(backbone, top=True))


def _unfold(module: nn.Module, *, top: bool = False) -> Iterator[nn.Module]:
    if top or isinstance(module, nn.Sequential):
        for child in module.children():
            yield from _unfold(child)
    elif any(True for _ in module.parameters()):
        yield module


def freeze(network: Network | HeadOnly, config: GradientTraining) -> tuple[nn.Module, ...]:
    """Switch off the gradients of what a recipe freezes, and on those of all the rest.

    Returns:
        The frozen parts; they have to stay in evaluation mode, or their statistics would change.

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
    return frozen
