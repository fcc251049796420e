"""The history of a model that was trained in one piece, and of one trained in two."""

from __future__ import annotations

from pathlib import Path

from leukoscope.core.files import write_csv
from leukoscope.core.run_folder import HISTORY, frozen_folder, training_history


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
