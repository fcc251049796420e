"""What a network costs: parameters, multiplications, size of its file, time of a prediction."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.learning.backbones import Network, build_network, evaluating
from leukoscope.learning.export import onnx_bytes, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WARM_UP = 3
FEWEST_RUNS = 3
MOST_RUNS = 50
MOST_SECONDS = 4.0  # for one batch size
BATCHES = (1, 32)


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, measured.

    Attributes:
        batch: Images in the call.
        median_ms: Median over the runs.
        p95_ms: 95th percentile.
        runs: Number of timed runs, after the warm-up.
        threads: Of ONNX Runtime inside one call.
    """

    batch: int
    median_ms: float
    p95_ms: float
    runs: int
    threads: int


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        parameters: All of them, the head included.
        macs: Multiply-accumulate operations of one image, convolutions and matrix products.
        size_mb: Of the ONNX file with float32 weights, 10⁶ bytes; None where none was written.
        latency: One entry a batch size; empty where none was measured.
    """

    parameters: int
    macs: int
    size_mb: float | None
    latency: tuple[Latency, ...]

    def to_json(self) -> dict[str, Any]:
        """For ``comparison.json``."""
        return {**asdict(self), "latency": [asdict(entry) for entry in self.latency]}


def untrained_network(recipe: Recipe, num_classes: int) -> Network:
    """The network of a recipe with random weights: cost and shape do not hang on their values.

    Args:
        recipe: The recipe.
        num_classes: K.

    Raises:
        UnknownNameError: No such backbone.
        ConfigError: The backbone cannot work at this size.
    """
    return build_network(
        recipe.model.model_copy(update={"weights": "none"}),
        num_classes=num_classes,
        size_px=recipe.preprocess.size_px,
    )


def measure_complexity(
    network: Network, recipe: Recipe, *, threads: int = 1, latency: bool = True
) -> Complexity:
    """Count and time a network.

    Args:
        network: Of the recipe.
        recipe: Gives the preprocessing inside the exported graph.
        threads: Of ONNX Runtime inside one call.
        latency: Also export the network and time it; takes seconds to a minute.

    Raises:
        BundleError: The network cannot be written as ONNX.
    """
    parameters = sum(p.numel() for p in network.parameters())
    size_mb: float | None = None
    timed: tuple[Latency, ...] = ()
    if latency:
        model = onnx_bytes(network, recipe.preprocess)
        size_mb = len(model) / 1e6
        session = open_session(model, threads)
        side = recipe.preprocess.size_px
        timed = tuple(time_session(session, batch, side, threads=threads) for batch in BATCHES)
    return Complexity(parameters, count_macs(network), size_mb, timed)


def count_macs(network: Network) -> int:
    """Multiply-accumulate operations of one image: half of torch's count of operations."""
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, 3, network.size_px, network.size_px)
    with evaluating(network), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


def time_session(
    session: InferenceSession, batch: int, side_px: int, *, threads: int = 1
) -> Latency:
    """Time calls of an exported network on random pixels.

    Args:
        session: With the input ``image``.
        batch: Images in a call.
        side_px: Side of the images.
        threads: Of the session, for the record.
    """
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(
        0, 256, (batch, side_px, side_px, 3), dtype=np.uint8
    )

    def call() -> float:
        start = time.perf_counter()
        session.run(["logits"], {"image": pixels})
        return time.perf_counter() - start

    warm = call()  # one call of seconds is warm-up enough
    for _ in range(WARM_UP - 1 if warm < MOST_SECONDS / WARM_UP else 0):
        call()
    times: list[float] = []
    while len(times) < MOST_RUNS and (len(times) < FEWEST_RUNS or sum(times) < MOST_SECONDS):
        times.append(call())
    median, p95 = (1000 * float(value) for value in np.quantile(times, [0.5, 0.95]))
    return Latency(batch, median, p95, len(times), threads)
