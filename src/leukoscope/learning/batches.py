"""Images in memory, and the batches of each epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from leukoscope.learning.augment import augment_batch


@dataclass(frozen=True)
class ImageSet:
    """Preprocessed images in memory, and their classes.

    Attributes:
        images: (n, S, S, 3) uint8 RGB.
        y: (n,) class indices.
    """

    images: NDArray[np.uint8]
    y: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Hash of the pixels and classes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.y, dtype=np.int64).tobytes())
        for image in self.images:
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()


class Clock(Protocol):
    """Who knows the epoch."""

    seed: int

    @property
    def current_epoch(self) -> int:
        """From 0."""
        ...


class Batches:
    """Batches of a set in memory: shuffled and augmented where there is a transform."""

    def __init__(
        self, data: ImageSet, batch_size: int, clock: Clock, transform: v2.Transform | None
    ) -> None:
        self.data, self.batch_size = data, batch_size
        self.clock, self.transform = clock, transform

    def __len__(self) -> int:
        return math.ceil(len(self.data.y) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed, epoch = self.clock.seed, self.clock.current_epoch
        order = np.arange(len(self.data.y))
        if self.transform is not None:
            order = np.random.default_rng((seed, epoch)).permutation(order)
        for number in range(len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            images = torch.from_numpy(self.data.images[rows])
            if self.transform is not None:
                images = augment_batch(images, self.transform, batch_seed(seed, epoch, number))
            yield images, torch.from_numpy(self.data.y[rows].astype(np.int64))


def batch_seed(seed: int, epoch: int, batch: int) -> int:
    """A seed for one batch of one epoch, independent of all others."""
    entropy = np.random.SeedSequence((seed, epoch, batch + 1))
    return int(entropy.generate_state(1)[0])
