"""Whether other data can be compared with a study's classes, and what it is called."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Literal

from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import (
    check_roles,
    malignant_mask,
    order_classes,
    role_of,
    without_sides,
)
from leukoscope.datasets.layouts.inspection import inspect_dataset


def comparable_by(
    class_names: Sequence[str], labels: Collection[str], roles: Roles
) -> Literal["class", "malignancy"] | None:
    """By what a model and other data can be compared; None where they cannot.

    By class where they share one. Where they share none, or where the one has *all* and the other
    its stages, by malignancy, if the roles of the model's classes are known.
    """
    shared = set(labels) & set(class_names)
    stages = set(labels) - set(class_names) and "all" in {*labels, *class_names}
    if not shared or stages:
        known = any(role_of(label, roles) for label in labels)
        if known and malignant_mask(class_names, roles) is not None:
            return "malignancy"
    return "class" if shared else None


def not_comparable(class_names: Sequence[str], labels: Collection[str], roles: Roles) -> DataError:
    """The error that says why, and what may help."""
    near = [
        f"{label} may be {found[0]}"
        for label in order_classes(labels)
        if (found := get_close_matches(label, class_names, n=1))
    ]
    why = without_sides(class_names, roles)
    return DataError(
        f"the bundle knows {', '.join(class_names)}, the data {', '.join(sorted(labels))}: "
        f"no class can be compared, nor malignant against others ({why})",
        hint=f"{'; '.join(near) + '; ' if near else ''}--class FOLDER=CLASS says what a folder "
        "stands for, --role CLASS=ROLE what a class is",
    )


def check_external(config: StudyConfig, class_names: Sequence[str]) -> None:
    """Refuse other data that the study's bundle could not be measured on, before any training.

    Raises:
        DataError: No class can be compared.
        LayoutError: A folder has no known layout.
        UnknownNameError: A role is stated of a class that is in none of the data sets.
    """
    every = set(class_names)
    for data in config.external:
        found = inspect_dataset(
            data.path, layout=data.layout, class_map=data.class_map, target=data.target
        )
        labels = {row.label for row in found.folders if row.label and row.images}
        every |= labels
        if comparable_by(class_names, labels, data.roles) is None:
            raise DataError(
                f"{data.path}: its classes ({', '.join(sorted(labels)) or 'none'}) cannot be "
                f"compared with those of the study ({', '.join(class_names)})",
                hint="--class FOLDER=CLASS says what a folder stands for, in both data sets",
            )
    check_roles(config.data.roles, every)


def names_of(external: Sequence[DataConfig]) -> list[str]:
    """A name for each data set, of its folder or manifest; unique.

    >>> names_of([DataConfig(path=p) for p in ("/a/cells", "/b/cells.csv", "/c/manifest.csv")])
    ['cells', 'cells-2', 'c']
    """
    names: list[str] = []
    for data in external:
        stem = data.name
        taken = sum(name == stem or name.startswith(f"{stem}-") for name in names)
        names.append(f"{stem}-{taken + 1}" if taken else stem)
    return names
