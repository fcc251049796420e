"""The audit: measure every image once, link what belongs together, write the passport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import Passport
from leukoscope.core.errors import DataError, SplitError
from leukoscope.core.files import atomic_path, read_json, sha256_json, write_json
from leukoscope.core.records import Manifest, check_manifest
from leukoscope.core.views import data_frame, html_note, html_table, plural
from leukoscope.datasets.audit.acquisition import (
    ClusterTree,
    cluster_images,
    cluster_labels,
    merge_clusters,
)
from leukoscope.datasets.audit.links import find_links, merge_patients, name_groups, with_groups
from leukoscope.datasets.audit.measurements import measure_images
from leukoscope.datasets.audit.passport import PassportParts, describe
from leukoscope.datasets.groups import group_equal

if TYPE_CHECKING:
    import pandas as pd

CLUSTERS = 24
_MANIFEST, _PASSPORT, _TREE = "manifest.csv", "passport.json", "tree.npz"


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        manifest: With component, patient and acquisition ids filled in.
        passport: What the data set is, ready for JSON.
        tree: Nested acquisition clusters of the usable images, or None where they do not apply.
        clustered: The image ids that the tree's places belong to.
        tied: For each of them the number of its component.
    """

    manifest: Manifest
    passport: Passport
    tree: ClusterTree | None
    clustered: tuple[str, ...]
    tied: NDArray[np.int64]

    def __repr__(self) -> str:
        found = len(self.passport["findings"])
        usable = len(self.manifest.usable)
        what = f"{plural(usable, 'image')}, {plural(found, 'finding')}"
        return f"<Audit of {self.manifest.root}: {what}>"

    def _repr_html_(self) -> str:
        rows = [(finding["level"], finding["text"]) for finding in self.passport["findings"]]
        return html_note(repr(self).strip("<>")) + html_table(("level", "finding"), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row an image file: the manifest, with component, patient and acquisition ids.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(self.manifest.rows())

    def acquisition_labels(self, clusters: int) -> dict[str, str]:
        """Usable image id → acquisition cluster (``k24-00`` is the largest of 24).

        Clusters of different numbers are nested.

        Raises:
            SplitError: The data shows nothing of its acquisition, or has too few images.
        """
        return self._names(self._cut(clusters), f"k{clusters}-")

    def merged_labels(self, clusters: int) -> dict[str, str]:
        """Usable image id → cluster after joining those that overlapping fields span.

        No component of overlapping or duplicate images is cut in two.
        """
        labels = self._cut(clusters)
        return self._names(merge_clusters(labels, group_equal(self.tied.tolist())), f"m{clusters}-")

    def _cut(self, clusters: int) -> NDArray[np.int64]:
        if self.tree is None:
            reason = self.passport["acquisition"]["reason"]
            raise SplitError(f"acquisition clusters do not apply: {reason}")
        if clusters < 2 or clusters > len(self.clustered):
            raise SplitError(
                f"expected 2 to {len(self.clustered)} acquisition clusters (one an image), "
                f"got {clusters}"
            )
        return self.tree.cut(clusters)

    def _names(self, labels: NDArray[np.int64], prefix: str) -> dict[str, str]:
        width = len(str(int(labels.max())))
        names = [f"{prefix}{label:0{max(2, width)}d}" for label in labels.tolist()]
        return dict(zip(self.clustered, names, strict=True))


def audit(
    manifest: Manifest,
    *,
    clusters: int = CLUSTERS,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> Audit:
    """Find duplicates, overlaps, twins, label conflicts, scale bars and acquisition clusters.

    Args:
        manifest: The data set, as :func:`leukoscope.load_dataset` reads it.
        clusters: Number of acquisition clusters that the passport describes.
        progress: Called with (steps done, steps in all); each image counts twice.

    Raises:
        DataError: No image can be used, or a file changed since it was loaded.
        UsageError: A path stands where a manifest is expected.
    """
    check_manifest(manifest, "audit({})")
    # In the order of content, so that the names of files decide nothing.
    records = sorted(
        (r for r in manifest.images if r.status != "quarantined"),
        key=lambda r: (r.sha256, r.image_id),
    )
    if not any(record.status == "ok" for record in records):
        raise manifest.none_usable()
    total = 2 * len(records)
    paths = [manifest.path_of(record) for record in records]
    measures = measure_images(paths, threads=threads, progress=_part(progress, 0, total))
    links = find_links(
        manifest,
        records,
        measures,
        threads=threads,
        progress=_part(progress, len(records), total),
    )
    patients, merged = merge_patients(records, links)
    given = records
    records = with_groups(records, name_groups(records, links), patients)
    found = cluster_images(records, measures, links)
    labels = cluster_labels(found, clusters)
    filled = {
        r.image_id: replace(r, acquisition_id=labels.get(r.image_id, r.acquisition_id))
        for r in records
    }
    images = tuple(filled.get(r.image_id, r) for r in manifest.images)
    complete = manifest.with_images(images)
    passport = describe(
        PassportParts(complete, given, records, measures, links, merged, found, labels, clusters)
    )
    passport["sha256"] = sha256_json(passport)
    if progress is not None:
        progress(total, total)
    return Audit(complete, passport, found.tree, found.ids, found.tied)


def _part(
    progress: Callable[[int, int], None] | None, offset: int, total: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, _: tell(offset + done, total)


def save_audit(audit: Audit, folder: Path) -> None:
    """Write an audit as CSV, JSON and NPZ (no pickle), each file atomically."""
    folder = Path(folder)
    audit.manifest.save(folder / _MANIFEST)
    arrays: dict[str, Any] = {
        "clustered": np.array(audit.clustered, dtype=np.str_),
        "tied": audit.tied,
    }
    if audit.tree is not None:
        arrays["linkage"] = audit.tree.linkage
        arrays["place"] = audit.tree.place
        arrays["whitened"] = np.array(audit.tree.whitened)
    with atomic_path(folder / _TREE) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)
    write_json(folder / _PASSPORT, audit.passport)


def load_audit(folder: Path, root: Path) -> Audit:
    """Read what :func:`save_audit` wrote.

    Raises:
        DataError: A file is missing or damaged, or they do not belong together.
    """
    folder = Path(folder)
    passport: Passport = read_json(folder / _PASSPORT)
    rest = {key: value for key, value in passport.items() if key != "sha256"}
    if passport.get("sha256") != sha256_json(rest):
        raise DataError(
            f"{folder / _PASSPORT}: its contents do not fit its hash",
            hint="delete the folder and audit again",
        )
    manifest = Manifest.load(folder / _MANIFEST, root)
    manifest = replace(manifest, layout=str(passport["layout"]))
    try:
        with (folder / _TREE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        clustered = tuple(arrays["clustered"].tolist())
        tied = arrays["tied"]
        tree = None
        if "linkage" in arrays:
            tree = ClusterTree(arrays["linkage"], arrays["place"], bool(arrays["whitened"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{folder / _TREE}: expected the audit's clusters, but {error}",
            hint="delete the folder and audit again",
        ) from None
    if set(clustered) != {record.image_id for record in manifest.usable}:
        raise DataError(
            f"{folder}: manifest and clusters are of different data",
            hint="delete the folder and audit again",
        )
    return Audit(manifest, passport, tree, clustered, tied)
