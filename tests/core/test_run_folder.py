"""The history of a model trained in one piece or in two, and folders that are resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.core.files import write_csv
from leukoscope.core.run_folder import (
    HISTORY,
    frozen_folder,
    refuse_study,
    resumes,
    training_history,
)


def write(folder: Path, losses: list[str]) -> None:
    rows = [{"epoch": str(i + 1), "val_loss": loss} for i, loss in enumerate(losses)]
    write_csv(folder / HISTORY, ["epoch", "val_loss"], rows)


def losses(folder: Path) -> tuple[list[str], int]:
    rows, head = training_history(folder)
    return [row["val_loss"] for row in rows], head


def test_the_heads_own_training_comes_first(tmp_path: Path) -> None:
    write(frozen_folder(tmp_path), ["0.9", "0.8"])
    assert losses(tmp_path) == ([], 0)  # the second training has not begun
    write(tmp_path, ["0.7"])
    assert losses(tmp_path) == (["0.9", "0.8", "0.7"], 2)


def test_a_model_trained_in_one_piece_has_no_head_rows(tmp_path: Path) -> None:
    write(tmp_path, ["0.7", "0.6"])
    assert losses(tmp_path) == (["0.7", "0.6"], 0)


def test_a_new_or_empty_folder_is_not_resumed(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path):
        assert not resumes(folder / "config.toml", "study", resume=False, hint="add --resume")


def test_a_started_folder_is_resumed_only_on_request(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.touch()
    assert resumes(config, "study", resume=True, hint="add --resume")
    with pytest.raises(UsageError, match="already holds a study") as caught:
        resumes(config, "study", resume=False, hint="add --resume")
    assert caught.value.hint.startswith("add --resume, or name a new folder")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(UsageError, match="not empty and holds no tuning"):
        resumes(tmp_path / "tune.toml", "tuning", resume=True, hint="add --resume")


def test_a_folder_that_holds_a_study_is_not_written_to(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path):
        refuse_study(folder)
    (tmp_path / "config.toml").touch()
    with pytest.raises(UsageError, match="holds a study") as caught:
        refuse_study(tmp_path)
    assert caught.value.hint == "name a new folder with --out"
    for own in ("explanations", "predictions.csv", "figures/../splits.csv"):
        with pytest.raises(UsageError, match="belongs to the study"):
            refuse_study(tmp_path / own)
    for free in ("explanations/mine", "splits.new.csv", "relabel"):
        refuse_study(tmp_path / free)
