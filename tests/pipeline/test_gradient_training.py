"""What a study hands to gradient training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.core.records import ImageRecord
from leukoscope.learning import trainer
from leukoscope.pipeline.gradient_training import GradientTrainer
from leukoscope.pipeline.jobs import Labelled


def test_images_go_with_their_files_and_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tuple(
        ImageRecord(f"i{n}", f"{n}.png", label=("all", "hem")[n % 2], patient_id=f"P{n % 3}")
        for n in range(12)
    )
    recipe = load_recipe(
        "cnn-baseline",
        ["preprocess.size_px=32", "training.sampling=patients", "training.epochs=1"],
    )
    pixels = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    seen: list[trainer.ImageSet] = []
    train = trainer.train_gradient

    def watched(network: Any, recipe: Any, *sets: Any, **options: Any) -> Any:
        seen.extend(sets[:2])
        return train(network, recipe, *sets, **options)

    monkeypatch.setattr(trainer, "train_gradient", watched)
    parts = {"train": [5, 0, 3, 8], "val": [1, 2], "cal": [4], "test": [6, 7]}
    rows = {part: np.array(numbers) for part, numbers in parts.items()}
    data = Labelled(records, ("all", "hem"))
    network_trainer = GradientTrainer(recipe, pixels, None, data)
    logits = network_trainer.fit(rows, tmp_path, 3, lambda done, total: None)
    assert [images.patients for images in seen] == [("P2", "P0", "P0", "P2"), ("P1", "P2")]
    assert seen[0].names == ("5.png", "0.png", "3.png", "8.png")
    assert {part: found.shape for part, found in logits.items()} == {
        "val": (2, 2),
        "cal": (1, 2),
        "test": (2, 2),
    }
