"""The file ``queue.json``: images whose labels need a look, the most suspicious first."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from leukoscope.config.stored import Record, StoredFile

ListName = Literal["label", "uncertain", "ood"]
"""Likely errors and conflicts; the least certain; those unlike the training images."""


class LabelErrorCounts(Record):
    """What confident learning says of all labels together (Northcutt et al. 2021).

    Attributes:
        thresholds: Mean probability of each class among the images that carry it; None without any.
        counts: The confident joint: rows are given labels, columns what images count as.
        likely: Likely errors.
        estimated_share: Of wrong labels, 0 to 1.
        conflicts: Pairs of images that show the same and carry different labels.
    """

    thresholds: tuple[float | None, ...]
    counts: tuple[tuple[int, ...], ...]
    likely: int
    estimated_share: float
    conflicts: int


class QueueList(Record):
    """One of the lists.

    Attributes:
        found: Images that belong to it.
        shown: Those that stand in the queue under its name.
        score: What it is sorted by.
        absent: Why there is no such list; empty where there is.
    """

    found: int = 0
    shown: int = 0
    score: str = ""
    absent: str = ""


class SamePicture(Record):
    """Another image that shows the same, its label, and how they are alike."""

    path: str
    label: str
    what: str


class QueueRow(Record):
    """One image.

    Attributes:
        rank: Its place, from 1.
        of_list: The first list that names it.
        image_id, path, sha256: Which.
        given: Its label.
        suggested: The most probable class, or the label of an image that shows the same.
        score: Of its list; None where no model was tested on it.
        probabilities: Class → probability; None likewise.
        reasons: Sentences.
        same: Images that show the same under another label.
    """

    rank: int
    of_list: ListName = Field(validation_alias="list", serialization_alias="list")
    image_id: str
    path: str
    sha256: str
    given: str
    suggested: str
    score: float | None
    probabilities: dict[str, float] | None
    reasons: tuple[str, ...]
    same: tuple[SamePicture, ...]


class RankedImages(Record):
    """What the labels of n images look like.

    Attributes:
        class_names: In the order of the counts.
        n: Images.
        n_untested: Those that no model was tested on.
        label_errors: Of all labels together.
        lists: By name.
        rows: The queue; an image stands once, with the reasons of all lists that name it.
    """

    class_names: tuple[str, ...]
    n: int
    n_untested: int
    label_errors: LabelErrorCounts
    lists: dict[ListName, QueueList]
    rows: tuple[QueueRow, ...]


class Queue(RankedImages, StoredFile):
    """The content of ``queue.json``.

    Attributes:
        schema_version: Version of this schema.
        sha256: Of all the rest; corrections name it.
        run: Name of the run's folder.
        recipe, protocol: Of the predictions.
        protocol_means: What was held out, in words.
        inputs: What the models saw.
        manifest_sha256, predictions_sha256: Of the files that it was made from.
    """

    hint: ClassVar[str] = "make the queue again: leukoscope relabel RUN"

    schema_version: Literal[1] = Field(alias="schema")
    sha256: str
    run: str
    recipe: str
    protocol: str
    protocol_means: str
    inputs: tuple[str, ...]
    manifest_sha256: str
    predictions_sha256: str
