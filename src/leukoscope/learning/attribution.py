"""Where in an image a class's score came from, and networks randomised to check such maps."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.learning.backbones import Network, evaluating, pass_black_image

OCCLUDED_SHARE = 8  # the patch that covers the image is an eighth of its side, moved by a half
INTEGRATION_STEPS = 32
BATCH = 16  # perturbed copies of the images in one pass
IG_CELLS = 56  # integrated gradients are averaged to at most this many cells a side
IG_QUANTILE = 0.995  # one pixel must not set the scale of the rest
_BACKBONE = "backbone."
_LAYER = "gradcam_layer"
Targets = Sequence[int] | Tensor
STAGES = 4  # the head, then thirds of the backbone


def grad_cam(
    network: Network, batch: Tensor, targets: Targets, *, layer: str | None = None
) -> NDArray[np.float32]:
    """Gradient-weighted class activation maps (Selvaraju et al. 2017, eq. 1 and 2).

    Args:
        batch: (N, 3, S, S) float32, normalised.
        targets: (N,) class indices, one per image.
        layer: Name of another layer that gives a map, see :func:`find_layer`; by default the
            last feature map before pooling.

    Returns:
        (N, h, w) float32 in 0–1 at the resolution of the feature map, each scaled to a largest
        value of 1; all zero where nothing speaks for the class.

    Raises:
        ConfigError: The network has no feature map that its output depends on.
        UnknownNameError: No such layer.
    """
    from captum.attr import LayerGradCam

    module = find_layer(network, layer)
    with evaluating(network), torch.enable_grad():
        method = LayerGradCam(network, module)
        maps = method.attribute(batch.clone(), target=_indices(targets), relu_attributions=True)
    return _scaled(maps.detach()[:, 0])


def grad_cam_plus_plus(
    network: Network, batch: Tensor, targets: Targets, *, layer: str | None = None
) -> NDArray[np.float32]:
    """Grad-CAM++ (Chattopadhay et al. 2018), which weighs each place of a map by itself.

    With ``g`` the gradient of the logit with respect to the map ``A`` of a channel, the weight of
    the channel is ``Σ_ij α_ij · ReLU(g_ij)`` (eq. 5), with ``α_ij = g_ij² / (2 g_ij² + Σ_ab A_ab
    g_ij³)`` (eq. 19, where the score is the exponential of the logit; its factor ``exp(logit)`` is
    the same for all channels and falls out when the map is scaled).

    Args, returned value and errors are those of :func:`grad_cam`.
    """
    module = find_layer(network, layer)
    grid, gradient = _map_and_gradient(network, module, batch, _indices(targets))
    squared = gradient.square()
    below = 2 * squared + grid.sum((2, 3), keepdim=True) * squared * gradient
    alpha = torch.where(below != 0, squared / below.where(below != 0, torch.ones(())), 0)
    weight = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return _scaled((weight * grid).sum(1))


def occlusion(
    network: Network, batch: Tensor, targets: Targets, *, layer: str | None = None
) -> NDArray[np.float32]:
    """How much the logit falls where a place is covered (Zeiler & Fergus 2014, section 4.2).

    A square of an eighth of the side moves over the image by half its width; what it covers gets
    the image's own mean colour, so that no edge of an unknown colour is added.

    Args:
        layer: Must be None: the method explains the input, not a layer.

    Returns:
        (N, S, S) float32 in 0–1: the mean loss of logit over the squares that cover each pixel,
        scaled to a largest value of 1; all zero where no square lowers it.

    Raises:
        ConfigError: A layer was named.
    """
    from captum.attr import Occlusion

    _no_layer("occlusion", layer)
    window = max(2, batch.shape[-1] // OCCLUDED_SHARE)
    with evaluating(network), torch.no_grad():
        values = Occlusion(network).attribute(
            batch,
            (3, window, window),
            strides=(3, window // 2, window // 2),
            baselines=_own_mean(batch),
            target=_indices(targets),
            perturbations_per_eval=BATCH,
        )
    return _scaled(values[:, 0])


def integrated_gradients(
    network: Network, batch: Tensor, targets: Targets, *, layer: str | None = None
) -> NDArray[np.float32]:
    """Integrated gradients (Sundararajan et al. 2017, eq. 1) from the image's own mean colour.

    The three channels are summed and the result averaged over small cells, since single pixels
    are mostly noise.

    Args:
        layer: Must be None: the method explains the input, not a layer.

    Returns:
        (N, s, s) float32 in 0–1 with s at most about 56, what speaks against the class set to
        zero, the rest scaled to its 99.5th percentile.

    Raises:
        ConfigError: A layer was named.
    """
    _no_layer("integrated-gradients", layer)
    signed = integrate(network, batch, targets).sum(1, keepdim=True)
    cell = max(1, batch.shape[-1] // IG_CELLS)
    cells = nn.functional.avg_pool2d(signed, cell, ceil_mode=True)[:, 0].relu()
    top = cells.flatten(1).quantile(IG_QUANTILE, dim=1)
    top = torch.where(top > 0, top, cells.amax((1, 2)))
    return _scaled(cells.minimum(top[:, None, None]))


def integrate(network: Network, batch: Tensor, targets: Targets) -> Tensor:
    """Integrated gradients as they are: they sum to the gain of logit over the baseline.

    Returns:
        (N, 3, S, S) float32, signed.
    """
    from captum.attr import IntegratedGradients

    with evaluating(network), torch.enable_grad():
        values: Tensor = IntegratedGradients(network).attribute(
            batch.clone(),
            baselines=_own_mean(batch),
            target=_indices(targets),
            n_steps=INTEGRATION_STEPS,
            internal_batch_size=max(BATCH, len(batch)),
        )
    return values.detach().float()


class HeatMapMethod(Protocol):
    """Signature of all four methods."""

    def __call__(
        self, network: Network, batch: Tensor, targets: Targets, *, layer: str | None = None
    ) -> NDArray[np.float32]:
        """(N, 3, S, S) normalised images and N classes to (N, h, w) heat in 0–1."""
        ...


METHODS: Mapping[str, HeatMapMethod] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "occlusion": occlusion,
    "integrated-gradients": integrated_gradients,
}
"""By the name that ``explain --method`` takes."""


def find_method(name: str) -> HeatMapMethod:
    """One of :data:`METHODS`."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


def find_layer(network: Network, name: str | None) -> nn.Module:
    """The layer that class activation maps look at.

    Args:
        name: A module's name, with or without ``backbone.`` before it; None means the last
            feature map before pooling.

    Raises:
        ConfigError: The network has no feature map that its output depends on.
        UnknownNameError: No such layer; names the nearest.
    """
    if network.gradcam_layer is None:
        raise ConfigError(
            f"{network.config.backbone} has no feature map for Grad-CAM",
            hint="use the method occlusion or integrated-gradients",
        )
    if name is None or name == _LAYER:
        return network.gradcam_layer
    layers: dict[str, nn.Module]
    layers = {key.removeprefix(_BACKBONE): module for key, module in network.named_modules()}
    module = layers.get(name.removeprefix(_BACKBONE)) if name else None
    if module is None:
        choices = _worth_naming(network, name, layers)
        raise UnknownNameError(f"layer of {network.config.backbone}", name, choices)
    shape = _output_shapes(network, {name: module}).get(name, ())
    if network.channels_last or len(shape) != 4:
        came = f"gives {' × '.join(map(str, shape[1:]))} values" if shape else "is not used"
        raise ConfigError(
            f"{network.config.backbone}: expected a layer that gives a map (channels × height × "
            f"width), but {name!r} {came}{' (channels last)' if network.channels_last else ''}",
            hint="leave the layer out to look at the last feature map, or name another",
        )
    return module


def _worth_naming(network: Network, name: str, layers: Mapping[str, nn.Module]) -> list[str]:
    """The nearest names and the large blocks that give maps: a network has hundreds of layers."""
    near = difflib.get_close_matches(name, [key for key in layers if key], n=5)
    blocks = {key: module for key, module in layers.items() if key and key.count(".") < 2}
    shapes = _output_shapes(network, blocks)
    maps = [key for key in blocks if max(shapes.get(key, ())[2:], default=0) > 1 and key != "extra"]
    return list(dict.fromkeys([*near, *maps[-12:]]))


def _output_shapes(network: Network, layers: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of what layers give for one image; one that is never called is left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(key: str, _module: nn.Module, _given: object, output: object) -> None:
        shapes[key] = tuple(output.shape) if isinstance(output, Tensor) else ()

    hooks = [
        layer.register_forward_hook(functools.partial(keep, key)) for key, layer in layers.items()
    ]
    pass_black_image(network, hooks)
    return shapes


def _map_and_gradient(
    network: Network, module: nn.Module, batch: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Output of a layer and the gradient of each image's own logit, both (N, C, h, w)."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # the next layer may work in place

    hook = module.register_forward_hook(keep)
    try:
        with evaluating(network), torch.enable_grad():
            logits = network(batch.clone().requires_grad_())
            chosen = logits.gather(1, targets[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept[-1:])
    finally:
        hook.remove()
    return kept[-1].detach().float(), gradient.float()


def _no_layer(method: str, layer: str | None) -> None:
    if layer is not None:
        raise ConfigError(
            f"the method {method} changes the input and looks at no layer, got {layer!r}",
            hint="leave the layer out, or use grad-cam or grad-cam++",
        )


def _indices(targets: Targets) -> Tensor:
    return torch.as_tensor(targets, dtype=torch.long)


def _own_mean(batch: Tensor) -> Tensor:
    """Each image without its structure: (N, 3, S, S) of its mean colour."""
    return batch.mean((2, 3), keepdim=True).expand_as(batch)


def _scaled(heat: Tensor) -> NDArray[np.float32]:
    """(N, h, w) to positive values with a largest of 1."""
    positive = heat.float().relu()
    peak = positive.amax(dim=(1, 2), keepdim=True)
    return np.asarray((positive / peak.clamp_min(1e-12)).numpy(), dtype=np.float32)


def randomised(network: Network, images: Tensor, *, seed: int = 0) -> list[tuple[str, Network]]:
    """Cascading randomisation (Adebayo et al. 2018, section 4.1).

    The values of each tensor are shuffled, which leaves their distribution and undoes what was
    learned. Batch norms of the shuffled layers are estimated again on images: with their old
    statistics signals die out or overflow, and a map of such a network is no fair comparison.

    Args:
        images: (n, 3, S, S) float32, normalised, n ≥ 2.

    Returns:
        For each stage its name (``head``, ``to blocks.4``, … ``all layers``) and the network with
        the layers of this and the earlier stages shuffled.
    """
    result, forgetful = [], network
    generator = torch.Generator().manual_seed(seed)
    stages = cascade(network)
    for number, names in enumerate(stages, start=1):
        forgetful = copy.deepcopy(forgetful)
        layers = [forgetful.get_submodule(name) for name in names]
        for layer in layers:
            _shuffle(layer, generator)
        _estimate_norms(forgetful, layers, images)
        title = "head" if number == 1 else f"to {names[-1].removeprefix('backbone.')}"
        result.append(("all layers" if number == len(stages) else title, forgetful))
    return result


def cascade(network: Network) -> list[list[str]]:
    """Names of the layers that hold weights, from the head to the stem, in at most four stages."""
    top = [name for name in ("extra", "hidden", "head") if _has_state(network.get_submodule(name))]
    below = []
    for name, child in network.backbone.named_children():
        parts = isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child) > 1
        inner = [f"{name}.{key}" for key, _ in child.named_children()] if parts else [name]
        below += [f"backbone.{key}" for key in inner]
    below = [name for name in reversed(below) if _has_state(network.get_submodule(name))]
    if not below:
        return [top[::-1]]
    cuts = [round(stage * len(below) / (STAGES - 1)) for stage in range(STAGES)]
    stages = [below[start:stop] for start, stop in pairwise(cuts)]
    return [top[::-1], *(names for names in stages if names)]


def _has_state(module: nn.Module) -> bool:
    return any(tensor.is_floating_point() for tensor in module.state_dict().values())


def _shuffle(layer: nn.Module, generator: torch.Generator) -> None:
    # A classifier fitted on features keeps its values in buffers.
    tensors: list[Tensor] = [*layer.parameters()]
    tensors = tensors or [t for t in layer.buffers() if t.is_floating_point()]
    with torch.no_grad():
        for tensor in tensors:
            order = torch.randperm(tensor.numel(), generator=generator)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))


def _estimate_norms(network: Network, layers: list[nn.Module], images: Tensor) -> None:
    norms = [m for layer in layers for m in layer.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    with evaluating(network), torch.no_grad():
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean, here over one batch
            norm.train()
        network(images)
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()
