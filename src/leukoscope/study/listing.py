"""Where an image stands in the list of names and in time: what the order of files tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.labels import resolve_class
from leukoscope.study.probe_numbers import TIME
from leukoscope.study.store import InputStore

_PARTS = re.compile(r"\d+|[a-z]+")
_WORDS = 5  # longest name of a class in words


def listing_numbers(store: InputStore) -> NDArray[np.float64]:
    """(n, 3) float64: rank of the name, its last number, rank of EXIF's time; NaN without.

    Class words are taken out of the names, and folders do not count, so a name says no more than
    its place in the natural order. The time of the file itself is left out: copying changes it.
    """
    store = store if store.parent is None else store.parent
    names = [record.path for record in store.data.records]
    taken = store.numbers(TIME)[:, 0]
    return np.stack([ranks([bare_name(n) for n in names]), _numbers(names), _ranked(taken)], axis=1)


def bare_name(path: str) -> tuple[tuple[int, int, str], ...]:
    """A file's name without its class, so that it sorts as people count.

    >>> bare_name("Pro/WBC-Malignant-Pro-010.jpg") == bare_name("Benign/WBC-Benign-010.jpg")
    True
    >>> bare_name("a2.png") < bare_name("a10.png")
    True
    """
    words = _PARTS.findall(PurePosixPath(path).stem.lower())
    kept: list[str] = []
    at = 0
    while at < len(words):
        longest = next(
            (n for n in range(_WORDS, 0, -1) if resolve_class(" ".join(words[at : at + n]))), 0
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
