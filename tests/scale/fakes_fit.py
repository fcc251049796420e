"""Fits that end their process where a test says so; processes import this, and no torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from leukoscope.core.errors import DataError


class Key(NamedTuple):
    """Stands in for the key of a fit, whose module imports torch."""

    name: str
    fold: int

    def __str__(self) -> str:
        return f"recipe {self.name}, random, fold {self.fold}"


def keys_of(*names: str) -> list[Key]:
    return [Key(name, fold) for fold, name in enumerate(names)]


def fits_of(run: str) -> Callable[[Key], None]:
    """What happens to a fit stands in its name; each attempt leaves a line in ``attempts``."""

    def fit(key: Key) -> None:
        attempts = Path(run, "attempts")
        with attempts.open("a") as file:
            file.write(f"{key.name} {key.fold}\n")
        first = attempts.read_text().count(f"{key.name} {key.fold}\n") == 1
        if key.name == "dies" or (key.name == "once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if key.name == "fails":
            raise DataError("splits.csv is missing", hint="use the same paths")
        if key.name == "breaks":
            raise ValueError("a mistake of ours")

    return fit
