"""A bundle on disk: saved as a whole, and believed only when every hash fits."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np

from leukoscope.config.base import validate
from leukoscope.config.bundle import BUNDLE_SCHEMA, BundleRecord, OutOfDistribution
from leukoscope.core.errors import BundleError, ConfigError, DataError
from leukoscope.core.files import read_json, sha256_bytes, sha256_file, write_json
from leukoscope.core.program import __version__
from leukoscope.evaluation.gate import Gate
from leukoscope.imaging.quality import BEYOND, QUALITY_MEASURES
from leukoscope.runtime.engines import Engine
from leukoscope.runtime.similar import CAPTIONS, PICTURES, TENSORS, CaseLibrary, load_cases

if TYPE_CHECKING:
    from leukoscope.evaluation.confusions import Confusions
    from leukoscope.evaluation.gate import PatientGate
    from leukoscope.evaluation.patient_heads import PatientHead

# Data only: no format whose reading runs code.
_SUFFIXES = (".onnx", ".json", ".safetensors", ".png", ".jpg", ".md", ".txt")
_NAMES = ("LICENSE", "NOTICE")
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # left by file managers, never read
PACKAGE: Final = "leukoscope_bundles"  # each folder in it is a bundle
RECORD: Final = "bundle.json"
MODEL: Final = "model.onnx"
MODEL_INT8: Final = "model.int8.onnx"
_DIGITS = re.compile(rb"[0-9a-f]+")
TRAINED_ON: Final = "trained_on.txt"


def check_name(name: str, folder: Path, record: str) -> None:
    """Check a file name (relative to the bundle, with forward slashes) that ``record`` lists.

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
    """Check that a bundle holds exactly the files that ``record`` lists, given as name → SHA-256.

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
    """Write bytes, or copy a file; returns the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return sha256_bytes(content)
    shutil.copyfile(content, path)
    return sha256_file(path)


def swap_in(new: Path, folder: Path, old: Path) -> None:
    """Move ``new`` to ``folder``, and what was there to ``old``.

    Raises:
        BundleError: The file system refuses; the former content is put back.
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


@dataclass(frozen=True)
class Bundle:
    """A bundle whose record is valid and whose files are complete and unchanged.

    Attributes:
        folder: The bundle's folder.
        record: The content of ``bundle.json``.
        sha256: Hash of ``bundle.json`` and, through the hashes in it, of the whole bundle.
    """

    folder: Path
    record: BundleRecord
    sha256: str

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.folder / MODEL

    def model_for(self, precision: str) -> Path:
        """Path of the ONNX graph that is used in a precision."""
        return self.folder / (MODEL_INT8 if precision == "int8" else MODEL)

    def load_gate(self, ood: OutOfDistribution | None = None) -> Gate | None:
        """The out-of-distribution gate, or None if the bundle has none.

        ``ood`` holds scales and threshold of the engine and precision in use, else the record's.

        Raises:
            BundleError: The tensors are damaged.
        """
        ood = ood or self.record.ood
        if ood is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.folder / ood.tensors
        try:
            return Gate.from_tensors(load_file(path), ood)
        except (SafetensorError, DataError, OSError) as error:
            raise BundleError(
                f"{path}: expected the tensors of an OOD model, but {error}"
            ) from None

    def load_patient_head(self) -> PatientHead | None:
        """What answers for a patient, or None if the bundle's unit is the image.

        Raises:
            BundleError: The tensors are damaged.
        """
        model = self.record.patient
        if model is None:
            return None
        from leukoscope.evaluation.patient_heads import head_from_bytes

        path = self.folder / model.tensors
        try:
            return head_from_bytes(model.pooling, path.read_bytes(), str(path))
        except (DataError, OSError) as error:
            raise BundleError(str(error)) from None

    def load_patient_gate(self) -> PatientGate | None:
        """Whom a patient as a whole is compared with, or None where the bundle has no such limits.

        Raises:
            BundleError: The tensors are damaged.
        """
        model = self.record.patient
        if model is None or model.limits is None:
            return None
        from leukoscope.evaluation.gate import PatientGate

        path = self.folder / model.limits.tensors
        try:
            return PatientGate.from_bytes(path.read_bytes(), str(path))
        except (DataError, OSError) as error:
            raise BundleError(str(error)) from None

    def load_confusions(self) -> Confusions | None:
        """How classes are confused on patients not trained on, or None in older bundles.

        Raises:
            BundleError: The tensors are damaged or of other classes.
        """
        confusions = self.record.confusions
        if confusions is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from leukoscope.evaluation.confusions import Confusions

        path = self.folder / confusions.tensors
        try:
            found = Confusions.from_tensors(load_file(path))
            if len(found.prior) != len(self.record.class_names):
                raise DataError(f"{len(found.prior)} classes")
        except (SafetensorError, DataError, OSError) as error:
            raise BundleError(
                f"{path}: expected the confusions of {len(self.record.class_names)} classes, "
                f"but {error}",
                hint="export the bundle again",
            ) from None
        return found

    def load_similar(self) -> CaseLibrary | None:
        """The training cases that can be shown beside an answer, or None if the bundle has none.

        Raises:
            BundleError: Their files do not fit together.
        """
        return load_cases(self.folder, self.record)

    def load_trained_on(self) -> frozenset[str]:
        """SHA-256 of each training image; empty if the bundle does not list them.

        Raises:
            BundleError: The file holds anything else.
        """
        path = self.folder / TRAINED_ON
        if not path.is_file():
            return frozenset()
        found = path.read_bytes().split()
        if wrong := [line for line in found if not _DIGITS.fullmatch(line)]:
            raise BundleError(
                f"{path}: expected a SHA-256 in each line, found {wrong[0][:70]!r}",
                hint="export the bundle again",
            )
        return frozenset(line.decode() for line in found)


def save_bundle(
    folder: Path, record: BundleRecord, files: Mapping[str, bytes | Path]
) -> BundleRecord:
    """Write a bundle, replacing one that was there before as a whole.

    Everything is written to a folder beside it first, ``bundle.json`` last, and then swapped in, so
    no reader sees half a bundle. After a kill between the two renames both bundles are complete, in
    hidden folders beside it.

    Args:
        folder: The bundle's folder.
        record: Its ``files`` are filled in here.
        files: Name (with forward slashes) → content, or the file to copy it from.

    Returns:
        The record with the hash of each file.

    Raises:
        BundleError: A file that the record needs is missing, a name is not allowed in a bundle, or
            ``folder`` holds something else.
    """
    folder = Path(folder).absolute()
    for name in files:
        check_name(name, folder, RECORD)
    missing = [name for name in _needed(record) if name not in files]
    if missing:
        raise BundleError(f"{folder}: the bundle needs {', '.join(missing)}")
    with incoming_bundle(folder) as new:
        hashes = {name: write_file(new / name, content) for name, content in sorted(files.items())}
        record = record.model_copy(update={"files": hashes})
        _check_record(record, folder)
        write_json(new / RECORD, record.model_dump(mode="json"))
    return record


@contextmanager
def incoming_bundle(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``folder``, as a whole, when the block ends well.

    After an error nothing of it is left, and what was in ``folder`` stays.

    Args:
        folder: Absolute; missing, empty, or a bundle to replace.

    Raises:
        BundleError: ``folder`` holds something else, or the file system refuses.
    """
    if not _replaceable(folder):
        raise BundleError(
            f"{folder}: expected a new folder or a bundle to replace, found something else",
            hint="give another folder",
        )
    home = next(place for place in folder.parents if place.is_dir())
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=home))
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        folder.parent.mkdir(parents=True, exist_ok=True)
        swap_in(new, folder, temporary / "old")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def installed_bundles() -> list[Path]:
    """Folders of the bundles that came with the distribution ``leukoscope-bundles``."""
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(record.parent for place in places for record in Path(place).glob(f"*/{RECORD}"))


def bundle_folder(folder: Path) -> Path:
    """The folder itself where it is a bundle, the one in a run, or the installed one so named.

    Raises:
        BundleError: It is none of them.
    """
    for place in (folder, folder / "bundle"):
        if (place / RECORD).is_file():
            return place
    what = f"no {RECORD} in it or in its bundle/" if folder.exists() else "no such folder"
    installed = {place.name: place for place in installed_bundles()}
    if not folder.exists() and str(folder) in installed:
        return installed[str(folder)]
    names = f"; installed by name: {', '.join(installed)}" if installed else ""
    raise BundleError(
        f"{folder}: expected a bundle or the folder of a run, found {what}",
        hint=f"a study writes one: RUN/bundle{names}",
    )


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check all of its hashes.

    Args:
        folder: The bundle, the folder of the run that it belongs to, or the name of an installed
            one.

    Raises:
        BundleError: The folder is not a bundle, its schema version is not supported, a key is
            wrong, or a file is missing, changed, or not listed; names the file.
    """
    folder = bundle_folder(Path(folder))
    record = read_record(folder)
    check_files(folder, record.files, RECORD)
    return Bundle(folder, record, sha256_file(folder / RECORD))


def read_record(folder: Path) -> BundleRecord:
    """Read ``bundle.json`` alone: what the bundle's files are called, and their hashes.

    Raises:
        BundleError: Its schema version is not supported, or a key or a file's name is wrong.
    """
    path = folder / RECORD
    try:
        values = read_json(path)
    except (DataError, RecursionError) as error:
        raise BundleError(f"{path}: damaged, {error}") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != BUNDLE_SCHEMA:
        raise BundleError(
            f"{path}: this version reads bundles of schema version {BUNDLE_SCHEMA}, "
            f"found {version!r}",
            hint="install the version of Leukoscope that wrote it, or export the bundle again",
        )
    try:
        record = validate(BundleRecord, values, str(path))
    except ConfigError as error:
        made = values.get("versions") or {}
        by = made.get("leukoscope", "?") if isinstance(made, dict) else "?"
        raise BundleError(
            f"{error.message} (written by leukoscope {by}, this is {__version__})",
            hint="install the version that wrote it, or export the bundle again",
        ) from None
    _check_record(record, folder)
    return record


def check_graph(bundle: Bundle, engine: Engine) -> None:
    """Check that the ONNX graph fits the record.

    Raises:
        BundleError: Classes and logits, preprocessing and input size, or OOD statistics and
            features do not fit together.
    """
    record, where = bundle.record, bundle.model
    if engine.size_px != record.preprocess.size_px:
        raise BundleError(
            f"{where}: the preprocessing makes images of {record.preprocess.size_px} px, "
            f"the graph takes {engine.size_px} px"
        )
    shapes = dict(engine.outputs)
    if any(None in shape[1:] for shape in shapes.values()):  # the graph does not tell: look
        blank = np.zeros((1, engine.size_px, engine.size_px, 3), np.uint8)
        shapes = {name: value.shape for name, value in engine.run(blank).items()}
    classes = len(record.class_names)
    for name in ("logits", "maps"):
        if name in shapes and shapes[name][1:2] != (classes,):
            raise BundleError(
                f"{where}: {classes} classes are named ({', '.join(record.class_names)}), but "
                f"the output {name!r} has shape {shapes[name]}"
            )
    if record.similar is not None and "features" not in shapes:
        raise BundleError(f"{where}: training cases need the graph's output 'features'")
    gate = bundle.load_gate()
    needed = None if gate is None else gate.num_features
    if needed is not None and shapes.get("features", ())[1:] != (needed,):
        raise BundleError(
            f"{where}: the OOD statistics need {needed} features, the graph's output "
            f"'features' has shape {shapes.get('features', 'none')}"
        )


def _needed(record: BundleRecord) -> tuple[str, ...]:
    similar: tuple[str, ...] = (TENSORS, CAPTIONS) if record.similar else ()
    if record.similar and record.similar.picture_px:
        similar += (PICTURES,)
    confusions = (record.confusions.tensors,) if record.confusions else ()
    return (MODEL, *((record.ood.tensors,) if record.ood else ()), *similar, *confusions)


def _replaceable(folder: Path) -> bool:
    """Whether a path may be replaced: it is missing, an empty folder, or a bundle."""
    if (folder / RECORD).is_file() or not os.path.lexists(folder):
        return True
    return folder.is_dir() and not any(folder.iterdir())


def _check_record(record: BundleRecord, folder: Path) -> None:
    """Check what the schema of the record cannot express."""
    names = record.class_names
    if len(set(names)) != len(names):
        raise BundleError(f"{folder}: a class is named twice: {', '.join(names)}")
    for name in record.files:
        check_name(name, folder, RECORD)
    int8 = any(s.precision == "int8" and not s.refused for s in record.servings)
    for needed in _needed(record) + ((MODEL_INT8,) if int8 else ()):
        if needed not in record.files:
            raise BundleError(f"{folder / RECORD}: {needed} is not among the files")
    if record.quality is not None:
        low, high = record.quality.low, record.quality.high
        if low.keys() != high.keys() or not low.keys() <= set(QUALITY_MEASURES):
            raise BundleError(
                f"{folder / RECORD}: expected quality limits, low and high, of "
                f"{', '.join(QUALITY_MEASURES)}; found {', '.join(low)} and {', '.join(high)}"
            )
    for limit in record.envelope.limits if record.envelope else ():
        for side, value in (("low", limit.low), ("high", limit.high)):
            if value is not None and (limit.statistic, side) not in BEYOND:
                raise BundleError(
                    f"{folder / RECORD}: the envelope limits {limit.statistic or 'nothing'} on its "
                    f"{side} side, which this version cannot check",
                    hint="install the version of Leukoscope that wrote it",
                )
