"""Grad-CAM: where in the image the score of a class came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.core.errors import ConfigError
from leukoscope.learning.backbones import Network, evaluating


def grad_cam(
    network: Network, batch: Tensor, targets: Sequence[int] | Tensor
) -> NDArray[np.float32]:
    """Gradient-weighted class activation maps (Selvaraju et al. 2017, eq. 1 and 2).

    Args:
        network: A network with a feature map.
        batch: (N, 3, S, S) float32, normalised.
        targets: (N,) class indices, one per image.

    Returns:
        (N, h, w) float32 in 0–1 at the resolution of the feature map, each scaled to a largest
        value of 1; all zero where nothing speaks for the class.

    Raises:
        ConfigError: The network has no feature map that its output depends on.
    """
    from captum.attr import LayerGradCam

    if network.gradcam_layer is None:
        raise ConfigError(
            f"{network.config.backbone} has no feature map for Grad-CAM",
            hint="choose a convolutional backbone, see `leukoscope models list`",
        )
    target = torch.as_tensor(targets, dtype=torch.long)
    with evaluating(network), torch.enable_grad():
        method = LayerGradCam(network, network.gradcam_layer)
        maps = method.attribute(batch.clone(), target=target, relu_attributions=True)
    heat = maps.detach()[:, 0].float()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return np.asarray((heat / peak.clamp_min(1e-12)).numpy(), dtype=np.float32)
