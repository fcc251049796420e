"""The table of predictions that every statistic is computed from: ``predictions.csv``."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.files import csv_line, csv_value, write_text
from leukoscope.core.records import PARTS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TextArray = NDArray[np.str_]

KEY_COLUMNS = ("image_id", "recipe", "protocol", "fold", "part", "input")
_TEXT_COLUMNS = tuple(name for name in KEY_COLUMNS if name != "fold")
_ROWS = 10_000  # whose cells are in memory as text at once
_SUM_TOLERANCE = 1e-5  # float32 probabilities of a thousand classes stay well inside


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions of models and probes, one row per image, recipe, protocol, fold and input.

    Attributes:
        class_names: K names, the order of the columns of ``logits`` and ``probs``.
        image_id: (n,) text.
        recipe: (n,) text, the recipe of the model, or of the model that a probe uses.
        protocol: (n,) text such as ``random`` or ``acquisition-k48``.
        fold: (n,) int64 ≥ 0.
        part: (n,) ``train``, ``val``, ``cal`` or ``test``.
        input: (n,) what the model saw: ``image``, ``background-only`` …
        y_true: (n,) int64 index of the true class, −1 where unknown.
        logits: (n, K) float64, a row of NaN where the predictor has none.
        probs: (n, K) float64 in [0, 1], rows sum to 1.
    """

    class_names: tuple[str, ...]
    image_id: TextArray
    recipe: TextArray
    protocol: TextArray
    fold: IntArray
    part: TextArray
    input: TextArray
    y_true: IntArray
    logits: FloatArray
    probs: FloatArray

    def __post_init__(self) -> None:
        problem = _find_problem(self)
        if problem is not None:
            row, text = problem
            raise DataError(f"predictions, row {row}: {text}" if row >= 0 else text)

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def build(
        cls,
        class_names: Sequence[str],
        image_id: Sequence[str] | TextArray,
        probs: ArrayLike,
        *,
        recipe: str,
        protocol: str,
        fold: int | Sequence[int] | IntArray,
        part: str | Sequence[str] | TextArray,
        input: str = "image",
        y_true: ArrayLike | None = None,
        logits: ArrayLike | None = None,
    ) -> PredictionTable:
        """A table from the output of one model; single values stand for whole columns.

        Args:
            image_id: (n,) ids.
            fold: One number, or (n,).
            part: One part, or (n,).
            y_true: (n,) class indices; None means unknown.
            logits: (n, K); None where the predictor has none.

        Raises:
            DataError: Shapes do not fit, or values are out of range.
        """
        n, k = len(image_id), len(class_names)
        text = {"recipe": recipe, "protocol": protocol, "part": part, "input": input}
        try:
            columns = {
                name: np.array(np.broadcast_to(np.asarray(value, dtype=np.str_), (n,)))
                for name, value in text.items()
            }
            folds = np.array(np.broadcast_to(np.asarray(fold, dtype=np.int64), (n,)))
        except ValueError as error:
            raise DataError(
                f"predictions: expected one value or {n} per column ({error})"
            ) from None
        return cls(
            class_names=tuple(class_names),
            image_id=np.asarray(image_id, dtype=np.str_).reshape(n),
            y_true=np.full(n, -1) if y_true is None else np.asarray(y_true, dtype=np.int64),
            logits=(
                np.full((n, k), np.nan) if logits is None else np.asarray(logits, dtype=np.float64)
            ),
            probs=np.asarray(probs, dtype=np.float64),
            fold=folds,
            **columns,
        )

    def take(self, rows: NDArray[np.bool_] | IntArray) -> PredictionTable:
        """The chosen rows (a mask, or indices in the wanted order)."""
        names = (*KEY_COLUMNS, "y_true", "logits", "probs")
        columns = {name: getattr(self, name)[rows] for name in names}
        if np.asarray(rows).dtype != np.bool_:
            return PredictionTable(self.class_names, **columns)
        # Some rows of a table that was checked, none of them twice, need no other check.
        return _unchecked(self.class_names, columns)

    def select(
        self,
        *,
        recipe: str | Collection[str] | None = None,
        protocol: str | Collection[str] | None = None,
        fold: int | Collection[int] | None = None,
        part: str | Collection[str] | None = None,
        input: str | Collection[str] | None = None,
    ) -> PredictionTable:
        """The rows that equal every given value, or one of several given values."""
        keep = np.ones(len(self), dtype=bool)
        filters: dict[str, str | int | Collection[str] | Collection[int] | None] = {
            "recipe": recipe, "protocol": protocol, "fold": fold, "part": part, "input": input
        }  # fmt: skip
        for name, wanted in filters.items():
            if wanted is not None:
                found = getattr(self, name)
                several = [wanted] if isinstance(wanted, (str, int)) else [*wanted]
                keep &= np.isin(found, np.array(several))
        return self.take(keep)

    def save(self, path: Path) -> None:
        """Write CSV, atomically; every number is written so that it reads back exactly."""
        quoted = _Quoted()
        known = [quoted[name] for name in self.class_names] + [""]  # index −1 is the unknown class
        lines = [",".join(csv_line(_header(self.class_names)))]
        for rows in _blocks(len(self)):
            keys = zip(*(getattr(self, name)[rows].tolist() for name in KEY_COLUMNS), strict=True)
            of_rows = (self.y_true, self.logits, self.probs)
            numbers = zip(*(column[rows].tolist() for column in of_rows), strict=True)
            for key, (y, logits, probs) in zip(keys, numbers, strict=True):
                cells = [quoted[cell] for cell in key]
                cells.append(known[y])
                cells += ["" if z != z else repr(z) for z in logits]
                cells += map(repr, probs)
                lines.append(",".join(cells))
        write_text(path, "\n".join([*lines, ""]))

    @classmethod
    def load(cls, path: Path) -> PredictionTable:
        """Read a table that :meth:`save`, or another program, wrote.

        Raises:
            DataError: The file is missing or a value is wrong; names the file and the line.
        """
        try:
            with Path(path).open(encoding="utf-8-sig", newline="") as handle:
                rows = csv.reader(handle)
                header = next(rows, None)
                if header is None:
                    raise DataError(f"{path}: expected a header line, the file is empty")
                reader = _Reader(path, header)
                # A part at a time: the cells of a large table as text fill many times its memory.
                parts = [reader.columns([])]
                while part := list(islice(rows, _ROWS)):
                    parts.append(reader.columns(part))
        except FileNotFoundError:
            raise DataError(f"{path}: this file is missing") from None
        except (UnicodeDecodeError, OSError, csv.Error) as error:
            raise DataError(f"{path}: expected a UTF-8 CSV file, but {error}") from None
        fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        table = _unchecked(reader.class_names, fields)
        problem = _find_problem(table)
        if problem is not None:
            row_number, text = problem
            raise DataError(f"{path}:{row_number + 2}: {text}")
        return table


def _unchecked(
    class_names: tuple[str, ...], columns: Mapping[str, NDArray[np.generic]]
) -> PredictionTable:
    """A table of columns that are known to fit, or are checked by the caller."""
    table = object.__new__(PredictionTable)
    vars(table).update(class_names=class_names, **columns)
    return table


class _Quoted(dict[object, str]):
    """A cell → as it stands in the file; most texts of a table stand in it many times."""

    def __missing__(self, cell: object) -> str:
        (self[cell],) = csv_line([cell])
        return self[cell]


class _Reader:
    """Turns rows of a file into columns, line after line."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.header = path, header
        self.class_names = _classes_of(header, path)
        self._index = {"": -1} | {name: i for i, name in enumerate(self.class_names)}
        self._line = 2

    def columns(self, rows: Sequence[Sequence[str]]) -> dict[str, NDArray[np.generic]]:
        """The next rows as fields of a table."""
        for number, row in enumerate(rows, start=self._line):
            if len(row) != len(self.header):
                raise DataError(
                    f"{self.path}:{number}: expected {len(self.header)} cells, got {len(row)}"
                )
        cells = zip(*rows, strict=True) if rows else ((),) * len(self.header)
        columns = dict(zip(self.header, cells, strict=True))
        texts = {name: self._texts(columns[name]) for name in ("y_true", *_TEXT_COLUMNS)}
        for number, name in enumerate(texts["y_true"], start=self._line):
            if name not in self._index:
                raise DataError(
                    f"{self.path}:{number}: y_true {name!r} is none of "
                    f"{', '.join(self.class_names)}"
                )
        shape = (len(self.class_names), len(rows))
        names = self.class_names
        logits = [self._numbers(columns, f"logit_{name}", empty="nan") for name in names]
        probs = [self._numbers(columns, f"p_{name}") for name in names]
        found = {
            **{name: np.array(texts[name], dtype=np.str_) for name in _TEXT_COLUMNS},
            "fold": self._numbers(columns, "fold", np.int64),
            "y_true": np.array([self._index[name] for name in texts["y_true"]], dtype=np.int64),
            "logits": np.ascontiguousarray(np.reshape(logits, shape).T),
            "probs": np.ascontiguousarray(np.reshape(probs, shape).T),
        }
        self._line += len(rows)
        return found

    @staticmethod
    def _texts(cells: Sequence[str]) -> list[str]:
        """Cells without their apostrophes; most stand in a column many times."""
        values = {cell: csv_value(cell) for cell in set(cells)}
        return [values[cell] for cell in cells]

    def _numbers(
        self,
        columns: Mapping[str, Sequence[str]],
        name: str,
        dtype: type[np.float64] | type[np.int64] = np.float64,
        empty: str = "",
    ) -> NDArray[np.generic]:
        """A column as numbers, ``empty`` for cells that are."""
        kind = "a whole number" if dtype is np.int64 else "a number"
        convert = int if dtype is np.int64 else float
        cells = [cell or empty for cell in columns[name]]
        try:
            return np.array(list(map(convert, cells)), dtype=dtype)
        except (ValueError, OverflowError):
            for number, cell in enumerate(cells, start=self._line):
                try:
                    np.array(convert(cell), dtype=dtype)
                except (ValueError, OverflowError):
                    raise DataError(
                        f"{self.path}:{number}: {name} {cell!r} is not {kind}"
                    ) from None
            raise


def concatenate(tables: Sequence[PredictionTable]) -> PredictionTable:
    """All rows of several tables, in their order.

    Raises:
        DataError: No table, other classes or another class order, or a row that stands twice.
    """
    if not tables:
        raise DataError("expected at least one table of predictions, got none")
    class_names = tables[0].class_names
    for table in tables:
        if table.class_names != class_names:
            raise DataError(
                f"tables of predictions differ in classes or their order: expected "
                f"{', '.join(class_names)}, got {', '.join(table.class_names)}"
            )
    names = (*KEY_COLUMNS, "y_true", "logits", "probs")
    return PredictionTable(
        class_names,
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in names},
    )


def _header(class_names: Sequence[str]) -> list[str]:
    logits = [f"logit_{name}" for name in class_names]
    return [*KEY_COLUMNS, "y_true", *logits, *(f"p_{name}" for name in class_names)]


def _classes_of(header: Sequence[str], path: Path) -> tuple[str, ...]:
    names = tuple(column.removeprefix("p_") for column in header if column.startswith("p_"))
    expected = _header(names)
    if len(names) < 2 or sorted(header) != sorted(expected):
        missing = [name for name in expected if name not in header]
        extra = [name for name in header if name not in expected]
        raise DataError(
            f"{path}:1: expected the columns {', '.join(_header(['<class>']))} for two or more "
            f"classes; missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(extra) or 'none'}"
        )
    return names


def _find_problem(table: PredictionTable) -> tuple[int, str] | None:
    """The first wrong row and what is wrong with it; row −1 for the table as a whole."""
    n, k = len(table.image_id), len(table.class_names)
    if k < 2 or len(set(table.class_names)) != k:
        return -1, f"expected two or more distinct classes, got {', '.join(table.class_names)}"
    for name in (*KEY_COLUMNS, "y_true"):
        if getattr(table, name).shape != (n,):
            return -1, f"{name}: expected shape ({n},), got {getattr(table, name).shape}"
    for name in ("logits", "probs"):
        if getattr(table, name).shape != (n, k):
            return -1, f"{name}: expected shape ({n}, {k}), got {getattr(table, name).shape}"
    known = ~np.isnan(table.logits)
    sums = table.probs.sum(axis=1)
    with np.errstate(invalid="ignore"):
        checks = (
            (~np.isin(table.part, PARTS), f"the part is none of {', '.join(PARTS)}"),
            (table.image_id == "", "the image_id is empty"),
            (table.fold < 0, "the fold is negative"),
            ((table.y_true < -1) | (table.y_true >= k), f"y_true is not in −1 … {k - 1}"),
            (known.any(axis=1) & ~known.all(axis=1), "some logits of the row are missing"),
            (np.isinf(table.logits).any(axis=1), "a logit is infinite"),
            (~((table.probs >= 0) & (table.probs <= 1)).all(axis=1), "a p_ is not in [0, 1]"),
            (~(np.abs(sums - 1) <= _SUM_TOLERANCE), "the probabilities do not sum to 1"),
        )
    found = [(int(np.argmax(wrong)), text) for wrong, text in checks if wrong.any()]
    return min(found, default=None, key=lambda item: item[0]) or _find_repeat(table)


def _find_repeat(table: PredictionTable) -> tuple[int, str] | None:
    """The first row whose key stood before. Hashes of keys take a fifth of their memory."""
    hashes: set[int] = set()
    for rows in _blocks(len(table.image_id)):
        hashes.update(map(hash, _keys(table, rows)))
    if len(hashes) == len(table.image_id):
        return None
    seen: set[tuple[object, ...]] = set()
    for row, key in enumerate(_keys(table, slice(None))):
        if key in seen:
            return row, f"image {key[0]} stands twice for the same model, part and input"
        seen.add(key)
    return None


def _keys(table: PredictionTable, rows: slice) -> Iterator[tuple[object, ...]]:
    return zip(*(getattr(table, name)[rows].tolist() for name in KEY_COLUMNS), strict=True)


def _blocks(n: int) -> Iterator[slice]:
    """Rows 0 to n − 1, some thousands at a time."""
    return (slice(start, start + _ROWS) for start in range(0, n, _ROWS))
