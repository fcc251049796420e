"""The file ``environment.json``: with what a study was made, and how long it took."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from leukoscope.config.stored import Record, StoredFile


class GitState(Record):
    """Commit of the source tree, and whether it had uncommitted changes."""

    commit: str
    dirty: bool


class Environment(StoredFile):
    """The content of ``environment.json``.

    Attributes:
        schema_version: Version of this schema.
        command: As it was typed.
        python, platform, cpu: Names and versions.
        cores: That the process could use.
        git: None where it was not run from a source tree.
        packages: Library → version.
        seed: Of the study.
        sha256: File of the run → its hash.
        seconds: Step → wall time; some steps are parts of others.
        seconds_in_all: Of the whole, without the report.
    """

    hint: ClassVar[str] = "run the study again"

    schema_version: Literal[1] = Field(alias="schema")
    command: str
    python: str
    platform: str
    cpu: str
    cores: int
    git: GitState | None
    packages: dict[str, str]
    seed: int
    sha256: dict[str, str]
    seconds: dict[str, float]
    seconds_in_all: float
