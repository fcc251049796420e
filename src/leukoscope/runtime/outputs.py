"""Predictions as CSV or JSON lines, written row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from leukoscope.core.errors import UnknownNameError
from leukoscope.runtime.prediction import Failure, Prediction

FORMATS = (".csv", ".jsonl")
SEPARATOR = "|"  # between the members of a list in one CSV cell


def output_columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """The columns of the output, in order."""
    return (
        "image",
        "sha256",
        "predicted",
        *(f"p_{name}" for name in class_names),
        "p_malignant",
        "prediction_set",
        "decision",
        "reasons",
        "ood_score",
        "quality",
        "model",
        "heatmap",
        "error",
    )


class PredictionWriter:
    """Writes one row per image; an image that could not be read has ``error`` filled.

    In CSV a list is joined by ``|`` and ``quality`` is a JSON object; an unknown value is empty.
    JSON lines hold the same names with lists, objects and null.

    Rows go to ``<name>.partial`` and are on disk as soon as they are written; :meth:`close` gives
    the file its name. So a file of that name is always whole, and what a killed run had done is
    not lost.

    Args:
        path: Ends in ``.csv`` or ``.jsonl``.
        class_names: Of the bundle.

    Raises:
        UnknownNameError: Another suffix.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in FORMATS:
            raise UnknownNameError("output format", suffix, FORMATS)
        self.columns = output_columns(class_names)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A file name that is no UTF-8 reaches Python as lone surrogates: they are spelled out.
        self._file = self.partial.open(
            "w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1
        )
        self._csv = None
        if suffix == ".csv":
            self._csv = csv.DictWriter(self._file, self.columns, restval="", lineterminator="\n")
            self._csv.writeheader()

    def write(self, answer: Prediction | Failure) -> None:
        """Add one row."""
        values = answer.as_dict()
        row = {name: values.get(name) for name in self.columns}
        if self._csv is not None:
            self._csv.writerow(csv_cells(row))
        else:
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Finish: the file gets its name."""
        self._file.close()
        self.partial.replace(self.path)

    def abort(self) -> None:
        """Stop: the rows so far stay in the partial file."""
        self._file.close()

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
            self.abort()


def csv_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values as CSV holds them: a list joined by ``|``, an object as JSON, nothing for null."""

    def cell(value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, list):
            return SEPARATOR.join(value)
        return json.dumps(value) if isinstance(value, dict) else value

    return {name: cell(value) for name, value in row.items()}
