"""The card beside a shared bundle: what its record says, with the metadata that hubs read.

What a bundle knows of patients is written as lines for the card and for the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from leukoscope.config.bundle import BundleRecord, PatientLimits, PatientModel
from leukoscope.config.guarantees import Measured, Score
from leukoscope.core.labels import class_title, role_of
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.evaluation.verdict.rule import level_words
from leukoscope.reporting.formats import interval, metric_title, plural, upper_first
from leukoscope.reporting.markup import render

TASK = "image-classification"
HUB_METRICS = {"macro_f1": "f1"}
"""Our metrics whose kind has another name on hubs."""

POOLED: Final[Mapping[str, str]] = {
    "mean-probability": "the mean of its images’ probabilities",
    "mean-spread": "mean and deviation of its images’ features",
    "gated-attention": "a mean of its images’ features with learnt weights",
}
JOINED: Final[Mapping[str | None, str]] = {
    "mean-logit": "the mean of their logits, chosen on validation patients",
    "median-probability": "the median of their probabilities, chosen on validation patients",
    "vote": "their votes, chosen on validation patients",
    None: "the mean of their logits; no patients were held out to choose on",
}


def render_bundle_card(record: BundleRecord, sha256: str) -> str:
    """The card as Markdown, with front matter as in Hugging Face's model cards.

    Front matter is YAML, and JSON is YAML, too: it needs no writer of its own.

    Args:
        record: Of the bundle.
        sha256: Of the whole bundle, for whoever fetches it to compare.
    """
    return render(
        "bundle_card.md.j2",
        front_matter=json.dumps(card_metadata(record), indent=2, ensure_ascii=False),
        record=record,
        sha256=sha256,
        verdict=record.verdict and upper_first(level_words(record.verdict.level)),
        facts=_facts(record, sha256),
        scores=[_row(score) for score in record.scores],
        counted=row_word(record),
        limits=_limits(record),
    )


def card_metadata(record: BundleRecord) -> dict[str, object]:
    """What a hub lists a model by: licence, library, task, tags, data sets, scores, limits."""
    values: dict[str, object] = {
        "license": "other",
        "license_name": _identifier(record.licence).lower(),
        "license_link": "bundle/LICENSE",
        "library_name": "leukoscope",
        "pipeline_tag": TASK,
        "tags": ["leukemia", "blood-smear", "microscopy", "onnx", record.recipe],
    }
    if record.dataset:
        values["datasets"] = [_identifier(record.dataset)]
    if metrics := sorted({_hub_metric(score.metric) for score in record.scores}):
        values["metrics"] = metrics
    if results := _results(record):
        values["model-index"] = [{"name": record.name, "results": results}]
    return values | {"limits": _limits(record)}


def _identifier(text: str) -> str:
    """A name as hubs allow it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def _hub_metric(metric: str) -> str:
    return HUB_METRICS.get(metric, metric)


def _results(record: BundleRecord) -> list[dict[str, object]]:
    """The entries of a model index: each score under its protocol, with its interval."""
    name = record.dataset or "not named"
    data = {"type": _identifier(name), "name": name}
    metrics: dict[str, list[dict[str, object]]] = {}
    for score in record.scores:
        metrics.setdefault(score.protocol, []).append(_entry(score))
    promise = record.promise
    if promise is not None and promise.measured is not None:
        covered = _measured_entry("coverage", "Coverage of prediction sets", promise.measured)
        covered["args"] = {**_limits_of(promise.measured), "n": promise.n, "unit": promise.unit}
        metrics.setdefault(promise.protocol, []).append(covered)
    return [
        {
            "task": {"type": TASK, "name": _held_out(protocol)},
            "dataset": {**data, "config": protocol, "split": "test"},
            "metrics": found,
        }
        for protocol, found in metrics.items()
    ]


def _entry(score: Score) -> dict[str, object]:
    entry = _measured_entry(_hub_metric(score.metric), metric_title(score.metric), score)
    of = score.model_dump(include={"n", "n_groups", "group_unit", "confidence"})
    return {**entry, "args": {**_limits_of(score), **of}}


def _measured_entry(kind: str, title: str, found: Measured) -> dict[str, object]:
    """One value; hubs show no arguments, so that its name carries the interval, too."""
    span = _span(found)
    return {"type": kind, "name": f"{title} {span}".strip(), "value": found.value}


def _limits_of(found: Measured) -> dict[str, object]:
    return {"low": found.low, "high": found.high, "reliable": found.reliable}


def _span(found: Measured) -> str:
    if found.low is None or found.high is None:
        return ""
    few = "" if found.reliable else ", few groups"
    return f"(interval {found.low:.3f}–{found.high:.3f}{few})"


def _held_out(protocol: str) -> str:
    return PROTOCOLS[protocol].title if protocol in PROTOCOLS else protocol


def _row(score: Score) -> tuple[str, ...]:
    """A line of the table of scores."""
    return (
        metric_title(score.metric),
        _held_out(score.protocol),
        f"{interval(dict(score), score.metric)}, level {score.confidence:.0%}",
        f"{score.n:,}",
        plural(score.n_groups, score.group_unit),
    )


def _facts(record: BundleRecord, sha256: str) -> Sequence[tuple[str, str]]:
    classes = (
        f"{class_title(name)} ({role_of(name, record.roles) or 'role not stated'})"
        for name in record.class_names
    )
    return (
        ("Bundle", f"{record.name}@{sha256[:12]}, made {record.created[:10]}"),
        ("Recipe", record.recipe),
        ("Trained on", record.trained_on),
        ("Classes", ", ".join(classes)),
        ("Input", f"{record.preprocess.size_px} px"),
        *((upper_first(name), value) for name, value in patient_facts(record)),
        ("Licence of the weights", record.licence),
        ("SHA-256 of bundle.json", sha256),
    )


def _limits(record: BundleRecord) -> list[str]:
    """What the model must not be taken for."""
    limits = [
        "No medical device: for research and teaching.",
        f"{upper_first(record.measured_promise)}.",
    ]
    if record.verdict is None:
        limits.append("Whether it reads shortcuts was not examined.")
    else:
        of = [
            name for name, status in record.verdict.sources.items() if status in ("shown", "open")
        ]
        if of:
            limits.append(f"Shortcuts shown or not ruled out: {', '.join(of)}.")
    if record.phantoms:
        limits.append("Trained on drawn cells: it says nothing about blood.")
    if record.envelope is None:
        limits.append("What damage to an image it tolerates was not measured.")
    return limits


def row_word(record: BundleRecord) -> str:
    """What calibration, sets and scores of a bundle count: images, or patients."""
    return "images" if record.patient is None else "patients"


def patient_facts(record: BundleRecord) -> list[tuple[str, str]]:
    """How the images of a patient are answered together, and what a patient may be like."""
    model = record.patient
    if model is None:
        return [
            ("images of a patient", f"joined by {JOINED[record.subject_method]}"),
            _counts(record),
        ]
    return [
        ("a patient is", f"{POOLED[model.pooling]}, fitted on {model.words}"),
        *_gate(model.limits),
        ("patient for review", _review(model)),
    ]


def _gate(limits: PatientLimits | None) -> list[tuple[str, str]]:
    """Beyond which distance a patient as a whole is rejected."""
    if limits is None:
        return [("patient gate", "none: too few patients to set one")]
    steps = ", ".join(f"{one.distance:.3g} by {one.images}" for one in limits.distances)
    return [
        (
            "patient gate",
            f"rejected where the mean of its accepted images’ features is further from those of "
            f"{limits.n_patients} patients than {steps} images or more (accepts "
            f"{limits.accept:.0%} of patients like them)",
        )
    ]


def _review(model: PatientModel) -> str:
    """What sends a patient to a person."""
    few = f"fewer than {plural(model.images[0], 'usable image')}"
    if model.limits is None:
        return f"{few}, or most of the images rejected"
    return f"{few}, or more than {model.limits.rejected:.1%} of the images rejected"


def _counts(record: BundleRecord) -> tuple[str, str]:
    """What counts of cells by patient are adjusted by."""
    known = record.confusions
    if known is None:
        return "counts of cells", "not adjusted: confusions are not known"
    return (
        "counts of cells",
        f"adjusted by {known.n:,} images of {plural(known.n_units, known.unit)} held out "
        f"({known.protocol})",
    )
