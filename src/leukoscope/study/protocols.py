"""Which protocols a data set supports, and the folds of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from leukoscope.config.study import SplitConfig, StudyConfig
from leukoscope.core.errors import SplitError
from leukoscope.core.records import Fold, Manifest
from leukoscope.datasets.passport import Audit
from leukoscope.datasets.split_checks import split_notes
from leukoscope.datasets.splits import make_splits

FINAL = "final"
UNITS: Mapping[str, str] = {
    "random": "component",
    "grouped": "patient",
    "deduplicated": "component",
    "acquisition": "acquisition cluster",
    "acquisition-merged": "merged acquisition cluster",
    "given": "component",
}


def unit_of(protocol: str) -> str:
    """What an interval of this protocol resamples, in words.

    >>> unit_of("acquisition-k48")
    'acquisition cluster'
    """
    return UNITS[protocol.partition("-k")[0]]


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
        return tuple(name for name in seen if name in UNITS)


def plan_protocols(manifest: Manifest, audit: Audit, config: StudyConfig) -> ProtocolPlan:
    """Make the folds of each protocol that was asked for."""
    folds: list[Fold] = []
    inapplicable: list[dict[str, str]] = []
    for protocol in config.protocols:
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
    applied = [p for p in UNITS if any(fold.protocol == p for fold in folds)]
    notes = [
        note
        for protocol in applied
        for note in split_notes(
            [fold for fold in folds if fold.protocol == protocol], manifest, config.splits
        )
    ]
    return ProtocolPlan(tuple(folds), tuple(inapplicable), tuple(notes))


def final_fold(manifest: Manifest, config: StudyConfig) -> Fold:
    """The division behind the bundled model: no test part, connected images kept together.

    One fold in which all that the cross-validation would test on is trained on too; the scores
    of a report come from the other protocols, never from this model.
    """
    share = config.splits.val + config.splits.cal
    hold_out = SplitConfig(folds=1, val=config.splits.val, cal=config.splits.cal, test=share / 2)
    fold = make_splits(manifest, "deduplicated", hold_out, seed=config.seed)[0]
    parts = {key: "train" if part == "test" else part for key, part in fold.parts.items()}
    return replace(fold, protocol=FINAL, parts=parts)


def _folds_of(
    manifest: Manifest, audit: Audit, protocol: str, config: StudyConfig
) -> list[Fold]:  # fmt: skip
    if protocol == "acquisition":
        return _acquisition_folds(manifest, audit, config.splits.clusters, config, name=protocol)
    groups = None
    if protocol == "acquisition-merged":
        groups = audit.merged_labels(config.splits.clusters)
    return make_splits(manifest, protocol, config.splits, seed=config.seed, groups=groups)


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
