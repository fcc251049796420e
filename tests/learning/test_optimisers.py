"""Optimisers, learning rates, frozen blocks, and what is done when a number is not finite."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leukoscope.config.base import validate
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.training import (
    CosineSchedule,
    ExponentialSchedule,
    GradientTraining,
    OneCycle,
    StepSchedule,
)
from leukoscope.core.errors import TrainingError
from leukoscope.learning import backbones
from leukoscope.learning.activations import backbone_blocks
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import Batches, ImageSet
from leukoscope.learning.optimisers import build_optimizer, freeze
from leukoscope.learning.trainer import TrainingResult, train_gradient

Sets = tuple[ImageSet, ImageSet]


def recipe_with(**training: Any) -> Recipe:
    values = {"batch_size": 8, "epochs": 3, "precision": "fp32"} | training
    return Recipe(
        name="tiny",
        title="",
        preprocess=PreprocessSpec(size_px=32),
        model=ModelConfig(backbone="test_resnet", weights="none"),
        training=GradientTraining(**values),
    )


def train(recipe: Recipe, sets: Sets, out: Path, **options: Any) -> tuple[Network, TrainingResult]:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
    return network, train_gradient(network, recipe, *sets, out, seed=3, **options)


def rates(result: TrainingResult) -> list[float]:
    return [row["lr"] for row in result.history]


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


# 30 images in batches of 8: four batches an epoch; the history has the rate of the last of them.
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (StepSchedule(every=2, factor=0.1), [1, 1, 0.1]),
        (StepSchedule(every=4, factor=0.5, per="batch"), [1, 0.5, 0.25]),
        (ExponentialSchedule(factor=0.5), [1, 0.5, 0.25]),
        (ExponentialSchedule(factor=0.9, per="batch"), [0.9**3, 0.9**7, 0.9**11]),
        (CosineSchedule(floor=0.1), [half_cosine(1, 0.1, e / 3) for e in range(3)]),
        (CosineSchedule(per="batch"), [half_cosine(1, 0, b / 12) for b in (3, 7, 11)]),
        (
            OneCycle(warmup=0.5, start_divisor=10, end_divisor=100),
            [
                half_cosine(0.1, 1, 3 / 5),
                half_cosine(1, 0.001, 2 / 6),
                half_cosine(1, 0.001, 1),
            ],
        ),
    ],
)
def test_learning_rates(
    schedule: Any, expected: list[float], coloured: Sets, tmp_path: Path
) -> None:
    _, result = train(recipe_with(schedule=schedule, learning_rate=0.01), coloured, tmp_path)
    assert rates(result) == pytest.approx([0.01 * rate for rate in expected])


@pytest.mark.parametrize("schedule", [ExponentialSchedule(per="batch"), OneCycle()])
def test_a_killed_run_resumes_with_its_schedule(
    schedule: Any, coloured: Sets, tmp_path: Path
) -> None:
    recipe = recipe_with(schedule=schedule, mixup=0.3, sampling="balanced", optimizer="adamax")
    straight, expected = train(recipe, coloured, tmp_path / "a")

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(recipe, coloured, tmp_path / "b", progress=kill)
    resumed, result = train(recipe, coloured, tmp_path / "b")
    pairs = zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert rates(result) == rates(expected)


def test_more_epochs_start_anew_where_the_schedule_reaches_to_the_last(
    coloured: Sets, tmp_path: Path
) -> None:
    train(recipe_with(schedule=CosineSchedule(), epochs=1), coloured, tmp_path)
    _, result = train(recipe_with(schedule=CosineSchedule(), epochs=2), coloured, tmp_path)
    assert rates(result) == pytest.approx([1e-3, 5e-4])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("adamax", torch.optim.Adamax),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimisers(tiny: Network, name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = validate(
        GradientTraining,
        {"optimizer": name, "learning_rate": 0.3, "weight_decay": 0.02, "momentum": 0.8},
        "",
    )
    made = build_optimizer(tiny, config)
    assert type(made) is kind
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert name != "sgd" or group["momentum"] == 0.8


def blocks(network: Network) -> list[dict[str, Any]]:
    return [block.state_dict() for block in backbone_blocks(network.backbone)]


@pytest.mark.parametrize("frozen", [3, "all"])
def test_frozen_blocks_keep_weights_and_statistics(
    frozen: Any, coloured: Sets, tmp_path: Path
) -> None:
    recipe = recipe_with(freeze=frozen, epochs=1)
    before = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
    after, _ = train(recipe, coloured, tmp_path)
    kept = [
        all(torch.equal(a, b) for a, b in zip(p.values(), q.values(), strict=True))
        for p, q in zip(*(blocks(network) for network in (before, after)), strict=True)
    ]
    assert len(kept) > 3
    assert kept == [frozen == "all" or number < 3 for number in range(len(kept))]
    assert not torch.equal(before.head.weight, after.head.weight)
    assert all(p.requires_grad for p in after.parameters())


def test_more_blocks_than_there_are(tiny: Network) -> None:
    with pytest.raises(TrainingError, match="freeze = 99, but test_resnet has"):
        freeze(tiny, GradientTraining(freeze=99))


def test_clipping_bounds_the_step_and_the_norm_is_that_before(
    coloured: Sets, tmp_path: Path
) -> None:
    sgd = {"optimizer": "sgd", "momentum": 0.0, "epochs": 1, "batch_size": 30, "learning_rate": 1.0}
    before = build_network(recipe_with().model, num_classes=3, size_px=32, seed=1)
    after, result = train(recipe_with(**sgd, clip_norm=0.01), coloured, tmp_path / "a")
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    moved = sum(float((p - q).detach().square().sum()) for p, q in pairs)
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-3)
    _, free = train(recipe_with(**sgd), coloured, tmp_path / "b")
    assert result.history[0]["grad_norm"] == free.history[0]["grad_norm"] > 0.01


class Spoil(torch.nn.Module):
    """Spoils the images that are all white: their input, their logits, or their gradient."""

    def __init__(self, inner: torch.nn.Module, what: str) -> None:
        super().__init__()
        self.inner, self.what = inner, what

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.inner(image)
        white = (image == 255).flatten(1).all(1)
        if self.what == "input":
            x[white] = math.nan
        elif self.what == "loss":
            x[white] = 3.4e38
        return x


@pytest.mark.parametrize(
    ("what", "backbone"),
    [
        ("input", "test_resnet"),
        ("loss", "cnn-baseline"),
        ("loss", "test_resnet"),  # batch norm spreads it over the batch and into its statistics
        ("gradient", "test_resnet"),
    ],
)
def test_what_is_not_finite_stops_by_name_or_is_left_out(
    what: str, backbone: str, coloured: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = coloured[0].images.copy()
    images[11] = 255
    names = tuple(f"{i}.png" for i in range(30))
    sets = (ImageSet(images, coloured[0].y, names), coloured[1])

    def changed(recipe: Recipe) -> Recipe:
        model = ModelConfig(backbone=backbone, weights="none")
        return recipe.model_copy(update={"model": model})

    inner = backbones.ToInput
    monkeypatch.setattr(backbones, "ToInput", lambda spec: Spoil(inner(spec), what))
    if what == "gradient":
        norm = torch.nn.utils.get_total_norm
        calls = iter(range(99))

        def broken(gradients: Any) -> torch.Tensor:
            return norm(gradients) * (math.inf if next(calls) % 4 == 0 else 1)

        monkeypatch.setattr(torch.nn.utils, "get_total_norm", broken)
    with pytest.raises(TrainingError, match=rf"train {what} became .* in epoch 1, batch") as caught:
        train(changed(recipe_with(epochs=1)), sets, tmp_path / "a")
    if what == "input" or backbone == "cnn-baseline":
        assert "(file 11.png)" in str(caught.value)
    # One batch of four is left out in each epoch, by the first one's schedule too.
    recipe = recipe_with(epochs=2, not_finite="skip", schedule=OneCycle())
    network, result = train(changed(recipe), sets, tmp_path / "b")
    assert [row["skipped"] for row in result.history] == [1, 1]
    with (tmp_path / "b" / "not_finite.csv").open() as file:
        named = list(csv.DictReader(file))
    assert [(row["epoch"], row["what"]) for row in named] == [("1", what), ("2", what)]
    assert all("11.png" in row["images"] or "more" in row["images"] for row in named)
    assert all(torch.isfinite(t).all() for t in network.state_dict().values())


def test_the_list_of_what_was_left_out_is_resumed_and_begins_anew(
    coloured: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = coloured[0].images.copy()
    images[11] = 255
    inner = backbones.ToInput
    monkeypatch.setattr(backbones, "ToInput", lambda spec: Spoil(inner(spec), "input"))
    sets = (ImageSet(images, coloured[0].y), coloured[1])
    recipe = recipe_with(epochs=3, not_finite="skip")

    def kill(done: int, total: int) -> None:
        if done == 8:  # the last batch of the second epoch
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(recipe, sets, tmp_path, progress=kill)
    train(recipe, sets, tmp_path)
    with (tmp_path / "not_finite.csv").open() as file:
        named = list(csv.DictReader(file))
    assert [(row["epoch"], row["images"]) for row in named] == [(n, "row 11") for n in "123"]
    train(recipe_with(epochs=1), coloured, tmp_path)  # another run in the same folder
    assert not (tmp_path / "not_finite.csv").exists()


def test_an_epoch_without_any_finite_batch_ends_it(
    coloured: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.nn.utils, "get_total_norm", lambda gradients: torch.tensor(float("nan"))
    )
    with pytest.raises(TrainingError, match="every batch of epoch 1 was left out"):
        train(recipe_with(not_finite="skip"), coloured, tmp_path)


class Clock:
    seed, current_epoch = 5, 0


def test_balanced_sampling_and_the_batch_of_one(coloured: Sets) -> None:
    from torchvision.transforms import v2

    y = np.array([0] * 90 + [1] * 11)
    data = ImageSet(np.zeros((101, 2, 2, 3), np.uint8), y)
    shuffled = list(Batches(data, 20, Clock(), v2.Identity()))
    assert [len(b[1]) for b in shuffled] == [20, 20, 20, 20, 21]
    assert sorted(torch.cat([b[2] for b in shuffled]).tolist()) == list(range(101))
    drawn = torch.cat(
        [b[1] for b in Batches(data, 20, Clock(), v2.Identity(), sampling="balanced")]
    )
    assert 35 <= int(drawn.sum()) <= 65
    assert len(list(Batches(data, 20, Clock(), None))) == 6


def test_weighted_f1_selects(coloured: Sets, tmp_path: Path) -> None:
    recipe = recipe_with(keep_best="val_f1", stop_on="val_f1", loss={"kind": "focal"})
    _, result = train(recipe, coloured, tmp_path)
    assert result.best_value == max(row["val_f1"] for row in result.history)
