"""The moving average of the weights: its formula, that it is what is kept, and resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining, ModelConfig, Recipe
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.features import predict_logits
from leukoscope.learning.loop import moving_average
from leukoscope.learning.trainer import TrainingResult, train_gradient

Sets = tuple[ImageSet, ImageSet]
RECIPE = Recipe(
    name="tiny",
    title="",
    preprocess=PreprocessSpec(size_px=32),
    model=ModelConfig(backbone="test_resnet", weights="none"),
    training=GradientTraining(epochs=3, batch_size=8, precision="fp32", ema=0.9),
)


def train(
    recipe: Recipe, sets: Sets, out: Path, **options: object
) -> tuple[Network, TrainingResult]:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
    return network, train_gradient(network, recipe, *sets, out, seed=3, **options)  # type: ignore[arg-type]


def change(**training: object) -> Recipe:
    return RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update=training)})


def test_the_average_follows_by_the_formula(tiny: Network) -> None:
    network = build_network(tiny.config, num_classes=4, size_px=64, seed=2)
    average = moving_average(network, 0.3)
    expected = None
    for step in range(6):
        value = float(step**2)
        with torch.no_grad():
            network.head.bias.fill_(value)
            for buffer in network.buffers():
                buffer.fill_(value)
        average.update_parameters(network)
        share = min(0.3, (1 + step) / (10 + step))
        expected = value if expected is None else share * expected + (1 - share) * value
    assert average.module.head.bias.tolist() == pytest.approx([expected] * 4)
    name, statistic = next(b for b in average.module.named_buffers() if b[1].is_floating_point())
    assert statistic.tolist() == pytest.approx([expected] * len(statistic)), name
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_is_validated_and_kept(coloured: Sets, tmp_path: Path) -> None:
    kept, result = train(RECIPE, coloured, tmp_path / "a")
    plain, without = train(change(ema=0.0), coloured, tmp_path / "b")
    # The weights that are trained are the same; what is judged is not.
    assert [r["train_loss"] for r in result.history] == [r["train_loss"] for r in without.history]
    assert [r["val_loss"] for r in result.history] != [r["val_loss"] for r in without.history]
    assert not torch.equal(kept.head.weight, plain.head.weight)
    logits = torch.from_numpy(predict_logits(kept, coloured[1].images, RECIPE.preprocess))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(coloured[1].y))
    best = result.history[result.best_epoch - 1]
    assert float(loss) == pytest.approx(best["val_loss"], rel=1e-4)


def test_a_killed_run_resumes_with_its_average(coloured: Sets, tmp_path: Path) -> None:
    straight, expected = train(RECIPE, coloured, tmp_path / "a")

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(RECIPE, coloured, tmp_path / "b", progress=kill)
    resumed, result = train(RECIPE, coloured, tmp_path / "b")
    pairs = zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [r["val_loss"] for r in result.history] == [r["val_loss"] for r in expected.history]


def test_a_batch_that_is_left_out_does_not_count(
    coloured: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = torch.nn.utils.get_total_norm
    calls = iter(range(99))

    def broken(gradients: object) -> torch.Tensor:
        return norm(gradients) * (np.inf if next(calls) % 4 == 1 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", broken)
    counts = []
    from torch.optim.swa_utils import AveragedModel

    follow = AveragedModel.update_parameters

    def counted(self: AveragedModel, model: torch.nn.Module) -> None:
        follow(self, model)
        counts.append(int(self.n_averaged))

    monkeypatch.setattr(AveragedModel, "update_parameters", counted)
    train(change(epochs=1, not_finite="skip"), coloured, tmp_path)
    assert counts == [1, 2, 3]  # four batches, the second left out
