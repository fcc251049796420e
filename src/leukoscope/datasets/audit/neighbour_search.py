"""Which of very many images may show one thing: nearest neighbours from an index, not all pairs.

Up to :data:`INDEX_FROM` images every pair is compared. Beyond, an inverted file of 8-bit vectors
(faiss; Jégou et al. 2011) proposes pairs, and what decides on a pair is the same as in small data
sets: an index can miss a link and find others (of fields that are no neighbours in colour, or whose
phase correlation has no clear peak), but it cannot invent one. Two kinds of vectors are searched:

- the low frequencies of a whole picture, for copies that are flipped, turned or saved again;
- small patches around the strongest spots of a picture, for fields that share a shifted part. Two
  patches of one field that find two patches of another at one offset propose the pair and its
  shift (the voting of Lowe 2004, section 7.4), whatever the fields' colours.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise, product
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from leukoscope.config.passport import Search

INDEX_FROM = 4_000
"""Number of images beyond which an index proposes the pairs, where faiss is installed."""

SLOW = "every pair is compared, which is slow: pip install 'leukoscope[scale]' for an index"

_FILE_FROM = 20_000  # rows beyond which an array is backed by a file

Votes = dict[tuple[int, int], tuple[int, int, int]]
_BLOCK = 4096
_CELLS, _PROBES = 4.0, 8  # √n × 4 cells, of which a search looks into 8
_WAVES = 12  # lowest frequencies of a whole picture, each way
_SPOTS, _HALF, _SPOT_SIGMA = 24, 5, 1.0  # of the small picture
_PATCH_WAVES = 7  # u + v below this, the constant left out: 27 numbers a patch
_FOUND = 8  # neighbours of each patch
_OFFSET = 4  # px of the small picture within which two votes agree

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@cache
def index_library() -> str:
    """Name and version of the installed index, or an empty string."""
    try:
        return f"faiss-cpu {version('faiss-cpu')}"
    except PackageNotFoundError:
        return ""


def uses_index(n: int) -> bool:
    """Whether pairs of n images are proposed by the index."""
    return n > INDEX_FROM and bool(index_library())


def search_note(n: int) -> str:
    """What to tell a person who waits for the audit of n images; empty where nothing is slow."""
    return SLOW if n > INDEX_FROM and not index_library() else ""


def describe_search(n: int) -> Search | None:
    """What the passport says of the search; None where n is small and every pair is compared."""
    if n <= INDEX_FROM:
        return None
    found = index_library()
    return {
        "method": "index" if found else "every pair",
        "library": found,
        "index_from": INDEX_FROM,
    }


def allocate_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An empty array; a large one is backed by an unnamed temporary file."""
    if shape[0] <= _FILE_FROM:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))


def take_rows(array: NDArray[Any], rows: IntArray) -> NDArray[Any]:
    """A copy of some rows; a large one is backed by a temporary file."""
    found = allocate_array((len(rows), *array.shape[1:]), array.dtype)
    for part in row_blocks(np.arange(len(rows))):
        found[part] = array[rows[part]]
    return found


def row_blocks(rows: IntArray, size: int = _BLOCK) -> Iterator[IntArray]:
    """The rows in blocks that fit into memory."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def evenly_chosen(rows: IntArray, most: int) -> IntArray:
    """At most ``most`` of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]


class NeighbourIndex:
    """An inverted file of vectors; equal input gives equal answers, whatever the threads.

    Args:
        sample: (s, d) float32 from which the cells are learnt; :func:`sample_size` says how many.
        n: Number of vectors that will be added.
    """

    def __init__(self, sample: NDArray[np.floating], n: int, threads: int = 2) -> None:
        import faiss

        faiss.omp_set_num_threads(max(1, threads))
        self._empty = -sample.shape[1] % 16  # faiss is twice as fast on whole vector registers
        width = sample.shape[1] + self._empty
        cells = int(min(_cells(n), max(1, len(sample) // 8)))
        self._index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatL2(width), width, cells, faiss.ScalarQuantizer.QT_8bit
        )
        self._index.cp.niter, self._index.cp.min_points_per_centroid = 8, 1
        self._index.nprobe = min(cells, _PROBES)
        self._index.train(self._filled(sample))

    def add(self, vectors: NDArray[np.floating]) -> None:
        """Add vectors, numbered from 0 in the order in which they come."""
        self._index.add(self._filled(vectors))

    def clear(self) -> None:
        """Forget the vectors, not the cells."""
        self._index.reset()

    def search(self, vectors: NDArray[np.floating], k: int) -> IntArray:
        """(m, k) numbers of the nearest to each of m vectors, nearest first; −1 where fewer."""
        found = self._index.search(self._filled(vectors), k)[1]
        return np.asarray(found, np.int64)

    def _filled(self, vectors: NDArray[np.floating]) -> FloatArray:
        return np.pad(vectors.astype(np.float32), ((0, 0), (0, self._empty)))


def _cells(n: int) -> int:
    return max(1, round(_CELLS * math.sqrt(n)))


def sample_size(n: int) -> int:
    """Number of vectors from which the cells of n are learnt."""
    return 40 * _cells(n)


def low_frequencies(relief: NDArray[np.int8]) -> FloatArray:
    """The 12 × 12 lowest frequencies of whole pictures of length 1.

    Turning a picture swaps and negates them;
    :func:`leukoscope.datasets.audit.measurements.dihedral` says in which order.

    Args:
        relief: (m, 64, 64) int8.

    Returns:
        (m, 12, 12) float32. Their distance is at most that of the pictures.
    """
    found = np.empty((len(relief), _WAVES, _WAVES), np.float32)
    for row, picture in zip(found, relief, strict=True):
        level = picture.astype(np.float32)
        level -= level.mean()
        row[:] = cv2.dct(level)[:_WAVES, :_WAVES] / (np.linalg.norm(level) + np.float32(1e-6))
    return found


def turned_frequencies(values: FloatArray, variant: int) -> FloatArray:
    """(m, 144) frequencies of the turned pictures, from those of the pictures."""
    odd = np.where(np.arange(_WAVES) % 2 == 1, np.float32(-1), np.float32(1))
    turned = values.swapaxes(1, 2) if variant & 4 else values
    turned = turned * odd[None, None, :] if variant & 1 else turned
    turned = turned * odd[None, :, None] if variant & 2 else turned
    return np.ascontiguousarray(turned).reshape(len(values), -1)


def inverse_variant(variant: int) -> int:
    """The flip or turn that undoes one.

    >>> [inverse_variant(variant) for variant in range(8)]
    [0, 1, 2, 3, 4, 6, 5, 7]
    """
    return 4 | (variant & 1) << 1 | (variant & 2) >> 1 if variant & 4 else variant


def similar_pictures(
    relief: NDArray[np.int8], k: int, *, between: int = 0, threads: int = 2
) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Pairs of pictures that are alike after a flip or turn, in parts.

    Args:
        relief: (n, 64, 64) int8.
        k: Number of neighbours of each picture in each of its eight versions.
        between: Only pairs of the first so many with the others; 0 pairs all.

    Yields:
        variant, (m,) i and (m,) j > i: picture j turned by the variant is like picture i.
    """
    n = len(relief)
    rows = np.arange(between or n)
    sample = evenly_chosen(rows, sample_size(len(rows)))
    index = NeighbourIndex(
        turned_frequencies(low_frequencies(relief[sample]), 0), len(rows), threads
    )
    for part in row_blocks(rows):
        index.add(turned_frequencies(low_frequencies(relief[part]), 0))
    for part in row_blocks(np.arange(between, n)):
        own = low_frequencies(relief[part])
        for variant in range(8):
            found = index.search(turned_frequencies(own, variant), k)
            i, j = found.ravel(), np.repeat(part, found.shape[1])
            yield variant, i[(i >= 0) & (i < j)], j[(i >= 0) & (i < j)]
            if not between:
                yield inverse_variant(variant), j[i > j], i[i > j]


@cache
def _patch_basis() -> FloatArray:
    """(121, 27) the lowest frequencies of a patch."""
    side = 2 * _HALF + 1
    steps = np.arange(side)
    cosine = np.cos(np.pi * (steps[:, None] + 0.5) * steps[None, :] / side)
    cosine /= np.linalg.norm(cosine, axis=0)
    pairs = [(u, v) for u in range(side) for v in range(side) if 0 < u + v < _PATCH_WAVES]
    return np.stack([np.outer(cosine[:, u], cosine[:, v]).ravel() for u, v in pairs], 1).astype(
        np.float32
    )


def patches(picture: NDArray[np.int8]) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Patches around the strongest spots of a picture, dark or bright.

    Args:
        picture: (64, 64) int8 relief.

    Returns:
        (p, 27) float32 of length 1 and (p, 2) uint8 their places (x, y); p is at most 24.
    """
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), _SPOT_SIGMA)
    strength = np.abs(smooth)
    strength[strength < cv2.dilate(strength, np.ones((3, 3), np.uint8))] = 0
    inner = strength[_HALF:-_HALF, _HALF:-_HALF]
    order = np.argsort(-inner, axis=None, kind="stable")[:_SPOTS]
    y, x = np.divmod(order[inner.ravel()[order] > 0], inner.shape[1])
    side = 2 * _HALF + 1
    windows = np.lib.stride_tricks.sliding_window_view(smooth, (side, side))
    vectors = windows[y, x].reshape(len(y), side**2) @ _patch_basis()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + np.float32(1e-6)
    return vectors, np.stack([x, y], axis=1).astype(np.uint8)


def shifted_pictures(
    relief: NDArray[np.int8], side: NDArray[np.bool_] | None = None, *, threads: int = 2
) -> Votes:
    """Pairs of pictures of which two and more patches agree on one shift.

    Args:
        relief: (n, 64, 64) int8.
        side: (n,) where given, only pairs across it.

    Returns:
        (i, j > i) → number of votes, dx and dy: (x, y) of i is (x + dx, y + dy) of j.
    """
    n = len(relief)
    vectors = allocate_array((n * _SPOTS, _patch_basis().shape[1]), np.float16)
    places = np.empty((n * _SPOTS, 2), np.int16)
    owner = np.empty(n * _SPOTS, np.int32)
    count = 0
    for i in range(n):
        found, where = patches(relief[i])
        part = slice(count, count + len(found))
        vectors[part], places[part], owner[part] = found, where, i
        count = part.stop
    places, owner = places[:count], owner[:count]
    known = np.arange(count) if side is None else np.flatnonzero(side[owner])
    queries = known if side is None else np.flatnonzero(~side[owner])
    votes: Votes = {}
    if not len(known) or not len(queries):
        return votes
    sample = evenly_chosen(known, sample_size(len(known)))
    index = NeighbourIndex(vectors[sample], len(known), threads)
    for rows in row_blocks(known, _BLOCK * _SPOTS):
        index.add(vectors[rows])
    edges = np.flatnonzero(np.diff(owner[queries])) + 1  # a picture's patches stay in one block
    bounds = [0, *edges[_BLOCK - 1 :: _BLOCK].tolist(), len(queries)]
    for start, stop in pairwise(bounds):
        rows = queries[start:stop]
        near = index.search(vectors[rows], _FOUND).ravel()
        a, b = np.repeat(rows, _FOUND)[near >= 0], known[near[near >= 0]]
        _count_votes(votes, a, b, owner, places)
    return votes


def _count_votes(
    votes: Votes, a: IntArray, b: IntArray, owner: NDArray[np.int32], places: NDArray[np.int16]
) -> None:
    """Keep for each pair of pictures the shift on which most patches agree."""
    other = owner[a] != owner[b]
    a, b = a[other], b[other]
    # Of each patch only the nearest in one picture votes; the nearest come first.
    once = np.unique(a * (int(owner[-1]) + 1) + owner[b], return_index=True)[1]
    turn = owner[a[once]] > owner[b[once]]
    ends = np.stack([np.where(turn, b[once], a[once]), np.where(turn, a[once], b[once])])
    a, b = np.unique(ends, axis=1)  # two patches that find each other vote once
    pair = owner[a].astype(np.int64) << 32 | owner[b]
    shift = (places[b] - places[a]).astype(np.int64)
    for x, y in product((0, _OFFSET // 2), repeat=2):  # no pair of near shifts is cut by the grid
        cell = (shift[:, 0] + 64 + x) // _OFFSET * 64 + (shift[:, 1] + 64 + y) // _OFFSET
        order = np.lexsort((cell, pair))
        new = np.flatnonzero(np.diff(pair[order]) | np.diff(cell[order])) + 1
        first = np.concatenate([[0], new]) if len(order) else new
        size = np.diff([*first.tolist(), len(order)])
        for start, count in zip(first[size > 1].tolist(), size[size > 1].tolist(), strict=True):
            rows = order[start : start + count]
            key = (int(owner[a[rows[0]]]), int(owner[b[rows[0]]]))
            if count > votes.get(key, (0,))[0]:
                dx, dy = shift[rows].mean(axis=0).round().astype(int).tolist()
                votes[key] = (count, dx, dy)
