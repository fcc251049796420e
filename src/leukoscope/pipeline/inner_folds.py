"""Recipes with inner folds: one model on each, and the mean of what they predict."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.core.errors import SplitError
from leukoscope.core.files import write_csv
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration.scaling import log_softmax, softmax
from leukoscope.evaluation.combining import log_probs, weighted_mean
from leukoscope.pipeline.jobs import Labelled, Logits, PartRows
from leukoscope.pipeline.progress import Tell, TellWithin
from leukoscope.pipeline.rejection import GateKeeper

COLUMNS = ("member", "n_train", "n_val", "val_loss", "val_accuracy")


class Trainer(Protocol):
    """Fits one model of a recipe on any division of the images."""

    def fit(
        self, rows: PartRows, folder: Path, seed: int, tell: Tell, gate: GateKeeper | None = None
    ) -> dict[str, Logits]:
        """Fit a model, and the gate beside it, and write both.

        Args:
            rows: Row numbers of the images of each part.
            folder: Of the model.
            seed: Of everything random.
            tell: Told of batches done, where a fit takes long.
            gate: Fits and measures the gate of the fold; None where there is none.

        Returns:
            (n_part, K) logits of each held-out part.
        """


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
    trainer: Trainer,
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
        parts = {"train": inner_train, "val": inner_val, "cal": rows["cal"], "test": rows["test"]}
        logits = trainer.fit(
            parts, folder / f"inner{number}", member_seed, partial(tell, later=number)
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
