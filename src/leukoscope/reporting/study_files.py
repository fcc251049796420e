"""Everything a report needs from a study's folder, read once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.environment import Environment
from leukoscope.config.explanations import Explanation
from leukoscope.config.metrics.file import StudyMetrics
from leukoscope.config.metrics.results import Result
from leukoscope.config.passport import Finding, Passport
from leukoscope.config.stored import load_records
from leukoscope.config.study import StudyConfig
from leukoscope.core.known_classes import Roles
from leukoscope.core.patients import rows_of
from leukoscope.core.protocols import protocol_rank
from leukoscope.core.records import Fold, ImageRecord, Manifest
from leukoscope.core.run_folder import EXPLANATIONS, RunFolder, training_history
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles

_CURVE_POINT = re.compile(r"-k\d+$")


@dataclass(frozen=True)
class PooledScores:
    """Predictions of one recipe under one protocol, all test folds pooled.

    Attributes:
        image_id: One per prediction.
        y_true: (n,) int, class index.
        probs: (n, K) float, calibrated probabilities.
        logits: (n, K) float, NaN where the model gives none.
        fold: (n,) int, whose test image it is.
    """

    image_id: tuple[str, ...]
    y_true: NDArray[np.int64]
    probs: NDArray[np.float64]
    logits: NDArray[np.float64]
    fold: NDArray[np.int64]

    @property
    def y_pred(self) -> NDArray[np.int64]:
        """(n,) int, most probable class."""
        return np.asarray(self.probs.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class History:
    """What was written after each epoch of one model.

    Attributes:
        recipe: Recipe name.
        protocol: Protocol name.
        fold: Number.
        columns: Values of each column; NaN where empty.
        head: How many of the first rows are from the training of the head alone.
    """

    recipe: str
    protocol: str
    fold: int
    columns: Mapping[str, NDArray[np.float64]]
    head: int = 0


@dataclass(frozen=True)
class Study:
    """A study's files in memory.

    Attributes:
        run: Its folder.
        config: Resolved configuration.
        environment: Versions, hardware, hashes; None where absent.
        manifest: Image records.
        passport: What the data set is; None where absent.
        folds: Places of images in splits; empty where absent.
        predictions: Table of all predictions, or None.
        metrics: Statistics and verdict.
        histories: Training histories.
        explanations: Entries of ``explanations.json``.
        absent: Names of files that were expected and not there.
    """

    run: RunFolder
    config: StudyConfig
    environment: Environment | None
    manifest: Manifest
    passport: Passport | None
    folds: Sequence[Fold]
    predictions: PredictionTable | None
    metrics: StudyMetrics
    histories: Sequence[History]
    explanations: Sequence[Explanation]
    absent: Sequence[str] = field(default_factory=tuple)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Canonical class names in the order of every matrix."""
        return self.metrics.class_names

    @property
    def row(self) -> str:
        """What is classified and counted: ``image`` or ``patient``."""
        return self.config.unit

    @cached_property
    def rows(self) -> Manifest:
        """What stands in splits and predictions: the images, or the patients."""
        return rows_of(self.manifest, self.row)

    @property
    def roles(self) -> Roles:
        """What the user says that classes stand for."""
        return self.config.data.roles

    @property
    def confidence(self) -> float:
        """Level of the intervals."""
        return self.metrics.confidence

    @property
    def level(self) -> str:
        """Level of the intervals, e.g. ``95 %``."""
        return f"{100 * self.confidence:g} %"

    @property
    def name(self) -> str:
        """What the data set is called."""
        data = self.config.data
        of_folder = Path(data.path) == data.root
        return self.passport["root_name"] if self.passport and of_folder else data.name

    @property
    def findings(self) -> Sequence[Finding]:
        """What the audit found; none where there is no passport."""
        return self.passport.get("findings", ()) if self.passport else ()

    @cached_property
    def results(self) -> list[Result]:
        """Results without the points of the cluster curve, from the mildest protocol on."""
        found = [r for r in self.metrics.results if not _CURVE_POINT.search(r.protocol)]
        recipes = list(self.recipes)
        return sorted(
            found,
            key=lambda r: (
                protocol_rank(r.protocol),
                recipes.index(r.recipe) if r.recipe in recipes else len(recipes),
            ),
        )

    @property
    def recipes(self) -> tuple[str, ...]:
        """Recipe names, the one that becomes the bundle first."""
        return tuple(recipe.name for recipe in self.config.recipes)

    @cached_property
    def protocols(self) -> tuple[str, ...]:
        """Protocols with results, from the mildest to the harshest."""
        return tuple(dict.fromkeys(r.protocol for r in self.results))

    def result(self, recipe: str, protocol: str) -> Result | None:
        """The result of a recipe under a protocol."""
        for entry in self.results:
            if entry.recipe == recipe and entry.protocol == protocol:
                return entry
        return None

    def scores(self, recipe: str, protocol: str) -> PooledScores | None:
        """Test predictions from whole images, or None where there are none."""
        if self.predictions is None:
            return None
        table, names = self.predictions, list(self.predictions.class_names)
        wanted = self._test_rows.get((recipe, protocol))
        if wanted is None:
            return None
        order = [names.index(name) for name in self.class_names]
        rank = np.full(len(names), -1)
        rank[order] = np.arange(len(order))
        y_true = np.asarray(table.y_true)[wanted]
        return PooledScores(
            image_id=tuple(np.asarray(table.image_id)[wanted].tolist()),
            y_true=rank[y_true],
            probs=np.asarray(table.probs)[wanted][:, order],
            logits=np.asarray(table.logits)[wanted][:, order],
            fold=np.asarray(table.fold)[wanted],
        )

    def harshest(self, recipe: str) -> tuple[str, PooledScores | None]:
        """The harshest protocol of which test predictions are stored, and these."""
        for protocol in reversed(self.protocols):
            scores = self.scores(recipe, protocol)
            if scores is not None and len(scores.y_true):
                return protocol, scores
        return "", None

    @cached_property
    def _test_rows(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Row numbers of labelled test predictions from whole images, by recipe and protocol."""
        table = self.predictions
        if table is None:
            return {}
        rows = np.flatnonzero(
            (np.asarray(table.part) == "test")
            & (np.asarray(table.input) == "image")
            & (np.asarray(table.y_true) >= 0)
        )
        keys = list(
            zip(
                np.asarray(table.recipe)[rows].tolist(),
                np.asarray(table.protocol)[rows].tolist(),
                strict=True,
            )
        )
        found: dict[tuple[str, str], list[int]] = {}
        for row, key in zip(rows.tolist(), keys, strict=True):
            found.setdefault(key, []).append(row)
        return {key: np.asarray(members, dtype=np.int64) for key, members in found.items()}

    def image_path(self, image_id: str) -> Path | None:
        """Where an image lies, or None where the manifest does not name it inside the data."""
        record = self.record(image_id)
        return None if record is None else inside(self.manifest.root, record.path)

    def record(self, image_id: str) -> ImageRecord | None:
        """The image's record, or None where the manifest does not name it."""
        return self._by_id.get(image_id)

    @cached_property
    def _by_id(self) -> dict[str, ImageRecord]:
        if self.row == "patient":
            return {}  # a row is no picture
        return {record.image_id: record for record in self.manifest.images}


def inside(root: Path, relative: str) -> Path | None:
    """``root / relative``, or None where ``relative`` would leave ``root``.

    >>> inside(Path("data"), "../secret.png") is None
    True
    """
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts:
        return None
    return root / path


def load_study(run: RunFolder) -> Study:
    """Read a study's folder.

    Raises:
        DataError: ``config.toml``, ``manifest.csv`` or ``metrics.json`` is missing, or a file is
            damaged.
        ConfigError: ``config.toml`` is invalid.
    """
    files = RunFiles.open(run.path)
    metrics = files.metrics
    optional = (run.environment, run.passport, run.splits, run.predictions)
    absent = [path for path in optional if not path.is_file()]
    return Study(
        run=run,
        config=files.config,
        environment=None if run.environment in absent else files.environment,
        manifest=files.manifest,
        passport=None if run.passport in absent else files.passport,
        folds=() if run.splits in absent else files.splits,
        predictions=None if run.predictions in absent else files.predictions,
        metrics=metrics,
        histories=_histories(run),
        explanations=load_records(
            Explanation, run.explanations / EXPLANATIONS, "run the study's explanations again"
        ),
        absent=tuple(path.name for path in absent),
    )


def _histories(run: RunFolder) -> tuple[History, ...]:
    found = []
    for path in sorted((run.path / "models").glob("*/*/fold*")):
        rows, head = training_history(path)
        if not rows:
            continue
        columns = {
            name: np.array([_number(row[name]) for row in rows], dtype=np.float64)
            for name in rows[-1]
        }
        if head:
            columns["epoch"] = np.arange(1.0, len(rows) + 1)
        recipe, protocol, fold = path.parts[-3:]
        found.append(History(recipe, protocol, int(fold.removeprefix("fold")), columns, head))
    return tuple(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
