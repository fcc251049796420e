"""Sheets of images in rows and columns with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.files import atomic_path


def draw_sheet(
    path: Path,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    captions: Sequence[str],
    titles: Sequence[str],
    *,
    side_in: float = 1.5,
) -> Path:
    """Draw images in a grid.

    Args:
        path: PNG file to write.
        rows: One sequence of (H, W, 3) uint8 images per row; sizes may differ.
        captions: Text at the left of each row.
        titles: Text above each column.
        side_in: Side of a cell in inches.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    n_rows, n_columns = len(rows), len(titles)
    figure = Figure(
        figsize=(1.6 + n_columns * side_in, 0.5 + n_rows * side_in), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, images in enumerate(rows):
        for column in range(n_columns):
            axis = axes[row, column]
            axis.set_axis_on()
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            axis.imshow(images[column], interpolation="nearest")
            if row == 0:
                axis.set_title(titles[column], fontsize=8)
        axes[row, 0].set_ylabel(
            captions[row], fontsize=7, rotation=0, ha="right", va="center", labelpad=6
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
