"""Frozen depthwise convolutions whose gradient a CPU computes fast.

The gradient of a depthwise convolution with respect to its input is a convolution with the
flipped kernel. Written as a forward convolution it is faster on a CPU than the library's own
backward pass (``docs/results/steps.md``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        found: Tensor = cast(Any, _Convolve).apply(x, kernel, flipped, self.stride, self.padding)
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
