"""Checks of splits, and what a reader of their results must know about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leukoscope.config.study import SplitConfig
from leukoscope.core.errors import SplitError
from leukoscope.core.records import Fold, Manifest


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
                f"{fold.protocol}, fold {fold.fold}: {len(shared)} groups stand on both sides; "
                f"group {group} has {tested[group]} in test and {others[group]} in {part}"
            )


def split_notes(folds: Sequence[Fold], manifest: Manifest, config: SplitConfig) -> list[str]:
    """What a reader must know about the folds of one protocol, in plain sentences."""
    if not folds:
        return []
    name = folds[0].protocol
    patients = {r.image_id: r.patient_id for r in manifest.usable if r.patient_id}
    components = {r.image_id: r.group_id for r in manifest.usable if r.group_id}
    notes = []
    if name != "given" and config.folds > len(folds):
        notes.append(
            f"{name}: {len(folds)} folds instead of {config.folds}, because a class stands in "
            f"too few groups for more."
        )
    purged = [len(fold.ids("purged")) for fold in folds]
    if any(purged):
        notes.append(
            f"{name}: on average {sum(purged) / len(purged):.0f} images a fold are kept out of "
            f"training because they overlap a test image."
        )
    tested = sum(len(fold.ids("test")) for fold in folds)
    for kind, groups in (("overlap", components), ("share a patient with", patients)):
        leaks = sum(
            count_shared(fold, groups, ("test",), ("train", "val", "cal")) for fold in folds
        )
        if leaks:
            notes.append(
                f"{name}: {leaks} of {tested} test images {kind} images that the model was made "
                f"with."
            )
    held = sum(count_shared(fold, patients, ("val", "cal"), ("train",)) > 0 for fold in folds)
    if name.startswith("grouped") and held:
        notes.append(
            f"{name}: in {held} of {len(folds)} folds val and cal share patients with train, "
            f"because a class has fewer than three patients left; test is disjoint."
        )
    return notes


def count_shared(
    fold: Fold, groups: Mapping[str, str], here: Sequence[str], there: Sequence[str]
) -> int:
    """Images in the parts ``here`` whose group has an image in the parts ``there``."""
    taken = {groups[i] for i, part in fold.parts.items() if part in there and i in groups}
    return sum(part in here and groups.get(i) in taken for i, part in fold.parts.items())
