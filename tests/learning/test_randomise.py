"""Networks that forget, from the head to the stem."""

from __future__ import annotations

import copy

import pytest
import torch

from leukoscope.config.recipe import ModelConfig
from leukoscope.learning.attribution import cascade, randomised
from leukoscope.learning.backbones import build_network

BATCH = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(backbone="test_resnet", weights="none"),
        ModelConfig(backbone="cnn-baseline", weights="none", hidden=(16,), norm="batch"),
        ModelConfig(backbone="test_resnet", weights="none", conv=(8,), squeeze_excite=4),
    ],
)
def test_every_layer_forgets_from_the_head_on(config: ModelConfig) -> None:
    network = build_network(config, num_classes=4, size_px=64, seed=1)
    before = copy.deepcopy(network.state_dict())
    names = [name for stage in cascade(network) for name in stage]
    held = {n for n, _ in network.named_parameters() if any(n.startswith(f"{k}.") for k in names)}
    assert held == {name for name, _ in network.named_parameters()}
    stages = randomised(network, BATCH, seed=3)
    assert [stages[0][0], stages[-1][0]] == ["head", "all layers"]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name])
    first, last = stages[0][1].state_dict(), dict(stages[-1][1].named_parameters())
    assert all(torch.equal(first[n], before[n]) for n in before if n.startswith("backbone."))
    assert not torch.equal(first["head.weight"], before["head.weight"])
    for name, tensor in last.items():
        torch.testing.assert_close(
            tensor.flatten().sort().values, before[name].flatten().sort().values
        )
        assert tensor.numel() < 8 or torch.equal(tensor, before[name]) == (
            tensor.unique().numel() == 1
        )
    again = randomised(network, BATCH, seed=3)
    for (_, one), (_, two) in zip(stages, again, strict=True):
        assert not one.training
        with torch.no_grad():
            torch.testing.assert_close(one(BATCH), two(BATCH))
            assert one(BATCH).isfinite().all()


def test_signals_neither_die_nor_overflow() -> None:
    network = build_network(ModelConfig(weights="none"), num_classes=4, size_px=64, seed=1)
    with torch.no_grad():
        for _, forgetful in randomised(network, BATCH)[1:]:
            grid, features = forgetful.map_and_features(BATCH)
            assert 0.01 < float(features.std()) < 100
            assert float(features.std(0).mean()) > 1e-3  # images still differ
            assert float(grid.std()) > 0.01
