"""Which images are explained, and by whose models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from leukoscope.core.errors import UnknownNameError
from leukoscope.core.files import sha256_file
from leukoscope.evaluation.examples import choose_examples, in_turn
from leukoscope.study.fitted import FittedRun


@dataclass(frozen=True)
class Source:
    """Whose models are asked.

    Attributes:
        fitted: The run.
        recipe: The recipe.
        protocol: Under which protocol its models were fitted.
    """

    fitted: FittedRun
    recipe: str
    protocol: str


@dataclass(frozen=True)
class Subject:
    """An image to be explained.

    Attributes:
        file: Where it lies.
        name: How to call it.
        kind: ``right``, ``wrong``, or ``image`` for one that the user named.
        sha256: Of its bytes.
        image_id: Its id in the data set of the first source; empty for an image from elsewhere.
        y_true: Its class; empty where unknown.
    """

    file: Path
    name: str
    kind: str
    sha256: str
    image_id: str = ""
    y_true: str = ""


def open_sources(
    run: Path, beside: Path | None, recipes: Sequence[str], protocol: str | None
) -> list[Source]:
    """The models that a user named: recipes of one run, and those of another beside them.

    Each run shows the recipes of these names that it has, or its first where none is named; by
    default under its first protocol.

    Raises:
        UnknownNameError: A name that no run has.
        DataError: Nothing that was named is finished.
    """
    runs = [FittedRun.open(path) for path in (run, beside) if path is not None]
    known = [name for fitted in runs for name in fitted.recipes]
    for name in recipes:
        if name not in known:
            raise UnknownNameError(f"recipe of {run}", name, known)
    sources = []
    for fitted in runs:
        chosen = [name for name in dict.fromkeys(recipes) if name in fitted.recipes]
        names: list[str | None] = [*chosen] if chosen else [None]
        sources += [Source(fitted, *fitted.choose(name, protocol)) for name in names]
    return sources


def choose_subjects(source: Source, count: int) -> list[Subject]:
    """``count`` right and as many wrong test predictions.

    The right ones are the median in confidence of each class in turn, not the prettiest; the wrong
    ones are those that were held with the greatest confidence.
    """
    table = source.fitted.test_table(source.recipe, source.protocol)
    right = in_turn(choose_examples("right", table.y_true, table.probs), count)
    mistakes = chain(*choose_examples("confident-wrong", table.y_true, table.probs))
    wrong = sorted(mistakes, key=lambda row: -table.probs[row].max())
    subjects = []
    for kind, rows in (("right", right), ("wrong", wrong[:count])):
        for row in rows:
            record = source.fitted.record(str(table.image_id[row]))
            file = source.fitted.manifest.path_of(record)
            subjects.append(
                Subject(file, record.path, kind, record.sha256, record.image_id, record.label)
            )
    return subjects


def name_subjects(source: Source, files: Iterable[Path]) -> list[Subject]:
    """Images that the user named; those of the data set are known by their bytes."""
    subjects = []
    for file in files:
        try:
            sha256 = sha256_file(file)
        except OSError:
            sha256 = ""  # decoding it will say what is wrong
        record = source.fitted.find(sha256) if sha256 else None
        known = (record.image_id, record.label) if record else ()
        subjects.append(Subject(file, str(file), "image", sha256, *known))
    return subjects
