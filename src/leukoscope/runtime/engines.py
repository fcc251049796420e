"""The inference engines behind one small interface: OpenVINO (CPU) and ONNX Runtime (CPU, CUDA).

Both libraries are imported when an engine is opened, so that nothing is paid for the other.
"""

from __future__ import annotations

import base64
import os
import queue
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import BundleError, MissingExtraError, UnknownNameError, UsageError
from leukoscope.runtime.bounded_run import run_bounded

INPUT_NAME = "image"

Outputs = dict[str, NDArray[np.float32]]
TensorShape = tuple[int | None, ...]


@dataclass(frozen=True)
class Engine:
    """An opened model graph; :meth:`run` may be called from several threads.

    Attributes:
        name: ``openvino`` or ``onnxruntime``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        reason: Why this engine and precision were chosen.
        size_px: Height and width of the input.
        outputs: Name → shape of each output; None for a dimension that the graph leaves open.
        threads: Number of threads it may use.
    """

    name: str
    precision: str
    reason: str
    size_px: int
    outputs: Mapping[str, TensorShape]
    threads: int
    _infer: Callable[[NDArray[np.uint8]], Outputs]

    def __str__(self) -> str:
        return f"{self.name} {self.precision} ({self.reason})"

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Compute all outputs for a batch.

        Args:
            batch: (N, size_px, size_px, 3) uint8 RGB, N ≥ 1.

        Returns:
            float32 arrays by name, the first dimension of each is N: ``logits`` (N, K), and
            where the graph has them ``features`` (N, D) and ``maps`` (N, K, h, w).

        Raises:
            UsageError: The batch has another shape or dtype.
        """
        expected = (self.size_px, self.size_px, 3)
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or len(batch) == 0:
            raise UsageError(
                f"expected a batch of shape (N, {', '.join(map(str, expected))}) and dtype uint8, "
                f"got {batch.shape} {batch.dtype}"
            )
        return self._infer(np.ascontiguousarray(batch))


# Takes the graph's bytes, the precision, a number of threads and whether they take a batch each;
# gives shape of inputs and outputs, and the call.
_Opened = tuple[
    dict[str, TensorShape], dict[str, TensorShape], Callable[[NDArray[np.uint8]], Outputs]
]


def open_engine(
    model: Path | bytes,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    bulk: bool = False,
) -> Engine:
    """Open an ONNX graph.

    Args:
        model: An ONNX file, or its bytes. Weights must lie inside it, not beside it.
        engine: ``openvino``, ``onnxruntime``, or ``auto``: ONNX Runtime, with OpenVINO as the
            fallback where it is installed; ``Engine.reason`` says which and why.
        precision: ``fp32``; ``bf16`` (OpenVINO on processors that have it); ``int8`` for a graph
            that was quantised, whose other operations run in fp32.
        threads: Number of threads; None takes every core that this process may use.
        bulk: For many images: one thread for each batch, and as many batches at once as there
            are threads (:meth:`Engine.run` from as many); otherwise all threads share a batch,
            which answers a single image sooner.

    Raises:
        UnknownNameError: No engine of that name.
        UsageError: The engine cannot compute in this precision here.
        MissingExtraError: The engine is not installed.
        BundleError: The graph cannot be opened, or its input is not what a bundle needs.
    """
    if engine not in ("auto", *ENGINES):
        raise UnknownNameError("engine", engine, ("auto", *ENGINES))
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least one thread, got {threads}")
    threads = threads or available_cores()
    name, data = _read(model)
    how = (precision, threads, bulk)
    if engine != "auto":
        return _open(name, data, engine, "asked for by name", how)
    try:
        return _open(name, data, "onnxruntime", "every installation has it", how)
    except (BundleError, UsageError) as error:
        if find_spec("openvino") is None:
            raise
        failed = str(error).splitlines()[0]
    reason = f"ONNX Runtime could not open the model ({failed})"
    return _open(name, data, "openvino", reason, how)


def unsupported_reason(engine: str, precision: str) -> str:
    """Why an engine cannot compute in a precision on this machine; empty if it can."""
    if precision != "bf16":
        return ""
    if engine != "openvino":
        return "ONNX Runtime has no bf16 on a CPU"
    if find_spec("openvino") is None:
        return "OpenVINO is not installed"
    found = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "" if "BF16" in found else "this processor has no bf16"


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread_each() -> None:
    """Limit OpenCV and NumPy to one thread, for a process that works on several images at once.

    More threads per image would only compete, and those of a matrix product spin while they wait.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1, user_api="blas")


def _read(model: Path | bytes) -> tuple[str, bytes]:
    if isinstance(model, bytes):
        return "the model", model
    try:
        return str(model), model.read_bytes()
    except OSError as error:
        raise BundleError(f"{model}: the model cannot be read: {error.strerror or error}") from None


def _open(name: str, data: bytes, engine: str, reason: str, how: tuple[str, int, bool]) -> Engine:
    precision, threads, _ = how
    if words := unsupported_reason(engine, precision):
        raise UsageError(f"{precision} cannot be had from {engine}: {words}")
    try:
        inputs, outputs, infer = ENGINES[engine](data, *how)
    except (MissingExtraError, ImportError):
        raise
    except Exception as error:  # both libraries raise bare RuntimeErrors and their own kinds
        detail = " ".join(str(error).split())[:300]
        raise BundleError(
            f"{name}: expected an ONNX graph that {engine} can open, but: {detail}",
            hint="export the model again",
        ) from None
    shape = inputs.get(INPUT_NAME, ())
    if len(inputs) != 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise BundleError(
            f"{name}: expected one input '{INPUT_NAME}' of shape (N, size, size, 3), "
            f"found {_describe(inputs)}"
        )
    if shape[1] is None:
        raise BundleError(f"{name}: expected a fixed input size, found {_describe(inputs)}")
    if "logits" not in outputs:
        raise BundleError(f"{name}: expected an output 'logits', found {_describe(outputs)}")
    return Engine(engine, precision, reason, shape[1], outputs, threads, infer)


def _describe(tensors: Mapping[str, TensorShape]) -> str:
    shapes = (
        f"{name} ({', '.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in tensors.items()
    )
    return ", ".join(shapes) or "none"


def _openvino() -> Any:
    """Import OpenVINO without its optional model converter, which takes half of the import time."""
    converter = "openvino.tools.ovc"
    hidden = "openvino" not in sys.modules and converter not in sys.modules
    if hidden:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[converter]
    return openvino


def _open_openvino(data: bytes, precision: str, threads: int, bulk: bool) -> _Opened:
    if find_spec("openvino") is None:
        raise MissingExtraError("the OpenVINO engine", "openvino")
    openvino = _openvino()
    core = openvino.Core()
    options = {
        "PERFORMANCE_HINT": "THROUGHPUT" if bulk else "LATENCY",
        "NUM_STREAMS": threads if bulk else 1,
        "INFERENCE_NUM_THREADS": threads,
        # Each opened graph would pin its threads to the first cores: several in one process, or in
        # several processes, would share these and leave the others idle.
        "ENABLE_CPU_PINNING": False,
        # Without this hint some processors compute in bfloat16 unasked.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    model = core.read_model(data)
    if any(op.get_type_name() == "Loop" for op in model.get_ops()):
        raise BundleError("the graph holds a loop, which OpenVINO could not stop")
    compiled = core.compile_model(model, "CPU", options)
    # OpenVINO sets up its view of arrays on first use and lets other threads run meanwhile: two
    # that come at once would wait for each other for ever.
    _ = openvino.Tensor(np.zeros(1, np.float32)).data

    def shapes(ports: Any) -> dict[str, TensorShape]:
        return {
            port.any_name: tuple(
                size.get_length() if size.is_static else None for size in port.partial_shape
            )
            for port in ports
        }

    outputs = shapes(compiled.outputs)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads if bulk else 1):
        requests.put(compiled.create_infer_request())

    def infer(batch: NDArray[np.uint8]) -> Outputs:
        request = requests.get()
        try:
            results = request.infer({0: batch})
            return {name: np.array(results[name], np.float32) for name in outputs}
        finally:
            requests.put(request)

    return shapes(compiled.inputs), outputs, infer


def _open_onnxruntime(data: bytes, precision: str, threads: int, bulk: bool) -> _Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if bulk else threads
    # Threads that spin while they wait take a core from whoever decodes the next image.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors reach the user as exceptions, not as lines
    providers: list[Any] = ["CPUExecutionProvider"]
    if precision == "fp32" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # TF32 keeps ten bits of a number: no fp32. Without a device it falls back to the CPU.
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(data, options, providers=providers)

    def shapes(ports: Any) -> dict[str, TensorShape]:
        return {
            port.name: tuple(size if isinstance(size, int) else None for size in port.shape)
            for port in ports
        }

    outputs = shapes(session.get_outputs())

    def infer(batch: NDArray[np.uint8]) -> Outputs:
        try:
            values = run_bounded(session, list(outputs), {INPUT_NAME: batch})
        except TimeoutError as error:
            raise BundleError(f"the graph of this bundle does not answer: {error}") from None
        return {
            name: np.asarray(value, np.float32) for name, value in zip(outputs, values, strict=True)
        }

    return shapes(session.get_inputs()), outputs, infer


ENGINES: Mapping[str, Callable[[bytes, str, int, bool], _Opened]] = {
    "openvino": _open_openvino,
    "onnxruntime": _open_onnxruntime,
}

# Input image (N, 2, 2, 3) uint8 → Cast → ReduceMean over height and width → logits (N, 3).
# Made with the onnx package, which an installation that only predicts does not have.
_SELF_TEST_GRAPH = (
    "CAg6ngEKGwoFaW1hZ2USAXgiBENhc3QqCQoCdG8YAaABAgo3CgF4EgZsb2dpdHMiClJlZHVjZU1lYW4qDQoEYXhl"
    "c0ABQAKgAQcqDwoIa2VlcGRpbXMYAKABAhIJc2VsZl90ZXN0WiAKBWltYWdlEhcKFQgCEhEKAxIBbgoCCAIKAggC"
    "CgIIA2IZCgZsb2dpdHMSDwoNCAESCQoDEgFuCgIIA0IECgAQDQ=="
)


def engine_self_test(engine: str = "auto") -> str:
    """Run a graph of two operations and check its result; returns the engine's name and reason.

    Raises:
        BundleError: The engine gives a wrong result.
        MissingExtraError: The engine is not installed.
    """
    opened = open_engine(base64.b64decode(_SELF_TEST_GRAPH), engine=engine, threads=1)
    batch = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    found = opened.run(batch)["logits"]
    if not np.allclose(found, batch.mean(axis=(1, 2))):
        raise BundleError(
            f"the engine {opened.name} computes wrong numbers on this machine",
            hint="take the other engine with --engine, and reinstall this one",
        )
    return f"{opened.name}: {opened.reason}"
