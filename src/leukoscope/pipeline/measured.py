"""Models measured on damaged images: those of a run's folds, or a bundle, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.guarantees import Envelope
from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_bytes, sha256_file
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.threads import ordered_map
from leukoscope.core.views import plural
from leukoscope.datasets.audit.run import audit
from leukoscope.datasets.layouts.load import HowRead, load_dataset
from leukoscope.evaluation.calibration.conformal import prediction_sets
from leukoscope.evaluation.robustness import ConditionOutputs, ConditionSample
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_conditions, measure_quality
from leukoscope.pipeline.folds import groups_of, unit_of
from leukoscope.pipeline.trained_run import RECORD, FittedRun
from leukoscope.runtime.prediction import Prediction
from leukoscope.runtime.predictor import Predictor, load_bundle

Image = NDArray[np.uint8]
ReadPicture = Callable[[ImageRecord], Image]
LookMeasures = dict[str, list[float]]
_FAIREST = ("grouped", "deduplicated")  # no leak, and groups enough for an interval
Kept = tuple[ConditionOutputs, dict[str, list[float]]]


class Model(Protocol):
    """Something that answers images."""

    @property
    def name(self) -> str:
        """The recipe, or the bundle."""

    @property
    def fingerprint(self) -> str:
        """Changes when the answers may."""

    def fits(self, records: Sequence[ImageRecord]) -> NDArray[np.int64] | None:
        """(n,) fit that answers each image, where another training would give another model."""

    def answer(
        self, records: Sequence[ImageRecord], picture: ReadPicture
    ) -> tuple[ConditionOutputs, LookMeasures]:
        """Answers to the pictures of these images, and what the pictures look like."""


@dataclass(frozen=True)
class MeasuredModels:
    """Models, and the images that none of them was fitted on.

    Attributes:
        models: One or more, of the same classes.
        manifest: Where the images lie.
        records: The images, those of each class spread evenly; any first part is a fair sample.
        groups: For each image id the unit that intervals resample.
        group_unit: What it is.
        protocol: Under which the images were held out.
        class_names: Order of the probabilities.
        replicates: Of the bootstrap.
        confidence: Of the intervals.
        warnings: What a reader must know.
        folds: How many fits of each model answer the images.
    """

    models: tuple[Model, ...]
    manifest: Manifest
    records: tuple[ImageRecord, ...]
    groups: Mapping[str, str]
    group_unit: str
    protocol: str
    class_names: tuple[str, ...]
    replicates: int = 1000
    confidence: float = 0.95
    warnings: tuple[str, ...] = ()
    folds: int = 1

    def sample(self, seed: int) -> ConditionSample:
        """The images as statistics need them."""
        y_true = [self.class_names.index(record.label) for record in self.records]
        return ConditionSample(
            class_names=self.class_names,
            y_true=np.array(y_true, np.int64),
            groups=[self.groups.get(r.image_id, r.image_id) for r in self.records],
            how={
                "replicates": self.replicates, "confidence": self.confidence, "seed": seed,
                "folds": self.folds,
            },
        )  # fmt: skip

    def first(self, images: int) -> MeasuredModels:
        """The same with fewer images."""
        return replace(self, records=self.records[:images])


def open_run(
    fitted: FittedRun, recipes: Sequence[str], protocol: str | None, seed: int
) -> MeasuredModels:
    """Recipes of a run, each image answered by the model of the fold that tested on it.

    Without ``recipes`` the first with finished fits; without ``protocol`` patients held out where
    that was done, else components of overlapping images, else the run's first.

    Raises:
        UnknownNameError: The run has no such recipe or protocol.
        DataError: Nothing of it is finished, or its recipes share no test image.
    """
    names = list(dict.fromkeys(recipes)) or [fitted.choose(None, protocol)[0]]
    if protocol is None:
        fair = (p for p in _FAIREST if all(fitted.finished_folds(name, p) for name in names))
        protocol = next(fair, None)
    chosen = [fitted.choose(name, protocol) for name in names]
    protocol = chosen[0][1]
    models = tuple(FoldModels(fitted, name, protocol) for name, _ in chosen)
    shared = set.intersection(*(set(model.fold_of) for model in models))
    records = [r for r in fitted.manifest.usable if r.image_id in shared]
    if not records:
        raise DataError(f"{fitted.run.path}: {', '.join(names)} share no test image")
    folds = fitted.splits
    groups = groups_of(folds).get(protocol, {})
    class_names = fitted.test_table(names[0], protocol).class_names
    return MeasuredModels(
        models, fitted.manifest, _spread(records, seed), groups, unit_of(protocol, folds), protocol,
        class_names, fitted.config.bootstrap, fitted.config.confidence,
        folds=len({models[0].fold_of[record.image_id] for record in records}),
    )  # fmt: skip


def open_bundle(
    bundle: Path, data: Path, images: int, seed: int, **how: Unpack[HowRead]
) -> MeasuredModels:
    """A bundle on labelled images; groups are patients, or components found among these images.

    Args:
        bundle: The model's folder.
        data: Labelled images.
        images: How many are taken at most, spread over the classes.
        seed: Of that choice.
        **how: The data is read.

    Raises:
        DataError: No image has a class that the bundle knows.
    """
    predictor = load_bundle(bundle)
    manifest = load_dataset(data, **how)
    known = [r for r in manifest.usable if r.label in predictor.class_names]
    if not known:
        raise DataError(
            f"{data}: no usable image of a class that the bundle knows "
            f"({', '.join(predictor.class_names)})",
            hint="see `leukoscope data inspect`",
        )
    found = audit(manifest.with_images(_spread(known, seed)[:images])).manifest
    records = _spread(found.usable, seed)
    unit, groups = units_of_data(records)
    seen = seen_in_training(predictor, [record.sha256 for record in records])
    return MeasuredModels(
        (BundleModel(predictor),), found, records, groups, unit, "external",
        predictor.class_names, warnings=tuple(seen),
    )  # fmt: skip


def units_of_data(records: Sequence[ImageRecord]) -> tuple[str, dict[str, str]]:
    """What intervals resample on data of a user's, and image id → unit.

    Patients where every image names one, else components of connected images.
    """
    if all(record.patient_id for record in records):
        return "patient", {r.image_id: r.patient_id for r in records}
    return "component", {r.image_id: r.group_id or r.image_id for r in records}


def seen_in_training(predictor: Predictor, sha256: Sequence[str]) -> list[str]:
    """A warning where a bundle was trained on some of the images that it is tested on.

    ``sha256`` holds the hash of each of these images.
    """
    seen = sum(digest in predictor.trained_on_sha256 for digest in sha256)
    return [
        f"{seen} of these {plural(len(sha256), 'image')} {'was' if seen == 1 else 'were'} used to "
        "train the bundle: "
        "this is no test of unseen images"
    ] if seen else []  # fmt: skip


def _spread(records: Sequence[ImageRecord], seed: int) -> tuple[ImageRecord, ...]:
    """In an order of which every first part has the classes' shares; random within a class."""
    place: dict[str, tuple[float, str]] = {}
    drawn = {r.image_id: sha256_bytes(f"{seed}|{r.image_id}".encode()) for r in records}
    for label in {record.label for record in records}:
        ids = sorted((r.image_id for r in records if r.label == label), key=drawn.__getitem__)
        place |= {name: ((i + 0.5) / len(ids), drawn[name]) for i, name in enumerate(ids)}
    return tuple(sorted(records, key=lambda record: place[record.image_id]))


@dataclass(frozen=True)
class FoldModels:
    """The fits of one recipe under one protocol; review means a prediction set of not one class.

    Attributes:
        fitted: The run.
        name: The recipe.
        protocol: The protocol.
    """

    fitted: FittedRun
    name: str
    protocol: str

    @cached_property
    def fold_of(self) -> dict[str, int]:
        """The fold that tested on each image."""
        table = self.fitted.test_table(self.name, self.protocol)
        return dict(zip(table.image_id.tolist(), table.fold.tolist(), strict=True))

    @property
    def fingerprint(self) -> str:
        """Hash of the records of all fits."""
        folds = self.fitted.finished_folds(self.name, self.protocol)
        paths = [self.fitted.run.model(self.name, self.protocol, fold) / RECORD for fold in folds]
        return sha256_bytes("".join(map(sha256_file, paths)).encode())

    def fits(self, records: Sequence[ImageRecord]) -> NDArray[np.int64] | None:
        """See :class:`Model`."""
        recipe = next(one for one in self.fitted.config.recipes if one.name == self.name)
        if not recipe.random_training:
            return None
        return np.array([self.fold_of[record.image_id] for record in records], np.int64)

    def answer(
        self, records: Sequence[ImageRecord], picture: ReadPicture
    ) -> tuple[ConditionOutputs, LookMeasures]:
        """See :class:`Model`."""
        folds = np.array([self.fold_of[record.image_id] for record in records])
        rows = [np.flatnonzero(folds == fold).tolist() for fold in np.unique(folds)]
        parts = [
            self._answer_fold(int(folds[some[0]]), [records[i] for i in some], picture)
            for some in rows
        ]
        back = np.argsort(np.concatenate(rows))
        probs, review, looks = zip(*parts, strict=True)
        in_order = [look for part in looks for look in part]
        return (
            ConditionOutputs(np.concatenate(probs)[back], np.concatenate(review)[back], None),
            _columns([in_order[i] for i in back]),
        )

    def _answer_fold(
        self, fold: int, records: Sequence[ImageRecord], picture: ReadPicture
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[dict[str, float]]]:
        model = self.fitted.model(self.name, self.protocol, fold)

        def prepare(record: ImageRecord) -> tuple[Image, dict[str, float]]:
            image = picture(record)
            return apply_preprocess(image, model.spec), _look(image)

        pixels, looks = zip(*ordered_map(prepare, records), strict=True)
        probs = model.probabilities(np.stack(pixels))
        return probs, prediction_sets(probs, model.conformal).sum(axis=1) != 1, list(looks)


@dataclass(frozen=True)
class BundleModel:
    """A bundle with its own decisions.

    Attributes:
        predictor: The bundle at work.
    """

    predictor: Predictor

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.predictor.record.name

    @property
    def fingerprint(self) -> str:
        """Hash of the bundle."""
        return self.predictor.bundle.sha256

    def fits(self, records: Sequence[ImageRecord]) -> None:
        """See :class:`Model`; a bundle is one fit."""

    def answer(
        self, records: Sequence[ImageRecord], picture: ReadPicture
    ) -> tuple[ConditionOutputs, LookMeasures]:
        """See :class:`Model`."""
        looks: list[dict[str, float]] = []

        def prepare(record: ImageRecord) -> tuple[Image, dict[str, float]]:
            image = picture(record)
            return image, _look(image)

        def images() -> Iterator[Image]:
            for image, look in ordered_map(prepare, records, ahead=8):
                looks.append(look)
                yield image

        probs, decisions = [], []
        for found, record in zip(self.predictor.predict_stream(images()), records, strict=True):
            if not isinstance(found, Prediction):
                raise DataError(f"{record.path}: {found.message}")
            probs.append(list(found.probabilities.values()))
            decisions.append(found.decision)
        chosen = np.array(decisions)
        return ConditionOutputs(np.array(probs), chosen == "review", chosen == "reject"), _columns(
            looks
        )


def _look(image: Image) -> dict[str, float]:
    return measure_conditions(image, measure_quality(image))


def _columns(rows: Sequence[Mapping[str, float]]) -> LookMeasures:
    return {name: [row[name] for row in rows] for name in rows[0]}


def stored_envelope(files: RunFiles, recipe: str) -> Envelope | None:
    """The envelope that ``robustness`` measured for a recipe of this run, if it did.

    Raises:
        DataError: ``robustness.json`` is damaged.
    """
    if not files.run.robustness.is_file():
        return None
    return next((m.envelope for m in files.robustness.recipes if m.recipe == recipe), None)
