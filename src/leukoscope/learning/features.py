"""Features and logits of many images, at the speed of an inference engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError, DataError
from leukoscope.core.threads import ordered_map
from leukoscope.learning.backbones import Network, ToInput, evaluating
from leukoscope.learning.graphs.export import BATCH, onnx_bytes, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Outputs = dict[str, NDArray[np.float32]]
TORCH_BATCH = 32
MANY = 300
"""Images from which on the exported graph is worth its export."""


def extract_features(
    network: Network,
    images: Iterable[NDArray[np.uint8]],
    spec: PreprocessSpec,
    *,
    total: int | None = None,
    batch_size: int = BATCH,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Input of the last layer of a network for each image, in order.

    See :func:`run_network`.
    """
    return run_network(
        network,
        images,
        spec,
        total=total,
        batch_size=batch_size,
        threads=threads,
        progress=progress,
    )["features"]


def run_network(
    network: Network,
    images: Iterable[NDArray[np.uint8]],
    spec: PreprocessSpec,
    *,
    total: int | None = None,
    batch_size: int = BATCH,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Logits and features of many images through the exported graph.

    The graph is the one that a bundle would hold: it runs in ONNX Runtime several times faster
    than in torch on a CPU and agrees to about one part in 100,000, so that a head is fitted on
    what will later be served. One batch runs per thread, and ``images`` is read meanwhile. The
    batches do not depend on the number of threads, and neither does the result.

    Args:
        network: The network; its first export takes about five seconds.
        images: (S, S, 3) uint8 RGB each, preprocessed. An iterator is read once, in order.
        total: How many there are, for ``progress``; known for arrays and lists.
        threads: Passes at once; by default ``OMP_NUM_THREADS``, or else all cores.

    Returns:
        ``logits`` (n, K) and ``features`` (n, D), float32.

    Raises:
        DataError: There are no images, or one has another shape than ``spec`` says.
    """
    names = ["logits", "features"]
    session = open_session(onnx_bytes(network, spec))
    batch_size = max(1, batch_size // network.config.views)  # each view takes an image's memory
    expected = total if total is not None else _length(images)
    parts: list[list[NDArray[np.float32]]] = []
    done = 0
    for part in stream_outputs(
        session, names, images, spec, batch_size=batch_size, threads=threads
    ):
        parts.append(part)
        done += len(part[0])
        if progress:
            progress(done, expected or done)
    if not parts:
        raise DataError("features of images were asked for, but there are no images")
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


class FeatureEngine:
    """Features of one batch after another through the exported graph; may run in several threads.

    Attributes:
        batch_size: Images in one pass that suit the network.
    """

    def __init__(self, network: Network, spec: PreprocessSpec, *, batch_size: int = BATCH) -> None:
        """Export the network, unless that was done before."""
        self._session = open_session(onnx_bytes(network, spec))
        self._size_px = spec.size_px
        self.batch_size = max(1, batch_size // network.config.views)
        self.threads = _own_share()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, D) float32 features of (n, S, S, 3) uint8 RGB, preprocessed.

        Raises:
            DataError: The images have another shape than the specification says.
        """
        (batch,) = _batches(images, len(images), self._size_px)
        found: NDArray[np.float32] = self._session.run(["features"], {"image": batch})[0]
        return found


def stream_outputs(
    session: InferenceSession,
    names: Sequence[str],
    images: Iterable[NDArray[np.uint8]],
    spec: PreprocessSpec,
    *,
    batch_size: int = BATCH,
    threads: int | None = None,
) -> Iterator[list[NDArray[np.float32]]]:
    """Outputs of a graph batch after batch, in order; one batch runs per thread.

    Args:
        images: (S, S, 3) uint8 RGB each; read in this thread while the graph runs in others.
        threads: Passes at once; by default ``OMP_NUM_THREADS``, or else all cores.

    Raises:
        DataError: An image has another shape than ``spec`` says.
    """
    workers = threads or _own_share()

    def run(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(list(names), {"image": batch})
        return found

    batches = _batches(images, batch_size, spec.size_px)
    yield from ordered_map(run, batches, threads=workers, ahead=workers)


def predict_logits(
    network: Network, images: NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.float64]:
    """Logits of preprocessed images over the recipe's views; see :func:`predict_outputs`."""
    return predict_outputs(network, images, spec)[1]


def predict_outputs(
    network: Network, images: NDArray[np.uint8], spec: PreprocessSpec
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Features and logits of preprocessed images in float32, in one pass.

    Many images go through the exported graph, which is several times faster than torch on a CPU
    but takes seconds to make; the two agree to about one part in 100,000.

    Returns:
        Features (n, D) float32 and logits (n, K) float64.
    """
    if len(images) >= MANY:
        with suppress(BundleError):  # torch runs what cannot be exported
            found = run_network(network, images, spec)
            return found["features"], found["logits"].astype(np.float64)
    to_input = ToInput(spec)
    features = [np.empty((0, network.num_features), np.float32)]
    logits = [np.empty((0, network.head.out_features))]
    with evaluating(network), torch.inference_mode():
        for start in range(0, len(images), TORCH_BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + TORCH_BATCH]))
            read = network.map_and_average(to_input(batch))[1]
            features.append(read.float().numpy())
            logits.append(network.logits_of(read).double().numpy())
    return np.concatenate(features), np.concatenate(logits)


def _own_share() -> int:
    """Cores of this process; one of several gets its share from ``OMP_NUM_THREADS``."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


def _length(images: Iterable[NDArray[np.uint8]]) -> int | None:
    return len(images) if isinstance(images, Sized) else None


def _batches(
    images: Iterable[NDArray[np.uint8]], batch_size: int, size_px: int
) -> Iterator[NDArray[np.uint8]]:
    stream = iter(images)
    while group := list(islice(stream, batch_size)):
        for image in group:
            if image.shape != (size_px, size_px, 3) or image.dtype != np.uint8:
                raise DataError(
                    f"expected preprocessed images ({size_px}, {size_px}, 3) uint8, "
                    f"got {image.shape} {image.dtype}"
                )
        yield np.stack(group)
