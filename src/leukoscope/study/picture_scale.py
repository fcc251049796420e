"""The scale of a data set's pictures: what its files state, or what its red cells say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_json, write_json
from leukoscope.imaging.red_cells import scale_of_leukocytes, scale_of_red_cells
from leukoscope.study.inputs import observe
from leukoscope.study.store import InputStore
from leukoscope.study.transplants import reading_order

SAMPLE = 24  # images that the scale is read from


@dataclass(frozen=True)
class PictureScale:
    """How large a pixel is.

    Attributes:
        um_per_px: None where nothing tells it.
        source: ``option``, ``metadata`` (of the files), ``red cells``, ``leukocytes`` or
            ``unknown``.
    """

    um_per_px: float | None
    source: str

    def to_json(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {"um_per_px": self.um_per_px, "source": self.source}


def picture_scale(store: InputStore, config: StudyConfig) -> PictureScale:
    """The scale of a study's pictures, the same for all; kept in the cache.

    The option comes first, then what most files of a sample state, then a red cell's diameter of
    7.5 µm in the same sample, and of cut-out cells, roughly, a leukocyte's of 12 µm.
    """
    if config.um_per_px:
        return PictureScale(config.um_per_px, "option")
    store = store if store.parent is None else store.parent
    key = sha256_json([record.sha256 for record in store.data.records])
    path = store.run.cache / "scale" / f"{key[:16]}.json"
    if path.is_file():
        try:
            return PictureScale(**read_json(path))
        except (DataError, TypeError):
            path.unlink()
    found = _of_sample(store)
    write_json(path, found.to_json())
    return found


def _of_sample(store: InputStore) -> PictureScale:
    paths = store.paths()
    seen = [observe(paths[row]) for row in reading_order(store.data.records)[:SAMPLE]]
    stated = [one.um_per_px for one in seen if one.um_per_px is not None]
    if 2 * len(stated) > len(seen):
        return PictureScale(round(float(np.median(stated)), 5), "metadata")
    for source, measure in (
        ("red cells", scale_of_red_cells),
        ("leukocytes", scale_of_leukocytes),
    ):
        found = measure(seen)
        if found is not None:
            return PictureScale(round(found, 4), source)
    return PictureScale(None, "unknown")
