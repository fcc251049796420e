"""Predict again what an audit log says, and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leukoscope.config.guarantees import BOUNDS
from leukoscope.core.errors import LeukoscopeError
from leukoscope.core.files import sha256_file
from leukoscope.runtime.audit_log import read_log
from leukoscope.runtime.bundle import RECORD, bundle_folder
from leukoscope.runtime.large_images import NO_LEUKOCYTE
from leukoscope.runtime.prediction import Failure
from leukoscope.runtime.predictor import Predictor, load_bundle

_Key = tuple[str, str, str, bool, float | None]
_COMPARED = ("predicted", "decision", "prediction_set")


@dataclass(frozen=True)
class ReplayedEntry:
    """The result of predicting one log entry again.

    Attributes:
        sequence: Sequence number of the entry.
        path: Path of the image.
        result: ``same``, ``differs``, or ``not replayed`` if the image, bundle or engine is missing
            or has changed.
        detail: What differs, or why the entry was not replayed.
    """

    sequence: int
    path: str
    result: Literal["same", "differs", "not replayed"]
    detail: str = ""


class _GoneError(Exception):
    """Raised with the reason why an entry cannot be replayed."""


def replay_log(
    path: Path,
    *,
    bundle: Path | None = None,
    search: Path | None = None,
    listener: Callable[[int], None] = lambda done: None,
) -> Iterator[ReplayedEntry]:
    """Predict every entry again with the bundle, engine and precision that it names.

    Class, decision and prediction set must be equal, and the logits must agree within the tolerance
    of the precision, because processors round differently.

    Args:
        path: A log whose chain holds.
        bundle: The bundle's folder, that of its run, or the name of an installed one. Default: the
            recorded folder, else one below ``search``.
        search: Folder in which to look for a bundle with the recorded hash.
        listener: Called with the number of entries done.

    Raises:
        DataError: The log cannot be read, or its chain is broken.
        BundleError: ``bundle`` is none.
    """
    named = bundle_folder(bundle) if bundle is not None else None
    opened: dict[_Key, Predictor | str] = {}
    for done, entry in enumerate(read_log(path), start=1):
        if entry["kind"] in ("prediction", "failure"):
            try:
                predictor = _predictor(entry, opened, named, search)
                differs = _compare(entry, predictor)
                yield _entry_result(entry, "differs" if differs else "same", differs)
            except _GoneError as gone:
                yield _entry_result(entry, "not replayed", str(gone))
        listener(done)


def _entry_result(
    entry: Mapping[str, Any], result: Literal["same", "differs", "not replayed"], detail: str
) -> ReplayedEntry:
    return ReplayedEntry(entry["sequence"], entry["path"], result, detail)


def _predictor(
    entry: Mapping[str, Any],
    opened: dict[_Key, Predictor | str],
    bundle: Path | None,
    search: Path | None,
) -> Predictor:
    whole, um_per_px = _cut(entry["output"])
    key = (entry["bundle"], entry["engine"], entry["precision"], whole, um_per_px)
    if key not in opened:
        try:
            folder = _find_bundle(entry, bundle, search)
            opened[key] = load_bundle(
                folder, engine=key[1], precision=key[2], whole=whole, um_per_px=um_per_px
            )
        except _GoneError as gone:
            opened[key] = str(gone)
        except LeukoscopeError as error:
            opened[key] = f"{key[1]} {key[2]} cannot be opened: {error.message}"
    found = opened[key]
    if isinstance(found, str):
        raise _GoneError(found)
    return found


def _cut(output: Mapping[str, Any]) -> tuple[bool, float | None]:
    """Whether an image was predicted whole, and the scale that the user stated for cutting it."""
    tiles = output.get("tiles")
    if tiles is None:
        return NO_LEUKOCYTE not in output.get("reasons", ()), None
    return False, None if tiles["scale_from"] == "the file" else tiles["um_per_px"]


def _find_bundle(entry: Mapping[str, Any], bundle: Path | None, search: Path | None) -> Path:
    wanted = entry["bundle"]
    candidates = [bundle] if bundle else [Path(entry["bundle_path"])]
    if search is not None and not bundle:
        candidates += [record.parent for record in sorted(search.rglob(RECORD))]
    for folder in candidates:
        record = folder / RECORD
        if record.is_file() and sha256_file(record) == wanted:
            return folder
    looked = ", ".join(str(folder) for folder in [*candidates[:1], *([search] if search else [])])
    raise _GoneError(f"no bundle with the hash {wanted[:12]}… in {looked}")


def _compare(entry: Mapping[str, Any], predictor: Predictor) -> str:
    """Describe how two answers differ; empty if they agree."""
    path, output = Path(entry["path"]), entry["output"]
    if entry["sha256"] is None and entry["kind"] == "prediction":
        raise _GoneError("the log holds no hash of this image")
    if path.is_file() and entry["sha256"] not in (None, found := sha256_file(path)):
        raise _GoneError(f"the image is another one now (SHA-256 {found[:12]}…)")
    if entry["kind"] == "prediction" and not path.is_file():
        raise _GoneError("the image is not there any more")
    (answer,) = predictor.predict([path], on_error="keep")
    if isinstance(answer, Failure):
        now = answer.as_dict()["error"]
        if entry["kind"] == "prediction":
            return f"was {output['predicted']}, now {now}"
        was, now = (text.split(":")[0] for text in (output["error"], now))
        return "" if was == now else f"was {was}, now {now}"
    if entry["kind"] == "failure":
        return f"was {output['error']}, now {answer.predicted}"
    values = answer.as_dict()
    for name in _COMPARED:
        if values[name] != output[name]:
            return f"{name} was {output[name]}, now {values[name]}"
    what, was, now = "logit", output["logits"], list(answer.logits)
    if not was:  # an image that was cut has probabilities only
        names = [f"p_{name}" for name in predictor.class_names]
        what, was, now = "probability", *([row[name] for name in names] for row in (output, values))
    largest = max(abs(a - b) for a, b in zip(was, now, strict=True))
    allowed = BOUNDS[entry["precision"]].logits * max(1.0, *(abs(value) for value in was))
    return "" if largest <= allowed else f"a {what} moved by {largest:.2g}, allowed {allowed:.2g}"
