"""Members of an ensemble: finished runs whose images stand in the same parts of the same folds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.config.training import EnsembleTraining
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.jobs import HELD_OUT


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        name: Unique among the members; its recipe's name where that is unique.
        recipe: Its recipe there.
        table: Its val, cal and test predictions from whole images.
        files: Of its run.
    """

    name: str
    recipe: Recipe
    table: PredictionTable
    files: RunFiles

    @property
    def run(self) -> RunFolder:
        """Where it was trained."""
        return self.files.run


def load_members(runs: Sequence[Path], chosen: Sequence[str] = ()) -> list[Member]:
    """Read the members.

    Args:
        runs: Folders of finished runs; every trained recipe of each becomes a member.
        chosen: ``RUN:RECIPE`` texts that name single recipes.

    Raises:
        UsageError: Fewer than two members, or one twice.
        UnknownNameError: A run has no such recipe.
        DataError: A run is not finished.
    """
    wanted: list[tuple[Path, str | None]] = [(path, None) for path in runs]
    for text in chosen:
        folder, separator, recipe = text.rpartition(":")
        if not separator or not folder or not recipe:
            raise UsageError(f"--member expects RUN:RECIPE, got {text!r}")
        wanted.append((Path(folder), recipe))
    opened: dict[Path, RunFiles] = {}
    found: list[tuple[RunFiles, Recipe]] = []
    for path, name in wanted:
        place = path.resolve()
        opened[place] = opened.get(place) or RunFiles.open(path)
        opened[place].need_images("ensemble")
        found += [(opened[place], recipe) for recipe in _recipes_of(opened[place], name)]
    keys = Counter((files.run.path.resolve(), recipe.name) for files, recipe in found)
    for (place, recipe_name), count in keys.items():
        if count > 1:
            raise UsageError(f"{place}:{recipe_name} is named {count} times")
    if len(found) < 2:
        raise UsageError(
            f"an ensemble needs two or more members, got {len(found)}",
            hint="name runs with several recipes, several runs, or --member RUN:RECIPE",
        )
    return [
        Member(name, recipe, files.predictions.select(recipe=recipe.name, input="image"), files)
        for name, (files, recipe) in zip(_names(found), found, strict=True)
    ]


def _names(found: Sequence[tuple[RunFiles, Recipe]]) -> list[str]:
    """The recipe's name; with the run's where several members have the same recipe."""
    counts = Counter(recipe.name for _, recipe in found)
    names: list[str] = []
    for files, recipe in found:
        name = recipe.name
        if counts[name] > 1:
            folder = re.sub(r"[^a-z0-9_-]+", "-", files.run.path.resolve().name.lower())
            name = f"{folder.strip('-_') or 'run'}-{name}"
        while name in names:
            name += "-b"
        names.append(name)
    return names


def _recipes_of(files: RunFiles, name: str | None) -> list[Recipe]:
    """The recipe of this name, or all trained ones: an ensemble adds no information of its own."""
    recipes = files.config.recipes
    if name is None:
        return [r for r in recipes if not isinstance(r.training, EnsembleTraining)]
    files.check_recipe(name)
    return [recipe for recipe in recipes if recipe.name == name]


def common_folds(members: Sequence[Member]) -> list[Fold]:
    """The folds under which every member made predictions, if all members share them.

    Raises:
        DataError: Classes, protocols, parts or predicted images differ; names the runs.
    """
    first = members[0]
    for other in members[1:]:
        if other.table.class_names != first.table.class_names:
            raise DataError(
                f"{first.run.path} and {other.run.path} have other classes: "
                f"{', '.join(first.table.class_names)} and {', '.join(other.table.class_names)}"
            )
    shared = set(first.table.protocol.tolist()) - {FINAL}
    for other in members[1:]:
        shared &= set(other.table.protocol.tolist())
    if not shared:
        raise DataError(
            "the members have no protocol in common: "
            + "; ".join(
                f"{m.run.path}: {', '.join(sorted(set(m.table.protocol)))}" for m in members
            )
        )
    folds = [fold for fold in first.files.splits if fold.protocol in shared]
    for other in members[1:]:
        _check_same(first, other, folds, shared)
    return folds


def _check_same(first: Member, other: Member, folds: Sequence[Fold], shared: set[str]) -> None:
    theirs = {(f.protocol, f.fold): f for f in other.files.splits if f.protocol in shared}
    hint = "train both on the same data with the same seed, folds and splits"
    if set(theirs) != {(f.protocol, f.fold) for f in folds}:
        raise DataError(
            f"{first.run.path} and {other.run.path} have other numbers of folds", hint=hint
        )
    for fold in folds:
        parts = theirs[fold.protocol, fold.fold].parts
        moved = [i for i in fold.parts.keys() | parts.keys() if fold.parts.get(i) != parts.get(i)]
        if moved:
            raise DataError(
                f"{first.run.path} and {other.run.path} were split differently: under "
                f"{fold.protocol}, fold {fold.fold}, {len(moved)} of {len(fold.parts)} images "
                f"stand in another part, e.g. {min(moved)}",
                hint=hint,
            )


@dataclass(frozen=True)
class Stacked:
    """What all members say of the held-out images of one fold.

    Attributes:
        fold: Which fold.
        ids: (n,) image ids.
        part: (n,) their parts.
        y: (n,) class indices.
        probs: (M, n, K) calibrated probabilities.
    """

    fold: Fold
    ids: NDArray[np.str_]
    part: NDArray[np.str_]
    y: NDArray[np.int64]
    probs: NDArray[np.float64]


def stack(members: Sequence[Member], fold: Fold) -> Stacked:
    """The predictions of all members on one fold, image by image.

    Raises:
        DataError: A member lacks images of the fold.
    """
    expected = np.array(sorted(i for i, part in fold.parts.items() if part in HELD_OUT))
    probs, reference = [], None
    for member in members:
        rows = member.table.select(protocol=fold.protocol, fold=fold.fold, part=HELD_OUT)
        rows = rows.take(np.argsort(rows.image_id, kind="stable"))
        if not np.array_equal(rows.image_id, expected):
            raise DataError(
                f"{member.run.predictions}: {member.recipe.name} has {len(rows)} predictions "
                f"under {fold.protocol}, fold {fold.fold}; splits.csv holds out {len(expected)} "
                "images",
                hint="run the study again with --resume",
            )
        reference = reference or rows
        probs.append(rows.probs)
    assert reference is not None
    return Stacked(fold, reference.image_id, reference.part, reference.y_true, np.stack(probs))
