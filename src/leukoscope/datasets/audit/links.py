"""All links between the images of one data set or of two, and what follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leukoscope.core.patients import patient_spelling
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.audit.duplicates import (
    SURE_LIKENESS,
    NearDuplicate,
    near_duplicates,
    pixel_duplicates,
    twin_links,
    twins_by_content,
    twins_by_name,
)
from leukoscope.datasets.audit.measurements import Measures, measure_images
from leukoscope.datasets.audit.overlap import Overlap, find_overlaps
from leukoscope.datasets.groups import (
    Pair,
    components,
    group_equal,
    pairs_of_groups,
)

LINK_KINDS = ("equal file", "equal pixels", "near duplicate", "overlapping field", "twin")


@dataclass(frozen=True)
class Links:
    """Which of n images show the same thing; every entry holds indices."""

    exact: list[list[int]]  # groups of equal files
    pixels: list[list[int]]  # groups of equal pixels in files that differ
    near: list[NearDuplicate]  # nearly equal pictures, also flipped or turned
    overlaps: list[Overlap]  # fields that share a part
    twins: list[Pair]  # A field and its cut-out cells
    given: list[list[int]]  # groups that the manifest itself names

    @property
    def near_pairs(self) -> list[Pair]:
        """The near duplicates as pairs of indices."""
        return [(pair.first, pair.second) for pair in self.near]

    @property
    def overlap_pairs(self) -> list[Pair]:
        """The overlapping fields as pairs of indices."""
        return [(pair.first, pair.second) for pair in self.overlaps]

    @property
    def same_thing(self) -> list[Pair]:
        """Links that prove one patient: equal files or pixels, and surely equal pictures."""
        sure = [(pair.first, pair.second) for pair in self.near if pair.score >= SURE_LIKENESS]
        return [*pairs_of_groups(self.exact), *pairs_of_groups(self.pixels), *sure]

    @property
    def all_pairs(self) -> list[Pair]:
        """Every link."""
        return [
            *pairs_of_groups(self.exact),
            *pairs_of_groups(self.pixels),
            *self.near_pairs,
            *self.overlap_pairs,
            *self.twins,
            *pairs_of_groups(self.given),
        ]


def find_links(
    manifest: Manifest,
    records: Sequence[ImageRecord],
    measures: Measures,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Links:
    """Look for every kind of link."""
    paths = [manifest.path_of(record) for record in records]
    sizes = [(record.width, record.height) for record in records]
    return Links(
        exact=group_equal([record.sha256 for record in records]),
        pixels=pixel_duplicates(records, measures),
        near=near_duplicates(paths, measures, threads=threads),
        overlaps=find_overlaps(paths, sizes, measures, threads=threads, progress=progress),
        twins=twin_links(
            twins_by_name(records), twins_by_content(paths, measures, threads=threads)
        ),
        given=group_equal([record.group_id for record in records]),
    )


def name_groups(records: Sequence[ImageRecord], links: Links) -> list[str]:
    """For each image the name of its component: its smallest image id, or its own."""
    names = [record.image_id for record in records]
    for group in components(len(records), links.all_pairs):
        name = min(records[i].image_id for i in group)
        for i in group:
            names[i] = name
    return names


def merge_patients(
    records: Sequence[ImageRecord], links: Links
) -> tuple[list[str], list[list[str]]]:
    """Patient ids after joining those that share the same cells or are spelled alike.

    Returns:
        The n ids (joined ones as ``15+17``), and the groups of ids that were joined.
    """
    ids = sorted({record.patient_id for record in records} - {""})
    number = {name: k for k, name in enumerate(ids)}
    pairs = [
        (number[records[i].patient_id], number[records[j].patient_id])
        for i, j in links.same_thing
        if records[i].patient_id and records[j].patient_id
    ]
    pairs += pairs_of_groups(group_equal([patient_spelling(name) for name in ids]))
    groups = [[ids[k] for k in group] for group in components(len(ids), pairs)]
    joined = {name: "+".join(group) for group in groups for name in group}
    return [joined.get(r.patient_id, r.patient_id) for r in records], groups


def join_equal_files(manifest: Manifest) -> Manifest:
    """Components and patients joined by equal files alone; no image is opened.

    What :func:`find_links` finds beyond that, such as one cell in two versions, it decodes for.
    """
    records = [record for record in manifest.images if record.status != "quarantined"]
    links = Links(
        exact=group_equal([record.sha256 for record in records]),
        pixels=[], near=[], overlaps=[], twins=[],
        given=group_equal([record.group_id for record in records]),
    )  # fmt: skip
    patients, _ = merge_patients(records, links)
    joined = with_groups(records, name_groups(records, links), patients)
    found = {record.image_id: record for record in joined}
    return manifest.with_images(found.get(r.image_id, r) for r in manifest.images)


def label_conflicts(records: Sequence[ImageRecord], links: Links) -> list[list[int]]:
    """Groups of one picture that carry two classes, by equal pixels or sure likeness."""
    return [
        group
        for group in components(len(records), links.same_thing)
        if len({records[i].label for i in group} - {""}) > 1
    ]


def leaking_parts(records: Sequence[ImageRecord], links: Links) -> list[list[int]]:
    """Components whose usable images stand in two of the data's own parts or folds."""
    found = []
    for group in components(len(records), links.all_pairs):
        parts = {records[i].given_part for i in group if records[i].status == "ok"} - {""}
        if len(parts) > 1:
            found.append(group)
    return found


def patients_by_part(
    records: Sequence[ImageRecord], patients: Sequence[str]
) -> dict[str, list[str]]:
    """Patients whose usable images stand in two of the data's own parts, with those parts."""
    parts: dict[str, set[str]] = defaultdict(set)
    for record, patient in zip(records, patients, strict=True):
        if record.status == "ok" and patient and record.given_part:
            parts[patient].add(record.given_part)
    return {name: sorted(found) for name, found in sorted(parts.items()) if len(found) > 1}


def with_groups(
    records: Sequence[ImageRecord], groups: Sequence[str], patients: Sequence[str]
) -> list[ImageRecord]:
    """The records with component and patient ids filled in."""
    return [
        replace(record, group_id=group, patient_id=patient)
        for record, group, patient in zip(records, groups, patients, strict=True)
    ]


@dataclass(frozen=True)
class SharedImage:
    """One image of the first data set that shows what an image of the second shows."""

    first: ImageRecord  # image of the first data set
    second: ImageRecord  # image of the second
    kind: str  # one of KINDS


def shared_images(
    first: Manifest,
    second: Manifest,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[SharedImage]:
    """Every pair of usable images across two data sets that show one thing, each pair once.

    Raises:
        ImageError: A file cannot be read any more.
    """
    records = [*first.usable, *second.usable]
    between = len(first.usable)
    if not 0 < between < len(records):
        return []
    paths = [first.path_of(r) for r in first.usable] + [second.path_of(r) for r in second.usable]
    measures = measure_images(paths, progress=progress)
    near = near_duplicates(paths, measures, between=between)
    sizes = [(r.width, r.height) for r in records]
    overlaps = find_overlaps(paths, sizes, measures, between=between)
    found: dict[Pair, str] = {}
    for kind, pairs in (
        (LINK_KINDS[0], _equal([r.sha256 for r in records], between)),
        (LINK_KINDS[1], _equal([row.tobytes() for row in measures.pixels], between)),
        (LINK_KINDS[2], [(pair.first, pair.second) for pair in near]),
        (LINK_KINDS[3], [(pair.first, pair.second) for pair in overlaps]),
        (LINK_KINDS[4], _twins(paths, measures, between)),
    ):
        for pair in pairs:
            found.setdefault(pair, kind)
    return [SharedImage(records[i], records[j], kind) for (i, j), kind in sorted(found.items())]


def without_shared(manifest: Manifest, shared: list[SharedImage]) -> Manifest:
    """The first data set without what it shares with the second.

    With an image go all images of its patient and of its group: they would tell as much.
    """
    ids = {pair.first.image_id for pair in shared}
    patients = {pair.first.patient_id for pair in shared} - {""}
    groups = {pair.first.group_id for pair in shared} - {""}

    def checked(record: ImageRecord) -> ImageRecord:
        hit = record.image_id in ids or record.patient_id in patients or record.group_id in groups
        if not hit or record.status != "ok":
            return record
        return replace(record, status="excluded", reason="shared with the other data set")

    return manifest.with_images(checked(record) for record in manifest.images)


def _equal(values: Sequence[str | bytes], between: int) -> list[Pair]:
    places: dict[str | bytes, list[int]] = {}
    for i, value in enumerate(values[:between]):
        places.setdefault(value, []).append(i)
    return [
        (i, j)
        for j, value in enumerate(values[between:], start=between)
        for i in places.get(value, ())
    ]


def _twins(paths: list[Path], measures: Measures, between: int) -> list[Pair]:
    """Cut-out cells of one set and the whole fields of the other."""
    side = np.arange(len(paths)) < between
    found: list[Pair] = []
    for cut_side in (side, ~side):
        rows = np.flatnonzero(np.where(cut_side, measures.cut_out, ~measures.cut_out))
        pairs = twins_by_content([paths[i] for i in rows], measures.take(rows))
        found += [(int(rows[i]), int(rows[j])) for i, j in pairs]
    return found
