"""One pass over the files of a data set, and the tables of numbers that probes are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.background import bar_statistics, colour_statistics
from leukoscope.imaging.cell_shapes import count_statistics, shape_statistics
from leukoscope.imaging.file_facts import FILE_FACTS, SIZE_FACTS, file_facts, taken_at
from leukoscope.imaging.frame import frame_statistics
from leukoscope.imaging.grain import grain_statistics
from leukoscope.imaging.observation import Observation, on_ground, transplanted
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.stain_colours import finished_stains, stain_statistics
from leukoscope.learning.features import FeatureEngine
from leukoscope.pipeline.features.inputs import (
    GROUND,
    Packed,
    Rows,
    make_input,
    observe,
    pack_mask,
    unpack_mask,
)
from leukoscope.pipeline.progress import Tell

Numbers = Callable[[Observation], NDArray[np.float64]]
AHEAD = 12  # images that wait, with all that was made of them


@dataclass(frozen=True)
class NumberTable:
    """Numbers of every image.

    Attributes:
        name: Of its file in the cache.
        numbers: Computes one row; pure, and called in several threads.
    """

    name: str
    numbers: Numbers


def _colours(seen: Observation) -> NDArray[np.float64]:
    return colour_statistics(seen.image)


def _bar(seen: Observation) -> NDArray[np.float64]:
    return bar_statistics(seen.image, seen.bar)


def _view(seen: Observation) -> NDArray[np.float64]:
    ground = 0.0
    if not seen.cut_out:
        ground = float(seen.ground_colours[1].mean())
    return np.array([ground, float(seen.masks.cell.mean())])


def _time(seen: Observation) -> NDArray[np.float64]:
    taken = taken_at(seen.data)
    return np.array([np.nan if taken is None else taken])


SEEN = NumberTable("areas", _view)
"""The share of pixels that show plain ground, and the share that shows leukocytes."""
TIME = NumberTable("time", _time)
NUMBER_TABLES: Mapping[str, NumberTable] = MappingProxyType(
    {
        "colour-only": NumberTable("colour", _colours),
        "scale-bar-only": NumberTable("scale-bar", _bar),
        "frame-only": NumberTable("frame", frame_statistics),
        "file-only": NumberTable("file", file_facts),
        "stain-only": NumberTable("stain", stain_statistics),
        "shape-only": NumberTable("shape", shape_statistics),
        "count-only": NumberTable("count", count_statistics),
    }
)
"""Probe → its table; that of ``grain-only`` hangs on the scale, that of ``order-only`` on names."""


def grain_table(um_per_px: float | None) -> NumberTable:
    """The table of ``grain-only`` at a scale; None where it is unknown."""
    name = "grain" if um_per_px is None else f"grain-{um_per_px:.4g}"
    return NumberTable(name, partial(grain_statistics, um_per_px=um_per_px))


def finished(probe: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers (n, d) of a probe, of those of a table that only all images together explain."""
    if probe == "file-only":
        return without_cell_sizes(values)
    return finished_stains(values) if probe == "stain-only" else values


def without_cell_sizes(facts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Facts of files (n, d) without the sizes of frames that were drawn around cells.

    Where half of the frames or more follow the cell that was cut out, their sizes are the cells'
    own, and that is morphology.
    """
    found = facts.copy()
    follows = FILE_FACTS.index("follows_cell")
    if (facts[:, follows] > 0).mean() >= 0.5:
        found[:, [FILE_FACTS.index(name) for name in SIZE_FACTS]] = 0
    found[:, follows] = 0
    return found


@dataclass(frozen=True)
class Shown:
    """One version of some images for one network.

    Attributes:
        variant: Which version.
        spec: Preprocessing of the network.
        engine: Computes the features.
        rows: (m,) of which images, in the order of the result.
        partners: (n,) on whose ground the leukocytes of each image are put; None where its own
            ground stays.
    """

    variant: str
    spec: PreprocessSpec
    engine: FeatureEngine
    rows: Rows
    partners: Rows | None = None


@dataclass(frozen=True)
class _Looked:
    """What was made of one image: table → its row, number of the version → its pixels."""

    row: int
    numbers: list[NDArray[np.float64]]
    images: dict[int, NDArray[np.uint8]]


class OnePass:
    """Reads files and computes tables and features of them."""

    def __init__(
        self,
        paths: Sequence[Path],
        hashes: Sequence[str],
        order: Rows,
        tables: Sequence[NumberTable],
        shown: Sequence[Shown],
        partners: Rows,
    ) -> None:
        """Plan a pass.

        Args:
            paths: (n) files.
            hashes: (n) SHA-256 of each when it was audited.
            order: In which order they are read; every row that is needed, once.
            tables: Numbers of all of them.
            shown: Versions of the images for networks.
            partners: (n,) whose removed leukocytes are removed too, for ``ground-only``.
        """
        self.paths, self.order, self.tables, self.shown = paths, order.tolist(), tables, shown
        self._hashes = hashes
        self._partners = partners.tolist()
        self._wanted = [frozenset(one.rows.tolist()) for one in shown]
        self._holes: dict[int, Future[Packed]] = {}
        self._late: list[int] = []
        if any(one.variant == GROUND for one in shown):
            self._holes = {row: Future() for row in self.order}
            place = {row: at for at, row in enumerate(self.order)}
            self._late = [r for r in self.order if place[self._partners[r]] > place[r]]
        self._is_late = frozenset(self._late)

    def run(self, tell: Tell) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
        """Read every file, and once more the few whose partner came after them.

        Returns:
            Features (m, D) of each of ``shown``, and numbers of each of ``tables``, one row for
            each of ``order`` sorted.

        Raises:
            DataError: A file was changed since it was audited.
            ImageError: A file cannot be read.
        """
        rows: list[dict[int, NDArray[np.float64]]] = [{} for _ in self.tables]
        gathered = [_Gathered(shown) for shown in self.shown]
        threads = max([1, *(one.shown.engine.threads for one in gathered)])
        batches = self._batches(rows, gathered, tell)
        for batch, found in ordered_map(_run, batches, threads=threads, ahead=threads + 1):
            batch.source.take(batch.rows, found)
        numbers = [np.stack([table[row] for row in sorted(self.order)]) for table in rows]
        return [one.values() for one in gathered], numbers

    def _batches(
        self,
        rows: Sequence[dict[int, NDArray[np.float64]]],
        gathered: Sequence[_Gathered],
        tell: Tell,
    ) -> Iterator[_Batch]:
        """Read the files, fill the rows of the tables, and give each batch when it is full."""
        seen = ordered_map(self._look, self.order, ahead=AHEAD)
        late = ordered_map(self._look_again, self._late, ahead=AHEAD)
        for done, looked in enumerate(chain(seen, late), start=1):
            for table, values in zip(rows, looked.numbers, strict=False):
                table[looked.row] = values
            for at, image in looked.images.items():
                yield from gathered[at].add(looked.row, image)
            tell(min(done, len(self.order)), len(self.order))
        for one in gathered:
            yield from one.rest()

    def _look(self, row: int) -> _Looked:
        hole = self._holes.get(row)
        try:
            seen = observe(self.paths[row], self._hashes[row])
            if hole is not None:
                hole.set_result(pack_mask(seen.removal))
        except BaseException as error:
            if hole is not None and not hole.done():
                hole.set_exception(error)
            raise
        numbers = [table.numbers(seen) for table in self.tables]
        return _Looked(row, numbers, dict(self._images(seen, row)))

    def _look_again(self, row: int) -> _Looked:
        seen = observe(self.paths[row], self._hashes[row])
        images = {
            at: self._transplanted(seen, row, one)
            for at, one in enumerate(self.shown)
            if one.variant == GROUND
        }
        return _Looked(row, [], images)

    def _images(self, seen: Observation, row: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for at, one in enumerate(self.shown):
            if row not in self._wanted[at]:
                continue
            if one.partners is not None:
                other = observe(self.paths[p := int(one.partners[row])], self._hashes[p])
                yield at, apply_preprocess(on_ground(seen, other), one.spec)
            elif one.variant != GROUND:
                yield at, apply_preprocess(make_input(seen, one.variant), one.spec)
            elif row not in self._is_late:
                yield at, self._transplanted(seen, row, one)

    def _transplanted(self, seen: Observation, row: int, one: Shown) -> NDArray[np.uint8]:
        # A partner that comes before was begun before, and tells its holes before it waits.
        holes = unpack_mask(self._holes[self._partners[row]].result())
        return apply_preprocess(transplanted(seen, holes), one.spec)


@dataclass(frozen=True)
class _Batch:
    """Images of one version on their way through a network."""

    source: _Gathered
    rows: list[int]
    images: NDArray[np.uint8]


def _run(batch: _Batch) -> tuple[_Batch, NDArray[np.float32]]:
    """A batch and its features; runs in a thread."""
    return batch, batch.source.shown.engine(batch.images)


class _Gathered:
    """Images of one version until they fill a batch, and its features as they come."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self._rows: list[int] = []
        self._images: list[NDArray[np.uint8]] = []
        self._place = {row: at for at, row in enumerate(shown.rows.tolist())}
        self._values: NDArray[np.float32] | None = None

    def add(self, row: int, image: NDArray[np.uint8]) -> Iterator[_Batch]:
        """One more image, and the batch that it makes full, if it does."""
        self._rows.append(row)
        self._images.append(image)
        if len(self._rows) == self.shown.engine.batch_size:
            yield from self.rest()

    def rest(self) -> Iterator[_Batch]:
        """What is not in a batch yet, as a last one."""
        if self._rows:
            batch = _Batch(self, self._rows, np.stack(self._images))
            self._rows, self._images = [], []
            yield batch

    def take(self, rows: Sequence[int], found: NDArray[np.float32]) -> None:
        """Features of some rows."""
        if self._values is None:
            self._values = np.zeros((len(self._place), found.shape[1]), np.float32)
        self._values[[self._place[row] for row in rows]] = found

    def values(self) -> NDArray[np.float32]:
        """(m, D) features of all rows."""
        assert self._values is not None
        return self._values
