"""Records of ``tune.json``: the trials of a tuning, and what came of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from leukoscope.config.stored import Record, StoredFile
from leukoscope.config.tuning_space import Parameter

TrialState = Literal["complete", "pruned", "failed", "stopped", "running"]
Label = bool | int | float | str
"""A drawn value as Optuna keeps it: tables and lists as JSON text."""


class TrialRecord(Record):
    """One trial.

    Attributes:
        trial: Its number from 0, in the order of drawing.
        state: ``stopped`` trials were killed or interrupted, and queued again.
        value: Of the criterion; of a pruned trial the last one reported.
        seconds: Duration; None while it runs.
        own: Whether its values are those of the unchanged recipe.
        reason: Why it failed or was stopped.
        labels: Recipe key → label of its value.
        reported: Step and value of each report to the pruner.
    """

    trial: int
    state: TrialState
    value: float | None
    seconds: float | None
    own: bool
    reason: str
    labels: dict[str, Label]
    reported: tuple[tuple[int, float], ...]

    @property
    def score(self) -> float:
        """The value of a trial that has one, as every complete one does."""
        assert self.value is not None
        return self.value


class BestTrial(Record):
    """The trial that won: its number, the value of the criterion, and those of the recipe."""

    trial: int
    value: float
    values: dict[str, JsonValue]


class CorrectedValue(Record):
    """The best value, corrected for the choice of the best, with its 95 % interval over groups."""

    value: float
    low: float
    high: float
    n_groups: int


class TuningFile(StoredFile):
    """The content of ``tune.json``.

    Attributes:
        schema_version: Version of this schema.
        recipe: Name of the recipe whose values were searched.
        recipe_method: How it is trained.
        tuned: Name of the recipe in ``best.toml``.
        data: Name of the data.
        protocol: Whose train and val parts the trials saw.
        folds: Of the trials, within these parts.
        n_images: Images of these parts.
        n_val: Those that every trial was measured on.
        criterion: Metric that the trials are compared by.
        direction: Which values of it are good.
        sampler, pruner: As asked for.
        seed: Of everything random.
        storage: Where the trials are kept; empty for a journal in the folder.
        trials: State → number of trials.
        best: The trial that won.
        own: Value of the unchanged recipe: the best of its penalties, where all were tried, or of
            its one trial.
        penalties: How many of the unchanged recipe's own penalties were tried, and how many there
            are; None where no penalty was searched.
        corrected: None where the trials do not allow it.
        importances: Recipe key → share of the variance that it explains, 0–1.
        space: Recipe key → what its value was drawn from.
        rows: All trials.
        next: Command that measures the best recipe on the test part.
        packages: Package → version.
    """

    in_full: ClassVar[bool] = True
    schema_version: Literal[1] = Field(alias="schema", default=1)
    recipe: str
    recipe_method: str
    tuned: str
    data: str
    protocol: str
    folds: int
    n_images: int
    n_val: int
    criterion: str
    direction: Literal["minimise", "maximise"]
    sampler: str
    pruner: str
    seed: int
    storage: str
    trials: dict[TrialState, int]
    best: BestTrial
    own: float | None
    penalties: tuple[int, int] | None = None
    corrected: CorrectedValue | None
    importances: dict[str, float]
    space: dict[str, Parameter]
    rows: tuple[TrialRecord, ...]
    next: str
    packages: dict[str, str]

    @property
    def minimise(self) -> bool:
        """Whether small values are good."""
        return self.direction == "minimise"

    def in_state(self, state: TrialState) -> list[TrialRecord]:
        """The trials that ended so."""
        return [row for row in self.rows if row.state == state]
