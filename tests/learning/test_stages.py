"""Learning rates by stage of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.training import (
    CosineSchedule,
    ExponentialSchedule,
    GradientTraining,
    OneCycle,
    StepSchedule,
)
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.optimisers import backbone_stages, build_optimizer, build_schedule, freeze
from leukoscope.learning.trainer import train_gradient

Sets = tuple[ImageSet, ImageSet]


@pytest.mark.parametrize(
    ("backbone", "stages"), [("test_resnet", 5), ("test_vit", 7), ("cnn-baseline", 3)]
)
def test_each_stage_learns_slower_than_the_one_after_it(backbone: str, stages: int) -> None:
    config = ModelConfig(backbone=backbone, weights="none")
    network = build_network(config, num_classes=3, size_px=64, seed=1)
    found = backbone_stages(network.backbone)
    assert len(found) == stages
    training = GradientTraining(learning_rate=0.8, stage_decay=0.5, momentum=0.7, optimizer="sgd")
    freeze(network, training)
    groups = build_optimizer(network, training).param_groups
    assert [group["lr"] for group in groups] == [0.8 * 0.5**n for n in range(stages + 1)]
    assert groups[0]["params"][0] is network.head.weight
    assert groups[1]["params"][-1] is found[-1][-1]
    assert groups[-1]["params"][0] is next(network.backbone.parameters())
    ours = {id(p) for group in groups for p in group["params"]}
    assert ours == {id(p) for p in network.parameters()}
    training = training.model_copy(update={"freeze": "all"})
    freeze(network, training)
    assert [group["lr"] for group in build_optimizer(network, training).param_groups] == [0.8]


@pytest.mark.parametrize(
    "schedule",
    [
        StepSchedule(every=2),
        ExponentialSchedule(factor=0.9),
        CosineSchedule(),
        CosineSchedule(floor=0.3),
        OneCycle(),
    ],
)
def test_a_schedule_keeps_the_rates_of_stages_in_proportion(tiny: Network, schedule: Any) -> None:
    training = GradientTraining(schedule=schedule, epochs=6, stage_decay=0.5)
    optimizer = build_optimizer(tiny, training)
    plan = build_schedule(optimizer, training, 1)
    assert plan is not None
    heads = []
    for _ in range(6):
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([found[0] * 0.5**n for n in range(6)])
        heads.append(found[0])
        optimizer.step()
        plan["scheduler"].step()
    plain = GradientTraining(schedule=schedule, epochs=6)
    single = build_optimizer(tiny, plain)
    alone = build_schedule(single, plain, 1)
    assert alone is not None
    for rate in heads:
        assert single.param_groups[0]["lr"] == pytest.approx(rate)
        single.step()
        alone["scheduler"].step()


def test_stage_decay_slows_the_first_stage(coloured: Sets, tmp_path: Path) -> None:
    moved = []
    for decay in (1.0, 0.5):
        recipe = Recipe(
            name="tiny",
            title="",
            preprocess=PreprocessSpec(size_px=32),
            model=ModelConfig(backbone="test_resnet", weights="none"),
            training=GradientTraining(
                optimizer="sgd",
                momentum=0.0,
                epochs=1,
                batch_size=30,
                precision="fp32",
                stage_decay=decay,
            ),
        )
        network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
        first = next(network.backbone.parameters())
        before = first.detach().clone()
        result = train_gradient(network, recipe, *coloured, tmp_path / str(decay), seed=3)
        assert result.history[0]["lr"] == 1e-3  # the head's
        moved.append(float((first.detach() - before).abs().sum()))
    assert moved[1] == pytest.approx(moved[0] / 2**5, rel=0.02)
