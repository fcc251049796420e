"""The one class ontology, and how published folder names map to it.

In the 4-class ALL set *Benign* means hematogones (benign B-cell precursors), not healthy
blood; Early, Pre and Pro are B-cell maturation stages of the leukemia. Class order is the
order of :data:`CLASSES`, never that of folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leukoscope.core.errors import UnknownNameError


@dataclass(frozen=True)
class ClassInfo:
    """What a class name stands for."""

    name: str  # canonical name, used in every file
    title: str  # name for figures and pages
    malignant: bool  # whether the class belongs to the malignant branch of the hierarchy
    description: str  # one sentence for readers who are not haematologists


CLASSES: Mapping[str, ClassInfo] = {
    info.name: info
    for info in (
        ClassInfo("healthy", "Healthy", False, "Leukocytes of subjects without leukemia."),
        ClassInfo(
            "benign",
            "Benign (hematogones)",
            False,
            "Hematogones: benign B-cell precursors that can be mistaken for lymphoblasts.",
        ),
        ClassInfo(
            "early_pre_b",
            "Early pre-B ALL",
            True,
            "Acute lymphoblastic leukemia whose blasts are arrested at the early pre-B stage.",
        ),
        ClassInfo(
            "pre_b",
            "Pre-B ALL",
            True,
            "Acute lymphoblastic leukemia whose blasts are arrested at the pre-B stage.",
        ),
        ClassInfo(
            "pro_b",
            "Pro-B ALL",
            True,
            "Acute lymphoblastic leukemia whose blasts are arrested at the pro-B stage.",
        ),
        ClassInfo(
            "all",
            "ALL",
            True,
            "Acute lymphoblastic leukemia, maturation stage not given.",
        ),
    )
}

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "healthy": ("healthy", "normal", "hem", "control"),
    "benign": ("benign", "hematogone", "hematogones", "haematogones"),
    "early_pre_b": (
        "early",
        "early pre b",
        "early pre b all",
        "malignant early",
        "malignant early pre b",
    ),
    "pre_b": ("pre", "pre b", "pre b all", "malignant pre", "malignant pre b"),
    "pro_b": ("pro", "pro b", "pro b all", "malignant pro", "malignant pro b"),
    "all": ("all", "leukemia", "leukaemia", "blast", "blasts", "malignant"),
}

_BY_ALIAS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}


def _normalise(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def resolve_class(text: str, overrides: Mapping[str, str] | None = None) -> str | None:
    """The canonical class of a folder or column value, or None where it is unknown.

    Args:
        text: A published name such as ``[Malignant] early Pre-B`` or ``HEM``.
        overrides: The user's own mapping from such names to canonical ones.

    Raises:
        UnknownNameError: An override names a class that does not exist.

    >>> resolve_class("[Malignant] early Pre-B"), resolve_class("HEM"), resolve_class("cat")
    ('early_pre_b', 'healthy', None)
    """
    key = _normalise(text)
    for given, name in (overrides or {}).items():
        if name not in CLASSES:
            raise UnknownNameError("class", name, CLASSES)
        if _normalise(given) == key:
            return name
    return _BY_ALIAS.get(key) or (
        key.replace(" ", "_") if key.replace(" ", "_") in CLASSES else None
    )


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in the canonical order.

    >>> order_classes(["pro_b", "benign", "pro_b"])
    ('benign', 'pro_b')

    Raises:
        UnknownNameError: A name is not in :data:`CLASSES`.
    """
    wanted = set(names)
    for name in sorted(wanted):
        if name not in CLASSES:
            raise UnknownNameError("class", name, CLASSES)
    return tuple(name for name in CLASSES if name in wanted)


def malignant_mask(class_names: Iterable[str]) -> list[bool]:
    """For each class whether it belongs to the malignant branch.

    >>> malignant_mask(["benign", "pro_b"])
    [False, True]
    """
    return [CLASSES[name].malignant for name in class_names]
