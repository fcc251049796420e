"""Every file below a folder: in a fixed order, without hidden files, safe against link loops."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import LayoutError

HIDDEN_FOLDERS = frozenset({"__macosx", "__pycache__", "$recycle.bin"})


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        root: The folder.
        files: Paths below it with forward slashes, sorted.
        folders: Likewise, the folders that were entered.
        hidden: Name of a hidden folder (or ``""`` for single hidden files) → files skipped.
        links: Links to folders that were not followed, because they lead to a folder already seen.
        closed: Folders that could not be opened.
    """

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: dict[str, int]
    links: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


def list_files(root: Path) -> Listing:
    """Walk a folder.

    A link to a folder is followed once, and only after all true folders, so that a file keeps
    the path where it really lies.

    Raises:
        LayoutError: The folder does not exist, is a file, or cannot be opened.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise LayoutError(
            f"{root}: expected a folder of images or a CSV manifest, but it {state}",
            hint="give the folder that holds the class folders",
        )
    walk = _Walk(root)
    walk.enter("")
    while walk.linked:
        path = walk.linked.popleft()
        if walk.identity(path) in walk.seen:
            walk.links.append(path)
        else:
            walk.folders.append(path)
            walk.enter(path)
    if walk.closed and walk.closed[0] == "":
        raise LayoutError(f"{root}: this folder cannot be opened", hint="check its permissions")
    return Listing(
        root,
        tuple(sorted(walk.files)),
        tuple(sorted(walk.folders)),
        dict(sorted(walk.hidden.items())),
        tuple(sorted(walk.links)),
        tuple(sorted(walk.closed)),
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's or a tool's, not part of the data.

    >>> is_hidden(".ipynb_checkpoints"), is_hidden("__MACOSX"), is_hidden("Benign")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in HIDDEN_FOLDERS


class _Walk:
    """The state of one walk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.folders: list[str] = []
        self.links: list[str] = []
        self.closed: list[str] = []
        self.hidden: Counter[str] = Counter()
        self.linked: deque[str] = deque()
        self.seen: set[tuple[int, int]] = set()

    def identity(self, path: str) -> tuple[int, int]:
        status = (self.root / path).stat()
        return status.st_dev, status.st_ino

    def enter(self, path: str) -> None:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            try:
                self.seen.add(self.identity(folder))
                with os.scandir(self.root / folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self.closed.append(folder)
                continue
            for entry in entries:
                below = f"{folder}/{entry.name}" if folder else entry.name
                if is_hidden(entry.name):
                    self.hide(entry)
                elif not _is_folder(entry):
                    self.files.append(below)
                elif entry.is_symlink():
                    self.linked.append(below)
                else:
                    self.folders.append(below)
                    waiting.append(below)

    def hide(self, entry: os.DirEntry[str]) -> None:
        if not _is_folder(entry) or entry.is_symlink():
            self.hidden[""] += 1
            return
        inside = sum(len(files) for _, _, files in os.walk(entry.path))
        self.hidden[entry.name] += inside


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is a (broken) file."""
    try:
        return entry.is_dir()
    except OSError:
        return False
