"""Open each file of a data set once: hash, size, and why it cannot be read."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from leukoscope.core.errors import ImageError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.records import ImageRecord
from leukoscope.datasets.layouts.rules import Placed
from leukoscope.imaging.decode import MAX_BYTES, decode_image

ID_DIGITS = 12
_SURROGATES = re.compile("[\ud800-\udfff]")  # how Python holds bytes that are no UTF-8


def read_records(
    root: Path,
    placed: Sequence[Placed],
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[ImageRecord]:
    """The records of a data set, in the order of their paths."""
    ordered = sorted(placed, key=lambda item: item.path)
    records: list[ImageRecord] = []
    copies: Counter[str] = Counter()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for record in pool.map(partial(_read, root), ordered):
            copies[record.image_id] += 1
            copy = copies[record.image_id]
            suffix = f"-{copy}" if copy > 1 else ""
            values = {**vars(record), "image_id": record.image_id + suffix}
            records.append(ImageRecord(**values))
            if progress is not None:
                progress(len(records), len(ordered))
    return records


def _read(root: Path, item: Placed) -> ImageRecord:
    path = root / item.path
    sha256, reason, size = "", "", (0, 0)
    if not _is_text(item):
        return _unnameable(item)
    try:
        data = _bytes_of(path)
        source = path if data is None else data
        if data is not None:
            sha256 = sha256_bytes(data)
        height, width = decode_image(source, name=item.path).image.shape[:2]
        size = (width, height)
    except ImageError as error:
        reason = f"{error.reason}: {error.detail}"
    status = "quarantined" if reason else "excluded" if item.excluded else "ok"
    # Without content the path has to make the id; it cannot collide with a true hash by accident.
    digest = sha256 or sha256_bytes(item.path.encode("utf-8", "surrogateescape"))
    return ImageRecord(
        image_id=digest[:ID_DIGITS],
        path=item.path,
        sha256=sha256,
        label=item.label,
        patient_id=item.patient_id,
        group_id=item.group_id,
        acquisition_id=item.acquisition_id,
        width=size[0],
        height=size[1],
        status=status,
        reason=reason or item.excluded,
        given_part=item.given_part,
        cohort=item.cohort,
        site=item.site,
        session=item.session,
        cell_type=item.cell_type,
        diagnosis=item.diagnosis,
        further=item.further,
    )


def _is_text(item: Placed) -> bool:
    """Whether a file's name, and what was read of it, can be written to the files of a study."""
    texts = [value for value in vars(item).values() if isinstance(value, str)]
    texts += [text for pair in item.further for text in pair]
    return all(text.isascii() or not _SURROGATES.search(text) for text in texts)


def _unnameable(item: Placed) -> ImageRecord:
    """A file that no table could name so that it is found again; its name is spelled out."""
    spelled = {
        name: value.encode("utf-8", "backslashreplace").decode()
        for name, value in vars(item).items()
        if isinstance(value, str)
    }
    digest = sha256_bytes(item.path.encode("utf-8", "surrogateescape"))
    reason = "file-name: expected a name in UTF-8, found other bytes; rename the file or its folder"
    return ImageRecord(
        image_id=digest[:ID_DIGITS],
        path=spelled["path"],
        sha256="",
        label=spelled["label"],
        status="quarantined",
        reason=reason,
    )


def _bytes_of(path: Path) -> bytes | None:
    """The file's bytes, or None where only the decoder can say what is wrong."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return path.read_bytes()
    except (OSError, ValueError):
        pass
    return None
