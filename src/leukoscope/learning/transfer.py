"""What the second phase of a transfer took over from the first, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import WeightsError
from leukoscope.learning.backbones import build_network
from leukoscope.learning.weights import find_weights_file, read_tensors

_BACKBONE = "backbone."


def compare_tensors(recipe: Recipe, num_classes: int, checkpoint: Path) -> dict[str, Any]:
    """Start a network from a checkpoint as training would, and compare the two.

    The backbone is taken over; head, hidden layers and extra convolutions are new, because the
    classes differ.

    Args:
        recipe: Its ``model.weights`` is the checkpoint's folder.
        num_classes: K of the new network.
        checkpoint: A model's folder.

    Returns:
        ``taken_over``, the number of backbone tensors, ``values``, how many numbers they hold;
        ``new`` and ``left_behind``: name and shape of the others, in the network and in the
        checkpoint.

    Raises:
        WeightsError: The checkpoint is not at hand, or a tensor of the backbone is not its own.
    """
    network = build_network(
        recipe.model, num_classes=num_classes, size_px=recipe.preprocess.size_px
    )
    own, given = network.state_dict(), read_tensors(find_weights_file(checkpoint))
    backbone = [name for name in own if name.startswith(_BACKBONE)]
    other = [k for k in backbone if k not in given or not torch.equal(own[k], given[k])]
    if other:
        raise WeightsError(
            f"{checkpoint}: {len(other)} of {len(backbone)} tensors of the backbone were not taken "
            f"over, e.g. {other[0]}",
            hint="train the first phase again, with a backbone that is not frozen",
        )
    return {
        "taken_over": len(backbone),
        "values": sum(own[name].numel() for name in backbone),
        "new": _shapes(own),
        "left_behind": _shapes(given),
    }


def _shapes(tensors: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(tensor.shape)}
        for name, tensor in tensors.items()
        if not name.startswith(_BACKBONE)
    ]
