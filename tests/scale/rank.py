"""One of the processes of a training, for ``test_launch.py``, which also imports it."""

from __future__ import annotations

import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Augmentation, GradientTraining, ModelConfig, Recipe
from leukoscope.learning import trainer
from leukoscope.learning.backbones import build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.optimisers import build_loss

RECIPE = Recipe(
    name="tiny",
    title="for tests",
    preprocess=PreprocessSpec(size_px=32),
    model=ModelConfig(backbone="cnn-baseline", weights="none", hidden=(16,)),
    training=GradientTraining(
        epochs=2,
        batch_size=7,  # 30 images: shares of 4 and 3, and a last batch of 2
        precision="fp32",
        class_weights=True,
        clip_norm=1.0,
        ema=0.9,
        mixup=0.3,
        not_finite="skip",
    ),
    augmentation=Augmentation(rotation_deg=20, horizontal_flip=True),
)


class Faulty(nn.Module):
    """A loss whose second value is not a number, and whose third has no finite gradient."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.calls = loss, 0

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        value: Tensor = self.loss(logits, y)
        if self.calls in (3, 4):  # mixup asks twice for each batch
            return value * float("nan")
        if self.calls in (5, 6):
            return (value - value.detach() + 1) * 1e38
        return value


def train(out: Path) -> None:
    """Train on three classes that differ in redness; keep the weights of this process."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    y = np.arange(45) % 3
    pixels = rng.integers(0, 60, (45, 32, 32, 3), dtype=np.uint8)
    pixels[..., 0] += (y * 90).astype(np.uint8)[:, None, None]
    sets = ImageSet(pixels[:30], y[:30]), ImageSet(pixels[30:], y[30:])
    network = build_network(RECIPE.model, num_classes=3, size_px=32, seed=1)
    trainer.build_loss = lambda *values: Faulty(build_loss(*values))
    trainer.train_gradient(network, RECIPE, *sets, out, seed=3)
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    np.savez(out / f"rank{rank}.npz", **{k: v.numpy() for k, v in network.state_dict().items()})


if __name__ == "__main__":
    warnings.simplefilter("error")
    folder = Path(sys.argv[1])
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(seconds=120),
    )
    train(folder)
    distributed.destroy_process_group()
