"""Losses, optimisers, rates by stage, precision, and fast depthwise convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from leukoscope.config.training import (
    ConstantRate,
    CosineSchedule,
    CrossEntropy,
    Focal,
    GradientTraining,
    OneCycle,
    StepSchedule,
)
from leukoscope.core.errors import TrainingError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import malignant_mask, without_sides
from leukoscope.learning.activations import Trainable, backbone_blocks

if TYPE_CHECKING:
    from pytorch_lightning.utilities.types import LRSchedulerConfigType


class FocalLoss(nn.Module):
    """Mean of ``α_y Σ_k q_k (1 − p_k)^γ (−log p_k)`` (Lin et al. 2017, eq. 5).

    q is the target: 1 at the class y, or smoothed. γ = 0 without weights is cross entropy.

    Args:
        gamma: γ.
        weight: (K,) α; None is 1 everywhere.
        smoothing: ε; q = (1 − ε) one-hot + ε / K.
    """

    def __init__(self, gamma: float, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss () of logits (N, K) and classes (N,)."""
        log_p = functional.log_softmax(logits, dim=1)
        classes = logits.shape[1]
        target = functional.one_hot(y, classes) * (1 - self.smoothing) + self.smoothing / classes
        # A certain image has 1 − p = 0, where the power's gradient is not finite for γ < 1.
        missing = (-torch.expm1(log_p)).clamp_min(1e-12)
        loss = -(target * missing**self.gamma * log_p).sum(dim=1)
        weight = cast("Tensor | None", self.weight)
        return (loss if weight is None else loss * weight[y]).mean()


class HierarchicalLoss(nn.Module):
    """Cross entropy plus λ times the binary cross entropy of benign against malignant.

    The probability of malignant is the sum over the malignant classes (study S3).

    Args:
        malignant: (K,) bool.
        binary_weight: λ.
        weight: (K,) class weights of the first term.
    """

    def __init__(
        self,
        malignant: Tensor,
        binary_weight: float,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.fine = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        self.binary_weight = binary_weight
        self.register_buffer("malignant", malignant, persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss () of logits (N, K) and classes (N,)."""
        malignant = cast(Tensor, self.malignant)
        log_p = functional.log_softmax(logits, dim=1)
        branches = torch.stack(
            (log_p[:, ~malignant].logsumexp(dim=1), log_p[:, malignant].logsumexp(dim=1)), dim=1
        )
        binary = functional.nll_loss(branches, malignant[y].long())
        return cast(Tensor, self.fine(logits, y) + self.binary_weight * binary)


def build_loss(
    config: GradientTraining,
    weight: Tensor | None,
    class_names: Sequence[str],
    roles: Roles | None = None,
) -> nn.Module:
    """The loss that a recipe names.

    Args:
        class_names: In the order of the logits; only the hierarchical loss reads them.
        roles: What the user's own classes stand for; likewise.

    Raises:
        TrainingError: The hierarchical loss, and the classes do not divide into malignant and
            others.
    """
    loss = config.loss
    if isinstance(loss, CrossEntropy):
        return nn.CrossEntropyLoss(weight=weight, label_smoothing=loss.smoothing)
    if isinstance(loss, Focal):
        return FocalLoss(loss.gamma, weight, loss.smoothing)
    mask = malignant_mask(class_names, roles)
    if mask is None:
        names = ", ".join(class_names) or "no class names"
        raise TrainingError(
            f"the hierarchical loss needs benign and malignant classes, got {names}: "
            f"{without_sides(class_names, roles)}",
            hint="state the roles with --role CLASS=ROLE, or set training.loss.kind = "
            '"cross-entropy"',
        )
    malignant = torch.tensor(mask, dtype=torch.bool)
    return HierarchicalLoss(malignant, loss.binary_weight, weight, loss.smoothing)


def has_fast_bfloat16() -> bool:
    """Whether the device that is used multiplies in bfloat16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def precision_of(config: GradientTraining) -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 where the processor multiplies in it: half the time; float32 elsewhere."""
    fast = has_fast_bfloat16() if config.precision == "auto" else config.precision == "bf16"
    return "bf16-mixed" if fast else "32-true"


class _Convolve(torch.autograd.Function):
    """A depthwise convolution that differentiates with respect to its input alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, flipped: Tensor, stride: int, padding: int
    ) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        ctx.save_for_backward(flipped)
        ctx.size, ctx.stride, ctx.padding = x.shape[-2:], stride, padding
        return functional.conv2d(x, kernel, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient with respect to the input."""
        (flipped,) = ctx.saved_tensors
        size, channels = flipped.shape[-1], gradient.shape[1]
        if ctx.stride > 1:  # each value stands where its window began, zeros between
            spread = [side + 2 * ctx.padding - size + 1 for side in ctx.size]
            wide = gradient.new_zeros((len(gradient), channels, *spread))
            wide = wide.contiguous(memory_format=torch.channels_last)
            wide[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = wide
        around = size - 1 - ctx.padding
        found = functional.conv2d(gradient, flipped, None, 1, around, groups=channels)
        return found, None, None, None, None


class FrozenDepthwise(nn.Module):
    """A depthwise convolution with a fixed kernel; its state is named as the layer's it replaces.

    Args:
        layer: A layer of which :func:`is_depthwise` holds.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight = layer.weight
        self.stride = layer.stride[0]
        self.padding = cast(int, layer.padding[0])
        self.same = type(layer).__name__ == "Conv2dSame"  # of timm; pads by the size of the input
        self._kernels: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        size = self.weight.shape[-1]
        if self.same:
            from timm.layers.padding import pad_same

            x = pad_same(x, [size, size], [self.stride, self.stride])
        kernel, flipped = self._kernel(x.dtype)
        found: Tensor = _Convolve.apply(x, kernel, flipped, self.stride, self.padding)
        return found

    def _kernel(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in self._kernels:
            kernel = self.weight.detach().to(dtype)
            self._kernels[dtype] = (kernel, kernel.flip(2, 3).contiguous())
        return self._kernels[dtype]


def is_depthwise(layer: nn.Module) -> bool:
    """Whether this is a square depthwise convolution as mobile networks have them."""
    return (
        isinstance(layer, nn.Conv2d)
        and 1 < layer.groups == layer.in_channels == layer.out_channels
        and layer.bias is None
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and len({*layer.kernel_size}) == len({*layer.stride}) == len({*layer.padding}) == 1
        and layer.padding[0] < layer.kernel_size[0]
    )


@contextmanager
def fast_depthwise(network: nn.Module) -> Iterator[None]:
    """Replace a network's frozen depthwise convolutions while it is trained on a CPU."""
    replaced = []
    if not torch.cuda.is_available():
        for parent in network.modules():
            for name, layer in parent.named_children():
                if is_depthwise(layer) and not cast(nn.Conv2d, layer).weight.requires_grad:
                    replaced.append((parent, name, layer))
    for parent, name, layer in replaced:
        setattr(parent, name, FrozenDepthwise(cast(nn.Conv2d, layer)))
    try:
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)


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


def _by_stage(network: Trainable, config: GradientTraining) -> list[dict[str, object]]:
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
) -> LRSchedulerConfigType | None:
    """The schedule of a recipe, as Lightning takes it; None where the rate stays."""
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
