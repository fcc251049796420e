"""The folder in which this program keeps, for one user, what it can make again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "LEUKOSCOPE_CACHE"
OFF: Final = "off"


def user_cache(name: str) -> Path | None:
    """The folder for one kind of file; it need not exist yet. None where nothing may be kept.

    The environment variable ``LEUKOSCOPE_CACHE`` names another folder, or ``off``.
    """
    given = os.environ.get(VARIABLE, "")
    if given == OFF:
        return None
    if given:
        return Path(given) / name
    try:
        return _usual() / "leukoscope" / name
    except RuntimeError:  # the user has no home folder
        return None


def _usual() -> Path:
    """Where programs keep their caches on this system."""
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"
