"""Bundles on disk: saved as a whole, and believed only when every hash fits.

A bundle holds data only (ONNX, safetensors, JSON, PNG, text); nothing in it is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BUNDLE_SCHEMA, BundleRecord
from leukoscope.config.loading import validate
from leukoscope.core.errors import BundleError, ConfigError, DataError
from leukoscope.core.files import read_json, sha256_file, write_json
from leukoscope.evaluation.gate import Gate
from leukoscope.imaging.conditions import BEYOND
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import QUALITY_MEASURES
from leukoscope.runtime.bundle_files import check_files, check_name, swap_in, write_file
from leukoscope.runtime.engines import Engine, open_engine
from leukoscope.runtime.heatmap import encode_png

RECORD: Final = "bundle.json"
MODEL: Final = "model.onnx"
TRAINED_ON: Final = "trained_on.txt"
GOLDEN: Final = "golden/expected.json"
GOLDEN_ATOL: Final = 1e-3  # float32 graphs differ by about 1e-5 between engines


@dataclass(frozen=True)
class Bundle:
    """A bundle whose record is valid and whose files are all there and unchanged.

    Attributes:
        folder: Where it lies.
        record: ``bundle.json``.
        sha256: Of ``bundle.json``, and so, through the hashes in it, of the whole bundle.
    """

    folder: Path
    record: BundleRecord
    sha256: str

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.folder / MODEL

    def load_gate(self) -> Gate | None:
        """What measures the distance from the training images; None where there is nothing.

        Raises:
            BundleError: The tensors are damaged.
        """
        if self.record.ood is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.folder / self.record.ood.tensors
        try:
            return Gate.from_tensors(load_file(path), self.record.ood)
        except (SafetensorError, DataError, OSError) as error:
            raise BundleError(
                f"{path}: expected the tensors of an OOD model, but {error}"
            ) from None

    def load_trained_on(self) -> frozenset[str]:
        """SHA-256 of the training images' files; empty where the bundle does not list them."""
        path = self.folder / TRAINED_ON
        return frozenset(path.read_text().split()) if path.is_file() else frozenset()


@dataclass(frozen=True)
class Check:
    """One thing that :func:`verify_bundle` looked at.

    Attributes:
        name: What was checked.
        ok: Whether it holds.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str


def save_bundle(
    folder: Path, record: BundleRecord, files: Mapping[str, bytes | Path]
) -> BundleRecord:
    """Write a bundle; a bundle that stood there before is replaced as a whole.

    Everything is written into a folder beside it first, ``bundle.json`` last, and then swapped
    in, so that nobody reads half a bundle; should a kill hit the moment between the two renames,
    both lie whole in a hidden folder beside it.

    Args:
        folder: The bundle's folder.
        record: Its ``files`` are filled in here.
        files: Content by name (with forward slashes), or the file to copy it from.

    Returns:
        The record with the hash of each file.

    Raises:
        BundleError: A file that the record needs is missing, a name leaves the folder or is of
            a kind that a bundle may not hold, or ``folder`` holds something else.
    """
    folder = Path(folder).absolute()
    for name in files:
        check_name(name, folder, RECORD)
    needed = (MODEL, *((record.ood.tensors,) if record.ood else ()))
    missing = [name for name in needed if name not in files]
    if missing:
        raise BundleError(f"{folder}: the bundle needs {', '.join(missing)}")
    if not _replaceable(folder):
        raise BundleError(
            f"{folder}: expected a new folder or a bundle to replace, found something else",
            hint="give another folder",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        new = temporary / "new"
        new.mkdir()
        hashes = {name: write_file(new / name, content) for name, content in sorted(files.items())}
        record = record.model_copy(update={"files": hashes})
        _check_record(record, folder)
        write_json(new / RECORD, record.model_dump(mode="json"))
        swap_in(new, folder, temporary / "old")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check all of its hashes.

    Raises:
        BundleError: The folder is no bundle, its schema version is another one, a key is wrong,
            or a file is missing, changed, or not listed; names the file.
    """
    folder = Path(folder)
    path = folder / RECORD
    if not path.is_file():
        what = "no such folder" if not folder.exists() else f"no {RECORD} in it"
        raise BundleError(
            f"{folder}: expected a bundle, found {what}", hint="a study writes one: RUN/bundle"
        )
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
        raise BundleError(error.message) from None
    _check_record(record, folder)
    check_files(folder, record.files, RECORD)
    return Bundle(folder, record, sha256_file(path))


def check_graph(bundle: Bundle, engine: Engine) -> None:
    """Check that the graph fits the record.

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
    gate = bundle.load_gate()
    needed = None if gate is None else gate.num_features
    if needed is not None and shapes.get("features", ())[1:] != (needed,):
        raise BundleError(
            f"{where}: the OOD statistics need {needed} features, the graph's output "
            f"'features' has shape {shapes.get('features', 'none')}"
        )


def golden_files(
    images: Sequence[NDArray[np.uint8]], logits: NDArray[Any], *, atol: float = GOLDEN_ATOL
) -> dict[str, bytes]:
    """Files by which a bundle proves on any machine that it still computes the same.

    Args:
        images: (H, W, 3) uint8 RGB each, before preprocessing.
        logits: (n, K) of the bundle's own graph and preprocessing.
        atol: Largest difference that :func:`verify_bundle` accepts; wider for graphs of lower
            precision than float32.

    Returns:
        PNG images and ``golden/expected.json``, for :func:`save_bundle`.
    """
    names = [f"{index:02d}.png" for index in range(len(images))]
    rows = [[float(value) for value in row] for row in np.asarray(logits, np.float64)]
    expected = {"atol": atol, "logits": dict(zip(names, rows, strict=True))}
    files = {f"golden/{name}": encode_png(image) for name, image in zip(names, images, strict=True)}
    return files | {GOLDEN: json.dumps(expected, indent=1).encode()}


def verify_bundle(folder: Path, engine: str = "auto") -> list[Check]:
    """Check files, fit of the graph, and the golden outputs; never raises for a bad bundle.

    Args:
        folder: The bundle.
        engine: As in :func:`leukoscope.runtime.engines.open_engine`.

    Returns:
        One check each; later ones are left out where an earlier one makes them impossible.

    Raises:
        UnknownNameError: No engine of that name.
    """
    checks: list[Check] = []
    step = "files"
    try:
        bundle = read_bundle(folder)
        checks.append(Check("files", True, f"{len(bundle.record.files)} files, hashes fit"))
        step = "graph"
        opened = open_engine(bundle.model, engine=engine)
        check_graph(bundle, opened)
        checks.append(Check("graph", True, f"fits the record; {opened.name}: {opened.reason}"))
        step = "golden outputs"
        checks += _compare_golden(bundle, opened)
    except (BundleError, DataError) as error:
        checks.append(Check(step, False, error.message))
    return checks


def _compare_golden(bundle: Bundle, engine: Engine) -> list[Check]:
    if GOLDEN not in bundle.record.files:
        return [Check("golden outputs", False, "the bundle has none, nothing to compare")]
    expected = read_json(bundle.folder / GOLDEN)
    checks = []
    for name, logits in expected["logits"].items():
        image = decode_image(bundle.folder / "golden" / name).image
        pixels = apply_preprocess(image, bundle.record.preprocess)
        found = engine.run(pixels[None])["logits"][0]
        if len(logits) != len(found):
            detail = f"expected {len(logits)} logits, found {len(found)}"
            checks.append(Check(f"golden/{name}", False, detail))
            continue
        difference = float(np.abs(found - logits).max())
        detail = f"largest difference of a logit {difference:.1e}, allowed {expected['atol']:.0e}"
        same = difference <= expected["atol"]  # written so that NaN fails
        if not same:
            detail += f": {_what_differs(bundle, engine, image, logits, expected['atol'])}"
        checks.append(Check(f"golden/{name}", same, detail))
    return checks


def _what_differs(
    bundle: Bundle,
    engine: Engine,
    image: NDArray[np.uint8],
    logits: Sequence[float],
    atol: float,
) -> str:
    """Whether exchanged channels explain it, the most frequent fault."""
    swapped = apply_preprocess(np.ascontiguousarray(image[..., ::-1]), bundle.record.preprocess)
    found = engine.run(swapped[None])["logits"][0]
    if np.abs(found - logits).max() <= atol:
        return "red and blue are exchanged between training and prediction (BGR against RGB)"
    return "weights or preprocessing are not those that were exported"


def _replaceable(folder: Path) -> bool:
    """Nothing is there, or an empty folder, or a bundle."""
    if (folder / RECORD).is_file() or not os.path.lexists(folder):
        return True
    return folder.is_dir() and not any(folder.iterdir())


def _check_record(record: BundleRecord, folder: Path) -> None:
    """What the schema alone cannot say."""
    names = record.class_names
    if len(set(names)) != len(names):
        raise BundleError(f"{folder}: a class is named twice: {', '.join(names)}")
    for name in record.files:
        check_name(name, folder, RECORD)
    for needed in (MODEL, *((record.ood.tensors,) if record.ood else ())):
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
