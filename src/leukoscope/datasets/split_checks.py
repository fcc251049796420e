"""Checks of splits, and what a reader of their results must know about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leukoscope.config.study import SplitConfig
from leukoscope.core.errors import SplitError
from leukoscope.core.protocols import PROTOCOLS, by_column
from leukoscope.core.records import Fold, Manifest
from leukoscope.core.views import is_or_are, plural


def check_folds(folds: Sequence[Fold], groups: Mapping[str, str]) -> None:
    """Refuse folds that put one group on both sides, i.e. into test and into another part.

    Args:
        folds: The folds; ``purged`` images stand on no side.
        groups: Image id → group; images that it lacks, or whose group is empty, are free.

    Raises:
        SplitError: Names the fold, the group and an image of each side.
    """
    for fold in folds:
        tested: dict[str, str] = {}
        others: dict[str, str] = {}
        for image_id, part in fold.parts.items():
            group = groups.get(image_id, "")
            if group and part != "purged":
                (tested if part == "test" else others).setdefault(group, image_id)
        shared = sorted(tested.keys() & others.keys())
        if shared:
            group = shared[0]
            part = fold.parts[others[group]]
            raise SplitError(
                f"{fold.protocol}, fold {fold.fold}: {plural(len(shared), 'group')} "
                f"{is_or_are(len(shared))} in two parts; "
                f"group {group} has {tested[group]} in test and {others[group]} in {part}"
            )


def split_notes(folds: Sequence[Fold], manifest: Manifest, config: SplitConfig) -> list[str]:
    """What a reader must know about the folds of one protocol, in plain sentences."""
    if not folds:
        return []
    name = folds[0].protocol
    patients = {r.image_id: r.patient_id for r in manifest.usable if r.patient_id}
    components = {r.image_id: r.group_id for r in manifest.usable if r.group_id}
    known = PROTOCOLS.get(name)  # not a point of the curve over clusters
    notes = []
    if not (known and known.own_parts) and config.folds > len(folds):
        notes.append(
            f"{name}: {plural(len(folds), 'fold')} instead of {config.folds}: there are "
            f"too few groups, or more folds would leave no image of a class to train on."
        )
    purged = [len(fold.ids("purged")) for fold in folds]
    if any(purged):
        notes.append(
            f"{name}: on average {sum(purged) / len(purged):.1f} images a fold are kept out of "
            f"training because they overlap a test image."
        )
    tested = sum(len(fold.ids("test")) for fold in folds)
    made_with = ("train", "val", "cal")
    for kind, groups in (("overlap", components), ("share a patient with", patients)):
        leaks = sum(count_shared(fold, groups, ("test",), made_with) for fold in folds)
        if leaks:
            people = _shared_patients(folds, patients) if groups is patients else ""
            notes.append(
                f"{name}: {leaks} of {plural(tested, 'test image')}{people} {kind} images "
                f"that the model was made with."
            )
    held = sum(count_shared(fold, patients, ("val", "cal"), ("train",)) > 0 for fold in folds)
    valued = known is not None and by_column(known)
    if (name == "grouped" or valued) and held:
        notes.append(
            f"{name}: in {held} of {plural(len(folds), 'fold')} val or cal shares patients "
            f"with train, because a class has fewer than three patients left; test is disjoint."
        )
    if name == "given" and held:
        notes.append(
            f"{name}: in {held} of {plural(len(folds), 'fold')} val or cal share patients "
            f"with train: the data's own val does, or a class has too few patients to cut."
        )
    if known is not None and valued:
        notes.append(_tested_values(folds, manifest, known.column))
    return notes


def _shared_patients(folds: Sequence[Fold], patients: Mapping[str, str]) -> str:
    """How many of the patients under test stand on the other side too, for a sentence."""
    shared: set[str] = set()
    tested: set[str] = set()
    for fold in folds:
        own = {patients[i] for i in fold.ids("test") if i in patients}
        others = {
            patients[i] for part in ("train", "val", "cal") for i in fold.ids(part) if i in patients
        }
        tested |= own
        shared |= own & others
    return f" (of {len(shared)} of {len(tested)} patients)"


def _tested_values(folds: Sequence[Fold], manifest: Manifest, column: str) -> str:
    """Which fold tests which site or cohort."""
    records = {record.image_id: record for record in manifest.usable}
    shown = []
    for fold in folds:
        tested = [records[i] for i in fold.ids("test")]
        people = {record.patient_id for record in tested} - {""}
        size = plural(len(tested), "image") + (
            f", {plural(len(people), 'patient')}" if people else ""
        )
        shown.append(f"fold {fold.fold} tests {tested[0].column(column)} ({size})")
    return (
        f"{column}: {'; '.join(shown)}. Its intervals speak of further patients of these "
        f"{column}s, not of another {column}."
    )


def count_shared(
    fold: Fold, groups: Mapping[str, str], here: Sequence[str], there: Sequence[str]
) -> int:
    """Images in the parts ``here`` whose group has an image in the parts ``there``."""
    taken = {groups[i] for i, part in fold.parts.items() if part in there and i in groups}
    return sum(part in here and groups.get(i) in taken for i, part in fold.parts.items())
