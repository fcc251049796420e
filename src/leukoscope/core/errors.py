"""The exception tree; every message says what was expected, what came, and what to do.

::

    LeukoscopeError                 the work failed                      exit code 1
    ├── UsageError                  the command or call was wrong        exit code 2
    │   ├── ConfigError             a recipe, override or option is invalid
    │   └── UnknownNameError        a name that no registry holds
    ├── DataError                   the data cannot be used as asked
    │   ├── ImageError              one image cannot be read
    │   ├── LayoutError             no known folder layout fits
    │   └── SplitError              a split that would leak, or cannot be made
    ├── WeightsError                pretrained weights are not at hand
    ├── TrainingError               the optimisation broke down
    ├── BundleError                 a bundle is damaged, unfit or of another version
    └── MissingExtraError           an optional dependency is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

# Words that people use → names of ours that no likeness of spelling would find.
_MEANT = {
    "patient": "grouped",
    "patients": "grouped",
    "group": "grouped",
    "slide": "acquisition",
    "cluster": "acquisition",
    "clusters": "acquisition",
    "blur": "defocus",
    "brightness": "brighter",
    "contrast": "uneven-light",
    "gradcam": "grad-cam",
}


def nearest_names(name: str, choices: Collection[str]) -> list[str]:
    """At most two of the choices that a mistyped name may mean, the likeliest first.

    >>> nearest_names("quik", ["quick", "finetune"]), nearest_names("patient", ["grouped"])
    (['quick'], ['grouped'])
    """
    if _MEANT.get(name) in choices:
        return [_MEANT[name]]
    return difflib.get_close_matches(name, choices, n=2, cutoff=0.7)


class LeukoscopeError(Exception):
    """Base of all errors that a user can act on.

    Args:
        hint: What to do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class UsageError(LeukoscopeError):
    """The command line or a call is wrong; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe, an override or an option is invalid."""


class UnknownNameError(UsageError):
    """A name that a registry does not hold; lists the choices and the nearest match.

    Args:
        where: The file that it stands in, if it is in one.
    """

    def __init__(
        self, kind: str, name: str, choices: Iterable[str], *, where: Path | str = ""
    ) -> None:
        known = sorted(choices)
        near = " or ".join(map(repr, nearest_names(name, known)))
        guess = f"Did you mean {near}? " if near else ""
        super().__init__(
            f"unknown {kind} {name!r}{f' in {where}' if where else ''}",
            hint=f"{guess}Choices: {', '.join(known) or 'none'}",
        )
        self.choices = tuple(known)


def refuse_single(found: object, what: str, hint: str) -> None:
    """Refuse what is no list where one is asked for; a text would be taken letter by letter.

    >>> refuse_single("quick", "names", "write ['quick']")
    Traceback (most recent call last):
    leukoscope.core.errors.UsageError: expected a list of names, got 'quick'
      → write ['quick']
    """
    if isinstance(found, (str, bytes, Path)) or not isinstance(found, Iterable):
        shown = repr(str(found)) if isinstance(found, Path) else repr(found)
        shown = shown if len(shown) <= 80 else f"one of type {type(found).__name__}"
        raise UsageError(f"expected a list of {what}, got {shown}", hint=hint)


def refuse_single_name(found: object, option: str) -> None:
    """Refuse one name for an option that is a list of names; None is its default.

    >>> refuse_single_name("random", "protocols")
    Traceback (most recent call last):
    leukoscope.core.errors.UsageError: expected a list of names as protocols, got 'random'
      → write protocols=['random']
    """
    if found is not None:
        like = f"[{str(found)!r}]" if isinstance(found, (str, Path)) else "[…]"
        refuse_single(found, f"names as {option}", f"write {option}={like}")


class DataError(LeukoscopeError):
    """The data cannot be used as asked."""


class ImageError(DataError):
    """One image cannot be read.

    Args:
        reason: A short machine-readable code such as ``truncated`` or ``not-an-image``.
        detail: What was expected and what came, in words.
    """

    def __init__(self, path: Path | str, reason: str, detail: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {detail}", hint=hint)
        self.path = Path(path)
        self.reason = reason
        self.detail = detail


class LayoutError(DataError):
    """No known folder layout fits the data."""


class SplitError(DataError):
    """A split that would put one group on two sides, or that the data cannot support."""


class WeightsError(LeukoscopeError):
    """Pretrained weights are not at hand; never replaced by random ones."""


class TrainingError(LeukoscopeError):
    """The optimisation broke down."""


class BundleError(LeukoscopeError):
    """A bundle is damaged, does not fit, or has another schema version."""


class MissingExtraError(LeukoscopeError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the optional dependencies [{extra}], which are not installed",
            hint=f"pip install 'leukoscope[{extra}]'",
        )
