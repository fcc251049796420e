"""Features from the engine are those of the network, in order, whatever the threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import DataError
from leukoscope.learning.backbones import Network, ToInput
from leukoscope.learning.features import extract_features, run_network


def test_features_and_logits_are_those_of_torch(
    tiny: Network, spec: PreprocessSpec, images: np.ndarray
) -> None:
    calls: list[tuple[int, int]] = []
    outputs = run_network(
        tiny,
        iter(images),
        spec,
        total=6,
        batch_size=4,
        threads=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    with torch.no_grad():
        batch = ToInput(spec)(torch.from_numpy(images))
        features, logits = tiny.features(batch).numpy(), tiny(batch).numpy()
    np.testing.assert_allclose(outputs["features"], features, atol=1e-5 * np.abs(features).max())
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4)
    assert outputs["features"].dtype == np.float32
    assert calls == [(4, 6), (6, 6)]


def test_the_result_does_not_depend_on_threads(
    tiny: Network, spec: PreprocessSpec, images: np.ndarray
) -> None:
    many = np.concatenate([images] * 3)
    one = extract_features(tiny, many, spec, batch_size=2, threads=1)
    assert one.shape == (18, 96)
    np.testing.assert_array_equal(one, extract_features(tiny, many, spec, batch_size=2, threads=4))


def test_the_result_does_not_depend_on_the_size_of_a_pass(
    tiny: Network, spec: PreprocessSpec, images: np.ndarray
) -> None:
    many = np.concatenate([images] * 3)
    alone, together = (extract_features(tiny, many, spec, batch_size=n) for n in (1, 18))
    np.testing.assert_array_equal(alone, together)


def test_wrong_images_are_refused(tiny: Network, spec: PreprocessSpec, images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected preprocessed images \(64, 64, 3\) uint8"):
        extract_features(tiny, [images[0], images[1][:32]], spec)
    with pytest.raises(DataError, match="no images"):
        extract_features(tiny, [], spec)
