"""Models that were not made here: their predictions as CSV, or an ONNX classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import Triple
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.labels import match_class
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.tables import TableRow, read_rows
from leukoscope.core.views import plural
from leukoscope.datasets.layouts.rules import part_of
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.runtime.bounded_run import run_bounded

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

IMAGE_COLUMNS = ("sha256", "path", "file", "filename", "file_name", "image", "name", "image_id")
CLASS_COLUMNS = ("predicted", "prediction", "predicted_class", "y_pred", "pred")
SPLIT_COLUMNS = ("split", "part", "set", "subset")
PREFIXES = ("p_", "prob_", "probability_", "")
SHOWN = 5  # wrong rows that a message names
_TOLERANCE = 0.02  # probabilities were written with two digits
TensorLayout = Literal["auto", "nchw", "nhwc"]
BATCH = 16
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ForeignTable:
    """What the file says of the images of a data set.

    Attributes:
        image_id: One per row that was found in the data.
        probs: (n, K) float64; one where the class was named and no probability given.
        parts: Image id → ``train``, ``val``, ``test``; empty without such a column.
        has_probabilities: Whether the file gives them.
        notes: What was left out, in sentences.
    """

    image_id: tuple[str, ...]
    probs: NDArray[np.float64]
    parts: Mapping[str, str]
    has_probabilities: bool
    notes: tuple[str, ...]


def read_foreign_csv(
    path: Path, manifest: Manifest, class_map: Mapping[str, str] | None = None
) -> ForeignTable:
    """Read predictions, one row an image.

    The image stands in a column ``sha256``, ``path``, ``file``, ``filename``, ``image`` or
    ``name``: a SHA-256, a path, the end of a path, or a file name that is unique in the data. Its
    class stands in ``predicted``, ``prediction``, ``y_pred`` …, or follows from probabilities in
    ``p_<class>``, ``prob_<class>`` or ``<class>`` (all classes of the data, each row summing to
    1). ``split`` (``train``, ``val``, ``test`` and their usual synonyms) is optional.

    Raises:
        LayoutError: The file cannot be read.
        DataError: A column is missing, or rows are wrong: names them.
    """
    rows = read_rows(path, ())
    if not rows:
        raise DataError(f"{path}: expected a row for each image, found only the header")
    columns = list(rows[0][1])
    key = _one_of(path, columns, IMAGE_COLUMNS, "the image")
    names = manifest.class_names
    of_class = _probability_columns(columns, names, class_map)
    named = next((name for name in CLASS_COLUMNS if name in columns), None)
    if named is None and len(of_class) < len(names):
        raise DataError(
            f"{path}: expected the predicted class ({', '.join(CLASS_COLUMNS)}) or a probability "
            f"of each class ({', '.join('p_' + name for name in names)}), found "
            f"{', '.join(columns)}"
        )
    complete = len(of_class) == len(names)
    split = next((name for name in SPLIT_COLUMNS if name in columns), None)
    reader = _Reader(path, manifest, names, class_map)
    for row in rows:
        reader.add(row, key, of_class if complete else {}, named, split)
    return reader.table(complete)


def _one_of(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise DataError(
            f"{path}: expected a column that names {what} ({', '.join(known)}), found "
            f"{', '.join(columns)}"
        )
    return found


def _probability_columns(
    columns: Sequence[str], names: Sequence[str], class_map: Mapping[str, str] | None
) -> dict[str, str]:
    """Class → column."""
    found: dict[str, str] = {}
    taken = {*IMAGE_COLUMNS, *CLASS_COLUMNS, *SPLIT_COLUMNS}
    for prefix in PREFIXES:
        for column in columns:
            if column in taken or not column.startswith(prefix):
                continue
            name = match_class(column.removeprefix(prefix), names, class_map)
            if name is not None:
                found.setdefault(name, column)
    return found


class _Reader:
    """Collects good rows and the wrong ones, so that one message names several."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        names: Sequence[str],
        class_map: Mapping[str, str] | None,
    ) -> None:
        self.path, self.names, self.class_map = path, list(names), class_map
        self.by_key: dict[str, list[ImageRecord]] = {}
        for record in manifest.usable:
            for key in _keys(record):
                self.by_key.setdefault(key, []).append(record)
        self.total = len(manifest.usable)
        self.found: dict[str, tuple[int, list[float]]] = {}
        self.parts: dict[str, str] = {}
        self.wrong: list[str] = []
        self.unknown: list[str] = []

    def add(
        self,
        row: TableRow,
        key: str,
        of_class: Mapping[str, str],
        named: str | None,
        split: str | None,
    ) -> None:
        line, values = row
        record = self._image(line, values[key])
        if record is None:
            return
        if record.image_id in self.found:
            first = self.found[record.image_id][0]
            self.wrong.append(f"line {line}: {record.path} is in line {first} already")
            return
        probs = (
            self._probs(line, values, of_class) if of_class else self._named(line, values, named)
        )
        if probs is not None:
            self.found[record.image_id] = (line, probs)
        if split is not None:
            part = part_of(values[split])
            if part not in ("train", "val", "test"):
                self.wrong.append(
                    f"line {line}: {split} {values[split]!r} is none of train, val, test"
                )
            else:
                self.parts[record.image_id] = part

    def _image(self, line: int, text: str) -> ImageRecord | None:
        wanted = text.replace("\\", "/").strip().lower()
        while wanted:
            found = self.by_key.get(wanted, ())
            if len(found) == 1 or len({record.sha256 for record in found}) == 1:
                free = [r for r in found if r.image_id not in self.found]
                return (free or list(found))[0]
            if found:
                self.wrong.append(
                    f"line {line}: {text!r} could be {found[0].path} or {found[1].path}"
                )
                return None
            _, _, wanted = wanted.partition("/")  # a path that begins elsewhere
        self.unknown.append(text)
        return None

    def _probs(
        self, line: int, values: Mapping[str, str], of_class: Mapping[str, str]
    ) -> list[float] | None:
        try:
            probs = [float(values[of_class[name]]) for name in self.names]
        except ValueError:
            shown = ", ".join(values[of_class[name]] or "nothing" for name in self.names)
            self.wrong.append(f"line {line}: expected numbers, found {shown}")
            return None
        total = math.fsum(probs)
        if not all(0 <= p <= 1 for p in probs) or abs(total - 1) > _TOLERANCE:
            self.wrong.append(
                f"line {line}: expected probabilities that sum to 1, found a sum of {total:.3g}"
            )
            return None
        return [p / total for p in probs]

    def _named(self, line: int, values: Mapping[str, str], named: str | None) -> list[float] | None:
        text = values[named or ""]
        name = match_class(text, self.names, self.class_map)
        if name is None:
            self.wrong.append(f"line {line}: class {text!r} is none of {', '.join(self.names)}")
            return None
        return [float(other == name) for other in self.names]

    def table(self, complete: bool) -> ForeignTable:
        if self.wrong:
            more = f" and {len(self.wrong) - SHOWN} more" if len(self.wrong) > SHOWN else ""
            raise DataError(
                f"{self.path}: {len(self.wrong)} wrong rows: {'; '.join(self.wrong[:SHOWN])}{more}",
                hint="correct them; classes of other names are mapped with --class NAME=CLASS",
            )
        if not self.found:
            raise DataError(
                f"{self.path}: none of its rows names an image of the data, e.g. "
                f"{self.unknown[0]!r}",
                hint="give the path below the data's folder, the file name, or the SHA-256",
            )
        notes = []
        if self.unknown:
            notes.append(
                f"{plural(len(self.unknown), 'row')} without an image of the data left out, e.g. "
                f"{self.unknown[0]}."
            )
        if len(self.found) < self.total:
            notes.append(
                f"{self.total - len(self.found)} of {plural(self.total, 'image')} left out of the "
                "score, without a prediction."
            )
        return ForeignTable(
            tuple(self.found),
            np.array([probs for _, probs in self.found.values()]),
            self.parts,
            complete,
            tuple(notes),
        )


def _keys(record: ImageRecord) -> set[str]:
    """How a row may name an image: its hash, its path, or any end of its path."""
    parts = PurePosixPath(record.path.lower()).parts
    ends = {"/".join(parts[i:]) for i in range(len(parts))}
    return {record.sha256, record.image_id, *ends, PurePosixPath(parts[-1]).stem}


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
    layout: TensorLayout
    dtype: type
    batch: int
    mean: Triple
    std: Triple
    output: str
    session: InferenceSession

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
            try:
                found = run_bounded(self.session, [self.output], {name: self._tensor(fed)})
            except TimeoutError as error:
                raise DataError(f"{self.path}: this graph does not answer: {error}") from None
            out = np.asarray(found[0])
            parts.append(self._checked(out, len(fed))[: len(chunk)])
        return _as_probabilities(np.concatenate(parts))

    def _tensor(self, images: NDArray[np.uint8]) -> NDArray[np.generic]:
        values: NDArray[np.generic] = images
        if self.dtype is not np.uint8:
            scaled = images.astype(np.float32) / np.float32(255)
            values = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if self.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values.astype(self.dtype))

    def _checked(self, out: NDArray[np.generic], n: int) -> NDArray[np.float64]:
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
                hint="check --mean, --std and --tensor",
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
    if _TYPES[kind] is np.uint8 and (mean, std) != ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        raise UsageError(
            f"{path}: takes pixels of 0 to 255 and normalises them itself; --mean and --std would "
            "have no effect",
            hint="leave them out",
        )
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


def _open(path: Path) -> InferenceSession:
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


def _shown(shape: Sequence[object]) -> str:
    return f"({', '.join(str(size) if isinstance(size, int) else '?' for size in shape)})"


def _layout(asked: str, shape: tuple[object, ...], expected: str) -> TensorLayout:
    if asked not in ("auto", "nchw", "nhwc"):
        raise UsageError(f"--layout: expected auto, nchw or nhwc, got {asked!r}")
    fits = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] == 3]
    open_ = not any(isinstance(size, int) and size > 1 for size in (shape[1], shape[3]))
    if asked != "auto" and (asked in fits or open_):
        return asked  # type: ignore[return-value]
    if asked == "auto" and len(fits) == 1:
        return fits[0]  # type: ignore[return-value]
    raise DataError(expected, hint="say --layout nchw or nhwc where the graph leaves it open")


def _size(path: Path, sides: tuple[object, ...], asked: int | None, expected: str) -> int:
    fixed = {side for side in sides if isinstance(side, int)}
    if len(fixed) > 1:
        raise DataError(expected, hint="only square inputs are understood")
    if not fixed and asked is None:
        raise UsageError(f"{path}: the graph leaves its input size open", hint="say --size 224")
    size = asked or fixed.pop()
    if fixed and size not in fixed:
        raise UsageError(f"{path}: expected --size {fixed.pop()}, as the graph says, got {asked}")
    return size


def _output(path: Path, outputs: Sequence[NodeArg], asked: str | None) -> str:
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
