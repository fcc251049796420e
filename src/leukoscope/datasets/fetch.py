"""Get a public data set over HTTP or from Kaggle, or check the one that is there."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, MissingExtraError, UsageError
from leukoscope.core.files import read_json, sha256_file, write_csv, write_json
from leukoscope.datasets.fetch_registry import PublicSet
from leukoscope.datasets.layouts.rules import is_image_name, list_files
from leukoscope.datasets.layouts.unpacked import BLOOD_CELLS, FETCHED_PARTS, write_png

NOT_LEUKOCYTES = frozenset({"erythroblast", "platelet"})
FileProgress = Callable[[str, int, int], None]
ATTEMPTS = 3
BLOCK_BYTES = 1 << 14  # what a broken connection can lose
TIMEOUT_S = 30
CREDENTIALS = (
    "make a token on https://www.kaggle.com/settings and put it in ~/.kaggle/kaggle.json, or in "
    "KAGGLE_USERNAME and KAGGLE_KEY"
)
MB = 1_000_000


def bloodmnist_folder(archive: Path, out: Path, progress: Callable[[str, int, int], None]) -> None:
    """Write BloodMNIST as PNG files with a ``manifest.csv``.

    All its cells come from subjects without leukemia, so the six kinds of leukocytes are labelled
    ``healthy``. Erythroblasts and platelets are no leukocytes and have no label, so they are left
    out by whatever reads the folder. ``cell_type`` names all eight kinds: with ``--target
    cell_type`` it is the label.

    Args:
        archive: ``bloodmnist.npz`` with ``<part>_images`` (N, H, W, 3) uint8 RGB and
            ``<part>_labels`` (N, 1).
        out: Folder to write, ``<part>/<cell>/<part>_<number>.png``.

    Raises:
        DataError: The archive is damaged or holds other arrays.
    """
    arrays = _read(archive)
    total = sum(len(images) for images, _ in arrays.values())
    rows: list[dict[str, str]] = []
    for part, (images, labels) in arrays.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            cell = BLOOD_CELLS[label]
            path = f"{part}/{cell}/{part}_{number:05d}.png"
            write_png(out / path, image)
            name = "" if cell in NOT_LEUKOCYTES else "healthy"
            rows.append({"path": path, "label": name, "split": part, "cell_type": cell})
            progress("writing images", len(rows), total)
    write_csv(out / "manifest.csv", ("path", "label", "split", "cell_type"), rows)


def _read(archive: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    found = {}
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            for part in FETCHED_PARTS:
                images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)
                found[part] = (images, [int(label) for label in labels])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive}: expected <part>_images and <part>_labels for {', '.join(FETCHED_PARTS)}, "
            f"but {error}",
            hint="delete it and fetch it again",
        ) from None
    for part, (images, labels) in found.items():
        fits = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8
        known = all(0 <= label < len(BLOOD_CELLS) for label in labels)
        if not (fits and known and len(images) == len(labels)):
            raise DataError(
                f"{archive}: {part} holds {images.shape} {images.dtype} and {len(labels)} labels; "
                "expected (N, H, W, 3) uint8 and N labels of 0 to 7"
            )
    return found


@dataclass
class ResumingDownload:
    """A downloader for pooch that resumes a broken download.

    pooch checks the hash and puts the file in its place; what came so far is kept in ``partial``.
    """

    partial: Path  # file of what was downloaded so far
    progress: FileProgress  # called with ``(step, bytes here, bytes in all)``

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch ``url`` into ``output_file``; a broken connection is taken up again at once."""
        from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout

        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._go_on(url)
                break
            except (ChunkedEncodingError, ConnectionError, Timeout):
                if attempt == ATTEMPTS:
                    raise
        self.partial.replace(output_file)

    def _go_on(self, url: str) -> None:
        import requests

        here = self.partial.stat().st_size if self.partial.exists() else 0
        # A compressed transfer would count other bytes than the file has.
        headers = {"Accept-Encoding": "identity"}
        if here:
            headers["Range"] = f"bytes={here}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if here and answer.status_code == 416:  # there is nothing after what is here
                if answer.headers.get("Content-Range") != f"bytes */{here}":
                    self.partial.unlink()
                    self._go_on(url)
                return
            answer.raise_for_status()
            if answer.status_code != 206:
                here = 0  # the server sends everything again
            total = here + int(answer.headers.get("Content-Length", 0))
            with self.partial.open("ab" if here else "wb") as file:
                for block in answer.iter_content(BLOCK_BYTES):
                    file.write(block)
                    here += len(block)
                    self.progress("downloading", here, total)


def fetch_file(item: PublicSet, part: Path, by_hand: str, progress: FileProgress) -> Path:
    """Download the one file of a set, or check the one that is there.

    What a broken download left in ``part`` is used; ``by_hand`` says what a person without a
    network can do.

    Raises:
        DataError: The server cannot be reached, has no such file, or sends another one.
        MissingExtraError: pooch is not installed.
    """
    try:
        import pooch
        from requests.exceptions import HTTPError, RequestException
    except ImportError:
        raise MissingExtraError("fetching data", "fetch") from None
    pooch.get_logger().setLevel("WARNING")
    name = file_name(item)
    part.mkdir(parents=True, exist_ok=True)
    download = ResumingDownload(part / f"{name}.partial", progress)
    try:
        return Path(pooch.retrieve(item.url, item.checksum or None, name, part, None, download))
    except HTTPError as error:
        answer = str(error).partition(" for url")[0]
        raise DataError(f"{item.url}: expected the file, got {answer}", hint=by_hand) from None
    except RequestException as error:
        kept = f"; what came is kept in {part}" if download.partial.exists() else ""
        raise DataError(
            f"{item.url}: the connection failed ({type(error).__name__}){kept}", hint=by_hand
        ) from None
    except ValueError as error:  # pooch has deleted the file
        raise DataError(
            f"{item.url}: the file that came has another checksum than the published "
            f"{item.checksum}; it was deleted ({str(error).split('. Deleted')[0]})",
            hint=f"run the command again; if it happens again, ask at {item.page}",
        ) from None


def file_name(item: PublicSet) -> str:
    """The name of a set's one file.

    >>> from leukoscope.datasets.fetch_registry import public_set
    >>> file_name(public_set("bloodmnist"))
    'bloodmnist.npz'
    """
    return item.url.partition("?")[0].rpartition("/")[2]


def fetch_kaggle(item: PublicSet, part: Path, by_hand: str) -> Path:
    """Download and unpack a set with Kaggle's client and the user's own credentials.

    The client checks Kaggle's checksum of the transfer, resumes where it stopped, and draws its
    own progress bar.

    What a broken download left in ``part`` is used; ``by_hand`` says what a person without a
    network can do.

    Returns:
        The unpacked folder, below ``part``.

    Raises:
        DataError: Kaggle cannot be reached, or refuses.
        MissingExtraError: kagglehub is not installed.
    """
    try:
        import kagglehub
    except ImportError:
        raise MissingExtraError("fetching from Kaggle", "fetch") from None
    part.mkdir(parents=True, exist_ok=True)
    try:
        with _setting("KAGGLEHUB_CACHE", str(part.resolve())):
            return Path(kagglehub.dataset_download(item.kaggle))
    except Exception as error:  # the client, its transport and its files each have their own kinds
        raise _kaggle_error(item, error, by_hand) from None


def _kaggle_error(item: PublicSet, error: Exception, by_hand: str) -> DataError:
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or "Unauthenticated" in kind or "Credential" in kind:
        why = f"Kaggle refuses ({status or kind})"
        return DataError(f"{item.source}: {why}", hint=f"{CREDENTIALS}; or {by_hand}")
    if status is None and kind.endswith(("ConnectionError", "Timeout")):
        return DataError(f"{item.source}: Kaggle cannot be reached ({kind})", hint=by_hand)
    lines = str(error).strip().splitlines()
    detail = f"{kind}: {lines[0]}" if lines else kind
    return DataError(f"{item.source}: the download failed ({detail})", hint=by_hand)


@contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    """An environment variable for the length of a block: the client has no argument for it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


CONVERTERS: dict[str, Callable[[Path, Path, FileProgress], None]] = {
    "bloodmnist": bloodmnist_folder
}


@dataclass(frozen=True)
class Fetched:
    """What fetching a data set did.

    Attributes:
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


def fetch(item: PublicSet, out: Path, progress: FileProgress) -> Fetched:
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


def _content(item: PublicSet, part: Path, what_to_do: str, progress: FileProgress) -> Path:
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


def _hashes(out: Path, progress: FileProgress) -> dict[str, str]:
    names = _files(out)
    found = {}
    for name in names:
        found[name] = sha256_file(out / name)
        progress("computing checksums", len(found), len(names))
    return found


def _record(item: PublicSet, out: Path, progress: FileProgress, source: str = "") -> None:
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


def _verify(item: PublicSet, out: Path, progress: FileProgress) -> Fetched:
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
