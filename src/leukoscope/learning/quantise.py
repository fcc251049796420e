"""Static quantisation of an ONNX graph to int8, with ranges from real images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import BundleError

CALIBRATION_IMAGES = 64
_BATCH = 16


def quantise(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """Quantise the dense convolutions of a graph, weights by channel; the rest stays in fp32.

    The first convolution and the depthwise ones are left out: OpenVINO's integer kernels for
    depthwise layers gave other classes for a third of the images (EfficientNet-Lite0, OpenVINO
    2026.4), and they do little of the work. Nor is the output of a convolution quantised before
    its activation has cut it, which would spend most of the 256 levels on what is cut.

    The graph holds pairs of QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime and
    OpenVINO both turn into integer kernels. The last layers stay in fp32: they cost next to
    nothing, and logits and maps would lose most by them. Ranges are the smallest and largest
    activations on ``images`` (Jacob et al. 2018, section 3.1).

    Args:
        model: Bytes of an ONNX file with the input ``image`` (N, S, S, 3) uint8.
        images: (n, S, S, 3) uint8 RGB, preprocessed; validation images, never test images.

    Raises:
        BundleError: The graph cannot be quantised.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.uint8]] = iter(
                [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
            )

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to pre-process a graph that was
    try:
        with tempfile.TemporaryDirectory() as name:
            given, ready, done = (Path(name) / f"{step}.onnx" for step in ("a", "b", "c"))
            given.write_bytes(model)
            quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
            q.quantize_static(
                str(ready),
                str(done),
                Reader(),
                quant_format=q.QuantFormat.QDQ,
                per_channel=True,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=_left_out(ready),
                extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
            )
            return done.read_bytes()
    except Exception as error:  # the library raises bare errors of many kinds
        detail = " ".join(str(error).split())[:300]
        raise BundleError(
            f"the graph cannot be quantised to int8: {type(error).__name__}: {detail}",
            hint="export it without --int8",
        ) from None
    finally:
        root.setLevel(level)


def _left_out(path: Path) -> list[str]:
    """Names of the first convolution and of the depthwise ones."""
    import onnx

    nodes = [node for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"]
    grouped = [n for n in nodes if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    return [node.name for node in (*nodes[:1], *grouped)]
