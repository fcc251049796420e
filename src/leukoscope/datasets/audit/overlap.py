"""Find fields that show the same place of a smear, shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.datasets.audit.measurements import (
    LOW_PX,
    RELIEF_LEVELS,
    Measures,
    even_contrast,
)
from leukoscope.datasets.audit.neighbour_search import (
    allocate_array,
    row_blocks,
    shifted_pictures,
    take_rows,
    uses_index,
)
from leukoscope.datasets.groups import correlation
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.scale_bar import find_scale_bar

_MOST_DISTANCES = 2**25  # held at a time
NEIGHBOURS = 600
"""Each field is compared with this many fields of the most similar colours."""
LEAST_OVERLAP = 0.2
"""Smallest shared part of a field; a smaller one could be chance."""
LEAST_EVIDENCE = 0.42
"""Least :func:`overlap_evidence`. Chance matches of smears stay below 0.37, true overlaps in or
out of focus lie above 0.45."""
_PEAK = 5.0  # standard deviations by which the phase correlation's peak stands out
_COARSE = 0.3  # correlation of the small pictures
LEAST_REST = (0.4, 0.3)
"""Least correlations without the strongest dark thing that both pictures show, and without the two
strongest. Of cells that each lie in the middle of their own picture nine in ten stay below in the
small pictures; the overlaps of the 4-class ALL set stay above .42 and .32."""
_HALO = np.ones((21, 21), np.uint8)
"""A dark thing shines 10 px of the small pictures into its high-passed surroundings."""
ALIGNED_SHARE = 0.85
"""Pictures that share more have their middles in one place, as those of single cells all have."""
LEAST_FINE_REST = (0.4, 0.4)
"""As :data:`LEAST_REST`, of fine structure of even contrast, for aligned pictures: beside the cell
a red cell at the rim may lie in one place by chance. All 42 such pairs of 425 phantom cells stay
below .4 in one of the two, the aligned overlaps of the 4-class ALL set above .42 in both."""
_FINE_PX, _FINE_CONTRAST_PX, _FINE_CONTRAST = 6.0, 3.0, 1.0  # of the working picture; grey levels
_FEWEST_REST = 100  # px of the small pictures from which a rest can be judged
_BAND = 0.22  # cycles per px of the small pictures that carry structure
_WORKING_PX = 256  # longer side at which overlaps are verified
_TILES = 4
_CONTRAST_PX = 6.0  # px over which contrast is made even
_CONTRAST = 3.0  # grey levels below which it is left as it is
_TEXTURE = 1.5  # grey levels; a flatter tile says nothing
_BATCH = 128
_LEAST_TEMPLATE = 16  # px, of the shorter side
_VOTE_REACH = 1  # px of the small pictures by which two patches mistake a shift
Shift = tuple[int, int]
ShiftCandidate = tuple[int, int, Shift]


def nearest_in_colour(colour: NDArray[np.float32], neighbours: int) -> NDArray[np.int32]:
    """For each image the most similar ones, after robust scaling of each statistic.

    Args:
        colour: (n, d) float32.

    Returns:
        (n, min(neighbours, n − 1) + 1) int32 indices, the image itself among them.
    """
    middle = np.median(colour, axis=0)
    low, high = np.percentile(colour, [25, 75], axis=0)
    scaled = np.clip((colour - middle) / (high - low + 1e-6), -3, 3).astype(np.float32)
    squares = (scaled**2).sum(axis=1)
    count = min(neighbours + 1, len(colour))
    nearest = allocate_array((len(colour), count), np.int32)
    size = min(1024, max(1, _MOST_DISTANCES // len(colour)))
    for rows in row_blocks(np.arange(len(colour)), size):
        distance = squares[None, :] - 2 * scaled[rows] @ scaled.T
        nearest[rows] = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return nearest


def partners_of(nearest: NDArray[np.int32], side: NDArray[np.bool_] | None) -> Iterator[list[int]]:
    """For each image those after it that are among its neighbours, or have it among theirs.

    Args:
        nearest: (n, k) of :func:`nearest_in_colour`.
        side: (n,) where given, only pairs across it.

    Yields:
        n sorted lists of indices.
    """
    for rows in row_blocks(np.arange(len(nearest))):
        first, last = int(rows[0]), int(rows[-1])
        found = []
        for part in row_blocks(np.arange(len(nearest))):
            near = nearest[part]
            low, high = np.minimum(part[:, None], near), np.maximum(part[:, None], near)
            keep = (low >= first) & (low <= last) & (low != high)
            if side is not None:
                keep &= side[low] != side[high]
            found.append((low[keep] - first) * len(nearest) + high[keep])
        pairs = np.unique(np.concatenate(found))
        ends = np.searchsorted(pairs, np.arange(1, len(rows)) * len(nearest))
        yield from (part.tolist() for part in np.split(pairs % len(nearest), ends))


@dataclass(frozen=True)
class Overlap:
    """Two fields that share a part."""

    first: int  # index of the first image
    second: int  # index of the second image
    dx: int  # pixel (x, y) of the first is pixel (x + dx, y + dy) of the second
    dy: int
    score: float  # correlation of the shared part, −1 to 1
    share: float  # shared part of the field, 0 to 1


def find_overlaps(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    measures: Measures,
    *,
    neighbours: int = NEIGHBOURS,
    threads: int = 2,
    between: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Overlap]:
    """All overlapping pairs, sorted.

    Args:
        sizes: Their widths and heights; only fields of one size are compared.
        measures: Their measures. Cut-out cells are left out, because they have no surroundings,
            and so are equal pixels, which are duplicates.
        neighbours: Number of neighbours in colour that each field is compared with.
        between: Compare only the first so many images with the others; 0 compares all.
    """
    candidates: list[ShiftCandidate] = []
    fields = np.flatnonzero(~measures.cut_out)
    by_size: dict[tuple[int, int], list[int]] = {}
    for i in fields:
        by_size.setdefault(sizes[int(i)], []).append(int(i))
    done = 0
    for members in by_size.values():
        index = np.array(members)
        side = index < between if between else None
        relief = take_rows(measures.relief, index)
        if uses_index(len(index)):
            compared = _compare_voted(relief, threads, side)
        else:
            compared = _compare(relief, measures.colour[index], neighbours, threads, side)
        for found in compared:
            pairs = [(int(index[a]), int(index[b]), shift) for a, b, shift in found]
            candidates += [
                p for p in pairs if (measures.pixels[p[0]] != measures.pixels[p[1]]).any()
            ]
            done += 1
            if progress is not None:
                progress(done, len(fields))
    load = lru_cache(maxsize=64)(partial(_load_plane, paths))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        verified = pool.map(lambda item: _verify(item, load), sorted(candidates))
        return [overlap for overlap in verified if overlap is not None]


def _compare(
    relief: NDArray[np.int8],
    colour: NDArray[np.float32],
    neighbours: int,
    threads: int,
    side: NDArray[np.bool_] | None,
) -> Iterator[list[ShiftCandidate]]:
    """Candidates of one field after the other; where there are two sides, only across them."""
    if len(relief) < 2:
        yield from ([] for _ in relief)
        return
    others = partners_of(nearest_in_colour(colour, neighbours), side)
    spectra = _spectra(relief)
    planes = relief.astype(np.float32) if len(relief) < 5000 else relief

    def work(i: int, partners: list[int]) -> list[ShiftCandidate]:
        return list(_candidates(i, partners, spectra, planes))

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for rows in row_blocks(np.arange(len(relief))):
            yield from pool.map(work, rows.tolist(), islice(others, len(rows)))


def _compare_voted(
    relief: NDArray[np.int8], threads: int, side: NDArray[np.bool_] | None
) -> Iterator[list[ShiftCandidate]]:
    """As :func:`_compare`, of the pairs that an index proposes with their shift."""
    votes = shifted_pictures(relief, side, threads=threads)
    voted: dict[int, list[ShiftCandidate]] = {}
    for (i, j), (_, dx, dy) in votes.items():
        a, b = relief[i].astype(np.float32), relief[j].astype(np.float32)
        found = _refine(a, b, dx, dy, _VOTE_REACH)
        if found is None or found[1] < _COARSE:
            continue
        shift = found[0]
        if not _hinges_small(a, b, shift):
            voted.setdefault(i, []).append((i, j, shift))
    yield from (voted.get(i, []) for i in range(len(relief)))


def _spectra(relief: NDArray[np.int8]) -> NDArray[np.complex64]:
    """(n, 64, 33) complex64: phases only, weighted towards the frequencies that carry cells."""
    import scipy.fft

    taper = np.sqrt(np.hanning(LOW_PX + 2)[1:-1]).astype(np.float32)
    window = np.outer(taper, taper)
    fy = np.fft.fftfreq(LOW_PX)[:, None]
    fx = np.fft.rfftfreq(LOW_PX)[None, :]
    band = np.exp(-(fx**2 + fy**2) / (4 * _BAND**2)).astype(np.float32)
    spectra = allocate_array((len(relief), LOW_PX, LOW_PX // 2 + 1), np.complex64)
    for start in range(0, len(relief), _BATCH):
        part = scipy.fft.rfft2(relief[start : start + _BATCH].astype(np.float32) * window)
        spectra[start : start + _BATCH] = part / (np.abs(part) + np.float32(0.05)) * band
    return spectra


def _candidates(
    i: int, others: list[int], spectra: NDArray[np.complex64], planes: NDArray[np.generic]
) -> Iterator[ShiftCandidate]:
    import scipy.fft

    own = spectra[i].conj()
    size = (LOW_PX, LOW_PX)
    for start in range(0, len(others), _BATCH):
        batch = others[start : start + _BATCH]
        surface = scipy.fft.irfft2(own * spectra[batch], s=size).reshape(len(batch), -1)
        peaks = surface.argmax(axis=1)
        squares = np.einsum("ij,ij->i", surface, surface) / surface.shape[1]
        spread = np.sqrt(squares - np.square(surface.mean(axis=1)))
        heights = surface[np.arange(len(batch)), peaks] / (spread + 1e-12)
        for k in np.flatnonzero(heights > _PEAK):
            shift = _best_shift(planes[i], planes[batch[k]], int(peaks[k]))
            if shift is not None:
                yield i, batch[k], shift


def _best_shift(a: NDArray[np.generic], b: NDArray[np.generic], peak: int) -> Shift | None:
    """Which of the four shifts that one peak may mean fits, in px of the small pictures."""
    row, column = divmod(peak, LOW_PX)
    rows, columns = (row, row - LOW_PX), (column, column - LOW_PX)
    return _best_of(a, b, ((dx, dy) for dy in rows for dx in columns))


def _best_of(
    a: NDArray[np.generic], b: NDArray[np.generic], shifts: Iterable[Shift]
) -> Shift | None:
    best, shift = _COARSE, None
    for dx, dy in shifts:
        if (LOW_PX - abs(dx)) * (LOW_PX - abs(dy)) < 0.8 * LEAST_OVERLAP * LOW_PX**2:
            continue
        score = correlation(*_shared(a, b, dx, dy))
        if score > best:
            best, shift = score, (dx, dy)
    return None if shift is None or _hinges_small(a, b, shift) else shift


def _hinges_small(a: NDArray[np.generic], b: NDArray[np.generic], shift: Shift) -> bool:
    """:func:`hinges_on_few` of two shifted small pictures."""
    x, y = (np.asarray(part, np.float32) for part in _shared(a, b, *shift))
    return hinges_on_few(x, y, rests(x, y, (RELIEF_LEVELS, RELIEF_LEVELS)))


def rests(
    a: NDArray[np.float32], b: NDArray[np.float32], dark: tuple[float, float]
) -> Iterator[NDArray[np.bool_]]:
    """Where two pictures are left without the one, then the two, strongest things of both.

    Args:
        a: (h, w) float32 relief of the shared part of one picture, at the scale of the small
            pictures.
        b: (h, w) float32 of the other.
        dark: How much darker than its surroundings a thing is, in either picture.

    Yields:
        Two (h, w) masks, the second one when it is asked for: most pairs fail by the first.
    """
    both = ((a < -dark[0]) & (b < -dark[1])).astype(np.uint8)
    count, things = cv2.connectedComponents(both)
    strongest = np.arange(1, count)
    if count > 2:
        strength = np.bincount(things.ravel(), weights=(a * b).ravel(), minlength=count)[1:]
        strongest = 1 + np.argsort(-strength, kind="stable")[:2]
    rest = np.ones(a.shape, np.bool_)
    for place in range(2):
        if place < len(strongest):
            thing = (things == strongest[place]).astype(np.uint8)
            rest = rest & (cv2.dilate(thing, _HALO) == 0)
        yield rest


def hinges_on_few(
    a: NDArray[np.generic],
    b: NDArray[np.generic],
    kept: Iterable[NDArray[np.bool_]],
    fewest: int = _FEWEST_REST,
    least: tuple[float, float] = LEAST_REST,
) -> bool:
    """Whether two pictures are alike by one or two things alone.

    Two round cells correlate whosever they are; one place has more in common than its cell. A
    picture that shows one thing only cannot be judged and is said to hinge on it.

    Args:
        a: (h, w) shared part of one picture.
        b: (h, w) of the other.
        kept: Of :func:`rests`, at this size.
        fewest: Pixels from which a rest can be judged.
        least: Correlation of each rest below which the pictures are not alike in it.
    """
    for place, (mask, bound) in enumerate(zip(kept, least, strict=True)):
        if np.count_nonzero(mask) >= fewest:
            if correlation(a[mask], b[mask]) < bound:
                return True
        elif place == 0:
            return True
    return False


def _shared(
    a: NDArray[np.generic], b: NDArray[np.generic], dx: int, dy: int
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The part that two pictures of one size share, cut out of both."""
    height, width = a.shape[:2]
    y0, y1 = max(0, -dy), min(height, height - dy)
    x0, x1 = max(0, -dx), min(width, width - dx)
    return a[y0:y1, x0:x1], b[y0 + dy : y1 + dy, x0 + dx : x1 + dx]


@dataclass(frozen=True)
class _Plane:
    """A field ready to be verified."""

    relief: NDArray[np.float32]  # (h, w) float32 green channel without its slow changes
    even: NDArray[np.float32]  # (h, w) float32 the same, divided by its local contrast
    valid: NDArray[np.bool_]  # (h, w) bool, false under the scale bar
    scale: float  # pixels of the image per pixel of the plane


def _load_plane(paths: Sequence[Path], i: int) -> _Plane:
    image = decode_image(paths[i]).image
    bar = find_scale_bar(image)
    green = image[:, :, 1]
    valid = np.ones(green.shape, np.uint8) if bar is None else (~bar.mask).astype(np.uint8)
    scale = max(1.0, max(green.shape) / _WORKING_PX)
    if scale > 1:
        size = (round(green.shape[1] / scale), round(green.shape[0] / scale))
        green = np.asarray(cv2.resize(green, size, interpolation=cv2.INTER_AREA), np.uint8)
        valid = np.asarray(cv2.resize(valid, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    level = green.astype(np.float32)
    slow = cv2.GaussianBlur(level, (0, 0), max(green.shape) / 18)
    relief = np.asarray(cv2.GaussianBlur(level, (0, 0), 1.0) - slow, np.float32)
    relief[valid == 0] = 0
    even = even_contrast(relief, _CONTRAST_PX, _CONTRAST)
    return _Plane(relief, even, valid.astype(np.bool_), scale)


def _verify(candidate: ShiftCandidate, load: Callable[[int], _Plane]) -> Overlap | None:
    """Refine the shift at full resolution and decide."""
    i, j, (low_dx, low_dy) = candidate
    a, b = load(i), load(j)
    if a.relief.shape != b.relief.shape:
        return None
    height, width = a.relief.shape
    reach = round(1.5 * max(height, width) / LOW_PX) + 1
    refined = _refine(
        a.relief, b.relief, round(low_dx * width / LOW_PX), round(low_dy * height / LOW_PX), reach
    )
    if refined is None:
        return None
    dx, dy = refined[0]
    valid = np.logical_and(*_shared(a.valid, b.valid, dx, dy))
    share = float(valid.sum()) / a.relief.size
    if share < LEAST_OVERLAP:
        return None
    x, y = (np.asarray(part, np.float32) for part in _shared(a.relief, b.relief, dx, dy))
    even = _shared(a.even, b.even, dx, dy)

    def convinces(correlation: float) -> bool:
        return overlap_evidence(correlation, share) >= LEAST_EVIDENCE

    score = correlation(x[valid], y[valid])
    if not convinces(score):  # the cheapest of the three first
        return None
    if not convinces(correlation(even[0][valid], even[1][valid])):
        return None
    if not convinces(tile_agreement(x, y, valid)):
        return None
    if _hinges_in_full(a, b, (dx, dy), share >= ALIGNED_SHARE):
        return None
    return Overlap(i, j, round(dx * a.scale), round(dy * a.scale), round(score, 3), round(share, 3))


def _hinges_in_full(a: _Plane, b: _Plane, shift: Shift, aligned: bool) -> bool:
    """:func:`hinges_on_few` by reliefs, by those of even contrast, and by fine structure."""
    relief = _shared(a.relief, b.relief, *shift)
    valid = np.logical_and(*_shared(a.valid, b.valid, *shift))
    height, width = valid.shape
    scale = max(a.relief.shape) / LOW_PX
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    x, y = (
        np.asarray(
            cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32
        )
        for part in relief
    )
    kept = [
        cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) * valid
        > 0
        for mask in rests(x, y, (float(a.relief.std()), float(b.relief.std())))
    ]
    fewest = round(_FEWEST_REST * scale**2)
    planes = [(a.relief, b.relief, LEAST_REST), (a.even, b.even, LEAST_REST)]
    if aligned:
        planes.append((_even_fine(a), _even_fine(b), LEAST_FINE_REST))
    return any(
        hinges_on_few(*_shared(one, other, *shift), kept, fewest, least)
        for one, other, least in planes
    )


def _even_fine(plane: _Plane) -> NDArray[np.float32]:
    fine = plane.relief - cv2.GaussianBlur(plane.relief, (0, 0), _FINE_PX)
    return even_contrast(np.asarray(fine, np.float32), _FINE_CONTRAST_PX, _FINE_CONTRAST)


def overlap_evidence(correlation: float, share: float) -> float:
    """How surely two fields overlap: Fisher's z of the correlation, times the root of the share.

    Fisher's z of chance correlations spreads as one over the root of the area that is compared.

    Args:
        correlation: The weakest of the three, −1 to 1.
        share: Shared part of the field, 0 to 1.

    >>> round(overlap_evidence(0.9, 0.25), 3)
    0.736
    """
    return float(np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(share))


def _refine(
    a: NDArray[np.float32], b: NDArray[np.float32], dx: int, dy: int, reach: int
) -> tuple[Shift, float] | None:
    """The best shift within reach of one, and its correlation; None where too little is shared."""
    x, y = _shared(a, b, dx, dy)
    if min(x.shape) < 2 * reach + _LEAST_TEMPLATE:
        return None
    inner = np.ascontiguousarray(x[reach:-reach, reach:-reach], np.float32)
    surface = cv2.matchTemplate(np.ascontiguousarray(y, np.float32), inner, cv2.TM_CCOEFF_NORMED)
    _, score, _, (left, top) = cv2.minMaxLoc(surface)
    return (dx + left - reach, dy + top - reach), score


def tile_agreement(
    a: NDArray[np.float32], b: NDArray[np.float32], valid: NDArray[np.bool_]
) -> float:
    """Median correlation over the tiles of an overlap in which either picture shows structure.

    Args:
        a: (h, w) float32, the shared part of one picture.
        b: (h, w) float32, of the other.
        valid: (h, w) bool, where both count.

    Returns:
        −1 to 1; −1 where fewer than half of the tiles show structure.
    """
    scores = []
    rows = np.array_split(np.arange(a.shape[0]), _TILES)
    columns = np.array_split(np.arange(a.shape[1]), _TILES)
    for row in rows:
        for column in columns:
            part = np.s_[row[0] : row[-1] + 1, column[0] : column[-1] + 1]
            use = valid[part]
            x, y = a[part][use], b[part][use]
            if len(x) >= 40 and max(float(x.std()), float(y.std())) >= _TEXTURE:
                scores.append(correlation(x, y))
    return float(np.median(scores)) if len(scores) >= _TILES**2 / 2 else -1.0
