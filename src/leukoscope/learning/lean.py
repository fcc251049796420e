"""timm, torchvision and torch without what they import and nothing here uses.

torchvision imports torch's compiler for one function, timm looks whether W&B is there for its
training script: together most of the seconds that both take. Nothing here compiles a network; who
imports the compiler after all, as torch's optimisers do, gets the real one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

_COMPILER = "torch._dynamo"
_UTILS = f"{_COMPILER}.utils"


class _Later(ModuleType):
    """Stands in for a module; the real one is imported when anything else of it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(import_module(self.__name__), name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Of torch's compiler, decorators that tell it to leave a function alone need nothing."""
    if _COMPILER in sys.modules:
        yield
        return
    compiler, utils = _Later(_COMPILER), _Later(_UTILS)
    vars(compiler).update(__path__=[], disable=_left_alone, utils=utils)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules |= {_COMPILER: compiler, _UTILS: utils}
    try:
        yield
    finally:
        _remove_stand_ins()


def _remove_stand_ins() -> None:
    for name in (_COMPILER, _UTILS):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


def _left_alone(function: Callable[..., object] | None = None, *_: object, **__: object) -> object:
    """What ``torch.compiler.disable`` makes of a function that nothing compiles: the same."""
    return function if function is not None else _left_alone


def _is_compile_supported(device: str) -> object:
    """The function that torchvision imports and asks for some operations on a GPU."""
    return import_module(_UTILS).is_compile_supported(device)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Who imports the module meanwhile finds that it is not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without_triton() -> Iterator[None]:
    """Torch finds no compiler for GPUs meanwhile, unless there is one to compile for.

    Tracing and counting operations import it in passing, and it complains of what the process did
    not collect at its end.
    """
    log = logging.getLogger("torch.utils.flop_counter")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells that Triton's own operations would not be counted
    try:
        with nullcontext() if torch.cuda.is_available() else _without("triton"):
            yield
    finally:
        log.setLevel(level)


class TimmNetwork(Protocol):
    """What every network of timm has, beside what torch says of a module."""

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map or tokens."""

    def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor:
        """Pooled features, or logits."""

    def prune_intermediate_layers(
        self, indices: list[int], *, prune_norm: bool, prune_head: bool
    ) -> object:
        """Cut off what comes after the last of the blocks."""

    def reset_classifier(self, num_classes: int, global_pool: str) -> object:
        """Another head; none for 0 classes."""


def import_timm() -> ModuleType:
    """The module ``timm``; it builds a list of all its networks, which takes a second."""
    with _without_compiler(), _without("wandb"):
        return import_module("timm")


with _without_compiler():
    import torchvision as torchvision
    from torchvision.transforms import v2 as v2
