"""Columns of a manifest whose names are nearly those that are known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

_MEANT: Mapping[str, str] = MappingProxyType(
    {
        word: column
        for column, words in {
            "path": "file files filename filepath image images imagepath imagename imagefile img",
            "label": "labels class classes classname category",
            "patient_id": "patient patients patientno patientnumber patientname patientcode pat "
            "patid patno pid subject subjects subjectid case caseid donor donorid",
            "session": "sessions sessionid",
            "site": "sites siteid hospital centre center",
            "cohort": "cohorts cohortid",
            "cell_type": "celltypes celltyp cellclass",
            "diagnosis": "diagnoses diagnose diag dx disease",
            "split": "splits subset part fold",
        }.items()
        for word in words.split()
    }
)
"""What people call a column, in small letters without signs → its name here."""
_PLAIN = {
    name.replace("_", ""): name
    for name in ("path", "label", "patient_id", "session", "site", "cohort", "cell_type",
                 "diagnosis", "split")
}  # fmt: skip
_LIKE = 0.85  # of a misspelling, to what it is


def near_columns(columns: Sequence[str]) -> dict[str, str]:
    """Column of a table → the known column that it looks like, where the table lacks that one.

    >>> near_columns(["path", "label", "Patient ID", "CellType", "scanner"])
    {'Patient ID': 'patient_id', 'CellType': 'cell_type'}
    >>> near_columns(["path", "label", "patient_id", "patient", "class"])
    {}
    """
    there = {name.strip().lower() for name in columns}
    found: dict[str, str] = {}
    for name in columns:
        known = _meant(name)
        if known and known not in there and known not in found.values():
            found[name] = known
    return found


def near_notes(columns: Sequence[str], target: str = "") -> list[str]:
    """A sentence for each of :func:`near_columns`; ``target`` takes the place of the label."""
    return [
        f"column {given!r} looks like {known}: rename it"
        for given, known in near_columns(columns).items()
        if not target or (known != "label" and given.lower() != target)
    ]


def _meant(name: str) -> str:
    """The known column that a name looks like, or empty."""
    plain = re.sub(r"[\W_]+", "", name.lower())
    if plain in _PLAIN:
        return _PLAIN[plain]
    if plain in _MEANT:
        return _MEANT[plain]
    close = difflib.get_close_matches(plain, _PLAIN, n=1, cutoff=_LIKE)
    return _PLAIN[close[0]] if close else ""
