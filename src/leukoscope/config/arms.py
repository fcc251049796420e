"""Records of ``ablation.json`` and ``transfer.json``: studies that differ in one thing, compared.

Metrics are fractions from 0 to 1; an interval has the level ``confidence`` of its row.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from leukoscope.config.metrics.results import (
    Difference,
    Disagreement,
    Estimate,
    InapplicableProtocol,
)
from leukoscope.config.stored import Record, StoredFile

ArmLevel = Literal[
    "helps", "harms", "no difference shown", "depends on the protocol", "depends on the part"
]
"""What a comparison of arms says."""


class ArmRecord(Record):
    """One study of a comparison.

    Attributes:
        name: Of its folder.
        title: Its name for readers.
        weights: Where its first network started.
        weights_sha256: Of that file; None where there is none.
        changes: In an ablation: setting → its value in the whole recipe, and here.
    """

    name: str
    title: str
    weights: str
    weights_sha256: str | None
    changes: dict[str, tuple[JsonValue, JsonValue]] = Field(default_factory=dict)


class ArmDifference(Record):
    """Two arms under one protocol, on the same test images.

    Attributes:
        first, second: Names of the arms.
        protocol: Name of the protocol.
        n, n_groups: Images that both have, and their groups.
        group_unit: What such a group is.
        confidence: Level of the intervals.
        first_values, second_values: Metric → value; None where it is undefined.
        differences: Metric → first minus second.
        p: Of the exchange test of the accuracy over whole groups.
        p_holm: The same, corrected for all rows of the file.
        verdict: What that says of the first.
        pairs: Who alone is right.
    """

    first: str
    second: str
    protocol: str
    n: int
    n_groups: int
    group_unit: str
    confidence: float
    first_values: dict[str, Estimate | None]
    second_values: dict[str, Estimate | None]
    differences: dict[str, Estimate]
    p: float
    p_holm: float
    verdict: Difference
    pairs: Disagreement


class ArmsVerdict(Record):
    """What all rows say together.

    Attributes:
        level: In a word.
        headline: In a sentence.
        sentences: One for each row.
    """

    level: ArmLevel
    headline: str
    sentences: tuple[str, ...]


class UnreadableImage(Record):
    """An image that could not be read, and why."""

    path: str
    reason: str


class ArmsFile(StoredFile):
    """What both files hold.

    Attributes:
        schema_version: Version of this schema.
        recipe: Name of the recipe of every arm.
        target: Path of the data that all arms are tested on.
        seed: Of everything random.
        arms: The first is compared with the others.
        comparisons: By pair of arms and protocol.
        inapplicable: Protocols that the data cannot support.
        verdict: What the rows say.
        limits: What they cannot say.
        unreadable: Images that could not be read.
    """

    in_full: ClassVar[bool] = True
    schema_version: Literal[1] = Field(alias="schema", default=1)
    recipe: str
    target: str
    seed: int
    arms: tuple[ArmRecord, ...]
    comparisons: tuple[ArmDifference, ...]
    inapplicable: tuple[InapplicableProtocol, ...]
    verdict: ArmsVerdict
    limits: tuple[str, ...]
    unreadable: tuple[UnreadableImage, ...]

    @property
    def titles(self) -> dict[str, str]:
        """Name → title of each arm."""
        return {arm.name: arm.title for arm in self.arms}


class AblationResult(ArmsFile):
    """The content of ``ablation.json``."""

    kind: Literal["ablation"] = "ablation"


class SharedPair(Record):
    """An image of the source that shows what one of the target shows, and how they are alike."""

    source: str
    target: str
    kind: str


class Overlap(Record):
    """What source and target share.

    Attributes:
        source_images, target_images: How many were compared.
        purged: Source images that were left out of phase 1.
        by_kind: Pairs by how they are alike.
        pairs: The first of them.
        pairs_in_all: How many there are.
    """

    source_images: int
    target_images: int
    purged: int
    by_kind: dict[str, int]
    pairs: tuple[SharedPair, ...]
    pairs_in_all: int


class FirstPhase(Record):
    """Phase 1 on its own test images.

    Attributes:
        folder: Name of its folder.
        class_names: What it told apart.
        protocol, n, n_groups, group_unit: How it was tested.
        metrics: Metric → value; None where it is undefined.
    """

    folder: str
    class_names: tuple[str, ...]
    protocol: str
    n: int
    n_groups: int
    group_unit: str
    metrics: dict[str, Estimate | None]


class NamedShape(Record):
    """A tensor of a network."""

    name: str
    shape: tuple[int, ...]


class TakenOver(Record):
    """What phase 2 has of phase 1.

    Attributes:
        checkpoint: Folder of the model of phase 1.
        taken_over: Tensors of the backbone, compared one by one.
        values: Numbers in them.
        new: The other tensors of the network of phase 2.
        left_behind: The other tensors of the checkpoint.
    """

    checkpoint: str
    taken_over: int
    values: int
    new: tuple[NamedShape, ...]
    left_behind: tuple[NamedShape, ...]


class TransferResult(ArmsFile):
    """The content of ``transfer.json``.

    Attributes:
        source: Path of the data of phase 1.
        overlap: What source and target share.
        phase1: How well phase 1 learned the source.
        taken_over: What phase 2 has of it.
    """

    kind: Literal["transfer"] = "transfer"
    source: str
    overlap: Overlap
    phase1: FirstPhase
    taken_over: TakenOver
