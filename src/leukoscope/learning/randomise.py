"""Networks whose layers forget, from the head to the stem: a map of them must look different."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leukoscope.learning.backbones import Network, evaluating

STAGES = 4  # the head, then thirds of the backbone


def randomised(network: Network, images: Tensor, *, seed: int = 0) -> list[tuple[str, Network]]:
    """Cascading randomisation (Adebayo et al. 2018, section 4.1).

    The values of each tensor are shuffled, which leaves their distribution and undoes what was
    learned. Batch norms of the shuffled layers are estimated again on images: with their old
    statistics signals die out or overflow, and a map of such a network is no fair comparison.

    Args:
        network: Stays as it is.
        images: (n, 3, S, S) float32, normalised, n ≥ 2.
        seed: Of the shuffling.

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
