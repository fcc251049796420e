"""McNemar's exact test of two classifiers on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable


@dataclass(frozen=True)
class McNemar:
    """Where two classifiers disagree about what is right.

    Attributes:
        only_first: Images that only the first has right.
        only_second: Images that only the second has right.
        p: Of the two-sided exact test.
    """

    only_first: int
    only_second: int
    p: float

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "only_first_right": self.only_first,
            "only_second_right": self.only_second,
            "p": self.p,
        }


def mcnemar(a: PredictionTable, b: PredictionTable) -> McNemar:
    """Is one of two classifiers right more often where only one of them is?

    The two-sided binomial test of the discordant pairs (McNemar 1947, exact). It takes images for
    independent, so with several images of one patient or slide its p is too small; the bootstrap
    over groups is the one to rely on.

    Args:
        a: One row per labelled image.
        b: Likewise; only images that both have are counted.

    Raises:
        DataError: An image stands twice in a table.

    >>> table = lambda p: PredictionTable.build(["benign", "all"], ["x", "y", "z"],
    ...     [[1 - v, v] for v in p], recipe="r", protocol="random", fold=0, part="test",
    ...     y_true=[0, 1, 1])
    >>> mcnemar(table([0.1, 0.9, 0.9]), table([0.9, 0.1, 0.9]))
    McNemar(only_first=2, only_second=0, p=0.5)
    """
    from scipy.stats import binomtest

    first, second = _right(a), _right(b)
    shared = first.keys() & second.keys()
    only_first = sum(first[key] and not second[key] for key in shared)
    only_second = sum(second[key] and not first[key] for key in shared)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def _right(table: PredictionTable) -> dict[str, bool]:
    right = (table.probs.argmax(axis=1) == table.y_true).tolist()
    known = (table.y_true >= 0).tolist()
    found = {
        key: hit for key, hit, use in zip(table.image_id.tolist(), right, known, strict=True) if use
    }
    if len(found) != sum(known):
        raise DataError("McNemar's test: an image has two rows; select one part and fold set")
    return found
