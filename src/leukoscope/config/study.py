"""The configuration of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.bundle import SetGuarantee, SetScore
from leukoscope.config.guarantees import parse_operating_point
from leukoscope.config.recipe import FeatureClassifierTraining, Recipe
from leukoscope.core.known_classes import Role
from leukoscope.core.protocols import ProtocolName
from leukoscope.core.tables import MANIFESTS

ProbeName = Literal[
    "colour-only",
    "background-only",
    "background-grey",
    "silhouette-only",
    "cells-only",
    "cells-only-grey",
    "scale-bar-only",
    "stain-neutral",
    "ground-only",
    "grain-only",
    "frame-only",
    "file-only",
    "stain-only",
    "shape-only",
    "count-only",
    "order-only",
    "cell-share",
]
PATIENT_PROBES: tuple[ProbeName, ...] = ("cell-share",)
"""Those that only a study of patients can fit, and fits by default."""
PROBES: tuple[ProbeName, ...] = tuple(n for n in get_args(ProbeName) if n not in PATIENT_PROBES)
"""Those that every study can fit."""
StudyUnit = Literal["image", "patient"]
"""What one row of a study is."""
DEFAULT_PROBES: tuple[ProbeName, ...] = (
    "colour-only",
    "ground-only",
    "grain-only",
    "frame-only",
    "file-only",
    "stain-only",
    "count-only",
    "shape-only",
    "order-only",
    "scale-bar-only",
    "stain-neutral",
)
"""One or two for each source of shortcut, what the share that survives without stain needs, and
those that say what numbers of the leukocytes alone give. Those left out judge nothing, and each
costs a pass of the network over all images."""

PERTURBED: tuple[ProbeName, ...] = ("background-only", "cells-only", "stain-neutral")
"""Probe inputs that the trained model is applied to as well, though it never saw such images."""

OTHER_GROUND = "ground-of-another-class"
OWN_GROUND = "ground-of-own-class"
SWAPPED: tuple[str, ...] = (OTHER_GROUND, OWN_GROUND)
"""The leukocytes of a test image on the ground of another one, of another class or of the same: of
a model that reads cells both have the class of the cells. The second says what pasting does."""

DEGRADED: tuple[str, ...] = (
    "blur-0.5",
    "blur-1",
    "jpeg-95",
    "jpeg-85",
    "size-90",
    "size-110",
    "resampled",
)
"""Mildly degraded test images that the trained model is applied to in every study: Gaussian blur
(σ in px of the file), JPEG quality, size in per cent, down to 80 % and back."""


def usual_folds(recipes: Sequence[Recipe]) -> int:
    """How many folds, where nobody says: ten, or five where a fit trains a network.

    A report speaks of the models of its folds, which are trained on fewer images than the packed
    one. The more folds, the less its figures fall short of that model's.
    """
    return 10 if all(recipe.frozen_features for recipe in recipes) else 5


def chosen_probes(names: Sequence[str] | None, unit: str = "image") -> tuple[str, ...]:
    """What ``--probe`` stands for: the default for None, every probe where ``all`` is named.

    >>> len(chosen_probes(["all"])), chosen_probes(["cells-only"])
    (16, ('cells-only',))
    >>> chosen_probes(None, "patient")[-1]
    'cell-share'
    """
    of_patients = PATIENT_PROBES if unit == "patient" else ()
    if names is None:
        return (*DEFAULT_PROBES, *of_patients)
    if "all" in names:
        return (*PROBES, *of_patients)
    return tuple(names)


SAY_NOTHING = frozenset({"data", "dataset", "images", "index", "labels", "manifest", "metadata"})
"""Names of tables that do not say which data they list."""


class DataConfig(Strict):
    """The data set of a study.

    Attributes:
        path: Folder or CSV manifest.
        layout: Name of a layout, ``auto``, or a pattern such as ``{class}/{patient}``.
        class_map: Folder name → class, for names that shall mean another class.
        target: Column that is the label, in place of the one that the layout gives; or empty.
        roles: Class → role, where the table of known classes does not say, or says otherwise.
    """

    path: str
    layout: str = "auto"
    class_map: dict[str, str] = Field(default_factory=dict)
    target: str = ""
    roles: dict[str, Role] = Field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder that the manifest's paths are relative to."""
        path = Path(self.path)
        if path.suffix.lower() == ".npz" and not path.is_dir():
            return path.with_suffix(".images")  # datasets.npz_images
        return path.parent if path.suffix.lower() in MANIFESTS else path

    @property
    def name(self) -> str:
        """What the data set is called: its folder, or its table if that one's name says more.

        >>> [DataConfig(path=p).name for p in ("/a/cells", "/a/lab-3.csv", "/a/manifest.csv")]
        ['cells', 'lab-3', 'a']
        """
        path = Path(self.path)
        if self.root == path:
            return path.name
        return path.parent.name if path.stem.lower() in SAY_NOTHING else path.stem


class SplitConfig(Strict):
    """How the data is divided.

    Attributes:
        folds: Number of folds; 1 means a single hold-out.
        val: Share of the images used to select and stop.
        cal: Share used to calibrate, by nothing else, in a hold-out. With several folds the test
            images of the others calibrate a fold, and none are set aside.
        test: Share of the test part of a hold-out (with folds it is one fold).
        clusters: Number of acquisition clusters of the ``acquisition`` protocol.
        cluster_curve: Further numbers of clusters for the curve.
        held_groups: Which groups beside the test part become val and cal: the ``small`` ones,
            which leaves most images to train on, or groups of ``any`` size, so that selection
            and calibration do not rest on patients or clusters with few images.
    """

    folds: Annotated[int, Field(ge=1, le=20)] = 5
    val: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    cal: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    test: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    clusters: Annotated[int, Field(ge=2)] = 24
    cluster_curve: tuple[Annotated[int, Field(ge=2)], ...] = (6, 12, 48, 96)
    held_groups: Literal["small", "any"] = "small"

    @model_validator(mode="after")
    def _leaves_training_images(self) -> SplitConfig:
        held = {"val": self.val, "test": 1 / self.folds}
        if self.folds == 1:
            held |= {"cal": self.cal, "test": self.test}
        if sum(held.values()) >= 0.95:
            shown = " + ".join(f"{part} {share:.2f}" for part, share in held.items())
            raise ValueError(f"{shown} leave too little to train on")
        return self


class StudyConfig(Strict):
    """A study, resolved: enough to run it again.

    Attributes:
        data: The data set.
        unit: What is classified: each image, or each patient by all of its images together, whose
            label must be the same.
        recipes: Every recipe in full, the first is the one that becomes the bundle.
        protocols: Which protocols; one that does not apply is recorded with the reason.
        splits: How the data is divided.
        probes: What is tried beside the model to find shortcuts; the model is also applied to the
            perturbed images of :data:`PERTURBED` among them.
        seed: Seed of splits, training and bootstrap.
        bootstrap: Number of bootstrap replicates of each interval.
        confidence: Level of each interval.
        coverage: Coverage that the prediction sets aim at.
        set_score: What makes a class belong to a prediction set: ``lac``, ``aps`` or ``raps``.
        set_guarantee: For what the coverage is promised: ``marginal``, ``class`` or ``group``.
        operating_point: ``miss at most 2 % of malignant fields, with 95 % confidence``, or empty.
        control_draws: How often labels are dealt at random to whole groups for the negative
            control; 0 leaves it out, and no verdict is plausible then.
        um_per_px: Scale of the pictures, for ``grain-only``; 0 takes that of the files, or else
            that of the red cells.
        explanations: Number of Grad-CAM panels of right and of wrong predictions.
        bundle: Fit the first recipe once more, on all images, and pack it to predict with.
        external: Other data that the bundle is measured on at the end, beside the forecast.
    """

    data: DataConfig
    unit: StudyUnit = "image"
    recipes: Annotated[tuple[Recipe, ...], Field(min_length=1)]
    protocols: Annotated[tuple[ProtocolName, ...], Field(min_length=1)] = get_args(ProtocolName)
    splits: SplitConfig = SplitConfig()
    probes: tuple[ProbeName, ...] = DEFAULT_PROBES
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    coverage: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    set_score: SetScore = "lac"
    set_guarantee: SetGuarantee = "marginal"
    operating_point: str = ""
    control_draws: Annotated[int, Field(ge=0, le=100)] = 10
    um_per_px: Annotated[float, Field(ge=0, le=10)] = 0.0
    explanations: Annotated[int, Field(ge=0, le=100)] = 6
    bundle: bool = True
    external: tuple[DataConfig, ...] = ()

    @model_validator(mode="after")
    def _external_data_needs_a_bundle(self) -> StudyConfig:
        reason = self.no_bundle_reason
        if self.external and (reason or not self.bundle):
            raise ValueError(
                "external data is measured with the study's bundle, and there will be none"
                + (f": {reason}" if reason else "")
            )
        return self

    @model_validator(mode="after")
    def _unit_fits_recipes_and_probes(self) -> StudyConfig:
        if self.unit == "image":
            alien = [name for name in self.probes if name in PATIENT_PROBES]
            if alien:
                raise ValueError(f'probe {alien[0]!r} compares patients: it needs unit = "patient"')
            return self
        for recipe in self.recipes:
            if not recipe.frozen_features:
                raise ValueError(
                    f'recipe {recipe.name} trains a network image by image, and unit = "patient" '
                    "fits on features of a frozen one: take patient-spread, patient-mean, "
                    "patient-attention or another recipe with a frozen backbone"
                )
        return self

    @property
    def no_bundle_reason(self) -> str:
        """Why the first recipe cannot be packed as a bundle; empty where it can."""
        first = self.recipes[0]
        if self.unit == "patient" and not first.no_bundle_reason:
            if first.inner_folds:
                return "a bundle for patients holds one head, not one for each inner fold"
            if isinstance(first.training, FeatureClassifierTraining):
                return "a bundle for patients holds a linear head or one with attention"
        return first.no_bundle_reason

    @field_validator("operating_point")
    @classmethod
    def _operating_point_is_understood(cls, words: str) -> str:
        return parse_operating_point(words).words if words else words
