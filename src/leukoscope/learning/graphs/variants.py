"""Exported graphs made into one, quantised to int8, or stored in half the bytes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.learning.backbones import Network
from leukoscope.learning.graphs.export import BATCH, network_logits

SMALLEST = 1e-30  # of a probability before its logarithm, which must stay finite
CALIBRATION_IMAGES = 64
_BATCH = 16
_SMALLEST = 2**16  # bytes; smaller tensors are not worth two operations


def merge_members(graphs: Sequence[bytes]) -> bytes:
    """One ONNX graph that runs every member on the same image and averages what they say.

    ``logits`` (N, K) are the logarithms of the mean of the members' probabilities (soft voting;
    Lakshminarayanan et al. 2017, section 2.4), ``features`` (N, D) and ``maps`` (N, K, h, w) the
    means of theirs. ``maps`` is left out unless every member has it. Equal tensors are kept once,
    so that an engine finds what all members compute alike (frozen blocks) and does it once.

    Args:
        graphs: One or more graphs of :func:`leukoscope.learning.graphs.export.onnx_bytes`, alike in
            preprocessing, classes and the shapes of what they give.

    Raises:
        BundleError: The members are not alike.
    """
    if len(graphs) == 1:
        return graphs[0]
    import onnx
    from onnx import compose, helper

    models = [onnx.load_from_string(graph) for graph in graphs]
    _check_alike(models)
    first = models[0]
    outputs = [
        output
        for output in first.graph.output
        if all(output.name in {o.name for o in model.graph.output} for model in models)
    ]
    nodes, functions = [], []
    tensors: dict[bytes, onnx.TensorProto] = {}
    for number, model in enumerate(models):
        part = compose.add_prefix(model, f"member{number}/", rename_inputs=False)
        same = _known_tensors(part.graph.initializer, tensors)
        for node in part.graph.node:
            node.input[:] = [same.get(name, name) for name in node.input]
        nodes += part.graph.node
        functions += part.functions

    for output in outputs:
        nodes += _mean_nodes(output.name, len(models))
    smallest = helper.make_tensor("smallest", onnx.TensorProto.FLOAT, [], [SMALLEST])
    initializers = [*tensors.values(), smallest]
    graph = helper.make_graph(nodes, "members", first.graph.input, outputs, initializers)
    merged = helper.make_model(
        graph,
        opset_imports=first.opset_import,
        ir_version=first.ir_version,
        producer_name=first.producer_name,
        functions=functions,
    )
    merged.metadata_props.extend(first.metadata_props)
    return bytes(merged.SerializeToString())


def _mean_nodes(output: str, members: int) -> list[object]:
    """Nodes that average one output over the members: logits by their probabilities."""
    from onnx import helper

    given = [f"member{number}/{output}" for number in range(members)]
    if output != "logits":
        return [helper.make_node("Mean", given, [output])]
    probs = [f"member{number}/probabilities" for number in range(members)]
    return [
        *(
            helper.make_node("Softmax", [a], [b], axis=-1)
            for a, b in zip(given, probs, strict=True)
        ),
        helper.make_node("Mean", probs, ["mean_probability"]),
        helper.make_node("Max", ["mean_probability", "smallest"], ["positive"]),
        helper.make_node("Log", ["positive"], ["logits"]),
    ]


def mean_logits(
    networks: Sequence[Network], images: NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.float32]:
    """What torch computes for the same: (n, K) of (n, S, S, 3) uint8 RGB, preprocessed."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    found = [np.concatenate([network_logits(n, part, spec) for part in parts]) for n in networks]
    if len(found) == 1:
        return found[0]
    mean = np.mean([softmax(logits) for logits in found], axis=0)
    return np.asarray(np.log(np.maximum(mean, SMALLEST)), np.float32)


def _known_tensors(
    found: Sequence[onnx.TensorProto], tensors: dict[bytes, onnx.TensorProto]
) -> dict[str, str]:
    """Name of each tensor → name of the one to use; tensors not met before are added."""
    names = {}
    for tensor in found:
        name = tensor.name
        tensor.ClearField("name")
        content = tensor.SerializeToString()
        tensor.name = name
        names[name] = tensors.setdefault(content, tensor).name
    return names


def _check_alike(models: Sequence[onnx.ModelProto]) -> None:
    def described(model: onnx.ModelProto) -> dict[str, object]:
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }
        versions = sorted((entry.domain, entry.version) for entry in model.opset_import)
        classes = [entry.value for entry in model.metadata_props if entry.key == "class_names"]
        return {"shapes": shapes, "operators": versions, "classes": classes}

    expected = described(models[0])
    for number, model in enumerate(models):
        found = described(model)
        for what, value in expected.items():
            if found[what] != value:
                raise BundleError(
                    f"member {number} of the ensemble: expected {what} {value}, like the first "
                    f"member, found {found[what]}",
                    hint="only members of one recipe can be packed as one bundle",
                )


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
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to pre-process a graph that was
    try:
        return _quantised(model, images)
    except Exception as error:  # the library raises bare errors of many kinds
        detail = " ".join(str(error).split())[:300]
        raise BundleError(
            f"the graph cannot be quantised to int8: {type(error).__name__}: {detail}",
            hint="export it without --int8",
        ) from None
    finally:
        root.setLevel(level)


def _quantised(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """The graph after ONNX Runtime's static quantisation with ranges from ``images``."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.uint8]] = iter(
                [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
            )

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

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


def _left_out(path: Path) -> list[str]:
    """Names of the first convolution and of the depthwise ones."""
    import onnx

    nodes = [node for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"]
    grouped = [n for n in nodes if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    return [node.name for node in (*nodes[:1], *grouped)]


def compact_weights(model: bytes) -> bytes:
    """The same graph with its large weights stored as int16; all computing stays float32.

    A weight w of output channel c is stored as round(w / s), s = max |w of c| / 32767, so its
    error is at most s / 2: about an eighth of that of float16, which spends five of its bits on an
    exponent. Cast and Mul restore the float32 values; engines fold them when they open the graph,
    so prediction costs nothing.

    Args:
        model: Bytes of an ONNX file whose weights lie inside it.
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
