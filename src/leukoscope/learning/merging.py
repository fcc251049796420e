"""Several exported networks as one graph: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError
from leukoscope.evaluation.softmax import softmax
from leukoscope.learning.backbones import Network
from leukoscope.learning.export import network_logits

SMALLEST = 1e-30  # of a probability before its logarithm, which must stay finite


def merge_members(graphs: Sequence[bytes]) -> bytes:
    """One ONNX graph that runs every member on the same image and averages what they say.

    ``logits`` (N, K) are the logarithms of the mean of the members' probabilities (soft voting;
    Lakshminarayanan et al. 2017, section 2.4), ``features`` (N, D) and ``maps`` (N, K, h, w) the
    means of theirs. ``maps`` is left out unless every member has it. Equal tensors are kept once,
    so that an engine finds what all members compute alike (frozen blocks) and does it once.

    Args:
        graphs: One or more graphs of :func:`leukoscope.learning.export.onnx_bytes`, alike in
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
    tensors: dict[bytes, Any] = {}
    for number, model in enumerate(models):
        part = compose.add_prefix(model, f"member{number}/", rename_inputs=False)
        same = _known_tensors(part.graph.initializer, tensors)
        for node in part.graph.node:
            node.input[:] = [same.get(name, name) for name in node.input]
        nodes += part.graph.node
        functions += part.functions

    def of_members(name: str) -> list[str]:
        return [f"member{number}/{name}" for number in range(len(models))]

    for output in outputs:
        members = of_members(output.name)
        if output.name != "logits":
            nodes.append(helper.make_node("Mean", members, [output.name]))
            continue
        probs = of_members("probabilities")
        nodes += [
            helper.make_node("Softmax", [a], [b], axis=-1)
            for a, b in zip(members, probs, strict=True)
        ]
        nodes += [
            helper.make_node("Mean", probs, ["mean_probability"]),
            helper.make_node("Max", ["mean_probability", "smallest"], ["positive"]),
            helper.make_node("Log", ["positive"], ["logits"]),
        ]
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


def mean_logits(
    networks: Sequence[Network], images: NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.float32]:
    """What torch computes for the same: (n, K) of (n, S, S, 3) uint8 RGB, preprocessed."""
    found = [network_logits(network, images, spec) for network in networks]
    if len(found) == 1:
        return found[0]
    mean = np.mean([softmax(logits) for logits in found], axis=0)
    return np.asarray(np.log(np.maximum(mean, SMALLEST)), np.float32)


def _known_tensors(found: Sequence[Any], tensors: dict[bytes, Any]) -> dict[str, str]:
    """Name of each tensor → name of the one to use; tensors not met before are added."""
    names = {}
    for tensor in found:
        name = tensor.name
        tensor.ClearField("name")
        content = tensor.SerializeToString()
        tensor.name = name
        names[name] = tensors.setdefault(content, tensor).name
    return names


def _check_alike(models: Sequence[Any]) -> None:
    def described(model: Any) -> dict[str, Any]:
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
