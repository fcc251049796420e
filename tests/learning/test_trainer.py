"""Gradient training: learns, repeats itself, resumes to the same result, notices NaN."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leukoscope.config.recipe import GradientTraining, LinearHeadTraining, ModelConfig, Recipe
from leukoscope.core.errors import TrainingError
from leukoscope.learning import trainer
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.features import predict_logits
from leukoscope.learning.optimisers import precision_of
from leukoscope.learning.trainer import ImageSet, TrainingResult, train_gradient

Sets = tuple[ImageSet, ImageSet]


def change(recipe: Recipe, **training: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def train(
    recipe: Recipe, sets: Sets, out: Path, seed: int = 3, **options: Any
) -> tuple[Network, TrainingResult]:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
    result = train_gradient(network, recipe, *sets, out, seed=seed, **options)
    return network, result


def same(a: Network, b: Network) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def without_time(result: TrainingResult) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def test_it_learns_keeps_the_best_epoch_and_writes_the_history(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    recipe = change(recipe, epochs=6, learning_rate=3e-3)
    network, result = train(
        recipe, coloured, tmp_path, progress=lambda done, total: calls.append((done, total))
    )
    accuracies = [row["val_accuracy"] for row in result.history]
    assert max(accuracies) > 0.6
    assert result.best_epoch == int(np.argmax(accuracies)) + 1
    assert result.best_value == max(accuracies)
    logits = predict_logits(network, coloured[1].images, recipe.preprocess)
    assert (logits.argmax(1) == coloured[1].y).mean() == pytest.approx(result.best_value)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_f1",
        "lr",
        "grad_norm",
        "skipped",
        "seconds",
    ]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert calls == [(i, 24) for i in range(1, 25)]
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert not network.training
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_same_seed_gives_the_same_network_and_another_another(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    first, result = train(recipe, coloured, tmp_path / "a")
    torch.rand(5)
    second, again = train(recipe, coloured, tmp_path / "b")
    other, _ = train(recipe, coloured, tmp_path / "c", seed=4)
    assert same(first, second)
    assert without_time(result) == without_time(again)
    assert not same(first, other)


class KillError(Exception):
    """Stands for kill -9: nothing is tidied up after it."""


def test_a_killed_run_resumes_to_the_same_result(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    recipe = change(recipe, epochs=4)
    straight, expected = train(recipe, coloured, tmp_path / "a")

    def kill(done: int, total: int) -> None:
        if done == 10:  # second batch of the third epoch
            raise KillError

    with pytest.raises(KillError):
        train(recipe, coloured, tmp_path / "b", progress=kill)
    calls: list[int] = []
    resumed, result = train(
        recipe, coloured, tmp_path / "b", progress=lambda done, total: calls.append(done)
    )
    assert calls[0] == 9  # the third epoch, from its start
    assert same(straight, resumed)
    assert without_time(result) == without_time(expected)
    assert result.best_epoch == expected.best_epoch
    # Called once more, as after a kill between training and saving: nothing is trained.
    calls.clear()
    once_more, _ = train(
        recipe, coloured, tmp_path / "b", progress=lambda done, total: calls.append(done)
    )
    assert not calls
    assert same(straight, once_more)


def test_no_process_goes_on_before_all_have_read_the_state(
    recipe: Recipe, coloured: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first deletes it when it goes on; a slow second one found none.
    read = trainer.read_state
    order: list[str] = []
    monkeypatch.setattr(trainer, "wait_for_all", lambda: order.append("wait"))
    monkeypatch.setattr(trainer, "read_state", lambda path: order.append("read") or read(path))
    train(change(recipe, epochs=1), coloured, tmp_path)
    assert order[0] == order[-1] == "wait"
    assert order.count("read") == 3


def test_more_epochs_go_on_where_the_run_ended(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    train(recipe, coloured, tmp_path / "a")
    resumed, result = train(change(recipe, epochs=4), coloured, tmp_path / "a")
    straight, _ = train(change(recipe, epochs=4), coloured, tmp_path / "b")
    assert result.epochs == 4
    assert same(straight, resumed)


def test_another_recipe_does_not_resume(recipe: Recipe, coloured: Sets, tmp_path: Path) -> None:
    train(recipe, coloured, tmp_path / "a")
    changed = change(recipe, learning_rate=5e-3, epochs=1)
    fresh, result = train(changed, coloured, tmp_path / "a")
    assert result.epochs == 1
    assert same(fresh, train(changed, coloured, tmp_path / "b")[0])


def test_patience_ends_it(recipe: Recipe, coloured: Sets, tmp_path: Path) -> None:
    # With a vanishing step nothing improves: one epoch to set the mark, two without progress.
    recipe = change(recipe, epochs=9, patience=2, learning_rate=1e-30)
    _, result = train(recipe, coloured, tmp_path)
    assert result.stopped_early
    assert result.epochs == 3
    calls: list[int] = []
    _, again = train(recipe, coloured, tmp_path, progress=lambda done, total: calls.append(done))
    assert not calls
    assert again.epochs == 3


@pytest.mark.parametrize("optimizer", ["adamw", "adamax", "sgd"])
def test_other_optimisers_bf16_and_class_weights(
    recipe: Recipe, coloured: Sets, tmp_path: Path, optimizer: str
) -> None:
    recipe = change(recipe, optimizer=optimizer, precision="bf16", class_weights=True, epochs=1)
    network, result = train(recipe, coloured, tmp_path)
    assert math.isfinite(result.history[0]["train_loss"])
    assert all(p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("emulated", [True, False])
def test_auto_precision_does_not_take_emulated_bf16(
    emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Older GPUs compute bfloat16 by detours, slower than float32.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or not emulated,
    )
    expected = "32-true" if emulated else "bf16-mixed"
    assert precision_of(GradientTraining()) == expected
    assert precision_of(GradientTraining(precision="bf16")) == "bf16-mixed"
    assert precision_of(GradientTraining(precision="fp32")) == "32-true"


def test_class_weights_enter_the_loss(recipe: Recipe, coloured: Sets, tmp_path: Path) -> None:
    few = np.flatnonzero((coloured[0].y > 0) | (np.arange(30) < 6))
    sets = (ImageSet(coloured[0].images[few], coloured[0].y[few]), coloured[1])
    plain, _ = train(change(recipe, epochs=1), sets, tmp_path / "a")
    weighted, _ = train(change(recipe, epochs=1, class_weights=True), sets, tmp_path / "b")
    assert not same(plain, weighted)


def test_a_loss_that_is_not_finite_stops_it_by_name(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    recipe = change(recipe, optimizer="sgd", learning_rate=1e20)
    with pytest.raises(TrainingError, match=r"train loss became (nan|inf) in epoch 1, batch 2"):
        train(recipe, coloured, tmp_path)


def test_a_caller_sees_each_epoch_and_may_end_it(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    seen: list[tuple[int, dict[str, float]]] = []

    def third(epoch: int, row: dict[str, float]) -> bool:
        seen.append((epoch, row))
        return epoch == 3

    network, result = train(change(recipe, epochs=6), coloured, tmp_path, epoch_end=third)
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert tuple(row for _, row in seen) == result.history
    assert not result.stopped_early
    assert not network.training


def test_what_cannot_be_trained_is_said(recipe: Recipe, coloured: Sets, tmp_path: Path) -> None:
    empty = ImageSet(coloured[0].images[:0], coloured[0].y[:0])
    with pytest.raises(TrainingError, match="needs validation images"):
        train(recipe, (coloured[0], empty), tmp_path)
    frozen = recipe.model_copy(update={"training": LinearHeadTraining()})
    with pytest.raises(TrainingError, match="asks for linear-head"):
        train(frozen, coloured, tmp_path)


def test_predict_logits_of_nothing(recipe: Recipe, coloured: Sets) -> None:
    config = ModelConfig(backbone="cnn-baseline", weights="none")
    network = build_network(config, num_classes=3, size_px=32)
    assert predict_logits(network, coloured[0].images[:0], recipe.preprocess).shape == (0, 3)
