"""Grids of example predictions: which images, with what written below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.examples import choose_examples
from leukoscope.reporting.figures.style import INK, QUIET, short_title
from leukoscope.reporting.figures.thumbnails import COLUMNS, Thumb
from leukoscope.reporting.gallery import load_thumb

WRONG = "#b23c00"
TITLES: Mapping[str, str] = {
    "right": "Right predictions",
    "wrong": "Wrong predictions",
    "least-certain": "Least certain predictions",
    "confident-wrong": "Most confident mistakes",
}
ORDERS: Mapping[str, str] = {
    "right": "those of median confidence first",
    "wrong": "those of median confidence first",
    "least-certain": "highest entropy first, right and wrong",
    "confident-wrong": "most confident first",
}


@dataclass(frozen=True)
class ExampleGrid:
    """One grid, ready to be drawn.

    Attributes:
        kind: One of :data:`leukoscope.evaluation.examples.KINDS`.
        rows: Title and thumbnails of each true class.
        rows_shown: Numbers of the predictions shown.
        total: Predictions of this kind in all.
        absent: Images that could not be read.
    """

    kind: str
    rows: tuple[tuple[str, tuple[Thumb, ...]], ...]
    rows_shown: frozenset[int]
    total: int
    absent: int

    @property
    def shown(self) -> int:
        """Number of thumbnails."""
        return len(self.rows_shown)


def example_grids(
    kinds: Sequence[str],
    y_true: NDArray[np.int64],
    probs: NDArray[np.float64],
    class_names: Sequence[str],
    path_of: Callable[[int], Path | None],
) -> list[ExampleGrid]:
    """Grids of predictions, one row a true class; a grid with nothing new is left out.

    Args:
        kinds: Which, of :data:`leukoscope.evaluation.examples.KINDS`.
        y_true: (n,) class indices.
        probs: (n, K) calibrated probabilities.
        class_names: K names.
        path_of: The image file of a row, or None where it is not there.

    Returns:
        One for each kind of which there is an image; ``wrong`` only where it shows mistakes that
        ``confident-wrong`` does not.
    """
    grids = [_grid(kind, y_true, probs, class_names, path_of) for kind in kinds]
    worst = next((grid.rows_shown for grid in grids if grid.kind == "confident-wrong"), frozenset())
    return [
        grid
        for grid in grids
        if (grid.shown or grid.absent)
        and not (grid.kind == "wrong" and worst and grid.rows_shown <= worst)
    ]


def _grid(
    kind: str,
    y_true: NDArray[np.int64],
    probs: NDArray[np.float64],
    class_names: Sequence[str],
    path_of: Callable[[int], Path | None],
) -> ExampleGrid:
    absent, used = 0, set()
    rows = []
    chosen = choose_examples(kind, y_true, probs)
    for label, candidates in enumerate(chosen):
        thumbs: list[Thumb] = []
        for row in candidates[: 2 * COLUMNS]:
            if len(thumbs) == COLUMNS:
                break
            image = load_thumb(path_of(row))
            if image is None:
                absent += 1
                continue
            thumbs.append(Thumb(image, _lines(int(y_true[row]), probs[row], class_names)))
            used.add(row)
        of = "" if kind == "least-certain" else f" of {len(candidates)}"
        rows.append((f"{short_title(class_names[label])} ({len(thumbs)}{of})", tuple(thumbs)))
    total = sum(len(candidates) for candidates in chosen)
    return ExampleGrid(kind, tuple(rows), frozenset(used), total, absent)


def _lines(
    truth: int, probs: NDArray[np.float64], class_names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """What was predicted, and the class that came second."""
    first, second = (int(k) for k in np.argsort(-probs, kind="stable")[:2])
    colour = INK if first == truth else WRONG
    sign = "" if first == truth else "→ "
    return (
        (f"{sign}{short_title(class_names[first])} {probs[first]:.2f}", colour),
        (f"or {short_title(class_names[second])} {probs[second]:.2f}", QUIET),
    )
