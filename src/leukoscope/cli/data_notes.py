"""What a command says of its data before it works on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.cli.console import say
from leukoscope.core.errors import UnknownNameError

if TYPE_CHECKING:
    from leukoscope.config.study import DataConfig, StudyConfig
    from leukoscope.datasets.layouts.inspection import ReadingNotes


def tell_of_study(config: StudyConfig) -> None:
    """Say what is odd about the data of a study, and which names of ``--class`` they lack.

    Raises:
        UnknownNameError: None of the names of ``--class`` is one of the data.
    """
    found = _notes((config.data, *config.external))
    for note in found[0].warnings:
        say(f"! {note}", err=True)
    _tell_unused(config.data.class_map, found)


def tell_unused_classes(
    data: Path,
    layout: str,
    class_map: Mapping[str, str],
    target: str = "",
    *,
    elsewhere: Collection[str] | None = (),
) -> None:
    """Say which names of ``--class`` the data of a command lack.

    Args:
        data: Folder or table.
        layout: As there.
        class_map: What ``--class`` says.
        target: As there.
        elsewhere: Names that ``--class`` may mean beside those of the data; None: not known.

    Raises:
        UnknownNameError: None of them is one of the data, or of ``elsewhere``.
    """
    if class_map:
        from leukoscope.config.study import DataConfig

        one = DataConfig(path=str(data), layout=layout, class_map=dict(class_map), target=target)
        _tell_unused(class_map, _notes((one,)), elsewhere)


def tell_of_studies(configs: Iterable[StudyConfig]) -> None:
    """The same of several studies, whose data share the names of ``--class``."""
    data = [config.data for config in configs]
    class_map = {given: name for one in data for given, name in one.class_map.items()}
    if class_map:
        _tell_unused(class_map, _notes(data))


def _notes(data: Sequence[DataConfig]) -> list[ReadingNotes]:
    from leukoscope.datasets.layouts.inspection import reading_notes

    return [
        reading_notes(one.path, layout=one.layout, class_map=one.class_map, target=one.target)
        for one in data
    ]


def _tell_unused(
    class_map: Mapping[str, str],
    found: Sequence[ReadingNotes],
    elsewhere: Collection[str] | None = (),
) -> None:
    from leukoscope.datasets.layouts.image_records import unused_note

    lost = [
        given
        for given in class_map
        if given not in (elsewhere or ()) and all(given in notes.unused for notes in found)
    ]
    if lost and len(lost) == len(class_map) and elsewhere is not None:
        names = {name for notes in found for name in notes.names}
        raise UnknownNameError("folder or label of --class", lost[0], names | set(elsewhere))
    for given in lost:
        say(f"! {unused_note(given)}", err=True)
