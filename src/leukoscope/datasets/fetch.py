"""Get a public data set, or check the one that is there.

Beside the data set's folder ``NAME`` lies ``NAME.fetched.json``: where it came from, and the
SHA-256 of every file. What is on its way lies in ``NAME.part``, so that a download that was killed
goes on, and ``NAME`` is either complete or absent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_json, sha256_file, write_json
from leukoscope.datasets.fetch_convert import bloodmnist_folder
from leukoscope.datasets.fetch_registry import PublicSet
from leukoscope.datasets.fetch_sources import Progress, fetch_file, fetch_kaggle, file_name
from leukoscope.datasets.layout_rules import is_image_name
from leukoscope.datasets.walking import list_files

MB = 1_000_000
CONVERTERS: dict[str, Callable[[Path, Path, Progress], None]] = {"bloodmnist": bloodmnist_folder}


@dataclass(frozen=True)
class Fetched:
    """What became of a data set.

    Attributes:
        folder: Where it lies.
        state: ``fetched``, ``verified`` (it was there and is unchanged) or ``recorded`` (it was
            there without a record; its files were counted and their hashes written down).
        images: Number of image files.
        checked: What was checked, in a sentence.
    """

    folder: Path
    state: str
    images: int
    checked: str


def is_there(out: Path) -> bool:
    """Whether a folder holds anything, so that nothing has to be fetched.

    Raises:
        DataError: It is a file.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, but it is a file", hint="give another --out")
    return out.is_dir() and any(out.iterdir())


def fetch(item: PublicSet, out: Path, progress: Progress) -> Fetched:
    """Download a data set into ``out``, or check what is there.

    Raises:
        UsageError: ``out`` is the current folder.
        DataError: The network, the disk or the files are not as they have to be.
        MissingExtraError: The client is not installed.
    """
    out = _place(out)
    if is_there(out):
        return _verify(item, out, progress)
    part = out.with_name(f"{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    free_mb = shutil.disk_usage(part).free // MB
    if free_mb < item.needed_mb:
        raise DataError(
            f"{part}: expected {item.needed_mb} MB of free disk for {item.name}, found {free_mb}",
            hint="free some, or give an --out on another disk",
        )
    try:
        content = _content(item, part, by_hand(item, out), progress)
    finally:
        _remove_empty(part)  # where nothing came, nothing stays
    images = _count(item, content)
    if out.exists():
        out.rmdir()  # it is empty
    content.rename(out)
    shutil.rmtree(part)
    _record(item, out, progress)
    how = f"matches the published {item.checksum}" if item.checksum else "was checked by Kaggle"
    note = "" if item.checksum else "; no checksums of its files are published, so ours were stored"
    return Fetched(out, "fetched", images, f"the download {how}{note}")


def _place(out: Path) -> Path:
    """The folder under a name of its own, since its parts and record lie beside it."""
    if out.is_symlink() or not out.name or out.name == "..":
        out = out.resolve()
    if out == Path.cwd() and not is_there(out):
        raise UsageError(
            "expected the name of a folder to make, got the current one",
            hint="e.g. --out data/bloodmnist",
        )
    return out


def _content(item: PublicSet, part: Path, what_to_do: str, progress: Progress) -> Path:
    """The complete folder of images, below ``part``."""
    if item.kaggle:
        return fetch_kaggle(item, part, what_to_do)
    archive = fetch_file(item, part, what_to_do, progress)
    content = part / "content"
    if content.exists():
        shutil.rmtree(content)  # a conversion that was killed
    CONVERTERS[item.name](archive, content, progress)
    return content


def _remove_empty(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        if not any(Path(path).iterdir()):
            Path(path).rmdir()


def by_hand(item: PublicSet, out: Path) -> str:
    """What to do without a network: where to get the set, and where to put it."""
    if item.kaggle:
        return (
            f"download it on another machine from {item.page}, unpack it into {out}, and run the "
            "command again to check it"
        )
    return (
        f"download {item.url} on another machine, save it as "
        f"{out.with_name(f'{out.name}.part') / file_name(item)}, and run the command again"
    )


def record_path(out: Path) -> Path:
    """Where the record of a fetched set lies."""
    return out.with_name(f"{out.name}.fetched.json")


def _files(out: Path) -> list[str]:
    return list(list_files(out).files)


def _count(item: PublicSet, folder: Path) -> int:
    images = sum(is_image_name(name) for name in _files(folder))
    if images < item.images:
        raise DataError(
            f"{folder}: expected at least {item.images:,} images of {item.title}, found {images:,}",
            hint=f"it is incomplete or another data set; delete it and fetch {item.name} again",
        )
    return images


def _hashes(out: Path, progress: Progress) -> dict[str, str]:
    names = _files(out)
    found = {}
    for name in names:
        found[name] = sha256_file(out / name)
        progress("computing checksums", len(found), len(names))
    return found


def _record(item: PublicSet, out: Path, progress: Progress, source: str = "") -> None:
    write_json(
        record_path(out),
        {
            "schema": 1,
            "name": item.name,
            "source": source or item.source,
            "licence": item.licence,
            "citation": list(item.citation),
            "files": _hashes(out, progress),
        },
    )


def _verify(item: PublicSet, out: Path, progress: Progress) -> Fetched:
    path = record_path(out)
    if not path.exists():
        images = _count(item, out)
        _record(item, out, progress, source="put there by hand")
        checked = f"they were counted, and their checksums were stored now in {path}"
        return Fetched(out, "recorded", images, checked)
    record = read_json(path)
    if not isinstance(record, dict) or record.get("name") != item.name:
        other = record.get("name") if isinstance(record, dict) else None
        raise DataError(
            f"{path}: expected the record of {item.name}, found that of {other}",
            hint="give another --out",
        )
    stored, found = record.get("files"), _hashes(out, progress)
    if not isinstance(stored, dict):
        raise DataError(f"{path}: expected the checksums of files, found none")
    wrong = [f"{name} is missing" for name in stored if name not in found]
    wrong += [f"{n} has changed" for n in stored if n in found and found[n] != stored[n]]
    wrong += [f"{name} is new" for name in found if name not in stored]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"{out}: differs from what was fetched: {'; '.join(wrong[:3])}{more}",
            hint=f"put it right, or delete {out} and {path.name} and fetch it again",
        )
    images = sum(is_image_name(name) for name in found)
    return Fetched(out, "verified", images, f"all {len(found):,} files have their checksums")
