"""What to say where some images of a data set name their patient and others do not."""

from __future__ import annotations

from collections.abc import Sequence

from leukoscope.core.labels import open_name
from leukoscope.datasets.layouts.folder_levels import common_folders, parse_pattern
from leukoscope.datasets.layouts.rules import Placed, Placement, is_image_name

_SHOWN = 3
_PATTERNS = ("{class}/{patient}", "{patient}/{class}", "{class}/{patient}/*", "{class}/*/{patient}")


def patient_notes(placement: Placement) -> list[str]:
    """A warning that names the images, or folders, without a patient; none where all have one."""
    used = [item for item in placement.placed if is_image_name(item.path) and not item.excluded]
    lost = [item for item in used if not item.patient_id]
    if not lost or len(lost) == len(used):
        return []
    pattern = "" if placement.columns else _naming_pattern(used)
    cure = f"--layout '{pattern}' names one for each" if pattern else "name them, or leave them out"
    return [
        f"{len(lost)} of {len(used)} images name no patient ({_places(used, lost)}): because of "
        f"them all of the protocol `grouped` is lost; {cure}"
    ]


def _places(used: Sequence[Placed], lost: Sequence[Placed]) -> str:
    """The first images, or their folders where no image of these names a patient."""
    bare = {item.path.rpartition("/")[0] for item in lost}
    mixed = {item.path.rpartition("/")[0] for item in used if item.patient_id}
    names = [item.path for item in lost]
    if "" not in bare and not bare & mixed:
        names = [f"{folder}/" for folder in sorted(bare)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _naming_pattern(used: Sequence[Placed]) -> str:
    """A pattern by which every image has a patient, and the class that it has now; or empty."""
    wrapper = common_folders([item.path for item in used])
    for text in _PATTERNS:
        pattern = parse_pattern(text)
        found = [pattern.fields(item.path, wrapper) for item in used]
        if all(
            fields is not None
            and open_name(fields["class"]) == open_name(item.found)
            and item.patient_id in ("", fields["patient"])
            for item, fields in zip(used, found, strict=True)
        ):
            return text
    return ""
