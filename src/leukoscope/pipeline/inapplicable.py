"""Probes that have nothing to see in a data set, with what was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import Passport
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_json, write_json
from leukoscope.core.labels import open_name, resolve_class
from leukoscope.imaging.cell_shapes import scale_of_leukocytes, scale_of_red_cells
from leukoscope.imaging.file_facts import FILE_FACTS
from leukoscope.pipeline.features.inputs import observe, reading_order
from leukoscope.pipeline.features.one_pass import (
    NUMBER_TABLES,
    SEEN,
    TIME,
    NumberTable,
    finished,
    grain_table,
)
from leukoscope.pipeline.features.patient_store import cell_type
from leukoscope.pipeline.features.store import InputStore

_PARTS = re.compile(r"\d+|[^\W\d_]+")
_WORDS = 5  # longest name of a class in words
SAMPLE = 24  # images that the scale is read from
GROUND_SHARE = 0.05  # of an image; where less plain ground shows, there is none to read
MOST = 0.95  # of the images in which there is nothing to see
OF_GROUND = ("background-only", "background-grey", "ground-only")


def listing_numbers(store: InputStore) -> NDArray[np.float64]:
    """(n, 3) float64: rank of the name, its last number, rank of EXIF's time; NaN without.

    Class words are taken out of the names, and folders do not count, so a name says no more than
    its place in the natural order. The time of the file itself is left out: copying changes it.
    """
    store = store if store.parent is None else store.parent
    names, classes = [record.path for record in store.data.records], store.data.class_names
    taken = store.numbers(TIME)[:, 0]
    return np.stack(
        [ranks([bare_name(n, classes) for n in names]), _numbers(names), _ranked(taken)], axis=1
    )


def bare_name(path: str, class_names: Sequence[str] = ()) -> tuple[tuple[int, int, str], ...]:
    """A file's name without its class, so that it sorts as people count.

    Taken out are the known names of classes, and those of ``class_names``.

    >>> bare_name("Pro/WBC-Malignant-Pro-010.jpg") == bare_name("Benign/WBC-Benign-010.jpg")
    True
    >>> bare_name("hairy_cell-3.png", ["hairy_cell"]) == bare_name("3.png")
    True
    >>> bare_name("a2.png") < bare_name("a10.png")
    True
    """
    words = _PARTS.findall(PurePosixPath(path).stem.lower())
    own = set(class_names)
    most = max([_WORDS, *(len(_PARTS.findall(name)) for name in own)])
    kept: list[str] = []
    at = 0
    while at < len(words):
        texts = {n: " ".join(words[at : at + n]) for n in range(most, 0, -1)}
        longest = next(
            (n for n, text in texts.items() if resolve_class(text) or open_name(text) in own), 0
        )
        if not longest:
            kept.append(words[at])
        at += max(1, longest)
    return tuple((0, int(w), "") if w.isdigit() else (1, 0, w) for w in kept)


def ranks(keys: Sequence[tuple[tuple[int, int, str], ...]]) -> NDArray[np.float64]:
    """(n,) place of each key among the different ones, from 0 to 1.

    >>> ranks([((0, 3, ""),), ((0, 1, ""),), ((0, 3, ""),)]).tolist()
    [1.0, 0.0, 1.0]
    """
    different = {key: place for place, key in enumerate(sorted(set(keys)))}
    return np.array([different[key] for key in keys]) / max(1, len(different) - 1)


def _numbers(names: Sequence[str]) -> NDArray[np.float64]:
    found = [re.findall(r"\d+", PurePosixPath(name).stem) for name in names]
    return np.array([float(digits[-1][-15:]) if digits else np.nan for digits in found])


def _ranked(taken: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(taken)
    place = np.full(len(taken), np.nan)
    if known.any():
        place[known] = np.unique(taken[known], return_inverse=True)[1]
    return place


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

    def to_json(self) -> dict[str, object]:
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
    paths, records = store.paths(), store.data.records
    seen = [observe(paths[row], records[row].sha256) for row in reading_order(records)[:SAMPLE]]
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


def measured_tables(config: StudyConfig) -> Iterator[NumberTable]:
    """Tables by which :func:`inapplicable_probes` decides, beside those of the probes."""
    yield SEEN
    if "order-only" in config.probes:
        yield TIME


def inapplicable_probes(
    config: StudyConfig, passport: Passport, store: InputStore
) -> list[dict[str, str]]:
    """Probes that were asked for but have nothing to see in this data, with the reasons.

    Args:
        config: The study's.
        passport: Of the audit.
        store: Tables of the images, from its cache or computed.

    Returns:
        ``{"probe", "reason"}`` of each.
    """
    found = []
    for probe in config.probes:
        reason = _reason(probe, config, passport, store)
        if reason:
            found.append({"probe": probe, "reason": reason})
    return found


def _reason(probe: str, config: StudyConfig, passport: Passport, store: InputStore) -> str | None:
    if probe == "cell-share":
        return _without_cell_types([cell_type(record) for record in store.data.records])
    if probe == "scale-bar-only" and not passport["scale_bars"]["images"]:
        n = len(store.data.records)
        return f"the audit found a burned-in scale bar in none of {n} images"
    if probe in OF_GROUND:
        return _without_ground(store.numbers(SEEN)[:, 0])
    if probe == "order-only":
        return _without_differences(listing_numbers(store), "names and times")
    if probe == "grain-only":
        table = grain_table(picture_scale(store, config).um_per_px)
        return _without_differences(store.numbers(table), "statistics of the finest detail")
    if probe == "file-only":
        if config.unit == "patient" and _unequal_numbers(store):
            return None
        return _same_files(finished(probe, store.numbers(NUMBER_TABLES[probe])))
    if probe in NUMBER_TABLES:
        what = probe.removesuffix("-only")
        return _without_differences(
            finished(probe, store.numbers(NUMBER_TABLES[probe])), f"statistics of {what}"
        )
    return None


def _without_cell_types(types: Sequence[str]) -> str | None:
    if len(set(types) - {""}) > 1:
        return None
    return "the data names no cell types (a manifest's column cell_type gives them)"


def _unequal_numbers(store: InputStore) -> bool:
    """Whether some patients have more images than others."""
    return len(set(Counter(record.patient_id for record in store.data.records).values())) > 1


def _without_ground(shares: NDArray[np.float64]) -> str | None:
    bare = float((shares < GROUND_SHARE).mean())
    if bare < MOST:
        return None
    return (
        f"in {100 * bare:.0f} % of the images less than {100 * GROUND_SHARE:.0f} % of the pixels "
        f"show ground (median {100 * float(np.median(shares)):.1f} %)"
    )


def _same_files(facts: NDArray[np.float64]) -> str | None:
    if _varies(facts).any():
        return None
    width, height = (int(facts[0, FILE_FACTS.index(name)]) for name in ("width", "height"))
    size = f"{width} × {height} px, " if width else ""
    return f"all {len(facts)} files have the same {facts.shape[1]} facts ({size}one format)"


def _without_differences(values: NDArray[np.float64], what: str) -> str | None:
    if _varies(values).any():
        return None
    return f"the {values.shape[1]} {what} are the same in all {len(values)} images, or unreadable"


def _varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(d,) whether a column has two different known values."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    return np.asarray(high > low + 1e-9)
