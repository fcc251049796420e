"""Gradient training of a network in one fold, and its refinement."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Augmentation, GradientTraining, Recipe
from leukoscope.core.run_folder import frozen_folder
from leukoscope.learning.activations import HeadOnly, UpperPart, upper_part
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import CachedRows, ImageSet
from leukoscope.learning.checkpoint import RESUME, save_checkpoint
from leukoscope.learning.features import predict_logits, predict_outputs
from leukoscope.pipeline.jobs import HELD_OUT, Labelled, Logits, PartRows
from leukoscope.pipeline.progress import Tell
from leukoscope.pipeline.rejection import GateKeeper


@dataclass(frozen=True)
class GradientTrainer:
    """Trains networks of one recipe.

    Attributes:
        recipe: What is trained.
        pixels: (n, S, S, 3) uint8 RGB of every image of the data.
        views: What is cached of copies of each image, where the recipe asks for it.
        data: Labels and names, in the order of ``pixels``.
        announce: Tells the processes that take part of folder, seed, rows and cache.
    """

    recipe: Recipe
    pixels: NDArray[np.uint8]
    views: CachedRows | None
    data: Labelled
    announce: Callable[[str, int, PartRows, bool], None] | None = None

    def fit(
        self, rows: PartRows, folder: Path, seed: int, tell: Tell, gate: GateKeeper | None = None
    ) -> dict[str, Logits]:
        """See :class:`~leukoscope.pipeline.inner_folds.Trainer`."""
        if self.announce is not None:
            self.announce(str(folder), seed, rows, self.views is not None)
        network = self.train(rows, folder, seed, tell)
        save_checkpoint(folder, network, self.recipe, self.data.class_names, extra={"seed": seed})
        shutil.rmtree(frozen_folder(folder) / RESUME, ignore_errors=True)
        return self._predict(network, rows, folder, gate)

    def train(self, rows: PartRows, folder: Path, seed: int, tell: Tell) -> Network:
        """The trained network: by the recipe's training, then its refinement."""
        from leukoscope.learning.trainer import train_gradient  # brings Lightning; most fits do not

        recipe = self.recipe
        network = build_network(
            recipe.model,
            num_classes=len(self.data.class_names),
            size_px=recipe.preprocess.size_px,
            seed=seed,
        )
        refined = recipe.refined()
        train = partial(
            train_gradient,
            seed=seed,
            class_names=self.data.class_names,
            roles=self.data.roles,
            progress=tell,
        )
        first = frozen_folder(folder) if refined else folder
        if self.views is None:
            train(network, recipe, *self._sets(self.pixels, rows), first)
        else:
            part, on_cache = _cached_training(network, recipe)
            train(part, on_cache, *self._sets(self.views, rows), first)
            network.eval().requires_grad_(True)
        if refined:
            train(network, refined, *self._sets(self.pixels, rows), folder)
        return network

    def _predict(
        self, network: Network, rows: PartRows, folder: Path, gate: GateKeeper | None
    ) -> dict[str, Logits]:
        """Apply the network to the held-out images, each once; the gate needs features too."""
        spec, seen = self.recipe.preprocess, {}
        if gate is not None:
            parts = gate.parts(rows)
            for part in parts:
                seen[part] = predict_outputs(network, gate.shown(self.pixels, parts, part), spec)
            gate.keep(folder, parts, seen)
        return {
            part: seen[part][1]
            if part in seen
            else predict_logits(network, self.pixels[rows[part]], spec)
            for part in HELD_OUT
        }

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


def _cached_training(network: Network, recipe: Recipe) -> tuple[HeadOnly | UpperPart, Recipe]:
    """What of a network is trained on the cache, and the recipe of that: copies are augmented."""
    training = recipe.training
    assert isinstance(training, GradientTraining)
    recipe = recipe.model_copy(update={"augmentation": Augmentation()})
    if training.freeze == "all":
        unfrozen = training.model_copy(update={"freeze": 0})
        return HeadOnly(network), recipe.model_copy(update={"training": unfrozen})
    part = upper_part(network, training.freeze)
    assert part is not None
    return part, recipe
