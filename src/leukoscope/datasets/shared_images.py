"""Images that two data sets share: what the first has seen, the second must not test on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.duplicates import near_duplicates, twins_by_content
from leukoscope.datasets.linking import Pair
from leukoscope.datasets.measurements import Measures, measure_images
from leukoscope.datasets.overlap import find_overlaps

KINDS = ("equal file", "equal pixels", "near duplicate", "overlapping field", "twin")


@dataclass(frozen=True)
class SharedImage:
    """One image of the first data set that shows what an image of the second shows.

    Attributes:
        first: Image of the first data set.
        second: Image of the second.
        kind: One of :data:`KINDS`.
    """

    first: ImageRecord
    second: ImageRecord
    kind: str


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
        (KINDS[0], _equal([r.sha256 for r in records], between)),
        (KINDS[1], _equal([row.tobytes() for row in measures.pixels], between)),
        (KINDS[2], [(pair.first, pair.second) for pair in near]),
        (KINDS[3], [(pair.first, pair.second) for pair in overlaps]),
        (KINDS[4], _twins(paths, measures, between)),
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
