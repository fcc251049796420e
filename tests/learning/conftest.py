"""Networks and images that several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Augmentation, GradientTraining, ModelConfig, Recipe
from leukoscope.evaluation.statistics.comparison import measure_parity
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.graphs.export import network_logits, open_session

SIZE = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and several test processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def spec() -> PreprocessSpec:
    return PreprocessSpec(size_px=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """(6, 64, 64, 3) of noise."""
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


Parity = Callable[[Network, bytes, NDArray[np.uint8], PreprocessSpec], float]


@pytest.fixture(scope="session")
def parity() -> Parity:
    """How far the logits of a graph, run by ONNX Runtime, are from those of its network at most."""

    def largest_difference(
        network: Network, model: bytes, images: NDArray[np.uint8], spec: PreprocessSpec
    ) -> float:
        (logits,) = open_session(model).run(["logits"], {"image": images})
        found = measure_parity(network_logits(network, images, spec), logits)
        return float("inf") if found.refusal("fp32") else found.max_abs

    return largest_difference


@pytest.fixture(scope="session")
def lite() -> Network:
    """The packaged network; do not change it, copy it."""
    return build_network(ModelConfig(), num_classes=4, size_px=SIZE, seed=1)


@pytest.fixture(scope="session")
def tiny() -> Network:
    """A small network of the same kind (its head is linear on averages); do not change it."""
    config = ModelConfig(backbone="test_resnet", weights="none")
    return build_network(config, num_classes=4, size_px=SIZE, seed=1)


@pytest.fixture
def recipe() -> Recipe:
    """Two epochs of the small network on 32 px, with every augmentation."""
    return Recipe(
        name="tiny",
        title="for tests",
        preprocess=PreprocessSpec(size_px=32),
        model=ModelConfig(backbone="cnn-baseline", weights="none", hidden=(16,), dropout=0.5),
        training=GradientTraining(epochs=2, batch_size=8, precision="fp32"),
        augmentation=Augmentation(
            rotation_deg=20, shift=0.1, shear_deg=10, zoom=0.2, horizontal_flip=True, hue=0.02
        ),
    )


@pytest.fixture(scope="session")
def coloured() -> tuple[ImageSet, ImageSet]:
    """Three classes that differ in redness: 30 training, 15 validation images of 32 px."""
    rng = np.random.default_rng(0)
    y = np.arange(45) % 3
    pixels = rng.integers(0, 60, (45, 32, 32, 3), dtype=np.uint8)
    pixels[..., 0] += (y * 90).astype(np.uint8)[:, None, None]
    return ImageSet(pixels[:30], y[:30]), ImageSet(pixels[30:], y[30:])
