"""A bundle that knows what damage its model stands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from leukoscope.config.guarantees import Envelope, EnvelopeLimit
from leukoscope.core.errors import BundleError
from leukoscope.core.files import read_json, write_json
from leukoscope.imaging.quality import measure_quality
from leukoscope.runtime.bundle import read_bundle
from leukoscope.runtime.envelope import checked_limits, envelope_notes, store_envelope
from leukoscope.runtime.golden import verify_bundle
from leukoscope.runtime.predictor import load_bundle


def limit(name: str, statistic: str = "", **sides: float) -> EnvelopeLimit:
    return EnvelopeLimit(corruption=name, severity=2, severities=5, statistic=statistic, **sides)


def envelope(*limits: EnvelopeLimit) -> Envelope:
    return Envelope(bound=0.05, confidence=0.95, protocol="random", n=300, n_groups=200,
                    false_alarms=0.01, limits=limits)  # fmt: skip


BLUR = envelope(
    limit("defocus", "sharpness", low=30.0),
    limit("motion", "sharpness", low=50.0),
    limit("darker", "brightness", low=40.0),
    limit("bubble"),
)


def test_the_stricter_of_two_limits_holds() -> None:
    assert checked_limits(BLUR) == {("sharpness", "low"): 50.0, ("brightness", "low"): 40.0}


def test_an_image_beyond_a_limit_is_described_in_words(tiny: SimpleNamespace) -> None:
    sharp = tiny.colour(150, 40, 40, size=64, noise=20)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3)
    assert envelope_notes(sharp, measure_quality(sharp), BLUR) == ()
    (note,) = envelope_notes(blurred, measure_quality(blurred), BLUR)
    assert note.startswith(
        "The image is blurrier than the limit at which this model still keeps within 5 points of "
        "its accuracy (sharpness "
    )
    assert envelope_notes(blurred, measure_quality(blurred), None) == ()


def test_a_bundle_gets_an_envelope_and_asks_for_review(
    tiny: SimpleNamespace, tiny_bundle: Path
) -> None:
    image = cv2.GaussianBlur(tiny.colour(150, 40, 40, size=64, noise=20), (0, 0), 3)
    before = load_bundle(tiny_bundle, engine="onnxruntime").predict([image])[0]
    files = read_bundle(tiny_bundle).record.files
    store_envelope(tiny_bundle, BLUR)
    bundle = read_bundle(tiny_bundle)
    assert bundle.record.envelope == BLUR
    assert bundle.record.files == files
    assert all(check.ok for check in verify_bundle(tiny_bundle, "onnxruntime"))
    after = load_bundle(tiny_bundle, engine="onnxruntime").predict([image])[0]
    assert after.probabilities == before.probabilities
    assert next(r for r in after.reasons if r not in before.reasons).startswith(
        "The image is blurrier than the limit"
    )
    assert (before.decision, after.decision) == ("accept", "review")
    assert not list(tiny_bundle.parent.glob(".bundle*"))


def test_a_limit_that_this_version_cannot_check_is_refused(tiny_bundle: Path) -> None:
    store_envelope(tiny_bundle, BLUR)
    path = tiny_bundle / "bundle.json"
    record = read_json(path)
    record["envelope"]["limits"][0]["statistic"] = "grain"
    write_json(path, record)
    with pytest.raises(BundleError, match="limits grain on its low side"):
        read_bundle(tiny_bundle)


def test_bundles_without_an_envelope_still_load(tiny_bundle: Path) -> None:
    path = tiny_bundle / "bundle.json"
    record = read_json(path)
    del record["envelope"]
    write_json(path, record)
    assert read_bundle(tiny_bundle).record.envelope is None


def test_a_field_is_checked_quickly() -> None:
    import time

    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    quality = measure_quality(image)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        envelope_notes(image, quality, BLUR)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.004  # about 1 ms; twice the promise, for a busy machine
