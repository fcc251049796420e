"""Which bundles lie below a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.runtime.bundle import RECORD, read_bundle


@dataclass(frozen=True)
class FoundBundle:
    """One bundle.

    Attributes:
        folder: Where it lies.
        name: As in the ``model`` column of its predictions; empty where it cannot be read.
        recipe: Recipe name; likewise.
        class_names: Order of the logits; likewise.
        created: ISO 8601 time in UTC; likewise.
        problem: Why it cannot be used; empty where it can.
    """

    folder: Path
    name: str = ""
    recipe: str = ""
    class_names: tuple[str, ...] = ()
    created: str = ""
    problem: str = ""


def find_bundles(root: Path) -> list[FoundBundle]:
    """The bundles below a folder, by path; all hashes are checked, nothing is predicted.

    Args:
        root: Looked through with all its subfolders; hidden folders are left out.

    Raises:
        BundleError: There is no such folder.
    """
    if not root.is_dir():
        raise BundleError(f"{root}: expected a folder to look for bundles in, found none")
    found = []
    for record in sorted(root.rglob(RECORD)):
        folder = record.parent
        if any(part.startswith(".") for part in folder.relative_to(root).parts):
            continue
        try:
            bundle = read_bundle(folder)
        except BundleError as error:
            found.append(FoundBundle(folder, problem=error.message))
            continue
        known = bundle.record
        name = f"{known.name}@{bundle.sha256[:12]}"
        found.append(FoundBundle(folder, name, known.recipe, known.class_names, known.created))
    return found
