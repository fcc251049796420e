"""Traced graphs without their weights, kept from process to process.

Tracing a network takes seconds, and the networks of a study differ in their numbers alone. What is
kept is the graph as it was traced; the numbers of the network at hand are put into it when it is
used, so that a kept graph and a new one give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import onnx
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from leukoscope.core.files import sha256_bytes, sha256_json, write_bytes
from leukoscope.core.user_cache import user_cache
from leukoscope.learning.weights import tensors_sha256

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


def filled_trace(
    module: nn.Module, asked: Mapping[str, Any], trace: Callable[[], onnx.ModelProto]
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


def _structure(module: nn.Module) -> dict[str, Any]:
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


def _settings(part: nn.Module) -> dict[str, Any]:
    """A layer's own attributes: strides, rates, places, functions; not what it was drawn by."""
    return {
        name: _text_of(value)
        for name, value in sorted(vars(part).items())
        if name not in _OF_EVERY_MODULE and name not in _ORIGIN
    }


def _text_of(value: object) -> Any:
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
