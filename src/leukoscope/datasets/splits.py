"""Splits of a data set under each protocol, and the check that no group stands on two sides.

===================== ==================================================================
``random``            images, stratified by class; overlaps ignored on purpose, to compare
                      with the literature
``grouped``           whole patients (with the overlapping images of other patients)
``deduplicated``      whole components of duplicates, overlapping fields and twins
``acquisition``       whole acquisition clusters; images outside the test part whose component
                      touches a test image are purged
``acquisition-merged``  clusters joined with the components that span them; a study leaves it
                      out where none does
``session``           whole sessions (smears, days of imaging); purged like ``acquisition``
``given``             the data's own parts or folds; overlaps are counted, not removed
``site``, ``cohort``  whole sites or cohorts (hospital, years), each tested once; images outside
                      the test part that overlap a test image are purged
===================== ==================================================================

The result depends on the images' contents and the seed, never on the order or names of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.study import SplitConfig
from leukoscope.core.errors import SplitError, UnknownNameError, UsageError
from leukoscope.core.patients import PATIENTS_LAYOUT
from leukoscope.core.protocols import PROTOCOLS, by_column
from leukoscope.core.records import Fold, ImageRecord, Manifest, check_manifest
from leukoscope.core.views import is_or_are, plural
from leukoscope.datasets.groups import allocate, allocate_at_random, count_classes, join_groups
from leukoscope.datasets.split_checks import check_folds

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_ATTEMPTS = 8
_NAMED = 3
MOST_VALUES = 20
TOO_FEW_GROUPS = "it would be missing from train or from test"
"""Each site or cohort is a fold of its own, as many as :class:`SplitConfig` allows."""
_TITLES = {
    "patient_id": "patient id",
    "group_id": "component",
    "acquisition_id": "acquisition cluster",
}


@dataclass(frozen=True)
class _Images:
    """The usable images in an order that no renaming of files changes."""

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    labels: IntArray
    component: IntArray
    row: str = "image"  # or patient

    @classmethod
    def of(cls, manifest: Manifest) -> _Images:
        records = tuple(sorted(manifest.usable, key=lambda r: (r.sha256, r.image_id)))
        names = manifest.class_names
        if len(names) < 2:
            raise SplitError(
                f"{manifest.root}: expected images of two or more classes, "
                f"found {', '.join(names) or 'no usable image'}"
            )
        labels = np.array([names.index(record.label) for record in records])
        component = join_groups([r.group_id for r in records])
        row = "patient" if manifest.layout == PATIENTS_LAYOUT else "image"
        return cls(records, names, labels, component, row)

    @property
    def patient_units(self) -> IntArray:
        """(n,) patients, joined where their images overlap; components where none is known."""
        return join_groups([record.patient_id for record in self.records], self.component.tolist())

    def mapping(self, values: Sequence[str]) -> dict[str, str]:
        """Image id → value, for values in the order of the images."""
        return dict(zip((r.image_id for r in self.records), values, strict=True))

    def column(self, groups: Mapping[str, str], what: str) -> list[str]:
        """The label of each image in a mapping from image ids."""
        found = [groups.get(record.image_id, "") for record in self.records]
        if "" in found:
            several = ", or several" if self.row == "patient" else ""
            lost = [r.path for r, one in zip(self.records, found, strict=True) if not one]
            raise SplitError(
                f"{len(lost)} of {len(found)} {self.row}s have no {what}{several}, "
                f"e.g. {', '.join(sorted(lost)[:_NAMED])}; because of them all of it is lost"
            )
        return found

    def own(self, column: str) -> dict[str, str]:
        """Image id → the value of a column of the manifest."""
        return {record.image_id: record.column(column) for record in self.records}


def make_splits(
    manifest: Manifest,
    protocol: str,
    config: SplitConfig,
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
    purge_groups: Mapping[str, str] | None = None,
    name: str | None = None,
) -> list[Fold]:
    """Divide the usable images into folds with train, val and test parts, and cal in a hold-out.

    Every image is tested once where ``config.folds`` is 2 or more; the test images of the other
    folds then calibrate a fold's model, and only a single hold-out has a cal part. Classes are
    spread as evenly as whole groups allow. Where there are fewer groups than folds wanted,
    each group is a fold, as ``split_notes`` says; a class in few groups is missing from some tests,
    never from a train part.

    Args:
        protocol: One of :data:`~leukoscope.core.protocols.PROTOCOLS`.
        groups: Image id → unit to hold out; None means the manifest's, as the protocol says.
        purge_groups: Image id → label that no other part may share with test: such images
            become ``purged``. None means the components in the acquisition protocols, and no
            purging in the others.
        name: Name of the folds' protocol, e.g. ``acquisition-k48``; None means ``protocol``.

    Returns:
        The folds; each covers all usable images. Their ``groups`` are what intervals resample:
        the units held out, else patients, else components.

    Raises:
        SplitError: The data cannot support the protocol; says why.
        UsageError: An argument is of another kind, or the protocol uses no groups.
    """
    check_manifest(manifest, "make_splits({}, …)")
    _check_arguments(protocol, config, seed, {"groups": groups, "purge_groups": purge_groups})
    own = PROTOCOLS[protocol]
    images, name = _Images.of(manifest), name or protocol
    purge = _purge_labels(images, protocol, purge_groups)
    streams = [seed, crc32(name.encode())]
    if own.own_parts:
        held_out, labels = images.patient_units, None
        sides = _sides_by(images, protocol) if own.column else _given_sides(images)
    else:
        held_out, labels = _units(images, protocol, groups)
        tests = _test_sides(images, held_out, purge, config, streams, own.held_out)
        sides = [np.where(test, "test", "") for test in tests]
    # in the acquisition protocols val and cal are cut from the rest by component
    units = images.component if protocol.startswith("acquisition") else held_out
    unit, resampled = _interval_groups(images, held_out, labels)
    folds = []
    for number, side in enumerate(sides):
        parts = np.where((side != "test") & _touched(purge, side == "test"), "purged", side)
        rng = np.random.default_rng([*streams, number])
        _cut_rest(images, parts, units, config, rng, ("val",) if len(sides) > 1 else ("val", "cal"))
        folds.append(Fold(name, number, images.mapping(parts.tolist()), dict(resampled), unit))
    _check_classes(images, folds)
    _check_leaks(images, folds, protocol, held_out, purge)
    return folds


def _check_leaks(
    images: _Images,
    folds: list[Fold],
    protocol: str,
    held_out: IntArray,
    purge: IntArray | None,
) -> None:
    """Refuse folds that leak. They are planned not to; this holds whatever changes there."""
    apart = [str(unit) for unit in held_out]
    if by_column(
        PROTOCOLS[protocol]
    ):  # an overlap of two is purged, the rest of its patients stays
        apart = [record.patient_id for record in images.records]
    for names in ([] if protocol == "given" else apart, [] if purge is None else purge.astype(str)):
        if len(names):
            check_folds(folds, images.mapping(list(names)))


def split_train_val(
    manifest: Manifest, like: Fold, config: SplitConfig, *, seed: int, name: str
) -> Fold:
    """Divide all usable images into train and val, as the folds of a protocol divide theirs.

    A model that is selected on this ``val`` is made as theirs are, so that what is fitted on
    their test images holds for it: ``val`` takes whole patients in the protocol ``grouped`` (if
    there are enough of them), whole sessions in ``session``, and components in all others.

    Raises:
        SplitError: There are too few groups for two parts.
    """
    images = _Images.of(manifest)
    units = images.component
    if like.protocol in ("grouped", "session"):
        units, _ = _units(images, like.protocol, None)
    parts = np.full(len(images.records), "", dtype="<U8")
    rng = np.random.default_rng([seed, crc32(name.encode())])
    _cut_rest(images, parts, units, config, rng, ("val",), beside_test=False)
    fold = Fold(name, 0, images.mapping(parts.tolist()), dict(like.groups), like.unit)
    _check_classes(images, [fold])
    return fold


def _check_arguments(
    protocol: object, config: object, seed: object, mappings: Mapping[str, object]
) -> None:
    """Refuse arguments of another kind before NumPy does it in its own words."""
    if not isinstance(protocol, str):
        raise UsageError(
            f"protocol: expected one name, got {protocol!r}",
            hint="call make_splits once for each protocol",
        )
    if protocol not in tuple(PROTOCOLS):
        raise UnknownNameError("protocol", protocol, tuple(PROTOCOLS))
    if not isinstance(config, SplitConfig):
        raise UsageError(
            f"config: expected a SplitConfig, got {config!r}",
            hint="write SplitConfig(folds=5), of leukoscope.config.study",
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UsageError(
            f"seed: expected a whole number of 0 or more, got {seed!r}", hint="write seed=42"
        )
    for name, found in mappings.items():
        if found is not None and not isinstance(found, Mapping):
            raise UsageError(
                f"{name}: expected a mapping from image ids to names, got a value of type "
                f"{type(found).__name__}",
                hint=f"write {name}={{record.image_id: NAME, …}}",
            )
    own = PROTOCOLS[protocol]
    if mappings["groups"] is not None and (own.own_parts or not own.column):
        raise UsageError(
            f"groups: the protocol {protocol} uses none",
            hint="leave groups out, or take a protocol that holds groups out, such as grouped",
        )


def _purge_labels(
    images: _Images, protocol: str, purge_groups: Mapping[str, str] | None
) -> IntArray | None:
    if purge_groups is not None:
        return join_groups(images.column(purge_groups, "purge group"))
    return images.component if PROTOCOLS[protocol].purges else None


def _touched(purge: IntArray | None, test: BoolArray) -> BoolArray:
    if purge is None:
        return np.zeros(len(test), dtype=bool)
    return np.isin(purge, purge[test])


def _units(
    images: _Images, protocol: str, groups: Mapping[str, str] | None
) -> tuple[IntArray, list[str] | None]:
    """(n,) number of what is held out as a whole, and names for intervals; None for others."""
    if protocol == "random":
        return np.arange(len(images.records)), None
    found = PROTOCOLS[protocol]
    what, own = _TITLES.get(found.column, found.column), images.own(found.column)
    if groups is None and not any(own.values()):
        by_audit = found.column in ("group_id", "acquisition_id")
        raise SplitError(
            f"the {images.row}s have no {what}s",
            hint="The audit finds them: run it first."
            if by_audit
            else "The names or the manifest must give them.",
        )
    if protocol == "deduplicated" and groups is None:
        return images.component, None
    labels = images.column(own if groups is None else groups, what)
    if protocol == "session":
        return join_groups(labels), _sessions_or_patients(images, labels)
    if found.purges:
        return join_groups(labels), labels
    return join_groups(labels, images.component.tolist()), labels


def _sessions_or_patients(images: _Images, labels: list[str]) -> list[str] | None:
    """What an interval over sessions resamples: None, for patients, where each is of one patient.

    Smears of one patient resemble each other, so that they count together.
    """
    patients: dict[str, set[str]] = {}
    for session, record in zip(labels, images.records, strict=True):
        patients.setdefault(session, set()).add(record.patient_id)
    nested = all(len(own) == 1 and "" not in own for own in patients.values())
    return None if nested else labels


def _interval_groups(
    images: _Images, held_out: IntArray, labels: list[str] | None
) -> tuple[str, dict[str, str]]:
    """What an interval resamples where the data decides it, and image id → name of that unit.

    Without labels patients where every image names one, for they are what a reader asks about,
    else components. A unit is called like its first image's label, or like that image where it
    has no label.
    """
    names, units, unit = labels, held_out, ""
    if names is None:
        names, units = [record.group_id for record in images.records], images.component
        if all(record.patient_id for record in images.records):
            names, units = [record.patient_id for record in images.records], images.patient_units
            unit = "patient"
    first: dict[int, str] = {}
    for number, name, record in zip(units.tolist(), names, images.records, strict=True):
        first.setdefault(number, name or record.image_id)
    return unit, images.mapping([first[number] for number in units.tolist()])


def _test_sides(
    images: _Images,
    units: IntArray,
    purge: IntArray | None,
    config: SplitConfig,
    streams: list[int],
    unit_name: str,
) -> list[BoolArray]:
    """The test part of each fold, (n,) bool; the largest number of folds that works."""
    counts = count_classes(units, images.labels, len(images.class_names))
    holders = (counts > 0).sum(axis=0)
    if holders.min() < 2:
        rare = images.class_names[int(holders.argmin())]
        only = "only one" if unit_name == images.row else "images of only one"
        raise SplitError(
            f"class {rare} has {only} {unit_name}: {TOO_FEW_GROUPS}",
            hint="Groups that share overlapping images count as one. Hold out something smaller, "
            "or add data.",
        )
    most = min(config.folds, len(counts))
    for folds in [1] if config.folds == 1 else range(most, 1, -1):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([*streams, folds, attempt, 1])
            shares = [1 / folds] * folds if folds > 1 else [1 - config.test, config.test]
            part = allocate(
                counts, shares, rng, jitter=0.3 * attempt, present_in=(1,) if folds == 1 else ()
            )
            tests = [part[units] == k for k in (range(folds) if folds > 1 else [1])]
            if all(_leaves_classes(images, test, purge) for test in tests):
                return tests
    raise SplitError(
        f"no division of the {len(counts)} {unit_name}s leaves images of every class to train on"
    )


def _leaves_classes(images: _Images, test: BoolArray, purge: IntArray | None) -> bool:
    rest = images.labels[~test & ~_touched(purge, test)]
    return bool(test.any()) and len(np.unique(rest)) == len(images.class_names)


def _cut_rest(
    images: _Images,
    parts: NDArray[np.str_],
    units: IntArray,
    config: SplitConfig,
    rng: np.random.Generator,
    wanted_parts: Sequence[str],
    *,
    beside_test: bool = True,
) -> None:
    """Fill ``parts`` where it is empty (or ``train``): train, and the wanted parts if missing.

    ``beside_test``: whether the shares of ``config`` are of more than the pool.
    """
    pool = np.flatnonzero((parts == "") | (parts == "train"))
    rest = 1 - (config.test if config.folds == 1 else 1 / config.folds) if beside_test else 1.0
    shares = {part: getattr(config, part) / rest for part in wanted_parts}
    missing = [part for part in shares if part not in parts]
    labels, k = images.labels[pool], len(images.class_names)
    own = _renumber(units[pool])
    counts = count_classes(own, labels, k)
    present = np.unique(labels)
    if len(present) and (counts[:, present] > 0).sum(axis=0).min() < len(missing) + 1:
        own = _renumber(images.component[pool])  # too few patients: split_notes tells
        counts = count_classes(own, labels, k)
    if len(counts) <= len(missing):
        raise SplitError(
            f"beside the test part {plural(len(pool), 'image')} in {plural(len(counts), 'group')} "
            f"{is_or_are(len(pool))} left: "
            f"too few for train, {' and '.join(missing)}"
        )
    wanted = [1 - sum(shares[part] for part in missing), *(shares[part] for part in missing)]
    targets = range(1, len(wanted))
    if config.held_groups == "any":
        part = allocate_at_random(counts, wanted, rng, present_in=targets)
    else:
        part = allocate(counts, wanted, rng, present_in=targets)
    for name in present:  # train must have every class, whatever val and cal lose by it
        holders = np.flatnonzero(counts[:, name])
        if (part[holders] != 0).all():
            part[holders[counts[holders].sum(axis=1).argmin()]] = 0
    parts[pool] = np.array(["train", *missing], dtype=parts.dtype)[part[own]]
    for target in missing:
        if target not in parts:
            raise SplitError(
                f"the {len(counts)} groups beside the test part are too few or too unequal "
                f"to fill {target}"
            )


def _renumber(units: IntArray) -> IntArray:
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def _given_sides(images: _Images) -> list[NDArray[np.str_]]:
    """The data's own parts, one array (n,) a fold; ``""`` is still to be divided."""
    given = np.array([record.given_part for record in images.records], dtype="<U32")
    names = set(given.tolist())
    if names == {""}:
        raise SplitError("the data has no parts or folds of its own")
    if "" in names:
        raise SplitError(
            f"{int((given == '').sum())} of {len(given)} images are in none of the data's own "
            f"parts {', '.join(sorted(names - {''}))}"
        )
    if all(name.startswith("fold_") for name in names):
        if len(names) < 2:
            raise SplitError(f"the data has only one fold of its own ({names.pop()})")
        order = sorted(names, key=lambda name: (len(name), name))
        return [np.where(given == name, "test", np.array("", dtype="<U8")) for name in order]
    if not {"train", "test"} <= names or not names <= {"train", "val", "cal", "test"}:
        raise SplitError(
            f"expected the data's own parts train and test (and val), "
            f"found {', '.join(sorted(names))}"
        )
    return [given]


def _sides_by(images: _Images, protocol: str) -> list[NDArray[np.str_]]:
    """Each value of the protocol's column as the test part of one fold, in their order."""
    what = PROTOCOLS[protocol].column
    own = images.own(what)
    if not any(own.values()):
        raise SplitError(
            f"the {images.row}s have no {what}s", hint=f"A manifest's column {what} gives them."
        )
    values = np.array(images.column(own, what))
    names = sorted(set(values.tolist()))
    if not 2 <= len(names) <= MOST_VALUES:
        raise SplitError(
            f"expected 2 to {MOST_VALUES} {what}s, found {len(names)}"
            + (f" ({names[0]})" if len(names) == 1 else "")
        )
    of_patient: dict[str, set[str]] = {}
    for record in images.records:
        of_patient.setdefault(record.patient_id, set()).add(own[record.image_id])
    torn = sorted(name for name, found in of_patient.items() if name and len(found) > 1)
    if torn:
        shown = "; ".join(f"{name}: {', '.join(sorted(of_patient[name]))}" for name in torn[:3])
        raise SplitError(
            f"{plural(len(torn), 'patient')} {is_or_are(len(torn))} in two {what}s "
            f"({shown}{'; …' if torn[3:] else ''})",
            hint=f"Give every image of a patient the same {what}.",
        )
    return [np.where(values == name, "test", np.array("", dtype="<U8")) for name in names]


def _check_classes(images: _Images, folds: Sequence[Fold]) -> None:
    label = {record.image_id: record.label for record in images.records}
    for fold in folds:
        lacking = set(images.class_names) - {label[i] for i in fold.ids("train")}
        if lacking:
            raise SplitError(
                f"{fold.protocol}, fold {fold.fold}: no image of {', '.join(sorted(lacking))} "
                f"is left to train on"
            )
