"""Members as one graph: it must say what the members say on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import BundleError
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.learning.backbones import build_network
from leukoscope.learning.graphs.export import onnx_bytes, open_session
from leukoscope.learning.graphs.variants import merge_members
from leukoscope.runtime.engines import open_engine

CONFIG = ModelConfig(backbone="test_resnet", weights="none")


def member(seed: int, spec: PreprocessSpec, num_classes: int = 3) -> bytes:
    network = build_network(CONFIG, num_classes=num_classes, size_px=spec.size_px, seed=seed)
    with torch.no_grad():
        network.head.weight.mul_(20)  # so that the members differ in what they say
    return onnx_bytes(network, spec, tuple("abcdef"[:num_classes]))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_graph_gives_the_mean_of_its_members(
    engine: str, spec: PreprocessSpec, images: NDArray[np.uint8]
) -> None:
    graphs = [member(seed, spec) for seed in range(3)]
    names = ["logits", "features", "maps"]
    alone = [open_session(graph).run(names, {"image": images}) for graph in graphs]
    found = open_engine(merge_members(graphs), engine=engine, threads=1).run(images)
    expected = np.log(np.mean([softmax(logits) for logits, *_ in alone], axis=0))
    assert np.abs(alone[0][0] - alone[1][0]).max() > 0.1
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    for number, name in ((1, "features"), (2, "maps")):
        mean = np.mean([values[number] for values in alone], axis=0)
        np.testing.assert_allclose(found[name], mean, atol=1e-3)


def test_members_of_other_classes_are_refused(spec: PreprocessSpec) -> None:
    with pytest.raises(BundleError, match="member 1 of the ensemble: expected shapes"):
        merge_members([member(0, spec), member(1, spec, num_classes=4)])
