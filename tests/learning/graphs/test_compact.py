"""Weights in half the bytes compute the same within the bound of the export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.learning.backbones import Network
from leukoscope.learning.graphs.export import onnx_bytes
from leukoscope.learning.graphs.variants import compact_weights
from leukoscope.runtime.engines import open_engine


def test_half_the_bytes_and_the_same_logits(
    lite: Network, spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    graph = onnx_bytes(lite, spec)
    compact = compact_weights(graph)
    onnx.checker.check_model(onnx.load_from_string(compact))
    assert len(compact) < 0.56 * len(graph)
    assert parity(lite, compact, images, spec) < 1e-3
    assert compact_weights(compact) == compact  # nothing is left to halve
    whole, half = (open_engine(g, engine="onnxruntime", threads=1).run(images)
                   for g in (graph, compact))  # fmt: skip
    assert whole.keys() == half.keys()
    spread = np.abs(whole["features"]).max()
    assert np.abs(whole["features"] - half["features"]).max() < 1e-3 * spread
