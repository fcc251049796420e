"""Bundles sent to and fetched from a folder, a file system that fsspec opens, or Hugging Face.

A shared bundle is a folder ``bundle/`` with a card, ``README.md``, beside it. Whatever happens on
the way, nothing stands under these names until every file is there and has the hash that the
bundle's record gives it.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.errors import BundleError, LeukoscopeError, MissingExtraError, UsageError
from leukoscope.core.files import file_part, sha256_bytes, sha256_file, write_bytes
from leukoscope.reporting.bundle_card import render_bundle_card
from leukoscope.runtime.bundle import RECORD, Bundle, incoming_bundle, read_bundle, read_record
from leukoscope.runtime.prediction import Failure
from leukoscope.scale.fetching import fetch_file, file_system, is_url, shown_url

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

EXTRA: Final = "share"
CARD: Final = "README.md"
FOLDER: Final = "bundle"
MOST_RECORD_BYTES: Final = 2**24
MOST_BYTES: Final = 2**32
"""Of a whole bundle. One graph cannot be larger than 2 GiB, and there are at most two."""
MOST_FILES: Final = 1000
Progress = Callable[[str, int, int], None]
Contents = Mapping[str, bytes | Path]
_REPLACE = "--replace puts the new one in its place"


@dataclass(frozen=True)
class Shared:
    """What was sent or fetched.

    Attributes:
        place: Where it is now, without any password.
        record: Of the bundle.
        sha256: Of the whole bundle; whoever fetches it can ask for exactly this one.
    """

    place: str
    record: BundleRecord
    sha256: str


def push_bundle(
    folder: Path, target: str, *, replace: bool = False, progress: Progress | None = None
) -> Shared:
    """Put a bundle and its card into a folder, below a URL, or into a repository.

    Args:
        folder: The bundle, or the run that it belongs to; every hash is checked first.
        target: A folder, a URL that fsspec can write to, or ``hf://owner/name``: a repository of
            models on Hugging Face, which is made, private, where there is none.
        replace: Replace a bundle or card that is there. Other files are never touched.
        progress: Called with (step, files done, all files).

    Raises:
        BundleError: The bundle is damaged, a bundle or card is there, or the transfer failed.
        UsageError: Nothing can be written to such a URL.
        MissingExtraError: fsspec or huggingface_hub is not installed.
    """
    bundle = read_bundle(folder)
    place, local = target.rstrip("/"), local_folder(target)
    card = render_bundle_card(bundle.record, bundle.sha256).encode()
    if local is not None:
        _copy_here(bundle, card, local.absolute(), replace=replace)
        return Shared(str(local), bundle.record, bundle.sha256)
    contents = _contents(bundle, card)
    if place.startswith("hf://"):
        with _named(place, "written"):
            _commit(contents, place, f"{bundle.record.name}@{bundle.sha256[:12]}", replace=replace)
    elif place.startswith(("http://", "https://")):
        raise UsageError(
            f"{shown_url(place)}: a web server gives files and takes none",
            hint="push to a folder, an object store or hf://owner/name",
        )
    else:
        with _named(place, "written"):
            _upload(contents, place, replace=replace, progress=progress or _silent)
    return Shared(shown_url(place), bundle.record, bundle.sha256)


def pull_bundle(
    source: str,
    out: Path | None = None,
    *,
    sha256: str = "",
    replace: bool = False,
    progress: Progress | None = None,
) -> Shared:
    """Fetch a bundle and check every hash before it stands in its folder.

    Hashes prove that what came is what its record names; that it is the bundle you mean, only
    ``sha256`` proves. Files are read as bytes: nothing of the bundle is run.

    Args:
        source: The bundle or the folder above it: a folder, or a URL as in :func:`push_bundle`;
            http and https besides.
        out: The new folder; default: the bundle's name, in the current folder.
        sha256: What the hash of the whole bundle must begin with.
        replace: Replace a bundle that is there.
        progress: Called with (step, files done, all files).

    Raises:
        BundleError: There is no bundle, it is larger than :data:`MOST_BYTES`, damaged or another
            one than expected, or a bundle stands in ``out``.
        UsageError: No file system of that name.
        MissingExtraError: fsspec or huggingface_hub is not installed.
    """
    given = local_folder(source)
    base = source.rstrip("/") if given is None else str(given)
    if given is None and not base.startswith(("http://", "https://")):
        with _named(base, "read"):
            file_system(base, EXTRA)
    with TemporaryDirectory(prefix="leukoscope-pull-") as scratch:
        base = _find_record(base, Path(scratch) / RECORD)
        with _as_of(base, scratch):
            record = read_record(Path(scratch))
        target = out or Path(file_part(record.name))
        folder = target.absolute()
        if not replace and folder.is_dir() and any(folder.iterdir()):
            raise BundleError(f"{folder}: there is something already", hint=_REPLACE)
        with incoming_bundle(folder) as new:
            shutil.copyfile(Path(scratch) / RECORD, new / RECORD)
            _fetch_files(base, sorted(record.files), new, progress or _silent)
            with _as_of(base, str(new)):
                found = read_bundle(new)
            if not found.sha256.startswith(sha256.lower()):
                raise BundleError(
                    f"{shown_url(base)}: expected the bundle {sha256}, found {found.sha256}",
                    hint="ask whoever gave you the hash; do not use this bundle",
                )
    return Shared(str(target), record, found.sha256)


def local_folder(place: str) -> Path | None:
    """The folder that a path or ``file://`` URL means; None for any other URL.

    >>> local_folder("file:///srv/my%20models"), local_folder("s3://store/model")
    (PosixPath('/srv/my models'), None)
    """
    if place.startswith("file://"):
        return Path(url2pathname(urlsplit(place).path))
    return None if is_url(place) else Path(place).expanduser()


def _silent(step: str, done: int, total: int) -> None:
    """Tell nobody."""


@contextmanager
def _named(place: str, done: str) -> Iterator[None]:
    """Whatever a file system's library raises becomes one error, without passwords."""
    try:
        yield
    except LeukoscopeError:
        raise
    except Exception as error:
        detail = shown_url(str(error).strip().split("\n")[0])
        signed_in = "is the address right, and are you signed in? The keys of a store are read as "
        raise BundleError(
            f"{shown_url(place)}: cannot be {done}: {type(error).__name__}: {detail}",
            hint=f"{signed_in}its own tools read them (Hugging Face: hf auth login, or HF_TOKEN)",
        ) from None


@contextmanager
def _as_of(base: str, folder: str) -> Iterator[None]:
    """A fault of what was fetched is told of the place that it came from."""
    try:
        yield
    except BundleError as error:
        told = error.message.replace(folder, shown_url(base))
        raise BundleError(told, hint=error.hint or "nothing was kept") from None


def _contents(bundle: Bundle, card: bytes) -> Contents:
    """All that is sent; the record comes last, since it is what makes a folder a bundle."""
    names = [*sorted(bundle.record.files), RECORD]
    return {CARD: card, **{f"{FOLDER}/{name}": bundle.folder / name for name in names}}


def _copy_here(bundle: Bundle, card: bytes, folder: Path, *, replace: bool) -> None:
    """Copy to a folder of this machine, or one that it shares."""
    there = [path for path in (folder / FOLDER, folder / CARD) if path.exists()]
    if there and not replace:
        raise BundleError(f"{there[0]}: there is something already", hint=_REPLACE)
    with incoming_bundle(folder / FOLDER) as new:
        for name in (*bundle.record.files, RECORD):
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, target)
        read_bundle(new)
    write_bytes(folder / CARD, card)


def _upload(contents: Contents, target: str, *, replace: bool, progress: Progress) -> None:
    """Write beside the final names, read everything back, and only then move it there."""
    system, root = file_system(target, EXTRA)
    known = system.exists(root)
    old = [f"{root}/{CARD}", *system.find(f"{root}/{FOLDER}")]
    old = [path for path in old if system.exists(path)]
    if old and not replace:
        raise BundleError(f"{shown_url(target)}: there is a bundle already", hint=_REPLACE)
    mark = secrets.token_hex(4)
    new, aside = f"{root}/.incoming-{mark}", f"{root}/.replaced-{mark}"
    moves = [(path, f"{aside}/{path.removeprefix(f'{root}/')}") for path in old]
    moves += [(f"{new}/{name}", f"{root}/{name}") for name in contents]
    try:
        for number, (name, content) in enumerate(contents.items()):
            progress("sending", number, len(contents))
            _send(system, f"{new}/{name}", content, f"{target}/{name}")
        _move(system, moves)
        progress("sending", len(contents), len(contents))
    finally:
        for folder in (new, aside):
            with suppress(Exception):
                system.rm(folder, recursive=True)
        for folder in () if known else (f"{root}/{FOLDER}", root):
            with suppress(Exception):  # it is not empty unless everything failed
                system.rmdir(folder)


def _send(system: AbstractFileSystem, path: str, content: bytes | Path, shown: str) -> None:
    """Write one file and read it back."""
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    if isinstance(content, Path):
        expected = sha256_file(content)
        system.put_file(str(content), path)
    else:
        expected = sha256_bytes(content)
        system.pipe_file(path, content)
    with system.open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise BundleError(f"{shown_url(shown)}: arrived changed", hint="push again")


def _move(system: AbstractFileSystem, moves: Sequence[tuple[str, str]]) -> None:
    """Rename each file, or, after an error, none."""
    done = []
    try:
        for path, to in moves:
            system.makedirs(to.rpartition("/")[0], exist_ok=True)
            done.append((path, to))
            system.mv(path, to)
    except BaseException:
        for path, to in reversed(done):
            with suppress(Exception):
                system.mv(to, path)
        raise


def _commit(contents: Contents, target: str, name: str, *, replace: bool) -> None:
    """One commit with all files: the hub takes it as a whole or not at all, and checks hashes."""
    if find_spec("huggingface_hub") is None:
        raise MissingExtraError(f"writing {target}", EXTRA)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    repository, revision, below = _repository(target)
    hub = HfApi()
    if not hub.repo_exists(repository):
        hub.create_repo(repository, private=True)
    head = hub.repo_info(repository, revision=revision).sha
    found = hub.list_repo_files(repository, revision=revision)
    ours = f"{below}{FOLDER}/"
    old = [path for path in found if path == f"{below}{CARD}" or path.startswith(ours)]
    if old and not replace:
        raise BundleError(f"{target}: there is a bundle or {CARD} already", hint=_REPLACE)
    kept = {f"{below}{path}" for path in contents}
    hub.create_commit(
        repository,
        [
            *(CommitOperationDelete(path) for path in old if path not in kept),
            *(CommitOperationAdd(f"{below}{path}", content) for path, content in contents.items()),
        ],
        commit_message=f"Bundle {name}",
        revision=revision,
        parent_commit=head,
    )


def _repository(url: str) -> tuple[str, str | None, str]:
    """Repository, revision and folder of an address on Hugging Face.

    >>> _repository("hf://lab/model"), _repository("hf://lab/model@v2/all")
    (('lab/model', None, ''), ('lab/model', 'v2', 'all/'))
    """
    owner, _, rest = url.removeprefix("hf://").partition("/")
    name, _, below = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name) or owner in ("datasets", "spaces", "buckets"):
        raise UsageError(f"{url}: expected a repository of models, hf://owner/name")
    return f"{owner}/{name}", revision or None, f"{below}/" if below else ""


def _find_record(base: str, target: Path) -> str:
    """Fetch the record; gives the address of the folder that it lies in."""
    for place in (base, _below(base, FOLDER)):
        if _fetch(place, RECORD, target, MOST_RECORD_BYTES):
            return place
    raise BundleError(
        f"{shown_url(base)}: expected a bundle, found no {RECORD} in it or in its {FOLDER}/",
        hint="is the address right? A private place looks empty to who is not signed in",
    )


def _fetch_files(base: str, names: Sequence[str], folder: Path, progress: Progress) -> None:
    """Fetch all files of a record, whose names were checked when it was read."""
    if len(names) > MOST_FILES:
        raise BundleError(f"{shown_url(base)}: expected at most {MOST_FILES} files")
    left = MOST_BYTES
    for number, name in enumerate(names):
        progress("fetching", number, len(names))
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _fetch(base, name, target, left):
            raise BundleError(
                f"{shown_url(_below(base, name))}: this file of the bundle is missing"
            )
        left -= target.stat().st_size
    progress("fetching", len(names), len(names))


def _fetch(base: str, name: str, target: Path, most: int) -> bool:
    """Fetch one file; False where there is none."""
    place = _below(base, name)
    if is_url(base):
        failure = fetch_file(place, target, most_bytes=most, longest_s=inf)
    else:
        failure = _copy_file(Path(base), name, target, most)
    if failure is None or failure.reason == "missing":
        return failure is None
    told = shown_url(failure.message.strip().partition("\n")[0])
    if failure.reason == "too-large":
        told = f"a bundle may have {MOST_BYTES:,} bytes, its record {MOST_RECORD_BYTES:,}"
    raise BundleError(f"{shown_url(place)}: {told}", hint="nothing was kept")


def _copy_file(folder: Path, name: str, target: Path, most: int) -> Failure | None:
    """Copy one file of a folder of this machine, as :func:`fetch_file` does."""
    path = folder / name
    if not path.is_file():
        return Failure(str(path), "missing", "no such file")
    if not path.resolve().is_relative_to(folder.resolve()):
        return Failure(str(path), "unreadable", "this is a link that leads out of the bundle")
    if path.stat().st_size > most:
        return Failure(str(path), "too-large", f"more than {most:,} bytes")
    shutil.copyfile(path, target)
    return None


def _below(base: str, name: str) -> str:
    """The address of a file in a folder; of a chain of URLs the first with a path has it.

    >>> _below("https://lab.org/m?key=1", "a b.png"), _below("zip://m::file:///x.zip", "a")
    ('https://lab.org/m/a%20b.png?key=1', 'zip://m/a::file:///x.zip')
    """
    if not is_url(base):
        return str(Path(base) / name)
    links = base.split("::")
    place = next(number for number, link in enumerate(links) if "://" in link)
    address, mark, query = links[place].partition("?")
    if address.startswith(("http://", "https://")):
        name = quote(name)
    links[place] = f"{address.rstrip('/')}/{name}{mark}{query}"
    return "::".join(links)
