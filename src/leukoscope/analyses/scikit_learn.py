"""Leukoscope inside scikit-learn: a classifier of images, and leak-free folds for ``cv=``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Self
from warnings import warn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.config.training import LinearHeadTraining
from leukoscope.core.errors import ConfigError, SplitError
from leukoscope.core.records import Fold, Manifest
from leukoscope.core.threads import ordered_map
from leukoscope.datasets.frozen_passports import apply_frozen, load_frozen
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.calibration.scaling import apply_temperature, fit_temperature
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.features import extract_features
from leukoscope.learning.linear_head import LinearHead, fit_linear_head
from leukoscope.pipeline.folds import plan_protocols
from leukoscope.pipeline.progress import Progress
from leukoscope.study.options import study_config
from leukoscope.study.run import audited


class LeukoscopeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A recipe with a frozen backbone as a scikit-learn classifier.

    ``X`` is a sequence, array or column of paths, an array (n, H, W, 3) uint8 RGB, or (n, D)
    features that were computed before; the last needs no network. Images are preprocessed as the
    recipe says. A validation part of the training rows selects the penalty and calibrates the
    probabilities.

    The measurements of a study (probes, intervals over patients, the verdict) are not in it: use
    it in your own loops with :func:`cv_splits`, and ``run_study`` for the evidence.

    Args:
        recipe: Name or TOML file of a recipe with ``method = "linear-head"`` that needs no degraded
            copies and no equal weight of units, such as ``quick`` and ``shallow``, and does not
            answer for patients. Its ``unit_penalty`` needs the ``groups`` of :meth:`fit`, and is
            left out without them.
        val: Share of the training rows that selects and calibrates: at least one row of each
            class, or one group. With 0 the weakest penalty is taken, and nothing is calibrated.
        random_state: Seed of the draw of the validation part.

    Attributes:
        classes_: (K,) the classes, sorted.
        head_: The fitted head.
        temperature_: What the logits are divided by.
    """

    def __init__(
        self, recipe: str = DEFAULT_RECIPE, *, val: float = 0.1, random_state: int = 42
    ) -> None:
        self.recipe = recipe
        self.val = val
        self.random_state = random_state

    def fit(self, X: object, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the head on the features of the training rows.

        Args:
            X: Paths, images or features.
            y: (n,) class of each row.
            groups: (n,) patient of each row: the validation part then holds whole patients, and
                the recipe's ``unit_penalty`` holds down what tells those of a class apart.

        Raises:
            ConfigError: The recipe trains a network, or needs more than rows and classes.
            ImageError: A file cannot be read.
            ValueError: Shapes do not fit, there is only one class, or ``val`` is no share.

        Warns:
            UserWarning: A class has one row or group alone, of which none can be set aside.
        """
        self.classes_: NDArray[np.generic]
        if not (isinstance(self.val, Real) and 0 <= self.val < 1):
            raise ValueError(f"expected val from 0 to less than 1, such as 0.1, got {self.val!r}")
        training = _linear_recipe(self.recipe).training
        assert isinstance(training, LinearHeadTraining)
        images = _images(X)
        if images is None:
            X, y = validate_data(self, X, y, dtype=np.float64)
        else:
            y = column_or_1d(y, warn=True)
        rows = X if images is None else images
        assert isinstance(rows, Sized)
        self.classes_, codes = _classes(y, len(rows))
        if groups is not None and np.shape(groups) != (len(rows),):
            raise ValueError(
                f"expected one group a row, got {np.size(groups)} groups and {len(rows)} rows"
            )
        features = np.asarray(X) if images is None else self._features(images)
        held = self._validation(codes, groups)
        several = held.any()
        units = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self.head_: LinearHead = fit_linear_head(
            features[~held],
            codes[~held],
            len(self.classes_),
            c_grid=training.c_grid if several else training.c_grid[-1:],
            X_val=features[held] if several else None,
            y_val=codes[held] if several else None,
            unit_penalty=training.unit_penalty,
            units=None if units is None else units[~held],
            val_units=None if units is None else units[held],
            refit_with_val=training.refit_with_val and bool(several),
        )
        self.temperature_: float = (
            fit_temperature(self.head_.val_logits, codes[held])
            if self.head_.val_logits is not None
            else 1.0
        )
        return self

    def predict_proba(self, X: object) -> NDArray[np.float64]:
        """(n, K) calibrated probabilities, in the order of ``classes_``."""
        check_is_fitted(self)
        images = _images(X)
        if images is None:
            features = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            features = self._features(images)
        return apply_temperature(self.head_.logits(features), self.temperature_)

    def predict(self, X: object) -> NDArray[np.generic]:
        """(n,) the most probable class of each row."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[np.generic] = self.classes_[best]
        return found

    def _features(self, X: Sequence[Path | str | NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(n, D) features of images."""
        spec = _linear_recipe(self.recipe).preprocess

        def prepared(image: Path | str | NDArray[np.uint8]) -> NDArray[np.uint8]:
            pixels = image if isinstance(image, np.ndarray) else decode_image(Path(image)).image
            return apply_preprocess(pixels, spec)

        features = extract_features(_network(self.recipe), ordered_map(prepared, X), spec)
        return features.astype(np.float64)

    def _validation(self, codes: NDArray[np.intp], groups: ArrayLike | None) -> NDArray[np.bool_]:
        """(n,) which rows select and calibrate: of each class, whole groups where given."""
        rng = np.random.default_rng(self.random_state)
        units = np.arange(len(codes)) if groups is None else np.asarray(groups)
        held = np.zeros(len(codes), dtype=bool)
        if not self.val:
            return held
        alone = []
        for code, name in enumerate(self.classes_):
            own = np.unique(units[codes == code])
            count = min(len(own) - 1, max(1, round(len(own) * self.val)))
            for unit in rng.permutation(own)[:count]:
                more = held | (units == unit)
                if np.bincount(codes[~more], minlength=len(self.classes_)).all():
                    held = more
            if not held[codes == code].any():
                alone.append(str(name))
        if alone:
            skipped = "the penalty is chosen and the probabilities are calibrated without"
            if not held.any():
                skipped = "the weakest penalty is taken and the probabilities are not calibrated"
            warn(
                f"{', '.join(alone)}: too few {'rows' if groups is None else 'groups'} of this "
                f"class to set one aside; {skipped}",
                UserWarning,
                stacklevel=3,
            )
        return held


@dataclass(frozen=True)
class CrossValidation:
    """Leak-free folds as a scikit-learn cross-validator: pass it as ``cv``.

    Attributes:
        paths: (n,) str, the images; the ``X`` that the folds divide.
        labels: (n,) str, their classes.
        groups: (n,) str, the unit that an interval should resample.
        folds: For each fold the numbers of its training and of its test images.
    """

    paths: NDArray[np.str_]
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]
    folds: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]

    @classmethod
    def of(cls, manifest: Manifest, folds: tuple[Fold, ...]) -> CrossValidation:
        """The folds of one protocol; train, val and cal together are what others train on."""
        known = folds[0].parts
        records = [record for record in manifest.usable if record.image_id in known]
        ids = [record.image_id for record in records]
        parts = [np.array([fold.parts[image_id] for image_id in ids]) for fold in folds]
        return cls(
            np.array([str(manifest.root / record.path) for record in records]),
            np.array([record.label for record in records]),
            np.array(folds[0].units(ids)),
            tuple(
                (
                    np.flatnonzero(np.isin(part, ("train", "val", "cal"))),
                    np.flatnonzero(part == "test"),
                )
                for part in parts
            ),
        )

    def split(
        self, X: Sized | None = None, y: object = None, groups: object = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the numbers of the training and of the test images of each fold.

        Args:
            X: Nothing, or what has one row for each of :attr:`paths`.
            y: Not used.
            groups: Not used.

        Raises:
            ValueError: ``X`` has another number of rows.
        """
        if X is not None and len(X) != len(self.paths):
            raise ValueError(f"expected the {len(self.paths)} images of .paths, got {len(X)} rows")
        yield from self.folds

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """The number of folds."""
        return len(self.folds)


def cv_splits(
    data: Path | str,
    protocol: str,
    *,
    frozen: str = "",
    folds: int = 5,
    seed: int = 42,
    layout: str = "auto",
    target: str = "",
) -> CrossValidation:
    """Folds of a protocol for scikit-learn, those that ``leukoscope study`` would use.

    Example::

        cv = cv_splits("aria_all", "acquisition", frozen="aria-all")
        cross_val_score(LeukoscopeClassifier(), cv.paths, cv.labels, cv=cv)

    Args:
        data: Folder or CSV manifest.
        protocol: Such as ``grouped``, ``deduplicated`` or ``acquisition``.
        frozen: Take the published folds of this frozen passport; nothing is audited.
        folds: Number of folds, where nothing is frozen.
        seed: Likewise.
        layout: Name of a layout, ``auto``, or a pattern of folders.
        target: Column that is the label; empty for the one that the layout gives.

    Raises:
        SplitError: The data cannot support the protocol; says why.
        UnknownNameError: No such protocol, layout or passport.
    """
    if frozen:
        manifest = load_dataset(data, layout=layout, target=target)
        found = apply_frozen(load_frozen(frozen), manifest, [protocol]).splits.folds
    else:
        config = study_config(
            data, protocols=[protocol], folds=folds, seed=seed, layout=layout, target=target
        )
        audit = audited(config, Progress().listener)
        manifest, plan = audit.manifest, plan_protocols(audit.manifest, audit, config)
        if not plan.folds:
            raise SplitError(f"{protocol} does not apply: {plan.inapplicable[0]['reason']}")
        found = plan.folds
    return CrossValidation.of(manifest, tuple(f for f in found if f.protocol == protocol))


def _images(X: object) -> Sequence[Path | str | NDArray[np.uint8]] | None:
    """Paths or pictures as a sequence; None where X should hold rows of numbers.

    Raises:
        ValueError: Arrays of pictures of another shape or type.
    """
    shape = getattr(X, "shape", ())
    if len(shape) == 1:  # an array or a column of a table, whose first row may not be called 0
        X = np.asarray(X, dtype=object).tolist()
    if isinstance(X, np.ndarray):
        if X.ndim > 2 and not (X.ndim == 4 and X.shape[3] == 3 and X.dtype == np.uint8):
            raise ValueError(
                "expected paths, pictures (n, H, W, 3) uint8 RGB, or features (n, D), got an array "
                f"of shape {X.shape} and type {X.dtype}"
            )
        return X if X.ndim == 4 else None  # type: ignore[return-value]
    if not (isinstance(X, (list, tuple)) and X):
        return None
    first = X[0]
    pictures = isinstance(first, np.ndarray) and first.ndim == 3
    return X if pictures or isinstance(first, (str, Path)) else None


def _classes(y: ArrayLike, rows: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """The classes, sorted, and the number of each row's."""
    check_classification_targets(y)
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    if len(codes) != rows:
        raise ValueError(f"expected one class a row, got {rows} and {len(codes)}")
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got 1 class: {classes[0]}")
    return classes, codes


@cache
def _linear_recipe(name: str) -> Recipe:
    """A recipe whose backbone is frozen and whose head is linear."""
    recipe = load_recipe(name)
    if not isinstance(recipe.training, LinearHeadTraining):
        raise ConfigError(
            f"recipe {name}: expected a linear head on a frozen backbone",
            hint="take quick or shallow; leukoscope.run_study trains networks",
        )
    if "patient" in recipe.model_fields_set:
        raise ConfigError(
            f"recipe {name} answers for patients, this classifier for images",
            hint="take quick or shallow; leukoscope.run_study takes it with unit='patient'",
        )
    plain = LinearHeadTraining()
    for setting in ("degraded", "balance", "erase"):
        if getattr(recipe.training, setting) != getattr(plain, setting):
            raise ConfigError(
                f"recipe {name}: training.{setting} works in a study alone, not in this classifier",
                hint="take quick or shallow; leukoscope.run_study fits the others",
            )
    return recipe


@cache
def _network(name: str) -> Network:
    """The frozen network of a recipe, kept for the process: an estimator must stay small."""
    recipe = _linear_recipe(name)
    return build_network(recipe.model, num_classes=2, size_px=recipe.preprocess.size_px)
