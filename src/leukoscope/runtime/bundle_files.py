"""The files of a bundle: which may be in it, whether they are unchanged, how they are swapped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from leukoscope.core.errors import BundleError
from leukoscope.core.files import sha256_bytes, sha256_file

# Data only: no format whose reading runs code.
_SUFFIXES = (".onnx", ".json", ".safetensors", ".png", ".jpg", ".md", ".txt")
_NAMES = ("LICENSE", "NOTICE")
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # left by file managers, never read


def check_name(name: str, folder: Path, record: str) -> None:
    """Check the name of a file.

    Args:
        name: With forward slashes, relative to the bundle.
        folder: The bundle, for the message.
        record: Name of the file that lists the others.

    Raises:
        BundleError: The name leads out of the bundle, or is of a kind that it may not hold.
    """
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    if not inside or path.as_posix() != name or name in (record, "."):
        raise BundleError(f"{folder}: {name!r} is no name for a file of a bundle")
    if path.suffix.lower() not in _SUFFIXES and path.name not in _NAMES:
        raise BundleError(
            f"{folder}: a bundle may not hold {name!r}; allowed are {', '.join(_SUFFIXES)}"
        )


def check_files(folder: Path, files: Mapping[str, str], record: str) -> None:
    """Check that the files of a bundle are those that its record lists.

    Args:
        folder: The bundle.
        files: SHA-256 by name.
        record: Name of the file that lists the others.

    Raises:
        BundleError: A file is missing, changed, or not listed.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: this file of the bundle is missing")
        try:
            found = sha256_file(path)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from None
        if found != expected:
            raise BundleError(
                f"{path}: changed or cut off since the bundle was written "
                f"(expected SHA-256 {expected[:12]}…, found {found[:12]}…)",
                hint="copy the bundle again, or export it again",
            )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_dir() and not path.is_symlink()) or path.name in _LITTER:
            continue
        if name != record and name not in files:
            raise BundleError(f"{path}: this file does not belong to the bundle", hint="remove it")


def write_file(path: Path, content: bytes | Path) -> str:
    """Write bytes, or copy a file; the answer is the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return sha256_bytes(content)
    shutil.copyfile(content, path)
    return sha256_file(path)


def swap_in(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` in the place of ``folder``; what stood there goes to ``old``.

    Raises:
        BundleError: The file system refuses; what stood there is put back.
    """
    replaced = folder.exists()
    try:
        if replaced:
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        if replaced and not folder.exists():
            old.rename(folder)
        raise BundleError(
            f"{folder}: the bundle cannot be put here: {error.strerror or error}"
        ) from None
