"""Find copies of one picture: equal bytes, equal pixels, nearly equal or flipped, cut-out twins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.layout_rules import read_steps, twin_key
from leukoscope.datasets.linking import Pair, chain, correlation, equal_values
from leukoscope.datasets.measurements import Measures, dihedral
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.scale_bar import find_scale_bar

HASH_BITS = 10
"""Perceptual hashes of near duplicates differ in at most this many of 64 bits."""

LEAST_LIKENESS = 0.8
"""Correlation of fine structure from which two pictures show one thing; others stay below 0.75."""

SURE_LIKENESS = 0.9
"""Correlation from which the same cell under two patient ids proves the ids to be one patient."""

_COARSE = 0.85
_WORKING_PX = 256
_BLACK = 12
_TWIN_ERROR = 14.0  # grey levels, root mean square over the cut-out cells
_TWIN_LIKENESS = 0.9
_BLOCK = 512
_RIM = np.ones((3, 3), np.uint8)


def pixel_duplicates(records: Sequence[ImageRecord], measures: Measures) -> list[list[int]]:
    """Groups of equal pixels that are not all equal files."""
    groups = equal_values([row.tobytes() for row in measures.pixels])
    return [group for group in groups if len({records[i].sha256 for i in group}) > 1]


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures of one thing.

    Attributes:
        first: Index of the first image.
        second: Index of the second image.
        variant: How the second is turned or flipped against the first (0: not at all).
        score: Correlation of fine structure, −1 to 1.
    """

    first: int
    second: int
    variant: int
    score: float


def near_duplicates(
    paths: Sequence[Path], measures: Measures, *, threads: int = 2, between: int = 0
) -> list[NearDuplicate]:
    """Pairs of one picture in two versions: re-encoded, retouched, refocused, flipped or turned.

    Perceptual hashes propose; the correlation of the small pictures and then of the fine
    structure at full resolution decide. Equal pixels are left out.

    With ``between`` only the first so many images are compared with the others.
    """
    proposed = sorted(set(_near_hashes(measures, between)))
    load = lru_cache(maxsize=64)(partial(_fine_structure, paths))

    def compare(item: tuple[int, int, int]) -> NearDuplicate:
        i, j, variant = item
        return NearDuplicate(i, j, variant, round(_likeness(load(i), load(j), variant), 3))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        compared = list(pool.map(compare, proposed))
    best: dict[Pair, NearDuplicate] = {}
    for pair in sorted(compared, key=lambda item: -item.score):
        if pair.score >= LEAST_LIKENESS:
            best.setdefault((pair.first, pair.second), pair)
    return [best[key] for key in sorted(best)]


def _near_hashes(measures: Measures, between: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, variant) for j turned by variant like i, after the check of the small pictures."""
    hashes, relief = measures.hashes, measures.relief.astype(np.float32)
    for i in range(between or len(hashes) - 1):
        first = between or i + 1
        # The eight hashes of j belong to its eight versions, so i's own hash finds the variant.
        distance = np.bitwise_count(hashes[first:] ^ hashes[i, 0])
        for offset, variant in np.argwhere(distance <= HASH_BITS).tolist():
            j = first + offset
            if (measures.pixels[i] == measures.pixels[j]).all():
                continue
            turned = np.asarray(dihedral(relief[j], variant))
            if correlation(relief[i], turned) >= _COARSE:
                yield i, j, variant


def _fine_structure(paths: Sequence[Path], i: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fine structure of a picture on a 256 × 256 grid, and where it counts."""
    image = decode_image(paths[i]).image
    bar = find_scale_bar(image)
    valid = np.ones(image.shape[:2], np.uint8) if bar is None else (~bar.mask).astype(np.uint8)
    valid &= np.asarray(
        cv2.erode((image.max(axis=2) >= _BLACK).astype(np.uint8), np.ones((5, 5), np.uint8)),
        np.uint8,
    )
    size = (_WORKING_PX, _WORKING_PX)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    level = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    inside = cv2.resize(valid, size, interpolation=cv2.INTER_NEAREST)
    # Normalised smoothing: the black around a cut-out cell does not leak into its rim.
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 6) + np.float32(1e-3)
    slow = cv2.GaussianBlur(level * inside, (0, 0), 6) / weight
    fine = cv2.GaussianBlur(level, (0, 0), 1) - slow
    return np.asarray(fine, np.float32), np.asarray(inside > 0)


def _likeness(
    a: tuple[NDArray[np.float32], NDArray[np.bool_]],
    b: tuple[NDArray[np.float32], NDArray[np.bool_]],
    variant: int,
) -> float:
    fine, inside = (np.asarray(dihedral(part, variant)) for part in b)
    both, either = a[1] & inside, a[1] | inside
    if both.sum() < max(256, 0.85 * either.sum()):
        return 0.0
    return correlation(a[0][both], fine[both].astype(np.float32))


def twins_by_name(records: Iterable[ImageRecord]) -> list[list[int]]:
    """Groups of one field in sister folders ``Original`` and ``Segmented``, by their names."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    variants: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for i, record in enumerate(records):
        steps = read_steps(record.path)
        if steps.variant:
            key = twin_key(record.path, steps)
            groups[key].append(i)
            variants[key].add(steps.variant)
    return [group for key, group in groups.items() if len(variants[key]) > 1]


def twins_by_content(paths: Sequence[Path], measures: Measures, *, threads: int = 2) -> list[Pair]:
    """Pairs of a field and a picture of its cells cut out on black, whatever their names.

    Where the cut-out picture is not black it must equal the field, first in the small pictures
    (all pairs, one matrix product), then at full resolution for the best match.
    """
    cut, whole = np.flatnonzero(measures.cut_out), np.flatnonzero(~measures.cut_out)
    if not len(cut) or not len(whole):
        return []
    fields = measures.luma[whole].reshape(len(whole), -1).astype(np.float32)
    proposed: list[Pair] = []
    for start in range(0, len(cut), _BLOCK):
        rows = cut[start : start + _BLOCK]
        cells = measures.luma[rows].reshape(len(rows), -1).astype(np.float32)
        # Small pictures mix the rims of cells with black, so the rims are left out.
        inner = [
            cv2.erode((luma > 2 * _BLACK).astype(np.uint8), _RIM) for luma in measures.luma[rows]
        ]
        mask = np.stack(inner).reshape(len(rows), -1).astype(np.float32)
        count = np.maximum(mask.sum(axis=1), 1)
        cells *= mask
        error = (mask @ (fields**2).T - 2 * cells @ fields.T + (cells**2).sum(axis=1)[:, None]) / (
            count[:, None]
        )
        best = error.argmin(axis=1)
        near = np.sqrt(np.maximum(error[np.arange(len(rows)), best], 0)) < 2 * _TWIN_ERROR
        near &= count >= 20
        proposed += [(int(rows[k]), int(whole[best[k]])) for k in np.flatnonzero(near)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        verdicts = list(pool.map(lambda pair: _is_twin(paths[pair[0]], paths[pair[1]]), proposed))
    found = [pair for pair, twin in zip(proposed, verdicts, strict=True) if twin]
    return sorted((min(pair), max(pair)) for pair in found)


def _is_twin(cut: Path, whole: Path) -> bool:
    a, b = decode_image(cut).image, decode_image(whole).image
    if a.shape != b.shape:
        b = np.asarray(cv2.resize(b, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_AREA))
    lit = cv2.erode((a.max(axis=2) >= 2 * _BLACK).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if lit.sum() < 64:
        return False
    x, y = a[lit].astype(np.float32), b[lit].astype(np.float32)
    error = float(np.sqrt(((x - y) ** 2).mean()))
    return error < _TWIN_ERROR and correlation(x, y) > _TWIN_LIKENESS


def twin_links(by_name: Iterable[Sequence[int]], by_content: Iterable[Pair]) -> list[Pair]:
    """Both kinds of twins as links, each once."""
    return sorted({*chain(by_name), *by_content})
