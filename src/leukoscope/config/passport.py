"""The keys of ``passport.json``: what the audit writes of a data set, and all later steps read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json

FindingLevel = Literal["error", "warning", "info"]


class Finding(TypedDict):
    """A sentence that a reader of the data must know."""

    level: FindingLevel
    code: str
    text: str


class Quarantined(TypedDict):
    """A file that could not be read."""

    path: str
    reason: str


class LinkedImages(TypedDict):
    """Images that show one thing: pairs, images concerned, and their ids by group."""

    pairs: int
    images: int
    groups: list[list[str]]


class NearDuplicates(LinkedImages):
    """Images that look alike; ``turned`` pairs of them after a flip or a turn."""

    turned: int


class Overlaps(TypedDict):
    """Fields that show the same place of a smear.

    A pair: the ids of both images, the shift (dx, dy) of the second in pixels, the score.
    """

    groups: int
    images: int
    largest: int
    by_class: dict[str, int]
    pairs: list[list[str | float]]


class Components(TypedDict):
    """What belongs together through any link; ``sizes``: images in a group → groups."""

    groups: int
    images: int
    largest: int
    sizes: dict[str, int]


class LabelConflict(TypedDict):
    """The same picture with several labels."""

    images: list[str]
    paths: list[str]
    labels: list[str]


class PatientCounts(TypedDict):
    """Patients after those were joined that share pictures or a spelling; ``n_given`` before."""

    n: int
    n_given: int
    images: int
    by_class: dict[str, int]
    merged: list[list[str]]
    links_across: int


class GivenParts(TypedDict):
    """The parts that the data comes with, and what they share."""

    parts: dict[str, int]
    leaking_components: list[list[str]]
    leaking_patients: dict[str, list[str]]


class ScaleBars(TypedDict):
    """Bars burned into images; ``boxes``: side → its least and greatest place in pixels."""

    images: int
    by_class: dict[str, int]
    red: int
    boxes: dict[str, list[int]]
    cramers_v: float | None


class Agreement(TypedDict):
    """Of the clusters with acquisition ids that the data names."""

    ids: int
    adjusted_rand: float


class Acquisition(TypedDict):
    """Acquisition clusters, or the ``reason`` why there are none."""

    applicable: bool
    reason: NotRequired[str]
    clusters: NotRequired[int]
    scaled_by_overlaps: NotRequired[bool]
    class_by_cluster: NotRequired[dict[str, dict[str, int]]]
    cramers_v: NotRequired[float | None]
    components_spanning_clusters: NotRequired[int]
    merged_clusters: NotRequired[int]
    largest_merged: NotRequired[int]
    given: NotRequired[Agreement | None]


class ClassBalance(TypedDict):
    """Test of equal class sizes; None with fewer than two classes."""

    chi2: float | None
    p: float | None
    entropy: float | None
    ratio: float | None


class ColumnAssociation(TypedDict):
    """How a further column goes with the label, see ``datasets/audit/associations.py``."""

    column: str
    values: int
    missing: int
    unit: str
    measure: str
    effect: float | None
    p: float | None
    p_holm: float | None
    reason: str


class Search(TypedDict):
    """How linked images were searched for in a large data set."""

    method: str
    library: str
    index_from: int


class Passport(TypedDict):
    """The whole file. ``sha256`` is of everything else; a passport in the making has none yet."""

    schema: int
    leukoscope: str
    root_name: str
    n_files: int
    n_usable: int
    layout: str
    notes: list[str]
    classes: dict[str, int]
    quarantined: list[Quarantined]
    excluded: dict[str, int]
    exact_duplicates: LinkedImages
    pixel_duplicates: LinkedImages
    near_duplicates: NearDuplicates
    overlaps: Overlaps
    twins: LinkedImages
    components: Components
    label_conflicts: list[LabelConflict]
    patients: PatientCounts
    given_parts: GivenParts
    scale_bars: ScaleBars
    acquisition: Acquisition
    class_balance: ClassBalance
    columns: NotRequired[list[ColumnAssociation]]
    search: NotRequired[Search]
    findings: NotRequired[list[Finding]]
    sha256: NotRequired[str]


@cache
def _adapter() -> TypeAdapter[Passport]:
    return TypeAdapter(Passport)


def load_passport(path: Path) -> Passport:
    """Read ``passport.json``.

    Raises:
        DataError: It is missing, or lacks a key that later steps read; names it.
    """
    values = read_json(path)
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise DataError(
            f"{path}: {key}: {first['msg']}", hint="audit the data again, or run the study again"
        ) from None
