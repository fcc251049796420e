"""One gradient training of a study, its refinement, and its models of inner folds."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Augmentation, GradientTraining, Recipe
from leukoscope.core.errors import SplitError
from leukoscope.core.files import write_csv
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import frozen_folder
from leukoscope.evaluation.calibration import log_softmax, softmax
from leukoscope.evaluation.combining import log_probs, weighted_mean
from leukoscope.learning.activations import HeadOnly, UpperPart, upper_part
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import CachedRows, ImageSet
from leukoscope.learning.checkpoint import RESUME, save_checkpoint
from leukoscope.learning.trainer import predict_logits, predict_outputs, train_gradient
from leukoscope.pipeline.jobs import HELD_OUT, FitAndPredict, Labelled, Logits, PartRows
from leukoscope.pipeline.progress import Tell, TellWithin

MakeJob = Callable[[Path, int, Tell], FitAndPredict]
COLUMNS = ("member", "n_train", "n_val", "val_loss", "val_accuracy")


def inner_parts(
    rows: NDArray[np.int64], y: NDArray[np.int64], groups: NDArray[np.str_], folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Divide rows into folds that keep groups whole and classes balanced.

    Args:
        rows: (n,) row numbers.
        y: (n,) their classes.
        groups: (n,) the units that the outer protocol holds out.
        folds: How many.
        seed: Of the division.

    Returns:
        For each fold the rows to train on and those that select.

    Raises:
        SplitError: Fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = len(np.unique(groups))
    if count < folds:
        raise SplitError(
            f"inner_folds = {folds}, but there are {count} groups to train on",
            hint="set a smaller number of inner folds",
        )
    counts = np.bincount(y)
    balanced = np.where(counts[y] < folds, counts.argmax(), y)  # too rare to be in each fold
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [(rows[a], rows[b]) for a, b in splitter.split(rows, balanced, groups)]


def member_recipe(recipe: Recipe) -> Recipe:
    """The recipe of one member: without a refit, which would make all members alike."""
    training = recipe.training
    if not isinstance(training, GradientTraining):
        training = training.model_copy(update={"refit_with_val": False})
    return recipe.model_copy(update={"inner_folds": 0, "training": training})


def fit_inner_folds(
    make: MakeJob,
    data: Labelled,
    fold: Fold,
    folds: int,
    folder: Path,
    seed: int,
    tell: TellWithin,
    rows: Mapping[str, NDArray[np.int64]],
) -> dict[str, Logits]:
    """Fit one model on each inner fold and average the probabilities of the held-out images.

    The inner folds divide the outer train and val parts together, since each member selects on
    its own. Groups of the outer fold stay whole inside, too. Members go to ``inner0``, ``inner1``
    … below ``folder``, their scores to ``inner.csv``; ``rows`` are row numbers of the outer parts.

    Returns:
        Logarithms of the mean probabilities of the outer cal and test images, and for each outer
        val image those of the member that was not trained on it.
    """
    y, n_val = data.y, len(rows["val"])
    pool = np.concatenate([rows["val"], rows["train"]])
    ids = [data.records[row].image_id for row in pool]
    groups = np.array([fold.groups.get(image_id, image_id) for image_id in ids])
    unseen = np.full((len(data.records), len(data.class_names)), np.nan)
    members, scores = [], []
    for number, (inner_train, inner_val) in enumerate(
        inner_parts(pool, y[pool], groups, folds, seed)
    ):
        member_seed = zlib.crc32(f"{seed}:{number}".encode()) % 2**31
        logits = make(folder / f"inner{number}", member_seed, partial(tell, later=number))(
            {"train": inner_train, "val": inner_val, "cal": rows["cal"], "test": rows["test"]}
        )
        own = log_softmax(logits["val"])
        unseen[inner_val] = own
        scores.append(
            {
                "member": number,
                "n_train": len(inner_train),
                "n_val": len(inner_val),
                "val_loss": float(-own[np.arange(len(inner_val)), y[inner_val]].mean()),
                "val_accuracy": float((own.argmax(axis=1) == y[inner_val]).mean()),
            }
        )
        members.append({part: softmax(logits[part]) for part in ("cal", "test")})
    write_csv(folder / "inner.csv", COLUMNS, scores)
    mean = {
        part: log_probs(weighted_mean(np.stack([member[part] for member in members])))
        for part in ("cal", "test")
    }
    return {"val": unseen[pool[:n_val]], **mean}


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
