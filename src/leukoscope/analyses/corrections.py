"""From a person's decisions on a queue to a new version of the manifest, and its provenance."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TypedDict

from leukoscope.analyses.relabel import FOLDER, QUEUE_JSON
from leukoscope.config.relabel_queue import Queue
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_json, sha256_file, write_csv, write_json
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import order_classes
from leukoscope.core.program import typed
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.tables import read_rows
from leukoscope.datasets.layouts.rules import provenance_path
from leukoscope.evaluation.run_files import RunFiles

DECISIONS = ("accept", "keep", "other", "unsure")
REQUIRED = ("image_id", "given", "decision", "label", "by", "at", "queue_sha256")
MANIFEST_COLUMNS = (
    "path", "label", "patient_id", "group_id", "split", "image_id", "sha256", "given_label",
)  # fmt: skip
SHOWN = 10
ID_DIGITS = 12  # of a SHA-256, by which the page of predictions names an image
CAUTION = (
    "These labels were changed after a model's predictions had been seen. A score of the same kind "
    "of model on them is flattered: the images it disagreed with were asked about, the others not."
)


@dataclass(frozen=True)
class Correction:
    """One decision.

    Attributes:
        line: In the CSV.
        image_id: The image.
        given: The label that the person saw.
        decision: ``accept``, ``keep``, ``other`` or ``unsure``.
        label: The label that holds from now on.
        by: Who decided.
        at: When, ISO 8601.
    """

    line: int
    image_id: str
    given: str
    decision: str
    label: str
    by: str
    at: str


class Change(TypedDict):
    """A label that changed."""

    image_id: str
    path: str
    sha256: str
    old: str
    new: str
    decision: str
    by: str
    at: str


class Provenance(TypedDict):
    """The content of the file beside a corrected manifest."""

    schema: int
    manifest: str
    manifest_sha256: str
    made: str
    previous: dict[str, object]  # the run and the data that were corrected
    queue: dict[str, object]
    corrections: dict[str, str]
    decisions: dict[str, int]  # kind of decision → how many
    not_decided: int
    changes: list[Change]
    caution: str
    excluded_left_out: int


def apply_corrections(run: RunFolder, corrections: Path, out: Path) -> Provenance:
    """Write a corrected manifest, and beside it what was changed, by whom, from which queue.

    Copies of one picture (equal files or pixels) follow the decision on any of them. Images that
    the study excluded are left out.

    Returns:
        The content of the provenance file.

    Raises:
        UsageError: A file would be overwritten, or ``out`` is no CSV.
        DataError: A row is wrong, two rows disagree, or they belong to another queue.
    """
    beside = provenance_path(out)
    for path in (out, beside):
        if path.exists():
            raise UsageError(f"{path} is there already", hint="name a new file with --out")
    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out}: expected a name that ends in .csv", hint="e.g. manifest.v2.csv")
    queue = Queue.load(run.path / FOLDER / QUEUE_JSON)
    if sha256_file(run.manifest) != queue.manifest_sha256:
        raise DataError(
            f"{run.manifest} is not the manifest that the queue was made from",
            hint=f"make the queue again: {typed('relabel', run.path)}",
        )
    files = RunFiles.open(run.path)
    manifest = files.manifest
    decided = read_corrections(corrections, queue, manifest)
    passport = files.passport
    groups = passport["exact_duplicates"]["groups"] + passport["pixel_duplicates"]["groups"]
    followed = _follow_copies(corrections, decided, groups)
    records = [record for record in manifest.images if record.status != "excluded"]
    columns = dict.fromkeys((*MANIFEST_COLUMNS, *manifest.describing_columns))
    write_csv(out, list(columns), _rows(records, followed, manifest, out))
    provenance = _provenance(files, queue, corrections, decided, followed, manifest, out)
    write_json(beside, provenance)
    return provenance


def read_corrections(path: Path, queue: Queue, manifest: Manifest) -> dict[str, Correction]:
    """Read and check the decisions.

    Returns:
        Image id → decision.

    Raises:
        DataError: Names every wrong row (the first ten).
    """
    rows = read_rows(path, REQUIRED)
    records = {record.image_id: record for record in manifest.images}
    by_hash = {record.sha256[:ID_DIGITS]: record for record in manifest.images}
    suggested = {row.image_id: row.suggested for row in queue.rows}
    classes = order_classes(record.label for record in manifest.images if record.label)
    found: dict[str, Correction] = {}
    wrong: list[str] = []
    for line, row in rows:
        one = Correction(line, *(row[name].strip() for name in REQUIRED[:-1]))
        if not row["queue_sha256"] and one.image_id in by_hash:
            one = _of_prediction(one, by_hash[one.image_id])
            row["queue_sha256"] = queue.sha256
            suggested.setdefault(one.image_id, one.label)
        problem = _problem(one, row["queue_sha256"], queue.sha256, records, suggested, classes)
        earlier = found.setdefault(one.image_id, one)
        if not problem and (earlier.decision, earlier.label) != (one.decision, one.label):
            problem = (
                f"image {one.image_id} is {earlier.decision} {earlier.label} in line "
                f"{earlier.line}, {one.decision} {one.label} here"
            )
        if problem:
            wrong.append(f"line {line}: {problem}")
    if wrong or not found:
        listed = "; ".join(wrong[:SHOWN]) or "no decision"
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError(f"{path}: {listed}{more}", hint="nothing was written; correct the rows")
    return found


def _of_prediction(one: Correction, record: ImageRecord) -> Correction:
    """A decision on a prediction, made on the page of the service, as one on the label.

    There ``given`` is the predicted class, ``keep`` means that it is right, and ``exclude`` that
    the image shows none of the classes, which says nothing of another label.
    """
    seen = replace(one, image_id=record.image_id, given=record.label)
    if one.decision not in ("keep", "other"):
        return replace(seen, decision="unsure", label=record.label)
    return replace(seen, decision="keep" if one.label == record.label else "other")


def _problem(
    one: Correction,
    of_queue: str,
    queue_sha256: str,
    records: Mapping[str, ImageRecord],
    suggested: Mapping[str, str],
    classes: Sequence[str],
) -> str:
    """What is wrong with a row, or empty."""
    if of_queue != queue_sha256:
        return f"it belongs to another queue ({of_queue[:12] or 'none named'})"
    record = records.get(one.image_id)
    if record is None or one.image_id not in suggested:
        return f"image {one.image_id!r} is not in the queue"
    if record.label != one.given:
        return f"the label of {one.image_id} is {record.label}, the row says {one.given!r}"
    if one.decision not in DECISIONS:
        return f"expected a decision of {', '.join(DECISIONS)}, found {one.decision!r}"
    if one.label not in classes and one.label not in CLASSES:
        known = [*classes, *CLASSES]
        near = get_close_matches(one.label, known, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        return (
            f"expected a class of the study ({', '.join(classes)}) or a known one, found "
            f"{one.label!r}{guess}"
        )
    if not one.by or not one.at:
        return "expected who decided (by) and when (at), one is empty"
    expected = {"accept": suggested[one.image_id], "keep": one.given, "unsure": one.given}
    if one.label != expected.get(one.decision, one.label):
        return f"{one.decision} means {expected[one.decision]}, the row says {one.label}"
    return ""


def _follow_copies(
    path: Path, decided: Mapping[str, Correction], groups: Sequence[Sequence[str]]
) -> dict[str, Correction]:
    """The decisions, and those that copies of a decided picture take over.

    Raises:
        DataError: Copies of one picture were given two labels.
    """
    followed = {key: one for key, one in decided.items() if one.decision != "unsure"}
    for group in groups:
        made = [followed[image_id] for image_id in group if image_id in followed]
        if len({one.label for one in made}) > 1:
            said = ", ".join(f"{one.image_id} {one.label} (line {one.line})" for one in made)
            raise DataError(
                f"{path}: copies of one picture have two labels: {said}",
                hint="nothing was written; decide on one label for all",
            )
        if made:
            followed |= {image_id: made[0] for image_id in group if image_id not in followed}
    return followed


def _rows(
    records: Sequence[ImageRecord],
    followed: Mapping[str, Correction],
    manifest: Manifest,
    out: Path,
) -> list[dict[str, str]]:
    """The new manifest, as a CSV data set: paths relative to its own folder."""
    size = Counter(record.group_id for record in records)
    top = out.absolute().parent
    rows = []
    for record in records:
        one = followed.get(record.image_id)
        place = os.path.relpath(manifest.path_of(record).absolute(), top)
        rows.append(
            {
                **record.description,
                "path": Path(place).as_posix(),
                "label": one.label if one else record.label,
                "patient_id": record.patient_id,
                # A group of one says nothing, and the next audit names it itself.
                "group_id": record.group_id if size[record.group_id] > 1 else "",
                "split": record.given_part,
                "image_id": record.image_id,
                "sha256": record.sha256,
                "given_label": record.label,
            }
        )
    return rows


def _provenance(
    files: RunFiles,
    queue: Queue,
    corrections: Path,
    decided: Mapping[str, Correction],
    followed: Mapping[str, Correction],
    manifest: Manifest,
    out: Path,
) -> Provenance:
    """Where the new manifest came from, and every label that changed."""
    records = {record.image_id: record for record in manifest.images}
    changes: list[Change] = [
        {
            "image_id": image_id,
            "path": records[image_id].path,
            "sha256": records[image_id].sha256,
            "old": records[image_id].label,
            "new": one.label,
            "decision": one.decision if image_id == one.image_id else f"copy of {one.image_id}",
            "by": one.by,
            "at": one.at,
        }
        for image_id, one in sorted(followed.items())
        if one.label != records[image_id].label
    ]
    data = Path(files.config.data.path)
    earlier = provenance_path(data)
    kinds = Counter(one.decision for one in decided.values())
    return {
        "schema": 1,
        "manifest": out.name,
        "manifest_sha256": sha256_file(out),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "previous": {
            "run": files.run.path.resolve().name,
            "manifest_sha256": queue.manifest_sha256,
            "data": data.name,
            "data_sha256": sha256_file(data) if data.is_file() else None,
            "provenance": read_json(earlier) if data.is_file() and earlier.is_file() else None,
        },
        "queue": queue.model_dump(include={"sha256", "recipe", "protocol"}),
        "corrections": {"file": corrections.name, "sha256": sha256_file(corrections)},
        "decisions": {name: kinds[name] for name in DECISIONS},
        "not_decided": len(queue.rows) - len(decided),
        "changes": changes,
        "caution": CAUTION,
        "excluded_left_out": sum(record.status == "excluded" for record in manifest.images),
    }
