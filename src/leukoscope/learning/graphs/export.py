"""From a torch network to an ONNX graph that takes bytes and needs nothing else.

Tracing a network takes seconds, and the networks of a study differ in their numbers alone. The
graph is kept as it was traced, from process to process; the numbers of the network at hand are put
into it when it is used, so that a kept graph and a new one give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError
from leukoscope.core.files import sha256_bytes, sha256_json, write_bytes
from leukoscope.core.user_cache import user_cache
from leukoscope.learning.backbones import Network, ToInput, evaluating
from leukoscope.learning.lean import without_triton
from leukoscope.learning.weights import tensors_sha256

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession


LIMIT_BYTES = 32 * 2**20
_TRACERS = ("torch", "timm", "onnx", "onnx-ir", "onnxscript")
_NUMBERS = (bool, int, float, str)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Parameters, children, hooks: described otherwise, or no part of a graph."""
_ORIGIN = frozenset({"seed", "weights_record", "exported"})
"""What says where the numbers of a network come from, and the graph it was exported to."""
_IN_MEMORY = 3  # a study goes back and forth between no more networks
_DIGEST = 64
_recent: OrderedDict[str, bytes] = OrderedDict()
"""The last graphs that were asked for, by their keys."""

OPSET = 18
BATCH = 1
"""Images of one pass in one thread. What an image leaves between two layers then stays in the
cache of a core: four images at a time take longer, for the same features. An engine also keeps the
memory of its largest pass."""


def filled_trace(
    module: nn.Module, asked: Mapping[str, object], trace: Callable[[], onnx.ModelProto]
) -> onnx.ModelProto:
    """The traced graph of a module, with the module's tensors in it.

    Nothing is kept of a module with a layer that cannot be described by text.

    Args:
        asked: What else the graph depends on, as JSON: sizes, names of outputs, opset.
        trace: Makes the graph where none is kept; its tensors have the names of the module's.
    """
    try:
        structure = _structure(module)
    except _UnknownError:
        return trace()
    key = sha256_json({"asked": asked, "made by": _makers(), "module": structure})
    tensors = module.state_dict()
    empty = _recent.pop(key, None) or _read(key)
    if empty is None:
        empty = _without(tensors, trace())
        _write(key, empty)
    _recent[key] = empty
    while len(_recent) > _IN_MEMORY:
        _recent.popitem(last=False)
    proto = onnx.load_from_string(empty)
    for value in proto.graph.initializer:
        if value.name in tensors:
            flat = tensors[value.name].detach().cpu().reshape(-1)
            value.raw_data = flat.view(torch.uint8).numpy().tobytes()
    return proto


def _without(tensors: Mapping[str, Tensor], proto: onnx.ModelProto) -> bytes:
    """The graph as bytes, the numbers of these tensors left out."""
    for value in proto.graph.initializer:
        if value.name in tensors:
            value.ClearField("raw_data")
    return bytes(proto.SerializeToString())


class _UnknownError(Exception):
    """A layer holds something of which nobody can say whether its graph depends on it."""


def _structure(module: nn.Module) -> dict[str, object]:
    """All of a module that its graph depends on but the numbers that are put into it later.

    Raises:
        _UnknownError: A layer has an attribute that cannot be told from another by its text.
    """
    filled = module.state_dict()
    layers = {name: [_name(type(part)), _settings(part)] for name, part in module.named_modules()}
    shapes = {name: [str(value.dtype), *value.shape] for name, value in filled.items()}
    fixed = {
        name: value
        for name, value in chain(module.named_parameters(), module.named_buffers())
        if name not in filled
    }
    return {"layers": layers, "shapes": shapes, "constants": tensors_sha256(fixed)}


def _settings(part: nn.Module) -> dict[str, object]:
    """A layer's own attributes: strides, rates, places, functions; not what it was drawn by."""
    return {
        name: _text_of(value)
        for name, value in sorted(vars(part).items())
        if name not in _OF_EVERY_MODULE and name not in _ORIGIN
    }


def _text_of(value: object) -> object:
    """Plain values as they are, functions and classes by name."""
    if value is None or isinstance(value, _NUMBERS):
        return value
    if isinstance(value, (tuple, list)):
        return [_text_of(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _text_of(part) for name, part in value.items()}
    if isinstance(value, partial):
        return [_text_of(part) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return _name(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    raise _UnknownError


def _name(kind: type | FunctionType | BuiltinFunctionType) -> str:
    """Where a class or a function stands; a function without a name could be any."""
    if "<" in kind.__qualname__:
        raise _UnknownError
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _makers() -> list[str]:
    """Versions of the libraries that trace, and a hash of the code here that is traced."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        own.update(path.read_bytes())
    return [*(f"{name} {version(name)}" for name in _TRACERS), own.hexdigest()]


def _read(key: str) -> bytes | None:
    """A graph from the user's cache; a file that was damaged counts as none."""
    folder = user_cache("graphs")
    if folder is None:
        return None
    path = folder / key
    with suppress(OSError):
        content = path.read_bytes()
        if content[:_DIGEST] == sha256_bytes(content[_DIGEST:]).encode():
            path.touch()  # the oldest are deleted first
            return content[_DIGEST:]
    return None


def _write(key: str, graph: bytes) -> None:
    """Put a graph into the user's cache, if there is a place for it."""
    folder = user_cache("graphs")
    if folder is None:
        return
    with suppress(OSError):
        write_bytes(folder / key, sha256_bytes(graph).encode() + graph)
        _delete_oldest(folder)


def _delete_oldest(folder: Path) -> None:
    """Keep the graphs that were used last, :data:`LIMIT_BYTES` of them."""
    room = LIMIT_BYTES
    for path, size in _newest_first(folder):
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> Sequence[tuple[Path, int]]:
    def found() -> Iterator[tuple[float, Path, int]]:
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another process deleted it
                stat = path.stat()
                yield stat.st_mtime, path, stat.st_size

    return [(path, size) for _, path, size in sorted(found(), reverse=True)]


class _Graph(nn.Module):
    """What is exported: normalisation, network, class maps."""

    def __init__(self, network: Network, spec: PreprocessSpec) -> None:
        super().__init__()
        self.to_input = ToInput(spec)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        grid, features = self.network.map_and_average(self.to_input(image))
        logits = self.network.logits_of(features)
        if self.network.has_class_maps:
            return logits, features, self.network.class_maps(grid)
        if self.network.has_gradient_maps:
            return logits, features, self.network.gradient_maps(grid)
        return logits, features


def onnx_bytes(network: Network, spec: PreprocessSpec, class_names: Sequence[str] = ()) -> bytes:
    """A network as one ONNX file, weights and normalisation inside; kept until its tensors change.

    Input ``image`` (N, S, S, 3) uint8 RGB with any N; outputs ``logits`` (N, K), ``features``
    (N, D), and, where the head is linear on globally averaged features (a batch norm before it is
    folded in), ``maps`` (N, K, h, w): class activation maps (Zhou et al. 2016, eq. 2), whose ReLU
    is Grad-CAM up to a positive factor (Selvaraju et al. 2017, section 3.1). With hidden layers
    between, ``maps`` are Grad-CAM before its ReLU, the gradient written out. All float32. Where
    the recipe looks at several views, logits and features are those over the views, and the maps
    are of the image as it is.

    Args:
        spec: Its preprocessing; steps and resize stay outside the graph.
        class_names: Kept in the file's metadata, in the order of the logits.

    Raises:
        BundleError: The network cannot be exported.
    """
    named = {
        "spec": spec.model_dump(mode="json"),
        "model": network.config.model_dump(mode="json"),
        "opset": OPSET,
    }
    tensors = tensors_sha256(network.state_dict())
    key = sha256_json({**named, "classes": list(class_names), "tensors": tensors})
    if network.exported[0] != key:
        gives_maps = network.has_class_maps or network.has_gradient_maps
        outputs = ["logits", "features", *(["maps"] if gives_maps else [])]
        with evaluating(network):
            proto = _export(_Graph(network, spec), outputs, named)
        proto.producer_name = "leukoscope"
        entry = proto.metadata_props.add()
        entry.key, entry.value = "class_names", json.dumps(list(class_names))
        network.exported = (key, bytes(proto.SerializeToString()))
    return network.exported[1]


def part_bytes(part: nn.Module, spec: PreprocessSpec, name: str, backbone: str) -> bytes:
    """A part of a network, in evaluation mode, as an ONNX graph of bytes in and one output.

    Args:
        part: Takes normalised images (N, 3, S, S) float32.

    Raises:
        BundleError: The part cannot be exported.
    """
    graph = nn.Sequential(ToInput(spec), part).eval()
    named = {"spec": spec.model_dump(mode="json"), "model": {"backbone": backbone}, "opset": OPSET}
    return bytes(_export(graph, [name], named).SerializeToString())


def _export(module: nn.Module, outputs: Sequence[str], named: Mapping[str, Any]) -> onnx.ModelProto:
    """The ONNX model of a module that takes (N, S, S, 3) uint8.

    Constants are computed, and norms are in the layers before them.

    Args:
        named: ``spec``, ``model`` and ``opset``, as JSON.
    """
    from onnxscript import ir

    seen = {"size_px": named["spec"]["size_px"]}  # the module holds mean and spread itself
    with _quiet():
        proto = filled_trace(
            module,
            {**named, "spec": seen, "outputs": outputs},
            lambda: _traced(module, outputs, named),
        )
        program = torch.onnx.ONNXProgram(ir.serde.deserialize_model(proto), None)
        program.optimize()
        return _without_origin(program.model_proto)


def _traced(module: nn.Module, outputs: Sequence[str], named: Mapping[str, Any]) -> onnx.ModelProto:
    """The ONNX graph of a module as it is traced, its tensors as they are."""
    size_px = named["spec"]["size_px"]
    example = torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)
    with _out_of_place(module), without_triton():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_shapes=[{0: torch.export.Dim("n", min=1)}],
                opset_version=named["opset"],
                external_data=False,
                optimize=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise BundleError(
                f"{named['model']['backbone']} cannot be written as ONNX: {error}",
                hint="train it with another backbone to make a bundle",
            ) from error
    assert program is not None
    return _without_origin(program.model_proto)


def _without_origin(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes of where in whose source each node was made.

    They name folders of the machine, and equal networks would have different hashes.
    """
    for part in (proto.graph, *proto.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for entry in (*part.node, *part.value_info):
            entry.doc_string = ""
            del entry.metadata_props[:]
    for value in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    return proto


def open_session(model: bytes, threads: int = 1) -> InferenceSession:
    """An ONNX Runtime session on the CPU; one session may run in several threads at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def network_logits(
    network: Network, images: NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.float32]:
    """What torch computes: (n, K) of (n, S, S, 3) uint8 RGB, preprocessed."""
    with evaluating(network), torch.inference_mode():
        batch = ToInput(spec)(torch.from_numpy(np.ascontiguousarray(images)))
        return np.asarray(network.predict(batch).numpy(), np.float32)


@contextlib.contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """ReLU6 writes to a new tensor: taking apart what writes in place costs a third of the time."""
    layers = [m for m in module.modules() if isinstance(m, nn.ReLU6) and m.inplace]
    for layer in layers:
        layer.inplace = False
    try:
        yield
    finally:
        for layer in layers:
            layer.inplace = True


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The exporter prints steps, logs versions and warns of its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
