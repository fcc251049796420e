"""What a run says of single images: heat maps, cells that decided of patients, map of features."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from leukoscope.config.stored import Record, StoredFile

ExplainedKind = Literal["right", "wrong", "image"]


class Explanation(Record):
    """One heat map: an entry of ``explanations.json``.

    Attributes:
        image_id: Which image; empty for one that is not of the data set.
        path: Its file below the data's root, or as the user named it.
        recipe: Of the model.
        protocol: Under which protocol the model was fitted.
        fold: In which fold.
        part: What the image was to the model: ``test``, ``train`` …, empty for a foreign image.
        y_true: True class; empty where unknown.
        y_pred: Predicted class.
        p: Its calibrated probability.
        method: How the map was made.
        explained: The class that the map speaks for.
        kind: What was right, or ``image`` where the user named it.
        panel: The figure's file, below the study's folder or beside the list.
        share_in_leukocytes: Share of the heat inside segmented leukocytes; None where none was
            found, or where the heat map is empty.
        area_of_leukocytes: Share of the field that they cover: what heat spread evenly would give.
    """

    image_id: str
    path: str
    recipe: str
    protocol: str
    fold: int
    part: str
    y_true: str
    y_pred: str
    p: float
    method: str
    explained: str
    kind: ExplainedKind
    panel: str
    share_in_leukocytes: float | None
    area_of_leukocytes: float


class WeighedCell(Record):
    """An image of a patient: its part in the mean, and what it adds to the log odds."""

    image_id: str
    path: str
    weight: float
    contribution: float


class PatientSheet(Record):
    """The cells that decided about a test patient: an entry of ``patients.json``.

    Attributes:
        patient: Id.
        recipe, protocol, fold: Of the model.
        y_true: True class.
        y_pred: Predicted class.
        p: Its calibrated probability.
        sheet: The picture's file, below the study's folder.
        cells: Those that moved the answer most.
    """

    patient: str
    recipe: str
    protocol: str
    fold: int
    y_true: str
    y_pred: str
    p: float
    sheet: str
    cells: tuple[WeighedCell, ...]


class NeighbourPurity(Record):
    """How often neighbours share a label.

    Attributes:
        n: Images that had enough candidates.
        value: Mean share of the nearest that share the image's label.
        chance: The same if neighbours were drawn from the candidates at random.
        best: The same if all images of the label came first.
    """

    n: int
    value: float
    chance: float
    best: float


class Structure(Record):
    """What one labelling has to do with the features.

    Attributes:
        labelling: ``class``, ``patient`` or ``acquisition``.
        crossed: Which neighbours were allowed: empty for any, ``other groups``, ``other patients``
            or ``same class``.
        groups: Number of distinct names.
        silhouette: From −1 to 1; only where any neighbour was allowed.
        purity: Of the neighbours.
        above_chance: 0 is as by chance, 1 as pure as it can be.
    """

    labelling: str
    crossed: str
    groups: int
    silhouette: float | None
    purity: NeighbourPurity
    above_chance: float | None


class FeatureMap(StoredFile):
    """The content of ``features.json``: what the features of one fold are arranged by.

    Attributes:
        schema_version: Version of this schema.
        recipe, protocol, fold: Of the model.
        n: Test images.
        dimensions: Numbers that the last layer reads.
        explained_variance: Of the two principal components, 0 to 1.
        neighbours: How many nearest images are looked at.
        structures: Each labelling.
        verdict: Which one the features follow, in a sentence.
    """

    hint: ClassVar[str] = (
        "delete features.csv and features.json, or run the study's explanations again"
    )

    schema_version: Literal[1] = Field(alias="schema")
    recipe: str
    protocol: str
    fold: int
    n: int
    dimensions: int
    explained_variance: tuple[float, ...]
    neighbours: int
    structures: tuple[Structure, ...]
    verdict: str
