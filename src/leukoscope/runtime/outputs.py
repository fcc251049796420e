"""Predictions as CSV, JSON lines or Parquet, written as they come, in constant memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from leukoscope.core.errors import MissingExtraError, UnknownNameError
from leukoscope.core.files import csv_writer, named_fault
from leukoscope.runtime.output_fields import OF_CLASS, OutputField, column_names
from leukoscope.runtime.prediction import (
    FAILURE_FIELDS,
    PREDICTION_FIELDS,
    Failure,
    Prediction,
)

FORMATS = (".csv", ".jsonl", ".parquet")
ROW_GROUP = 1024  # rows of a Parquet file that are held until they are written together
SEPARATOR = "|"  # between the members of a list in one CSV cell
ROW = OutputField[Any]("row", int, lambda _: None)
"""Number of an image in a run, from 0."""
BOX = tuple(OutputField[Any](name, int, lambda _: None) for name in ("x", "y", "width", "height"))
"""Place of a part in its image, in pixels."""
_ALL: tuple[OutputField[Any], ...] = (*FAILURE_FIELDS, *PREDICTION_FIELDS, ROW, *BOX)
_FIELDS = {field.name: field for field in _ALL}


def output_columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """The columns of the output, in order."""
    return column_names((*PREDICTION_FIELDS, *FAILURE_FIELDS), class_names)


class PredictionWriter:
    """Writes one row per image; an image that could not be read has ``error`` filled.

    In CSV a list is joined by ``|``, ``quality`` and ``tiles`` are JSON objects; an unknown value
    is empty. JSON lines hold the same names with lists, objects and null; Parquet holds lists and
    null, and the two objects as JSON.

    Rows go to ``<name>.partial``; :meth:`close` gives the file its name. So a file of that name is
    always whole. What a killed run had done is not lost in CSV and JSON lines, whose rows are on
    disk as soon as they are written; a Parquet file cannot be read without its end.

    Args:
        path: Ends in ``.csv``, ``.jsonl`` or ``.parquet``.
        class_names: Of the bundle.
        further: Columns beside those of :func:`output_columns`: of :data:`ROW`, :data:`BOX`, the
            fields that are no columns by default, or texts.
        partial: Where rows go until then, in place of ``<name>.partial``.

    Raises:
        UnknownNameError: Another suffix.
        MissingExtraError: Parquet without pyarrow.
    """

    def __init__(
        self,
        path: Path,
        class_names: Sequence[str],
        further: Sequence[str] = (),
        *,
        partial: Path | None = None,
    ) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in FORMATS:
            raise UnknownNameError("output format", suffix, FORMATS)
        self.columns = (*output_columns(class_names), *further)
        self.rows = 0
        self.partial = partial or self.path.with_name(f"{self.path.name}.partial")
        if suffix == ".parquet" and find_spec("pyarrow") is None:
            raise MissingExtraError("writing Parquet", "parquet")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        opened = {".csv": _open_csv, ".jsonl": _open_lines, ".parquet": _open_parquet}[suffix]
        self._write, self._close = opened(self.partial, self.columns)

    def write(self, answer: Prediction | Failure, **further: object) -> None:
        """Add one row; ``further`` fills the further columns, or others in place of the answer."""
        values = answer.as_dict() | further
        with named_fault(self.path):
            self._write({name: values.get(name) for name in self.columns})
        self.rows += 1

    def close(self) -> None:
        """Finish: the file gets its name."""
        self.finish()
        self.partial.replace(self.path)

    def finish(self) -> None:
        """Write no more: the rows so far stay in the partial file."""
        with named_fault(self.path):
            self._close()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.finish()


_Row = dict[str, Any]
_Opened = tuple[Callable[[_Row], object], Callable[[], None]]  # to write a row, to close


def _text_file(path: Path) -> Any:
    # A file name that is no UTF-8 reaches Python as lone surrogates: they are spelled out.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1)


def _open_csv(path: Path, columns: Sequence[str]) -> _Opened:
    file = _text_file(path)
    return _csv_rows(file, columns), file.close


def _csv_rows(file: TextIO, columns: Sequence[str]) -> Callable[[_Row], object]:
    """Write the header; gives what writes a row."""
    write = csv_writer(file, columns)
    return lambda row: write(csv_cells({name: row.get(name) for name in columns}))


def csv_text(answers: Iterable[Prediction | Failure], class_names: Sequence[str]) -> str:
    """The CSV of :class:`PredictionWriter` as text."""
    file = io.StringIO()
    write = _csv_rows(file, output_columns(class_names))
    for answer in answers:
        write(answer.as_dict())
    return file.getvalue()


def _open_lines(path: Path, _: Sequence[str]) -> _Opened:
    file = _text_file(path)
    return (
        lambda row: file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"),
        file.close,
    )


def _open_parquet(path: Path, columns: Sequence[str]) -> _Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[object, Any] = {
        list[str]: pa.list_(pa.string()),
        int: pa.int64(),
        float: pa.float64(),
        float | None: pa.float64(),
    }

    def kind(name: str) -> Any:
        field = _FIELDS.get(name) or (_FIELDS[OF_CLASS] if name.startswith("p_") else None)
        return types.get(field and field.kind, pa.string())

    schema = pa.schema([(name, kind(name)) for name in columns])
    writer = pq.ParquetWriter(path, schema)
    rows: list[_Row] = []

    def flush() -> None:
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

    def write(row: _Row) -> None:
        rows.append({name: _for_parquet(value) for name, value in row.items()})
        if len(rows) >= ROW_GROUP:
            flush()

    def close() -> None:
        flush()
        writer.close()

    return write, close


def _for_parquet(value: object) -> object:
    if isinstance(value, dict) or (
        isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        return json.dumps(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def csv_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as CSV holds them: a list joined by ``|``, an object as JSON, nothing for null."""

    def cell(value: object) -> object:
        if value is None:
            return ""
        if isinstance(value, list):
            return SEPARATOR.join(v if isinstance(v, str) else json.dumps(v) for v in value)
        return json.dumps(value) if isinstance(value, dict) else value

    return {name: cell(value) for name, value in row.items()}
