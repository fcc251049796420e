"""Options that name other data, as a configuration holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukoscope.core.errors import ConfigError


def external_values(
    paths: Sequence[Path | str], layouts: Sequence[str], class_map: Mapping[str, str] | None
) -> list[dict[str, Any]]:
    """Values of the key ``external`` of a study.

    Args:
        paths: Folder or CSV manifest of each data set.
        layouts: Layout of each; one holds for all, and none means ``auto``.
        class_map: Folder name → class, of every data set.

    Raises:
        ConfigError: Neither one layout nor one for each.
    """
    given = list(layouts) or ["auto"]
    given = given * len(paths) if len(given) == 1 else given
    if len(given) != len(paths):
        raise ConfigError(
            f"{len(paths)} external data sets and {len(layouts)} layouts for them: expected one "
            "layout for all, or one each in the same order"
        )
    return [
        {
            "path": str(Path(path).expanduser().resolve()),
            "layout": layout,
            "class_map": dict(class_map or {}),
        }
        for path, layout in zip(paths, given, strict=True)
    ]
