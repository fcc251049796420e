"""One gradient training of a study: the recipe's training, then its refinement."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Augmentation, GradientTraining, Recipe
from leukoscope.core.run_folder import frozen_folder
from leukoscope.learning.activations import UpperPart, upper_part
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import CachedRows, ImageSet
from leukoscope.learning.checkpoint import RESUME, save_checkpoint
from leukoscope.learning.frozen import HeadOnly
from leukoscope.learning.trainer import predict_logits, predict_outputs, train_gradient
from leukoscope.study.events import Tell
from leukoscope.study.jobs import HELD_OUT, Labelled, Logits, PartRows


class GateFitter(Protocol):
    """What fits and measures the gate of a fold beside its model."""

    def parts(self, rows: PartRows) -> PartRows:
        """The rows whose features are needed, by part."""

    def shown(self, images: NDArray[np.uint8], rows: PartRows, part: str) -> NDArray[np.uint8]:
        """(m, S, S, 3) uint8 pixels of one of these parts."""

    def keep(
        self,
        folder: Path,
        rows: PartRows,
        seen: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    ) -> None:
        """Fit the gate from features and logits of each part, and write it."""


@dataclass(frozen=True)
class GradientJob:
    """A recipe on one fold.

    Attributes:
        recipe: What is trained.
        pixels: (n, S, S, 3) uint8 RGB of every image of the data.
        views: What is cached of copies of each image, where the recipe asks for it.
        data: Labels and names, in the order of ``pixels``.
        folder: The model's folder.
        seed: Of everything random.
        tell: Told of batches done.
        keeper: Also fits and measures the fold's gate; None where there is none.
        announce: Tells the processes that take part of folder, seed, rows and cache.
    """

    recipe: Recipe
    pixels: NDArray[np.uint8]
    views: CachedRows | None
    data: Labelled
    folder: Path
    seed: int
    tell: Tell
    keeper: GateFitter | None = None
    announce: Callable[[str, int, PartRows, bool], None] | None = None

    def __call__(self, rows: PartRows) -> dict[str, Logits]:
        """Train, save the checkpoint, and apply it to the held-out images."""
        if self.announce is not None:
            self.announce(str(self.folder), self.seed, rows, self.views is not None)
        network = self.train(rows)
        names = self.data.class_names
        save_checkpoint(self.folder, network, self.recipe, names, extra={"seed": self.seed})
        shutil.rmtree(frozen_folder(self.folder) / RESUME, ignore_errors=True)
        return self._predict(network, rows)

    def train(self, rows: PartRows) -> Network:
        """The trained network: by the recipe's training, then its refinement."""
        recipe = self.recipe
        network = build_network(
            recipe.model,
            num_classes=len(self.data.class_names),
            size_px=recipe.preprocess.size_px,
            seed=self.seed,
        )
        refined = recipe.refined()
        first = frozen_folder(self.folder) if refined else self.folder
        self._train_first(network, rows, first)
        if refined:
            self._train(network, refined, self._sets(self.pixels, rows), self.folder)
        return network

    def _predict(self, network: Network, rows: PartRows) -> dict[str, Logits]:
        spec, keeper = self.recipe.preprocess, self.keeper
        seen = {}
        if keeper is not None:
            parts = keeper.parts(rows)
            for part in parts:
                pixels = keeper.shown(self.pixels, parts, part)
                seen[part] = predict_outputs(network, pixels, spec)
            keeper.keep(self.folder, parts, seen)
        return {
            part: seen[part][1]
            if part in seen
            else predict_logits(network, self.pixels[rows[part]], spec)
            for part in HELD_OUT
        }

    def _train_first(self, network: Network, rows: PartRows, folder: Path) -> None:
        if self.views is None:
            self._train(network, self.recipe, self._sets(self.pixels, rows), folder)
            return
        assert isinstance(self.recipe.training, GradientTraining)
        recipe = self.recipe.model_copy(update={"augmentation": Augmentation()})  # copies have it
        freeze = self.recipe.training.freeze
        if freeze == "all":
            training = self.recipe.training.model_copy(update={"freeze": 0})
            part: HeadOnly | UpperPart | None = HeadOnly(network)
            recipe = recipe.model_copy(update={"training": training})
        else:
            part = upper_part(network, freeze)
        assert part is not None
        self._train(part, recipe, self._sets(self.views, rows), folder)
        network.eval().requires_grad_(True)

    def _train(
        self,
        network: Network | HeadOnly | UpperPart,
        recipe: Recipe,
        sets: tuple[ImageSet, ImageSet],
        folder: Path,
    ) -> None:
        train_gradient(
            network,
            recipe,
            *sets,
            folder,
            seed=self.seed,
            class_names=self.data.class_names,
            progress=self.tell,
        )

    def _sets(
        self, values: NDArray[np.uint8] | CachedRows, rows: PartRows
    ) -> tuple[ImageSet, ImageSet]:
        train, val = (
            ImageSet(
                replace(values, rows=values.rows[rows[part]])
                if isinstance(values, CachedRows)
                else values[rows[part]],
                self.data.y[rows[part]],
                tuple(self.data.records[row].path for row in rows[part]),
                tuple(self.data.records[row].patient_id for row in rows[part]),
            )
            for part in ("train", "val")
        )
        return train, val
