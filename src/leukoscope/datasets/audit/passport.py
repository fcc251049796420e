"""The passport: what the audit found, ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import (
    Acquisition,
    Agreement,
    ClassBalance,
    Components,
    GivenParts,
    LabelConflict,
    LinkedImages,
    Overlaps,
    Passport,
    PatientCounts,
    ScaleBars,
)
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import order_classes
from leukoscope.core.program import __version__
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.audit.acquisition import (
    Clustering,
    contingency,
    cramers_v,
    merge_clusters,
)
from leukoscope.datasets.audit.associations import associations
from leukoscope.datasets.audit.findings import findings
from leukoscope.datasets.audit.links import (
    Links,
    label_conflicts,
    leaking_parts,
    patients_by_part,
)
from leukoscope.datasets.audit.measurements import Measures, has_bar
from leukoscope.datasets.audit.neighbour_search import describe_search
from leukoscope.datasets.groups import Pair, components, group_equal

SCHEMA = 1


@dataclass(frozen=True)
class PassportParts:
    """All that the passport is written from."""

    manifest: Manifest
    given: Sequence[ImageRecord]  # the n readable images as they were loaded
    records: Sequence[ImageRecord]  # the same with component and patient ids
    measures: Measures  # measurements of the n images
    links: Links
    merged_patients: list[list[str]]  # groups of ids that were joined
    clustering: Clustering  # acquisition clusters of the usable images
    labels: dict[str, str]  # usable image id → acquisition cluster
    clusters: int

    def ids(self, indices: Sequence[int]) -> list[str]:
        """Image ids, sorted."""
        return sorted(self.records[i].image_id for i in indices)


def describe(evidence: PassportParts) -> Passport:
    """The passport without its hash."""
    manifest, links = evidence.manifest, evidence.links
    usable = manifest.usable
    counts = Counter(record.label for record in usable)
    excluded = (r.reason.partition(" of ")[0] for r in manifest.images if r.status == "excluded")
    n = len(evidence.records)
    passport: Passport = {
        "schema": SCHEMA,
        "leukoscope": __version__,
        "root_name": manifest.root.resolve().name,
        "n_files": len(manifest.images),
        "n_usable": len(usable),
        "layout": manifest.layout,
        "notes": list(manifest.notes),
        "classes": {name: counts[name] for name in order_classes(counts)},
        "quarantined": [{"path": path, "reason": why} for path, why in manifest.unreadable],
        "excluded": dict(sorted(Counter(excluded).items())),
        "exact_duplicates": _groups(evidence, links.exact),
        "pixel_duplicates": _groups(evidence, links.pixels),
        "near_duplicates": {
            **_pairs(evidence, links.near_pairs),
            "turned": sum(pair.variant > 0 for pair in links.near),
        },
        "overlaps": _overlaps(evidence),
        "twins": _pairs(evidence, links.twins),
        "components": _components(evidence, components(n, links.all_pairs)),
        "label_conflicts": _conflicts(evidence),
        "patients": _patients(evidence),
        "given_parts": _given_parts(evidence),
        "scale_bars": _scale_bars(evidence),
        "acquisition": _acquisition(evidence),
        "class_balance": class_balance([counts[name] for name in order_classes(counts)]),
    }
    columns = associations(usable)
    if columns:
        passport["columns"] = [column.to_json() for column in columns]
    search = describe_search(n)
    if search is not None:
        passport["search"] = search
    passport["findings"] = findings(passport)
    return passport


def _groups(evidence: PassportParts, groups: Sequence[Sequence[int]]) -> LinkedImages:
    return {
        "pairs": sum(len(group) * (len(group) - 1) // 2 for group in groups),
        "images": sum(len(group) for group in groups),
        "groups": sorted(evidence.ids(group) for group in groups),
    }


def _pairs(evidence: PassportParts, pairs: Sequence[Pair]) -> LinkedImages:
    return {**_groups(evidence, components(len(evidence.records), pairs)), "pairs": len(pairs)}


def _overlaps(evidence: PassportParts) -> Overlaps:
    groups = components(len(evidence.records), evidence.links.overlap_pairs)
    names = [record.image_id for record in evidence.records]
    by_class = Counter(evidence.records[i].label for group in groups for i in group)
    pairs: list[list[str | float]] = [
        [names[o.first], names[o.second], o.dx, o.dy, o.score] for o in evidence.links.overlaps
    ]
    return {
        "groups": len(groups),
        "images": sum(len(group) for group in groups),
        "largest": max((len(group) for group in groups), default=0),
        "by_class": {name: by_class[name] for name in CLASSES if by_class[name]},
        "pairs": sorted(pairs),
    }


def _components(evidence: PassportParts, groups: Sequence[Sequence[int]]) -> Components:
    sizes = Counter(len(group) for group in groups)
    return {
        "groups": len(groups),
        "images": sum(len(group) for group in groups),
        "largest": max(sizes, default=0),
        "sizes": {str(size): sizes[size] for size in sorted(sizes)},
    }


def _conflicts(evidence: PassportParts) -> list[LabelConflict]:
    found: list[LabelConflict] = []
    for group in label_conflicts(evidence.records, evidence.links):
        members = sorted((evidence.records[i] for i in group), key=lambda r: r.path)
        found.append(
            {
                "images": [record.image_id for record in members],
                "paths": [record.path for record in members],
                "labels": list(order_classes({r.label for r in members} - {""})),
            }
        )
    return sorted(found, key=lambda entry: entry["paths"])


def _patients(evidence: PassportParts) -> PatientCounts:
    usable = [record for record in evidence.records if record.status == "ok"]
    ids = {record.patient_id for record in usable} - {""}
    by_class = {
        name: len({r.patient_id for r in usable if r.label == name and r.patient_id})
        for name in order_classes(r.label for r in usable)
    }
    links = evidence.links
    across = sum(
        1
        for i, j in links.near_pairs + links.overlap_pairs
        if evidence.records[i].patient_id != evidence.records[j].patient_id
    )
    return {
        "n": len(ids),
        "n_given": len({r.patient_id for r in evidence.given if r.status == "ok"} - {""}),
        "images": sum(bool(record.patient_id) for record in usable),
        "by_class": by_class,
        "merged": evidence.merged_patients,
        "links_across": across,
    }


def _given_parts(evidence: PassportParts) -> GivenParts:
    usable = [record for record in evidence.records if record.status == "ok"]
    parts = Counter(record.given_part for record in usable if record.given_part)
    leaks = leaking_parts(evidence.records, evidence.links)
    patients = [record.patient_id for record in evidence.records]
    return {
        "parts": dict(sorted(parts.items())),
        "leaking_components": sorted(evidence.ids(group) for group in leaks),
        "leaking_patients": patients_by_part(evidence.records, patients),
    }


def _scale_bars(evidence: PassportParts) -> ScaleBars:
    present = has_bar(evidence.measures)
    usable = [i for i, record in enumerate(evidence.records) if record.status == "ok"]
    labels = [evidence.records[i].label for i in usable]
    names = order_classes(labels)
    with_bar = [i for i in usable if present[i]]
    by_class = Counter(evidence.records[i].label for i in with_bar)
    rows = [_bar_style(evidence, i) for i in usable]
    number = {style: k for k, style in enumerate(sorted(set(rows)))}
    association = None
    if len(names) > 1:
        table = contingency([names.index(label) for label in labels], [number[s] for s in rows])
        association = cramers_v(table)
    boxes = evidence.measures.bar[with_bar]
    return {
        "images": len(with_bar),
        "by_class": {name: by_class[name] for name in names},
        "red": int(evidence.measures.bar_red[with_bar].sum()),
        "boxes": {
            side: [int(column.min()), int(column.max())]
            for side, column in zip(("x0", "y0", "x1", "y1"), boxes.T, strict=True)
            if with_bar
        },
        "cramers_v": association,
    }


def _bar_style(evidence: PassportParts, i: int) -> tuple[str, int, int]:
    """Colour and size of an image's bar, in steps of 4 % of the image; empty where none."""
    x0, y0, x1, y1 = (int(value) for value in evidence.measures.bar[i])
    if x0 < 0:
        return "", 0, 0
    record = evidence.records[i]
    colour = "red" if evidence.measures.bar_red[i] else "black"
    return colour, round(25 * (x1 - x0) / record.width), round(25 * (y1 - y0) / record.height)


def _acquisition(evidence: PassportParts) -> Acquisition:
    found = evidence.clustering
    if found.tree is None:
        return {"applicable": False, "reason": found.reason}
    label_of = {record.image_id: record.label for record in evidence.records}
    labels = [label_of[name] for name in found.ids]
    names = order_classes(labels)
    y = [names.index(label) for label in labels]
    clusters = sorted(set(evidence.labels.values()))
    assigned = [clusters.index(evidence.labels[name]) for name in found.ids]
    table = contingency(assigned, y)
    numbers = np.array(assigned, np.int64)
    groups = group_equal(found.tied.tolist())
    merged = merge_clusters(numbers, groups)
    spanning = sum(len({assigned[i] for i in group}) > 1 for group in groups)
    return {
        "applicable": True,
        "clusters": len(clusters),
        "scaled_by_overlaps": found.tree.whitened,
        "class_by_cluster": {
            cluster: {name: int(row[k]) for k, name in enumerate(names)}
            for cluster, row in zip(clusters, table, strict=True)
        },
        "cramers_v": cramers_v(table),
        "components_spanning_clusters": spanning,
        "merged_clusters": len(set(merged.tolist())),
        "largest_merged": int(np.bincount(merged).max()),
        "given": _agreement(evidence, numbers),
    }


def _agreement(evidence: PassportParts, clusters: NDArray[np.int64]) -> Agreement | None:
    """How well the clusters agree with acquisition ids that the data names itself."""
    named = {record.image_id: record.acquisition_id for record in evidence.given}
    ids = [named[name] for name in evidence.clustering.ids]
    if "" in ids or len(set(ids)) < 2:
        return None
    number = {name: k for k, name in enumerate(sorted(set(ids)))}
    table = contingency([number[name] for name in ids], clusters)
    return {"ids": len(number), "adjusted_rand": adjusted_rand(table)}


def adjusted_rand(table: NDArray[np.float64]) -> float:
    """Agreement of two partitions beyond chance (Hubert & Arabie 1985).

    Args:
        table: (R, C) counts.

    Returns:
        1 for equal partitions, about 0 for unrelated ones.

    >>> adjusted_rand(np.array([[3.0, 0.0], [0.0, 2.0]]))
    1.0
    """

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    n = float(table.sum())
    chance = rows * columns / (n * (n - 1) / 2)
    most = (rows + columns) / 2
    return round((both - chance) / (most - chance), 4) if most > chance else 1.0


def class_balance(counts: Sequence[int]) -> ClassBalance:
    """Test of equal class sizes, and their normalised entropy.

    Returns:
        ``chi2`` (Pearson), ``p`` (K − 1 degrees of freedom), ``entropy`` (1 for equal classes),
        ``ratio`` (largest over smallest); None where there are fewer than two classes.

    >>> class_balance([10, 10])
    {'chi2': 0.0, 'p': 1.0, 'entropy': 1.0, 'ratio': 1.0}
    """
    if len(counts) < 2:
        return {"chi2": None, "p": None, "entropy": None, "ratio": None}
    from scipy.special import chdtrc

    values = np.array(counts, np.float64)
    expected = values.mean()
    chi2 = float(((values - expected) ** 2 / expected).sum())
    shares = values / values.sum()
    entropy = float(-(shares * np.log(shares)).sum() / np.log(len(values)))
    return {
        "chi2": round(chi2, 6),
        "p": float(chdtrc(len(values) - 1, chi2)),
        "entropy": round(entropy, 6),
        "ratio": round(float(values.max() / values.min()), 4),
    }
