"""The file ``ensemble.json``: of what an ensemble is made, and how it compares with its members."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.stored import Record, StoredFile


class EnsembleMember(Record):
    """A recipe of a finished run that was combined with others."""

    name: str
    run: str
    recipe: str
    predictions_sha256: str


class EnsembleTest(Record):
    """An ensemble against another predictor on the same test images.

    Attributes:
        protocol: Under which the images were held out.
        a, b: Names of the two.
        metric: What is compared.
        difference: a minus b.
        verdict: What the test says of a.
        n, n_groups: Images that both have, and their groups.
        p: Of the exchange test over whole groups.
        p_holm: The same, corrected for all tests under the protocol.
    """

    protocol: str
    a: str
    b: str
    metric: str
    difference: Estimate
    verdict: str
    n: int
    n_groups: int
    p: float
    p_holm: float


class EnsembleFile(StoredFile):
    """The content of ``ensemble.json``; while the ensemble is made, only its members.

    Attributes:
        schema_version: Version of this schema.
        members: What was combined.
        weights: Method → protocol → weights of the members, fold by fold.
        best_member: Protocol → the member with the least log loss on validation images.
        tests: Each ensemble against the best member and against plain averaging.
    """

    hint: ClassVar[str] = "combine the runs again"
    in_full: ClassVar[bool] = True

    schema_version: Literal[1] = Field(alias="schema", default=1)
    members: list[EnsembleMember]
    weights: dict[str, dict[str, list[list[float]]]] = Field(default_factory=dict)
    best_member: dict[str, str] = Field(default_factory=dict)
    tests: list[EnsembleTest] = Field(default_factory=list)
