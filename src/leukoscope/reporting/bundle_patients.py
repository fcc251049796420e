"""What a bundle knows of patients, as lines for the command line and a shared bundle's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from leukoscope.config.bundle import BundleRecord, PatientLimits, PatientModel
from leukoscope.reporting.formats import plural

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
