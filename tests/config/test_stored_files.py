"""The readers of a run's files name the file, the key and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leukoscope.config.counts import CountsFile
from leukoscope.config.environment import Environment
from leukoscope.config.explanations import (
    BASELINES,
    AuditFile,
    Explanation,
    FeatureMap,
    MapSummary,
    WeighedCell,
)
from leukoscope.config.passport import Passport, load_passport
from leukoscope.config.robustness import RobustnessFile
from leukoscope.config.stored import StoredFile, load_records, save_records
from leukoscope.core.errors import DataError

CELL = WeighedCell(image_id="a", path="a.png", weight=0.5, contribution=-0.1)


@pytest.mark.parametrize(
    "model", [RobustnessFile, AuditFile, CountsFile, Environment, FeatureMap]
)  # fmt: skip
def test_a_file_of_another_version_is_refused_with_what_to_do(
    model: type[StoredFile], tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"schema": 2}')
    with pytest.raises(DataError) as error:
        model.load(path)
    assert "file.json: schema: expected 1, found 2; " in error.value.message
    assert error.value.hint == model.hint != StoredFile.hint
    path.write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        model.load(path)


def test_a_list_of_records_is_read_as_written_and_its_wrong_entry_is_numbered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cells.json"
    assert load_records(WeighedCell, path, "") == ()
    save_records(path, [CELL, CELL])
    assert load_records(WeighedCell, path, "") == (CELL, CELL)
    values = json.loads(path.read_text())
    values[1]["weight"] = "half"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"cells\.json: entry 1: weight: expected a valid number"):
        load_records(WeighedCell, path, "")
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a JSON list, got dict"):
        load_records(Explanation, path, "")


def test_a_passport_that_lacks_a_key_is_refused(bare_passport: Passport, tmp_path: Path) -> None:
    path = tmp_path / "passport.json"
    path.write_text(json.dumps(bare_passport))
    assert load_passport(path) == bare_passport
    path.write_text(json.dumps({k: v for k, v in bare_passport.items() if k != "overlaps"}))
    with pytest.raises(DataError, match=r"passport\.json: overlaps: Field required"):
        load_passport(path)


def test_each_baseline_has_its_key_in_the_summary_of_a_map() -> None:
    keys = {field.alias for field in MapSummary.model_fields.values() if field.alias}
    assert keys == {f"{score}_over_{name}" for score in ("gain", "road") for name in BASELINES}
