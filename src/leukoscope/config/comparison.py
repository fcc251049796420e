"""The file ``comparison.json``: recipes of one or more runs on the same test images.

Metrics and shares are fractions from 0 to 1; intervals have the level ``confidence`` of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from leukoscope.config.metrics.evidence import SourceVerdict
from leukoscope.config.metrics.results import Difference, Estimate, VerdictLevel
from leukoscope.config.recipe import Recipe
from leukoscope.config.stored import Record, StoredFile


class Spread(Record):
    """The metric in each fold or group of images: what it is over, and label → values."""

    over: str
    values: dict[str, tuple[float, ...]]


class ProtocolHead(Record):
    """What was tested under one protocol.

    Attributes:
        name: Of the protocol.
        n, n_groups: Test images, or patients, that all recipes share, and their groups.
        group_unit: What such a group is.
        per_class: Class → how many of them.
        labels: Of the recipes.
        notes: What a reader must know.
        spread: None where there are too few folds or groups.
    """

    name: str
    n: int
    n_groups: int
    group_unit: str
    per_class: dict[str, int]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    spread: Spread | None


class Place(Record):
    """The rank of a recipe among the others, with its interval.

    Attributes:
        rank: 1 is the best; equals share the mean of their ranks.
        low, high: Limits.
        first: Share of the replicates in which it is the best, or one of several equally good.
        reliable: Whether there are enough groups.
    """

    rank: float
    low: float
    high: float
    first: float
    reliable: bool


class CurvePoints(Record):
    """Points of a curve."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class RecipeResult(Record):
    """One recipe under one protocol.

    Attributes:
        metrics: Metric → value.
        confusion: Images, or patients, by true class (row) and predicted class (column).
        roc: Class → one-vs-rest ROC curve.
        folds: Models that were tested.
        place: Among the recipes of the protocol.
    """

    metrics: dict[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    roc: dict[str, CurvePoints]
    folds: int
    place: Place


class TrainingRecord(Record):
    """How a recipe was trained under one protocol, one item a fold; empty without epochs.

    Attributes:
        epochs: That were run.
        best_epoch: The one that was kept.
        seconds: Of all epochs.
        curves: Column of the history → value of each epoch.
    """

    epochs: tuple[int, ...] = ()
    best_epoch: tuple[int | None, ...] = ()
    seconds: tuple[float, ...] = ()
    curves: tuple[dict[str, tuple[float | None, ...]], ...] = ()


class MeasuredLatency(Record):
    """Wall time of one call: median and 95th percentile over the runs."""

    batch: int
    median_ms: float
    p95_ms: float
    runs: int
    threads: int


class NetworkCost(Record):
    """What a network costs.

    Attributes:
        parameters: With the head.
        macs: Multiply-accumulate operations of one image.
        size_mb: Of the ONNX file; None where none was written.
        latency: One entry a batch size; empty where none was measured.
        cpu: Where it was measured.
        load: Of the machine meanwhile; None where the system does not tell.
        measured: Date and time.
    """

    parameters: int
    macs: int
    size_mb: float | None
    latency: tuple[MeasuredLatency, ...]
    cpu: str
    load: float | None
    measured: str


class NetworkLayer(Record):
    """A block of a diagram: its module, kind, label, output shape and parameters."""

    name: str
    kind: str
    label: str
    shape: tuple[int, ...]
    parameters: int


class MeasuredNetwork(Record):
    """A network that was counted and timed."""

    complexity: NetworkCost
    layers: tuple[NetworkLayer, ...]


class NamedNetwork(Record):
    """Whose network it may be, and how it was made.

    Attributes:
        label: Unique name in every table and figure.
        title: In one line.
        settings: The recipe; None where the run does not hold it.
        complexity: None where it was not measured.
        layers: From input to output; empty likewise.
    """

    label: str
    title: str
    settings: dict[str, JsonValue] | None
    complexity: NetworkCost | None = None
    layers: tuple[NetworkLayer, ...] = ()

    @cached_property
    def made(self) -> Recipe | None:
        """The settings as a recipe."""
        return None if self.settings is None else Recipe.model_validate(self.settings)

    def latency(self, batch: int) -> MeasuredLatency | None:
        """Of one call with so many images, where it was measured."""
        timed = self.complexity.latency if self.complexity else ()
        return next((one for one in timed if one.batch == batch), None)


class ComparedRecipe(NamedNetwork):
    """One recipe of one run.

    Attributes:
        recipe: Its name.
        run: Name of the run.
        study: The study that it is from; empty for none.
        reported: What that study reports.
        marks: Each way in which it is not its published form.
        published_epochs: Epochs of that form; None without.
        training: Protocol → record.
        results: Protocol → result.
    """

    recipe: str
    run: str
    study: str
    reported: str
    marks: tuple[str, ...]
    published_epochs: int | None
    training: dict[str, TrainingRecord]
    results: dict[str, RecipeResult] = Field(default_factory=dict)

    def value(self, protocol: str, metric: str) -> Estimate | None:
        """A metric under a protocol, where it was measured."""
        found = self.results.get(protocol)
        return None if found is None else found.metrics.get(metric)

    def trained(self, protocol: str) -> TrainingRecord:
        """How it was trained; an empty record where that is unknown."""
        return self.training.get(protocol) or TrainingRecord()


class PairedTest(Record):
    """A recipe (``a``) against the reference (``b``) on the same images."""

    a: str
    b: str
    metric: str
    difference: Estimate
    verdict: Difference
    n: int
    n_groups: int
    p: float
    p_holm: float
    protocol: str


class RunVerdict(Record):
    """The verdict of a run's first recipe, as far as a comparison shows it."""

    level: VerdictLevel
    headline: str
    sources: tuple[SourceVerdict, ...]


class RunFacts(Record):
    """A run.

    Attributes:
        name: Of its folder.
        command: That made it, without folders.
        data: Name of the data.
        images, files: Usable images, and all.
        classes: Class → usable images.
        groups, patients, clusters: Of the usable images.
        parts: Protocol → images, or patients, of each part, fold by fold.
        seed: Of the study.
        finished: Whether it has come to its end.
        verdict: None where there is none yet.
        cpu, cores: Of the machine; empty and None where unknown.
    """

    name: str
    command: str
    data: str
    images: int
    files: int
    classes: dict[str, int]
    groups: int
    patients: int
    clusters: int
    parts: dict[str, tuple[dict[str, int], ...]]
    seed: int
    finished: bool
    verdict: RunVerdict | None
    cpu: str
    cores: int | None


class OtherEvaluation(Record):
    """A model on other data, from an output of ``evaluate``; ``row`` is what ``n`` counts."""

    name: str
    class_names: tuple[str, ...]
    n: int
    n_groups: int
    group_unit: str
    metrics: dict[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    decisions: dict[str, float]
    warnings: tuple[str, ...]
    row: Literal["image", "patient"] = "image"


class ComparisonFile(StoredFile):
    """The content of ``comparison.json``.

    Attributes:
        schema_version: Version of this schema.
        leukoscope: Version of the program.
        command: That makes it again.
        metric: Ranks the recipes and is tested.
        against: Label of the reference, or ``best``.
        confidence, replicates, seed: Of the intervals.
        runs: The runs.
        notes: What a reader must know.
        class_names: In the order of every matrix.
        protocols: From the mildest to the harshest.
        entries: The recipes.
        tests: Of each recipe against the reference; those of a protocol are one family.
        external: Models on other data.
        published: Published networks that did not run here, counted and timed.
        row: What the recipes classify, and what is counted: ``image`` or ``patient``.
    """

    hint: ClassVar[str] = "run `leukoscope compare` again"

    schema_version: Literal[1] = Field(alias="schema")
    leukoscope: str
    command: str
    metric: str
    against: str
    confidence: float
    replicates: int
    seed: int
    runs: tuple[RunFacts, ...]
    notes: tuple[str, ...]
    class_names: tuple[str, ...]
    protocols: tuple[ProtocolHead, ...]
    entries: tuple[ComparedRecipe, ...]
    tests: tuple[PairedTest, ...]
    external: tuple[OtherEvaluation, ...]
    published: tuple[NamedNetwork, ...] = ()
    row: Literal["image", "patient"] = "image"

    def with_networks(self, found: Mapping[str, MeasuredNetwork]) -> ComparisonFile:
        """The same with what was measured of the recipes' networks, by label."""
        entries = tuple(
            entry.model_copy(update=dict(found[entry.label])) if entry.label in found else entry
            for entry in self.entries
        )
        return self.model_copy(update={"entries": entries})
