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
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit.measurements import Measures, dihedral, even_contrast
from leukoscope.datasets.audit.neighbour_search import (
    NeighbourIndex,
    allocate_array,
    evenly_chosen,
    inverse_variant,
    row_blocks,
    sample_size,
    similar_pictures,
    uses_index,
)
from leukoscope.datasets.groups import Pair, correlation, group_equal, pairs_of_groups
from leukoscope.datasets.layouts.rules import read_path, twin_key
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.stain import BLACK, lit_pixels

HASH_BITS = 10
"""Perceptual hashes of near duplicates differ in at most this many of 64 bits."""

LEAST_LIKENESS = 0.8
"""Correlation of fine structure from which two pictures show one thing; others stay below 0.75."""

SURE_LIKENESS = 0.9
"""Correlation from which the same cell under two patient ids proves the ids to be one patient."""

LEAST_EVEN = 0.68
"""Least correlation after contrast was made even, so that a strong edge counts no more than faint
texture. Of two round cells on plain ground the rims alone are alike: of 532 such pairs of phantoms
all stay at .66 and below, copies of them with noise or JPEG 40 at .70 and above, those of real sets
at .78 and above."""

_COARSE = 0.85
_CONTRAST_PX, _CONTRAST = 3.0, 1.0  # px of the working picture, and grey levels left as they are
_WORKING_PX = 256
_TWIN_ERROR = 14.0  # grey levels, root mean square over the cut-out cells
_TWIN_LIKENESS = 0.9
_BLOCK = 512
_MANY_PROPOSED = 5_000  # pairs beyond which sketches pay
_SKETCH_PX = 128
_SKETCH_LIKENESS = 0.75  # within .01 of the likeness at full size, or above it, where noise is lost
_SIMILAR = 16  # neighbours of each version of a picture that an index proposes
_FIELDS = 20_000  # compared at a time
_WINDOW = 6  # px of the small picture
_NO_WINDOW = (-1, -1)
IntArray = NDArray[np.int64]
_Proposed = tuple[int, IntArray, IntArray]  # a picture, others, and which way these are turned
_Fine = tuple[NDArray[np.float32], NDArray[np.bool_]]  # fine structure, and where it counts
_RIM = np.ones((3, 3), np.uint8)


def pixel_duplicates(records: Sequence[ImageRecord], measures: Measures) -> list[list[int]]:
    """Groups of equal pixels that are not all equal files."""
    groups = group_equal([row.tobytes() for row in measures.pixels])
    return [group for group in groups if len({records[i].sha256 for i in group}) > 1]


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures of one thing."""

    first: int  # index of the first image
    second: int  # index of the second image
    variant: int  # how the second is turned or flipped against the first (0: not at all)
    score: float  # correlation of fine structure, −1 to 1


def near_duplicates(
    paths: Sequence[Path], measures: Measures, *, threads: int = 2, between: int = 0
) -> list[NearDuplicate]:
    """Pairs of one picture in two versions: re-encoded, retouched, refocused, flipped or turned.

    Perceptual hashes propose, of many images only those of the most similar small pictures; the
    correlation of the small pictures and then of the fine structure at full resolution decide, of
    very many pairs only where it is alike in sketches. Equal pixels are left out.

    With ``between`` only the first so many images are compared with the others.
    """
    proposed = sorted(set(_near_hashes(measures, between, threads)))
    if len(proposed) > _MANY_PROPOSED:
        proposed = _alike_in_sketches(proposed, paths, measures.cut_out, threads)
    load = lru_cache(maxsize=64)(partial(_fine_structure, paths))

    def compare(item: tuple[int, int, int]) -> NearDuplicate:
        i, j, variant = item
        score = _likeness(load(i), load(j), variant)
        if score >= LEAST_LIKENESS and not _alike_evenly(load(i), load(j), variant):
            score = 0.0
        return NearDuplicate(i, j, variant, round(score, 3))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        compared = list(pool.map(compare, proposed))
    best: dict[Pair, NearDuplicate] = {}
    for pair in sorted(compared, key=lambda item: -item.score):
        if pair.score >= LEAST_LIKENESS:
            best.setdefault((pair.first, pair.second), pair)
    return [best[key] for key in sorted(best)]


def _near_hashes(measures: Measures, between: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, variant) for j turned by variant like i, after the check of the small pictures.

    All that one picture's hash proposes is compared at once: among cells on black these are
    a fifteenth of all pairs.
    """
    proposed = _by_index if uses_index(len(measures.hashes)) else _by_hash
    flat = _is_flat(measures)
    for i, others, variants in proposed(measures, between, threads):
        other = ~flat[others] & (measures.pixels[others] != measures.pixels[i]).any(axis=1)
        for variant in np.unique(variants[other]).tolist():
            rows = others[other & (variants == variant)]
            # Turning i back says the same as turning all of the others.
            turned = np.asarray(dihedral(measures.relief[i], inverse_variant(variant)))
            like = _correlations(turned, measures.relief[rows]) >= _COARSE
            yield from ((i, j, variant) for j in rows[like].tolist())


def _correlations(one: NDArray[np.generic], others: NDArray[np.int8]) -> NDArray[np.float64]:
    """(m,) Pearson's of one picture (S, S) with others (m, S, S), none of them flat."""
    own = one.astype(np.float32).ravel()
    planes = others.reshape(len(others), -1).astype(np.float32)
    own -= own.mean()
    squares = np.einsum("ij,ij->i", planes, planes).astype(np.float64)
    squares -= planes.sum(axis=1, dtype=np.float64) ** 2 / planes.shape[1]
    return np.asarray((planes @ own) / (np.sqrt(squares * float(own @ own)) + 1e-6))


def _is_flat(measures: Measures) -> NDArray[np.bool_]:
    """(n,) whether a picture has no structure: it correlates with none and its hash is 0."""
    planes = measures.relief.reshape(len(measures.relief), -1)
    return np.asarray(planes.max(axis=1) == planes.min(axis=1))


def _by_hash(measures: Measures, between: int, threads: int) -> Iterator[_Proposed]:
    hashes, flat = measures.hashes, _is_flat(measures)
    for i in np.flatnonzero(~flat[: between or len(hashes) - 1]).tolist():
        first = between or i + 1
        # The eight hashes of j belong to its eight versions, so i's own hash finds the variant.
        distance = np.bitwise_count(hashes[first:] ^ hashes[i, 0])
        near = (distance <= HASH_BITS) & ~flat[first:, None]
        offsets, variants = np.nonzero(near)
        if len(offsets):
            yield i, first + offsets, variants


def _by_index(measures: Measures, between: int, threads: int) -> Iterator[_Proposed]:
    """The same of the most similar pictures alone: hashes of single cells are too alike."""
    hashes, n, found = measures.hashes, len(measures.hashes), []
    for variant, i, j in similar_pictures(
        measures.relief, _SIMILAR, between=between, threads=threads
    ):
        near = np.bitwise_count(hashes[i, 0] ^ hashes[j, variant]) <= HASH_BITS
        found.append((i[near] * n + j[near]) * 8 + variant)
    keys = np.unique(np.concatenate(found))
    flat = _is_flat(measures)
    for own in np.split(keys, np.flatnonzero(np.diff(keys // 8 // n)) + 1):
        if len(own) and not flat[picture := int(own[0]) // 8 // n]:
            yield picture, own // 8 % n, own % 8


def _alike_in_sketches(
    proposed: Sequence[tuple[int, int, int]],
    paths: Sequence[Path],
    cut_out: NDArray[np.bool_],
    threads: int,
) -> list[tuple[int, int, int]]:
    """The pairs that are alike in sketches of their fine structure, sorted.

    Each picture is in several pairs: their fine structure would fill the memory, and would be
    made again and again if it were not kept. Sketches can be kept. Pairs of cut-out cells stay:
    sketches do not leave out where only one of two cells is.
    """
    kept = [pair for pair in proposed if cut_out[pair[0]] or cut_out[pair[1]]]
    proposed = sorted(set(proposed) - set(kept))
    used = sorted({k for i, j, _ in proposed for k in (i, j)})
    place = {k: row for row, k in enumerate(used)}
    sketches = allocate_array((len(used), _SKETCH_PX, _SKETCH_PX), np.int8)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for row, sketch in enumerate(pool.map(partial(_sketch, paths), used)):
            sketches[row] = sketch
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, j, variant in proposed:
        groups[i, variant].append(j)
    for (i, variant), others in groups.items():
        turned = np.asarray(dihedral(sketches[place[i]], inverse_variant(variant)))
        like = _correlations(turned, sketches[[place[j] for j in others]]) >= _SKETCH_LIKENESS
        kept += [(i, j, variant) for j, alike in zip(others, like, strict=True) if alike]
    return sorted(kept)


def _sketch(paths: Sequence[Path], i: int) -> NDArray[np.int8]:
    """Fine structure of a picture at half its size, 0 where it does not count."""
    fine, inside = _fine_structure(paths, i)
    size = (_SKETCH_PX, _SKETCH_PX)
    small = cv2.resize(fine * inside, size, interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(np.rint(small * 2), -127, 127), np.int8)


def _fine_structure(paths: Sequence[Path], i: int) -> _Fine:
    """Fine structure of a picture on a 256 × 256 grid, and where it counts."""
    image = decode_image(paths[i]).image
    bar = find_scale_bar(image)
    valid = np.ones(image.shape[:2], np.uint8) if bar is None else (~bar.mask).astype(np.uint8)
    valid &= np.asarray(
        cv2.erode(lit_pixels(image).astype(np.uint8), np.ones((5, 5), np.uint8)),
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


def _likeness(a: _Fine, b: _Fine, variant: int) -> float:
    fine, inside = (np.asarray(dihedral(part, variant)) for part in b)
    both, either = a[1] & inside, a[1] | inside
    if both.sum() < max(256, 0.85 * either.sum()):
        return 0.0
    return correlation(a[0][both], fine[both].astype(np.float32))


def _alike_evenly(a: _Fine, b: _Fine, variant: int) -> bool:
    """Whether two pictures are alike beyond their strongest edges."""
    one, other = (even_contrast(fine, _CONTRAST_PX, _CONTRAST, inside) for fine, inside in (a, b))
    both = a[1] & np.asarray(dihedral(b[1], variant))
    return correlation(one[both], np.asarray(dihedral(other, variant))[both]) >= LEAST_EVEN


def twins_by_name(records: Iterable[ImageRecord]) -> list[list[int]]:
    """Groups of one field in sister folders ``Original`` and ``Segmented``, by their names."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    variants: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for i, record in enumerate(records):
        steps = read_path(record.path)
        if steps.variant:
            key = twin_key(record.path, steps)
            groups[key].append(i)
            variants[key].add(steps.variant)
    return [group for key, group in groups.items() if len(variants[key]) > 1]


def twins_by_content(paths: Sequence[Path], measures: Measures, *, threads: int = 2) -> list[Pair]:
    """Pairs of a field and a picture of its cells cut out on black, whatever their names.

    Where the cut-out picture is not black it must equal the field, first in the small pictures,
    then at full resolution for the best match. Of many images only the fields that an index finds
    alike in one window of the cells are compared.
    """
    cut, whole = np.flatnonzero(measures.cut_out), np.flatnonzero(~measures.cut_out)
    if not len(cut) or not len(whole):
        return []
    proposed: list[Pair] = []
    if uses_index(len(measures.luma)):
        windows = _lit_windows(measures.luma, cut)
        cut = windows.pop(_NO_WINDOW, cut[:0])
        proposed += _in_windows(measures.luma, windows, whole, threads)
    proposed += _best_fields(measures.luma, cut, whole)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        verdicts = list(pool.map(lambda pair: _is_twin(paths[pair[0]], paths[pair[1]]), proposed))
    found = [pair for pair, twin in zip(proposed, verdicts, strict=True) if twin]
    return sorted((min(pair), max(pair)) for pair in found)


def _best_fields(luma: NDArray[np.uint8], cut: IntArray, whole: IntArray) -> list[Pair]:
    """For each cut-out picture the field that is most like its cells, if any is."""
    least = np.full(len(cut), np.inf, np.float32)
    field = np.zeros(len(cut), np.int64)
    for part in row_blocks(whole, _FIELDS):
        fields = luma[part].reshape(len(part), -1).astype(np.float32)
        squares = (fields**2).T
        for start in range(0, len(cut), _BLOCK):
            rows = slice(start, start + _BLOCK)
            cells = luma[cut[rows]].reshape(-1, fields.shape[1]).astype(np.float32)
            mask = _inner(luma[cut[rows]]).reshape(cells.shape).astype(np.float32)
            count = mask.sum(axis=1)
            cells *= mask
            error = (mask @ squares - 2 * cells @ fields.T + (cells**2).sum(axis=1)[:, None]) / (
                np.maximum(count, 1)[:, None]
            )
            best = error.argmin(axis=1)
            error = np.where(count >= 20, error[np.arange(len(best)), best], np.inf)
            field[rows] = np.where(error < least[rows], part[best], field[rows])
            least[rows] = np.minimum(error, least[rows])
    near = np.sqrt(np.maximum(least, 0)) < 2 * _TWIN_ERROR
    return list(zip(cut[near].tolist(), field[near].tolist(), strict=True))


def _inner(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where cells are: small pictures mix their rims with black, so the rims are left out."""
    return np.stack([cv2.erode((one >= 2 * BLACK).astype(np.uint8), _RIM) for one in luma])


def _lit_windows(luma: NDArray[np.uint8], cut: IntArray) -> dict[Pair, IntArray]:
    """Cut-out pictures by their window inside a cell that shows most; some have none."""
    found: dict[Pair, list[int]] = {}
    for i in cut.tolist():
        seen, lit = (
            sliding_window_view(plane, (_WINDOW, _WINDOW))[::4, ::4]
            for plane in (luma[i], _inner(luma[i : i + 1])[0])
        )
        spread = np.where(lit.all(axis=(2, 3)), seen.std(axis=(2, 3)), -1)
        y, x = np.unravel_index(spread.argmax(), spread.shape)
        place = (4 * int(y), 4 * int(x)) if spread[y, x] >= 0 else _NO_WINDOW
        found.setdefault(place, []).append(i)
    return {place: np.array(rows) for place, rows in found.items()}


def _in_windows(
    luma: NDArray[np.uint8], windows: dict[Pair, IntArray], whole: IntArray, threads: int
) -> list[Pair]:
    """As :func:`_best_fields`, among the fields that are most alike in one window."""
    if not windows:
        return []

    def seen(rows: IntArray, place: Pair) -> NDArray[np.float32]:
        y, x = place
        part = luma[rows, y : y + _WINDOW, x : x + _WINDOW]
        return part.reshape(len(rows), -1).astype(np.float32)

    some = evenly_chosen(whole, sample_size(len(whole)) // len(windows) + 1)
    sample = np.concatenate([seen(some, place) for place in windows])
    index = NeighbourIndex(sample, len(whole), threads)
    proposed: list[Pair] = []
    for place, rows in windows.items():
        index.clear()
        for part in row_blocks(whole):
            index.add(seen(part, place))
        for row, near in zip(rows, index.search(seen(rows, place), _SIMILAR), strict=True):
            proposed += _best_fields(luma, np.array([row]), whole[near[near >= 0]])
    return proposed


def _is_twin(cut: Path, whole: Path) -> bool:
    a, b = decode_image(cut).image, decode_image(whole).image
    if a.shape != b.shape:
        b = np.asarray(cv2.resize(b, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_AREA))
    lit = cv2.erode((a.max(axis=2) >= 2 * BLACK).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if lit.sum() < 64:
        return False
    x, y = a[lit].astype(np.float32), b[lit].astype(np.float32)
    error = float(np.sqrt(((x - y) ** 2).mean()))
    return error < _TWIN_ERROR and correlation(x, y) > _TWIN_LIKENESS


def twin_links(by_name: Iterable[Sequence[int]], by_content: Iterable[Pair]) -> list[Pair]:
    """Both kinds of twins as links, each once."""
    return sorted({*pairs_of_groups(by_name), *by_content})
