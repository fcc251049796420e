"""An ONNX classifier that was not made here: what goes in, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import Triple
from leukoscope.core.errors import DataError, UsageError
from leukoscope.evaluation.softmax import softmax

Layout = Literal["auto", "nchw", "nhwc"]
BATCH = 16
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ForeignModel:
    """An opened ONNX classifier.

    Attributes:
        path: Its file.
        class_names: Meaning of its outputs, in their order.
        size_px: Height and width of its input.
        layout: ``nchw`` or ``nhwc``.
        dtype: Of its input; uint8 takes pixels as they are.
        batch: Images in one pass; 0 where the graph leaves it open.
        mean: Subtracted from pixels of 0 to 1.
        std: Then divided by.
        output: Name of the output that is read.
        session: Of ONNX Runtime.
    """

    path: Path
    class_names: tuple[str, ...]
    size_px: int
    layout: Layout
    dtype: type
    batch: int
    mean: Triple
    std: Triple
    output: str
    session: Any

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, K) float64 probabilities of (n, S, S, 3) uint8 RGB images.

        Rows that sum to 1 are taken as they are, others go through a softmax; one number a row,
        for two classes, is the probability or the logit of the second.
        """
        step = self.batch or BATCH
        parts = []
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            lacking = self.batch - len(chunk) if self.batch else 0
            fed = np.concatenate([chunk, np.repeat(chunk[-1:], max(0, lacking), axis=0)])
            name = self.session.get_inputs()[0].name
            out = np.asarray(self.session.run([self.output], {name: self._tensor(fed)})[0])
            parts.append(self._checked(out, len(fed))[: len(chunk)])
        return _as_probabilities(np.concatenate(parts))

    def _tensor(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        values: NDArray[Any] = images
        if self.dtype is not np.uint8:
            scaled = images.astype(np.float32) / np.float32(255)
            values = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if self.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values.astype(self.dtype))

    def _checked(self, out: NDArray[Any], n: int) -> NDArray[np.float64]:
        values = out.reshape(n, -1).astype(np.float64) if out.size % n == 0 else np.empty((0, 0))
        wanted = len(self.class_names)
        if values.shape[1] != wanted and not (values.shape[1] == 1 and wanted == 2):
            raise DataError(
                f"{self.path}: expected {wanted} outputs an image, one for each of "
                f"{', '.join(self.class_names)}, got {self.output} of shape {out.shape} for {n} "
                "images",
                hint="name the classes in the order of the outputs with --classes",
            )
        if not np.isfinite(values).all():
            raise DataError(
                f"{self.path}: {self.output} holds values that are no finite numbers",
                hint="check --mean, --std and --layout",
            )
        return values


def open_foreign_model(
    path: Path,
    class_names: Sequence[str],
    *,
    size_px: int | None = None,
    layout: str = "auto",
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    output: str | None = None,
) -> ForeignModel:
    """Open an ONNX classifier, and say what does not fit.

    Args:
        path: The file; weights inside it, or where it says.
        class_names: Classes in the order of its outputs.
        size_px: Height and width, where the graph leaves them open.
        layout: ``nchw`` for (N, 3, S, S), ``nhwc`` for (N, S, S, 3), ``auto`` reads the graph.
        mean: Per channel (RGB), for pixels of 0 to 1.
        std: Likewise.
        output: Which output; default: ``logits`` or the first that has two dimensions.

    Raises:
        DataError: It cannot be opened, or its input or outputs are of another kind.
        UsageError: A size is needed, or contradicts the graph.
    """
    if not all(value > 0 for value in std):
        raise UsageError(f"--std: expected three numbers above 0, got {std}")
    session = _open(path)
    inputs = session.get_inputs()
    shape, kind = tuple(inputs[0].shape), inputs[0].type
    found = ", ".join(f"{i.name} {_shown(i.shape)} {i.type}" for i in inputs)
    expected = f"{path}: expected one input of shape (N, 3, S, S) or (N, S, S, 3), found {found}"
    if len(inputs) != 1 or len(shape) != 4 or kind not in _TYPES:
        raise DataError(expected, hint=f"types that are understood: {', '.join(_TYPES)}")
    order = _layout(layout, shape, expected)
    sides = shape[2:] if order == "nchw" else shape[1:3]
    size = _size(path, sides, size_px, expected)
    return ForeignModel(
        path=path,
        class_names=tuple(class_names),
        size_px=size,
        layout=order,
        dtype=_TYPES[kind],
        batch=shape[0] if isinstance(shape[0], int) else 0,
        mean=mean,
        std=std,
        output=_output(path, session.get_outputs(), output),
        session=session,
    )


def _open(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise DataError(f"{path}: this file is missing")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises kinds of its own
        detail = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path}: expected an ONNX graph, but: {detail}",
            hint="export the model as ONNX; predictions alone go with --predictions FILE.csv",
        ) from None


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(size) if isinstance(size, int) else '?' for size in shape)})"


def _layout(asked: str, shape: tuple[Any, ...], expected: str) -> Layout:
    if asked not in ("auto", "nchw", "nhwc"):
        raise UsageError(f"--layout: expected auto, nchw or nhwc, got {asked!r}")
    fits = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] == 3]
    open_ = not any(isinstance(size, int) and size > 1 for size in (shape[1], shape[3]))
    if asked != "auto" and (asked in fits or open_):
        return asked  # type: ignore[return-value]
    if asked == "auto" and len(fits) == 1:
        return fits[0]  # type: ignore[return-value]
    raise DataError(expected, hint="say --layout nchw or nhwc where the graph leaves it open")


def _size(path: Path, sides: tuple[Any, ...], asked: int | None, expected: str) -> int:
    fixed = {side for side in sides if isinstance(side, int)}
    if len(fixed) > 1:
        raise DataError(expected, hint="only square inputs are understood")
    if not fixed and asked is None:
        raise UsageError(f"{path}: the graph leaves its input size open", hint="say --size 224")
    size = asked or fixed.pop()
    if fixed and size not in fixed:
        raise UsageError(f"{path}: expected --size {fixed.pop()}, as the graph says, got {asked}")
    return size


def _output(path: Path, outputs: Sequence[Any], asked: str | None) -> str:
    names = [out.name for out in outputs]
    found = ", ".join(f"{out.name} {_shown(out.shape)}" for out in outputs)
    if asked is not None:
        if asked not in names:
            raise UsageError(f"{path}: expected --output to be one of {found}, got {asked!r}")
        return asked
    flat = [out.name for out in outputs if len(out.shape) == 2]
    if not flat:
        raise DataError(f"{path}: expected an output of shape (N, classes), found {found}")
    return "logits" if "logits" in flat else str(flat[0])


def _as_probabilities(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from what a classifier gives: those, logits, or one number for two classes."""
    inside = bool(((values >= 0) & (values <= 1)).all())
    if values.shape[1] == 1:
        second = values if inside else 1 / (1 + np.exp(-np.clip(values, -700, 700)))
        return np.concatenate([1 - second, second], axis=1)
    totals = values.sum(axis=1, keepdims=True)
    if inside and (abs(totals - 1) < _SUM_TOLERANCE).all():
        return np.asarray(values / totals)
    return softmax(values)
