"""Fits that end their process where a test says so; a process of its own imports this."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from leukoscope.core.errors import DataError
from leukoscope.pipeline.remote_fits import FitKey


def fits_of(run: str) -> Callable[[FitKey], None]:
    """What happens to a fit stands in its name; each attempt leaves a line in ``attempts``."""

    def fit(key: FitKey) -> None:
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
