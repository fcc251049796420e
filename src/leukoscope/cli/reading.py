"""Reading a data set with its progress shown, as several commands do first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.cli.options import class_map

if TYPE_CHECKING:
    from leukoscope.core.records import Manifest


def read_manifest(
    data: Path, layout: str, classes: list[str] | None, show: Callable[[str, int, int], None]
) -> Manifest:
    """The images of a folder or table, from the options of a command.

    Args:
        data: Folder or CSV manifest.
        layout: Of ``--layout``.
        classes: Of ``--class``.
        show: Draws the progress.
    """
    from leukoscope.datasets.layouts import load_dataset

    return load_dataset(
        data,
        layout=layout,
        class_map=class_map(classes),
        progress=partial(show, "reading the images"),
    )
