"""What ``robustness`` keeps: answers of one model under one condition, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.config.bundle import Envelope
from leukoscope.config.validation import validate
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_csv, write_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.robustness import Answers

COLUMNS = ("recipe", "corruption", "severity", "level", "metric", "value", "low", "high")
METRICS = ("accuracy", "ece", "difference", "review", "reject")
Kept = tuple[Answers, dict[str, list[float]]]


def load_answers(path: Path, key: str) -> Kept | None:
    """Answers that were kept, or None where there are none, of other images or models."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        if value["key"] != key:
            return None
        answers = Answers(
            np.array(value["probs"], np.float64),
            np.array(value["review"], np.bool_),
            None if value["reject"] is None else np.array(value["reject"], np.bool_),
        )
        return answers, value["looks"]
    except (DataError, KeyError, TypeError, ValueError):
        return None  # damaged: measure it again


def save_answers(path: Path, key: str, kept: Kept) -> None:
    """Keep answers; a kill leaves the file whole or absent."""
    answers, looks = kept
    write_json(
        path,
        {
            "key": key,
            "probs": answers.probs.tolist(),
            "review": answers.review.tolist(),
            "reject": None if answers.reject is None else answers.reject.tolist(),
            "looks": looks,
        },
    )


def save_result(run: RunFolder, result: Mapping[str, Any]) -> None:
    """Write ``robustness.json`` and the same as a table of one row a number."""
    write_json(run.robustness, result)
    rows: list[dict[str, Any]] = []
    for model in result["recipes"]:
        for condition in (model["clean"], *model["conditions"]):
            head = {name: condition[name] for name in ("corruption", "severity", "level")}
            rows += [
                {"recipe": model["recipe"], **head, "metric": metric, **_number(condition[metric])}
                for metric in METRICS
                if metric in condition
            ]
    write_csv(run.robustness_table, COLUMNS, rows)


def _number(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("value", "low", "high")}


def stored_envelope(run: RunFolder, recipe: str) -> Envelope | None:
    """The envelope that ``robustness`` measured for a recipe of this run, if it did.

    Raises:
        DataError: ``robustness.json`` is damaged.
        ConfigError: It holds no valid envelope.
    """
    if not run.robustness.is_file():
        return None
    models: Sequence[Mapping[str, Any]] = read_json(run.robustness).get("recipes", ())
    found = next((m.get("envelope") for m in models if m["recipe"] == recipe), None)
    return None if found is None else validate(Envelope, found, str(run.robustness))
