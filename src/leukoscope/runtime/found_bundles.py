"""The bundles below a folder, each with what is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.runtime.bundle import RECORD, read_bundle


@dataclass(frozen=True)
class FoundBundle:
    """A bundle found on disk; if it cannot be read, only ``folder`` and ``problem`` are filled.

    Attributes:
        folder: The bundle's folder.
        name: As in the ``model`` column of its predictions.
        recipe: Name of the recipe.
        class_names: In the order of the logits.
        created: ISO 8601 time in UTC.
        problem: Why it cannot be used; empty if it can.
    """

    folder: Path
    name: str = ""
    recipe: str = ""
    class_names: tuple[str, ...] = ()
    created: str = ""
    problem: str = ""


def find_bundles(root: Path) -> list[FoundBundle]:
    """All bundles below ``root``, sorted by path; hidden folders are skipped.

    All hashes are checked; nothing is predicted.

    Raises:
        BundleError: There is no such folder.
    """
    if not root.is_dir():
        raise BundleError(f"{root}: expected a folder to look for bundles in, found none")
    folders = (record.parent for record in sorted(root.rglob(RECORD)))
    return describe_bundles(
        folder
        for folder in folders
        if not any(part.startswith(".") for part in folder.relative_to(root).parts)
    )


def describe_bundles(folders: Iterable[Path]) -> list[FoundBundle]:
    """Describe the bundle in each folder; a damaged one with its fault."""
    found = []
    for folder in folders:
        try:
            bundle = read_bundle(folder)
        except BundleError as error:
            found.append(FoundBundle(folder, problem=error.message))
            continue
        known = bundle.record
        name = f"{known.name}@{bundle.sha256[:12]}"
        found.append(FoundBundle(folder, name, known.recipe, known.class_names, known.created))
    return found
