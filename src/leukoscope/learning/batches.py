"""Images in memory, and the batches of each epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leukoscope.core.errors import TrainingError
from leukoscope.learning.augment import augment_batch
from leukoscope.learning.lean import v2

SamplingMode = Literal["shuffle", "balanced", "patients"]


@dataclass(frozen=True)
class CachedRows:
    """Some rows of a cache on disk, read on demand."""

    cache: NDArray[np.float16]  # (n, V, …) float16, all images
    rows: NDArray[np.int64]  # (m,) indices of the rows
    key: str  # hash of what the cache holds

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float16]:
        """Copies of the images at these places."""
        found: NDArray[np.float16] = self.cache[self.rows[index]]
        return found

    @property
    def sha256(self) -> str:
        """Hash of what the rows hold."""
        return hashlib.sha256(self.key.encode() + self.rows.tobytes()).hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """Preprocessed images in memory, and their classes.

    Attributes:
        images: (n, S, S, 3) uint8 RGB, or what is cached of V copies of each.
        names: (n,) file names for messages, or none.
        patients: (n,) who each image is of, or none; only sampling by patient needs them.
    """

    images: NDArray[np.uint8] | NDArray[np.float16] | CachedRows
    y: NDArray[np.int64]
    names: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    def describe(self, rows: Sequence[int]) -> str:
        """Which images these are, for a message; at most three by name.

        >>> ImageSet(np.zeros((9, 1, 1, 3), np.uint8), np.zeros(9, np.int64)).describe([4, 7])
        'rows 4, 7'
        """
        shown = [self.names[row] if self.names else str(row) for row in rows[:3]]
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        kind = "file" if self.names else "row"
        return f"{kind}{'s' if len(rows) > 1 else ''} {', '.join(shown)}{more}"

    @property
    def sha256(self) -> str:
        """Hash of the pixels and classes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.y, dtype=np.int64).tobytes())
        if isinstance(self.images, CachedRows):
            digest.update(self.images.sha256.encode())
        else:
            for image in self.images:
                digest.update(np.ascontiguousarray(image).data)
        digest.update("\n".join(self.patients).encode())
        return digest.hexdigest()

    def draw_probabilities(self, sampling: SamplingMode) -> NDArray[np.float64] | None:
        """Probability of drawing each image, (n,); None where all images are shuffled.

        Each class weighs the same; with ``patients``, within it each patient as well.

        >>> few = ImageSet(np.zeros((4, 1, 1, 3), np.uint8), np.array([0, 0, 0, 1]))
        >>> few.draw_probabilities("balanced").round(3).tolist()
        [0.167, 0.167, 0.167, 0.5]

        Raises:
            TrainingError: ``patients`` where an image's patient is not known.
        """
        if sampling == "shuffle":
            return None
        _, classes, counts = np.unique(self.y, return_inverse=True, return_counts=True)
        chances: NDArray[np.float64] = 1 / counts[classes]
        if sampling == "patients":
            unknown = [i for i in range(len(self.y)) if not (self.patients and self.patients[i])]
            if unknown:
                raise TrainingError(
                    f'training.sampling = "patients" needs the patient of every training image, '
                    f"but {len(unknown)} of {len(self.y)} have none ({self.describe(unknown)})",
                    hint="add a patient_id column to the data's manifest, or set "
                    'training.sampling = "balanced"',
                )
            pairs = np.array([f"{y}:{p}" for y, p in zip(self.y, self.patients, strict=True)])
            _, who, images = np.unique(pairs, return_inverse=True, return_counts=True)
            chances = 1 / images[who]
            chances = chances / np.bincount(classes, chances)[classes]
        return np.asarray(chances / chances.sum(), np.float64)


class EpochClock(Protocol):
    """Anything that knows the current epoch, such as a trainer."""

    seed: int

    @property
    def current_epoch(self) -> int:
        """Number of the current epoch, from 0."""
        ...


class Batches:
    """Batches of a set in memory: shuffled and augmented where there is a transform.

    Args:
        transform: None for images that are only looked at.
        sampling: ``shuffle``, or draw with replacement: each class equally often, and each
            patient within it.

    Raises:
        TrainingError: Sampling by patient of images whose patients are not known.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        clock: EpochClock,
        transform: v2.Transform | None,
        *,
        sampling: SamplingMode = "shuffle",
    ) -> None:
        self.data, self.batch_size = data, batch_size
        self.clock, self.transform = clock, transform
        self._draw_probabilities = data.draw_probabilities(sampling)

    def __len__(self) -> int:
        return batch_count(len(self.data.y), self.batch_size, training=self.transform is not None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images (N, S, S, 3) uint8, classes (N,), and their rows in the set (N,)."""
        seed, epoch = self.clock.seed, self.clock.current_epoch
        order = self._order(np.random.default_rng((seed, epoch)))
        for number in range(len(self)):
            last = number == len(self) - 1
            end = len(order) if last else (number + 1) * self.batch_size
            rows = order[number * self.batch_size : end]
            images = torch.from_numpy(self.data.images[rows])
            if self.transform is not None:
                images = augment_batch(images, self.transform, batch_seed(seed, epoch, number))
            y = torch.from_numpy(self.data.y[rows].astype(np.int64))
            yield images, y, torch.from_numpy(rows)

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        order = np.arange(len(self.data.y))
        if self.transform is None:
            return order
        if self._draw_probabilities is None:
            return rng.permutation(order)
        return rng.choice(order, size=len(order), p=self._draw_probabilities)


def batch_count(images: int, batch_size: int, *, training: bool) -> int:
    """How many batches there are.

    A single image that would be left over in training joins the batch before: batch norm has no
    variance of one image.

    >>> batch_count(9, 4, training=True), batch_count(9, 4, training=False)
    (2, 3)
    """
    if training and images > batch_size > 1 and images % batch_size == 1:
        return images // batch_size
    return math.ceil(images / batch_size)


def batch_seed(seed: int, epoch: int, batch: int) -> int:
    """A seed for one batch of one epoch, independent of all others."""
    entropy = np.random.SeedSequence((seed, epoch, batch + 1))
    return int(entropy.generate_state(1)[0])
