"""Weights of a graph in half the bytes: 16-bit integers with one scale a channel."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 2**16  # bytes; smaller tensors are not worth two operations


def compact_weights(model: bytes) -> bytes:
    """The same graph with its large weights stored as int16; all computing stays float32.

    A weight w of output channel c is stored as round(w / s), s = max |w of c| / 32767, so its
    error is at most s / 2: about an eighth of that of float16, which spends five of its bits on an
    exponent. Cast and Mul restore the float32 values; engines fold them when they open the graph,
    so prediction costs nothing.

    Args:
        model: Bytes of an ONNX file whose weights lie inside it.

    Returns:
        Bytes of the compact file.
    """
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    kept, restored = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < _SMALLEST or values.ndim < 2:
            kept.append(tensor)
            continue
        name, (codes, scale) = tensor.name, _codes(values)
        kept += [
            numpy_helper.from_array(codes, f"{name}_int16"),
            numpy_helper.from_array(scale, f"{name}_scale"),
        ]
        restored += [
            helper.make_node("Cast", [f"{name}_int16"], [f"{name}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]),
        ]
    nodes = [*restored, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def _codes(values: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Integers, and the scale of each output channel, shaped to be multiplied."""
    axes = tuple(range(1, values.ndim))
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale = (np.maximum(largest, np.finfo(np.float32).tiny) / 32767).astype(np.float32)
    return np.rint(values / scale).astype(np.int16), scale
