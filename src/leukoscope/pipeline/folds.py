"""Which protocols a data set supports, and the folds of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, SplitError
from leukoscope.core.patients import rows_of
from leukoscope.core.protocols import PROTOCOLS, base_name, promised_protocol
from leukoscope.core.records import Fold, Manifest
from leukoscope.datasets.audit.run import Audit
from leukoscope.datasets.split_checks import split_notes
from leukoscope.datasets.splits import TOO_FEW_GROUPS, make_splits, split_train_val

FINAL = "final"
NOTHING_MERGED = "no overlap spans two clusters: it would hold out the same groups as acquisition"
"""Why ``acquisition-merged`` does not apply: only the draw of its folds would differ."""


def unit_of(protocol: str, folds: Iterable[Fold]) -> str:
    """What an interval of this protocol resamples in this data, in words.

    >>> unit_of("acquisition-k48", []), unit_of("random", [Fold("random", 0, {}, unit="patient")])
    ('acquisition cluster', 'patient')
    """
    own = (fold.unit for fold in folds if fold.protocol == protocol and fold.unit)
    return next(own, PROTOCOLS[base_name(protocol)].unit)


def groups_of(folds: Iterable[Fold]) -> dict[str, dict[str, str]]:
    """Protocol → image id → unit that its intervals resample."""
    groups: dict[str, dict[str, str]] = {}
    for fold in folds:
        groups.setdefault(fold.protocol, {}).update(fold.groups)
    return groups


@dataclass(frozen=True)
class ProtocolPlan:
    """The folds of every protocol that applies, and why the others do not.

    Attributes:
        folds: All folds, those of the curve (``acquisition-k48``) and of the final fit included.
        inapplicable: ``{"protocol", "reason"}`` for each that the data cannot support.
        notes: What a reader must know of the folds: fewer than asked for, leaks of given parts.
    """

    folds: tuple[Fold, ...]
    inapplicable: tuple[dict[str, str], ...]
    notes: tuple[str, ...]

    def of(self, protocol: str) -> list[Fold]:
        """The folds of one protocol."""
        return [fold for fold in self.folds if fold.protocol == protocol]

    @property
    def names(self) -> tuple[str, ...]:
        """Protocols that apply, without the curve and the final fit."""
        seen = dict.fromkeys(fold.protocol for fold in self.folds)
        return tuple(name for name in seen if name in PROTOCOLS)


OF_IMAGES: Mapping[str, str] = MappingProxyType(
    {
        "random": "it divides images, and a row of this study is a patient",
        "deduplicated": "patients whose images overlap are kept together in `grouped` already",
        "acquisition": "it holds out clusters of images, and a row of this study is a patient",
        "acquisition-merged": "it holds out clusters of images, and a row of this study is a "
        "patient",
    }
)
"""Why a protocol does not apply where patients are the unit."""


def study_rows(manifest: Manifest, config: StudyConfig) -> Manifest:
    """What a study divides and predicts: the images, or the patients in their place.

    Raises:
        DataError: Patients are the unit, and an image names none, or a patient has two classes.
    """
    return rows_of(manifest, config.unit)


def plan_protocols(manifest: Manifest, audit: Audit, config: StudyConfig) -> ProtocolPlan:
    """Make the folds of each protocol that was asked for; ``manifest`` is :func:`study_rows`."""
    folds: list[Fold] = []
    inapplicable: list[dict[str, str]] = []
    for protocol in config.protocols:
        if config.unit == "patient" and protocol in OF_IMAGES:
            inapplicable.append({"protocol": protocol, "reason": OF_IMAGES[protocol]})
            continue
        try:
            folds += _folds_of(manifest, audit, protocol, config)
        except SplitError as error:
            inapplicable.append({"protocol": protocol, "reason": error.message})
    if "acquisition" in {fold.protocol for fold in folds}:
        for clusters in config.splits.cluster_curve:
            try:
                folds += _acquisition_folds(manifest, audit, clusters, config)
            except SplitError as error:
                inapplicable.append(
                    {"protocol": f"acquisition-k{clusters}", "reason": error.message}
                )
    applied = [p for p in PROTOCOLS if any(fold.protocol == p for fold in folds)]
    notes = [
        note
        for protocol in applied
        for note in split_notes(
            [fold for fold in folds if fold.protocol == protocol], manifest, config.splits
        )
    ]
    notes += stain_target_notes(config)
    return ProtocolPlan(tuple(folds), tuple(inapplicable), tuple(notes))


def surely_inapplicable(
    manifest: Manifest, config: StudyConfig, *, cut_out: bool
) -> tuple[dict[str, str], ...]:
    """Protocols that do not apply whatever the audit will find; the audit may rule out more.

    Args:
        manifest: Of :func:`study_rows`, before the audit.
        config: Of the study.
        cut_out: Whether the images are cells cut out on black.

    Returns:
        Rows as in :class:`ProtocolPlan`.
    """
    rows = []
    for protocol in config.protocols:
        reason = ""
        by_clusters = protocol.startswith("acquisition")
        if config.unit == "patient" and protocol in OF_IMAGES:
            reason = OF_IMAGES[protocol]
        elif by_clusters and cut_out:
            reason = "cells cut out on black leave no background to find clusters in"
        else:
            found_by_audit = by_clusters or protocol == "deduplicated"
            try:
                like = "random" if found_by_audit else protocol
                make_splits(manifest, like, config.splits, seed=config.seed)
            except SplitError as error:
                reason = error.message
        if reason:
            rows.append({"protocol": protocol, "reason": reason})
    return tuple(rows)


def undecided_protocols(protocols: Iterable[str]) -> tuple[dict[str, str], ...]:
    """Of some protocols those that apply only if the audit finds what they are about.

    >>> undecided_protocols(("random", "acquisition-merged"))[0]["protocol"]
    'acquisition-merged'
    """
    reason = "if overlapping fields join clusters, which the audit will tell"
    return tuple({"protocol": p, "reason": reason} for p in protocols if p == "acquisition-merged")


def none_applies(inapplicable: Sequence[Mapping[str, str]], config: StudyConfig) -> DataError:
    """The error of a study, or of an arm, without a protocol."""
    reasons = "; ".join(f"{row['protocol']}: {row['reason']}" for row in inapplicable)
    hint = ""
    if TOO_FEW_GROUPS in reasons:
        hint = (
            "merge that class into another: --class FOLDER=CLASS, with the name of its folder or "
            "value, as `leukoscope data inspect` shows it; or leave its images out"
        )
        if config.unit == "image" and all(row["protocol"] != "random" for row in inapplicable):
            hint += "; -p random divides images, whoever they are of"
    elif NOTHING_MERGED in reasons:
        hint = "take -p acquisition"
    return DataError(f"{config.data.path}: no protocol applies to this data ({reasons})", hint=hint)


def stain_target_notes(config: StudyConfig) -> list[str]:
    """What no split keeps apart: the target of a stain normalisation, measured without labels."""
    return [
        f"Recipe {recipe.name} brings every image to the stain of one target ({step.kind}). The "
        "default target is measured, without labels, on images of the 4-class ALL set, and one of "
        "your own perhaps on this data: then test images have a part in it."
        for recipe in config.recipes
        for step in recipe.preprocess.steps
        if step.kind in ("reinhard", "macenko")
    ]


def final_fold(manifest: Manifest, config: StudyConfig, folds: Sequence[Fold]) -> Fold:
    """The division behind the bundled model: train, and a ``val`` cut as in the strictest folds.

    All that the cross-validation tests and calibrates on is trained on too; the scores of a
    report, and what calibrates the model, come from the other folds, never from this one.
    """
    protocol = promised_protocol(fold.protocol for fold in folds)
    like = next(fold for fold in folds if fold.protocol == protocol)
    return split_train_val(manifest, like, config.splits, seed=config.seed, name=FINAL)


def _folds_of(manifest: Manifest, audit: Audit, protocol: str, config: StudyConfig) -> list[Fold]:
    if protocol == "acquisition":
        return _acquisition_folds(manifest, audit, config.splits.clusters, config, name=protocol)
    groups = None
    if protocol == "acquisition-merged":
        clusters = config.splits.clusters
        groups = audit.merged_labels(clusters)
        if _same_groups(groups, audit.acquisition_labels(clusters)):
            raise SplitError(NOTHING_MERGED)
    return make_splits(manifest, protocol, config.splits, seed=config.seed, groups=groups)


def _same_groups(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    """Whether two labellings of the same images divide them alike."""
    pairs = {(label, b[image_id]) for image_id, label in a.items()}
    return len(pairs) == len(set(a.values())) == len(set(b.values()))


def _acquisition_folds(
    manifest: Manifest, audit: Audit, clusters: int, config: StudyConfig, name: str = ""
) -> list[Fold]:
    return make_splits(
        manifest,
        "acquisition",
        config.splits,
        seed=config.seed,
        groups=audit.acquisition_labels(clusters),
        name=name or f"acquisition-k{clusters}",
    )
