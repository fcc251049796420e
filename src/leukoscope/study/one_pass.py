"""One pass over the files of a data set: each is decoded once, and its leukocytes found once.

All versions of an image that networks are shown and all tables of numbers are made of it while it
is in memory; features are computed batch by batch as images pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.probe_inputs import transplanted
from leukoscope.learning.features import FeatureEngine
from leukoscope.study.events import Tell
from leukoscope.study.inputs import make_input, observe, stream
from leukoscope.study.probe_numbers import NumberTable
from leukoscope.study.transplants import GROUND, Packed, Rows, pack_mask, unpack_mask

AHEAD = 12  # images that wait, with all that was made of them


@dataclass(frozen=True)
class Shown:
    """One version of some images for one network.

    Attributes:
        variant: Which version.
        spec: Preprocessing of the network.
        engine: Computes the features.
        rows: (m,) of which images, in the order of the result.
    """

    variant: str
    spec: PreprocessSpec
    engine: FeatureEngine
    rows: Rows


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
        order: Rows,
        tables: Sequence[NumberTable],
        shown: Sequence[Shown],
        partners: Rows,
    ) -> None:
        """Plan a pass.

        Args:
            paths: (n) files.
            order: In which order they are read; every row that is needed, once.
            tables: Numbers of all of them.
            shown: Versions of the images for networks.
            partners: (n,) whose removed leukocytes are removed too, for ``ground-only``.
        """
        self.paths, self.order, self.tables, self.shown = paths, order.tolist(), tables, shown
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
            ImageError: A file cannot be read.
        """
        rows: list[dict[int, NDArray[np.float64]]] = [{} for _ in self.tables]
        gathered = [_Gathered(shown) for shown in self.shown]
        batches = _Batches(gathered)
        seen = stream(self._look, self.order, ahead=AHEAD)
        late = stream(self._look_again, self._late, ahead=AHEAD)
        with ThreadPoolExecutor(batches.threads) as pool:
            for done, looked in enumerate(chain(seen, late), start=1):
                for table, values in zip(rows, looked.numbers, strict=False):
                    table[looked.row] = values
                for at, image in looked.images.items():
                    batches.add(pool, at, looked.row, image)
                tell(min(done, len(self.order)), len(self.order))
            batches.finish(pool)
        numbers = [np.stack([table[row] for row in sorted(self.order)]) for table in rows]
        return [one.values() for one in gathered], numbers

    def _look(self, row: int) -> _Looked:
        hole = self._holes.get(row)
        try:
            seen = observe(self.paths[row])
            if hole is not None:
                hole.set_result(pack_mask(seen.removal))
        except BaseException as error:
            if hole is not None and not hole.done():
                hole.set_exception(error)
            raise
        numbers = [table.numbers(seen) for table in self.tables]
        return _Looked(row, numbers, dict(self._images(seen, row)))

    def _look_again(self, row: int) -> _Looked:
        seen = observe(self.paths[row])
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
            if one.variant != GROUND:
                yield at, apply_preprocess(make_input(seen, one.variant), one.spec)
            elif row not in self._is_late:
                yield at, self._transplanted(seen, row, one)

    def _transplanted(self, seen: Observation, row: int, one: Shown) -> NDArray[np.uint8]:
        # A partner that comes before was begun before, and tells its holes before it waits.
        holes = unpack_mask(self._holes[self._partners[row]].result())
        return apply_preprocess(transplanted(seen, holes), one.spec)


class _Gathered:
    """Images of one version until they fill a batch, and its features as they come."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self.rows: list[int] = []
        self.images: list[NDArray[np.uint8]] = []
        self._place = {row: at for at, row in enumerate(shown.rows.tolist())}
        self._values: NDArray[np.float32] | None = None

    def take(self, rows: Sequence[int], found: NDArray[np.float32]) -> None:
        if self._values is None:
            self._values = np.zeros((len(self._place), found.shape[1]), np.float32)
        self._values[[self._place[row] for row in rows]] = found

    def values(self) -> NDArray[np.float32]:
        assert self._values is not None
        return self._values


class _Batches:
    """Full batches on their way through the networks; bounds how many wait."""

    def __init__(self, gathered: Sequence[_Gathered]) -> None:
        self._gathered = gathered
        self._running: deque[tuple[_Gathered, list[int], Future[NDArray[np.float32]]]] = deque()
        self.threads = max([1, *(one.shown.engine.threads for one in gathered)])

    def add(self, pool: ThreadPoolExecutor, at: int, row: int, image: NDArray[np.uint8]) -> None:
        one = self._gathered[at]
        one.rows.append(row)
        one.images.append(image)
        if len(one.rows) == one.shown.engine.batch_size:
            self._send(pool, one)

    def finish(self, pool: ThreadPoolExecutor) -> None:
        for one in self._gathered:
            if one.rows:
                self._send(pool, one)
        while self._running:
            self._receive()

    def _send(self, pool: ThreadPoolExecutor, one: _Gathered) -> None:
        future = pool.submit(one.shown.engine, np.stack(one.images))
        self._running.append((one, one.rows, future))
        one.rows, one.images = [], []
        while len(self._running) > self.threads + 1:
            self._receive()

    def _receive(self) -> None:
        one, rows, future = self._running.popleft()
        one.take(rows, future.result())
