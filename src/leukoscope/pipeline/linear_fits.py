"""Linear heads of a recipe on features at hand, with all that their training asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.training import Balance, Nuisance
from leukoscope.learning.erasure import fit_erasure
from leukoscope.learning.linear_head import LinearHead, fit_linear_head
from leukoscope.pipeline.features.one_pass import (
    NUMBER_TABLES,
    NumberTable,
    finished,
    grain_table,
)
from leukoscope.pipeline.features.patient_store import Store
from leukoscope.pipeline.jobs import Labelled, Logits

Rows = NDArray[np.int64]
Parts = Mapping[str, Rows]
DRO_ROUNDS = 8
"""Fits of ``balance = "worst-units"``, each with the weights that the one before left."""
_DRO_STEP = 1.0


@dataclass(frozen=True)
class Beside:
    """What a linear head is fitted with, besides the features of the images.

    Attributes:
        copies: (n, D) features of each kind of degraded copies.
        numbers: (n, q) numbers that are taken out of the features; None for none.
    """

    copies: tuple[NDArray[np.float32], ...] = ()
    numbers: NDArray[np.float64] | None = None


ALONE = Beside()


def read_beside(store: Store, recipe: Recipe, seed: int) -> Beside:
    """What the linear head of a recipe is fitted with, of all rows of a store."""
    copies = tuple(store.features(recipe, name, seed) for name in recipe.degraded)
    tables = nuisance_tables(recipe)
    numbers = [
        finished(f"{name}-only", store.images.numbers(table)) for name, table in tables.items()
    ]
    return Beside(copies, np.column_stack(numbers) if numbers else None)


def nuisance_tables(recipe: Recipe) -> dict[Nuisance, NumberTable]:
    """The tables of numbers that a recipe takes out of its features; grain is in pixels."""
    training = recipe.training
    if not isinstance(training, LinearHeadTraining):
        return {}
    found: dict[Nuisance, NumberTable] = {
        "grain": grain_table(None),
        "file": NUMBER_TABLES["file-only"],
    }
    return {name: table for name, table in found.items() if name in training.erase}


def linear_logits(
    recipe: Recipe,
    features: NDArray[np.float32],
    data: Labelled,
    rows: Parts,
    beside: Beside = ALONE,
) -> dict[str, Logits]:
    """Fit a linear head on the train rows; apply it to the others."""
    return apply_head(fit_head(recipe, features, data, rows, beside), features, rows)


def fit_head(
    recipe: Recipe, features: NDArray[np.float32], data: Labelled, rows: Parts, beside: Beside
) -> LinearHead:
    """Fit the linear head of a recipe, by all that its training says.

    Args:
        recipe: With a linear head.
        features: (n, D) of the images of ``data``.
        data: Labels and units.
        rows: Row numbers of ``train`` and of ``val``, which selects the penalty.
        beside: See :func:`read_beside`; a probe has neither copies nor numbers.

    Returns:
        The head, on features as they are; its ``val_logits`` are of the images as they are.
    """
    training = recipe.training
    assert isinstance(training, LinearHeadTraining)
    nuisance = _nuisance(training, data, rows["train"], beside)
    if nuisance is None:
        return _fit_balanced(training, features, data, rows, beside.copies)
    train = rows["train"]
    erasure = fit_erasure(features[train], nuisance, data.y[train])
    copies = tuple(erasure.erased(copy) for copy in beside.copies)
    head = _fit_balanced(training, erasure.erased(features), data, rows, copies)
    weight, bias = erasure.folded(head.weight, head.bias)
    return replace(head, weight=weight, bias=bias)


def _nuisance(
    training: LinearHeadTraining, data: Labelled, train: Rows, beside: Beside
) -> NDArray[np.float64] | None:
    """(n_train, q) what is taken out of the features of the training images."""
    parts = []
    if "units" in training.erase:
        _, member = np.unique(data.units[train], return_inverse=True)
        parts.append(np.eye(member.max() + 1)[member])
    if beside.numbers is not None:
        parts.append(beside.numbers[train])
    return np.column_stack(parts) if parts else None


def _fit_balanced(
    training: LinearHeadTraining,
    features: NDArray[np.float32],
    data: Labelled,
    rows: Parts,
    copies: tuple[NDArray[np.float32], ...],
) -> LinearHead:
    """One head, or with ``worst-units`` one after the other until the last."""
    if training.balance != "worst-units":
        weights = {of: balance_weights(data, rows[of], training.balance) for of in ("train", "val")}
        return _fit_weighted(training, features, data, rows, copies, weights)
    weights = {of: balance_weights(data, rows[of], "units") for of in ("train", "val")}
    head = _fit_weighted(training, features, data, rows, copies, weights)
    for _ in range(DRO_ROUNDS - 1):
        for of, weight in weights.items():
            weights[of] = raised(weight, head, features, data, rows[of])
        head = _fit_weighted(training, features, data, rows, copies, weights)
    return head


def raised(
    weight: NDArray[np.float64],
    head: LinearHead,
    features: NDArray[np.float32],
    data: Labelled,
    rows: Rows,
) -> NDArray[np.float64]:
    """Weights (m,) times exp(mean log loss of the unit), classes keep their sums.

    The step of exponentiated gradient ascent in group DRO (Sagawa et al. 2020, algorithm 1), with
    the units of a class as groups.
    """
    logits, y = head.logits(features[rows]), data.y[rows]
    peak = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0] - logits[np.arange(len(y)), y]
    found = weight.copy()
    for k in np.unique(y):
        own = np.flatnonzero(y == k)
        _, member, sizes = np.unique(data.units[rows[own]], return_inverse=True, return_counts=True)
        found[own] *= np.exp(_DRO_STEP * (np.bincount(member, losses[own]) / sizes))[member]
        found[own] *= weight[own].sum() / found[own].sum()
    return found


def _fit_weighted(
    training: LinearHeadTraining,
    features: NDArray[np.float32],
    data: Labelled,
    rows: Parts,
    copies: tuple[NDArray[np.float32], ...],
    weights: Mapping[str, NDArray[np.float64]],
) -> LinearHead:
    """A head on images and copies; an image and its copies count together as one."""
    times = 1 + len(copies)
    plain = training.balance == "images" and not copies
    train, val, y, units = rows["train"], rows["val"], data.y, data.units

    def shown(of: Rows) -> NDArray[np.float32]:
        return np.concatenate([features[of], *(copy[of] for copy in copies)])

    def counted(of: str) -> NDArray[np.float64] | None:
        return None if plain else np.tile(weights[of] / times, times)

    head = fit_linear_head(
        shown(train),
        np.tile(y[train], times),
        len(data.class_names),
        c_grid=training.c_grid,
        X_val=shown(val),
        y_val=np.tile(y[val], times),
        sample_weight=counted("train"),
        val_weight=counted("val"),
        unit_penalty=training.unit_penalty,
        units=np.tile(units[train], times),
        val_units=np.tile(units[val], times),
        copy_penalty=training.copy_penalty,
        images=np.tile(train, times),
        val_images=np.tile(val, times),
        refit_with_val=training.refit_with_val,
    )
    if head.val_logits is None:
        return head
    return replace(head, val_logits=head.val_logits[: len(val)])  # of the images as they are


def balance_weights(data: Labelled, rows: Rows, balance: Balance) -> NDArray[np.float64]:
    """(m,) what each image counts for; the sum over all is m.

    ``units``: each unit of a class the same, and classes keep their sums. ``classes``: each class
    the same, and each image of a class.
    """
    y, units = data.y[rows], data.units[rows]
    weights = np.ones(len(rows))
    if balance == "images":
        return weights
    present = np.unique(y)
    for k in present:
        own = np.flatnonzero(y == k)
        if balance == "classes":
            weights[own] = len(rows) / (len(present) * len(own))
            continue
        _, member, sizes = np.unique(units[own], return_inverse=True, return_counts=True)
        weights[own] = len(own) / (len(sizes) * sizes[member])
    return weights


def apply_head(head: LinearHead, features: NDArray[np.float32], rows: Parts) -> dict[str, Logits]:
    """Logits of all parts but ``train``; those of ``val`` are from before the refit."""
    found = {part: head.logits(features[rows[part]]) for part in rows if part != "train"}
    if head.val_logits is not None:
        found["val"] = head.val_logits  # the refit has seen these images
    return found
