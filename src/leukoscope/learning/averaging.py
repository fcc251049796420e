"""The exponential moving average of a network's weights."""

from __future__ import annotations

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from leukoscope.learning.activations import Trainable


def average_of(network: Trainable, decay: float) -> AveragedModel:
    """A copy that follows a network in training (as in Szegedy et al. 2016, section 8).

    After step n each weight, and each statistic of batch norm, moves towards the network's by
    ``1 − min(decay, (1 + n) / (10 + n))``, the warm-up of TensorFlow's ExponentialMovingAverage:
    a plain decay of 0.999 would still show the first weights after some hundred steps.

    Args:
        network: What it follows, by ``update_parameters(network)`` after each step.
        decay: The largest share of the old value.

    Returns:
        The average; its state dict restores it. ``module`` is the averaged network.
    """

    def follow(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        steps = int(count)
        return old + (new - old) * (1 - min(decay, (1 + steps) / (10 + steps)))

    average = AveragedModel(network, avg_fn=follow, use_buffers=True)
    average.requires_grad_(False)
    return average
