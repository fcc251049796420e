"""Batch norms of a training in several processes: measured together on GPUs, noted on CPUs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leukoscope.config.recipe import GradientTraining, ModelConfig
from leukoscope.core.errors import TrainingError
from leukoscope.learning import distributed
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.distributed import (
    has_local_batch_norm,
    name_lost_process,
    sync_batch_norms,
)


@pytest.fixture(scope="module")
def network() -> Network:
    config = ModelConfig(backbone="test_efficientnet", weights="none")
    return build_network(config, num_classes=3, size_px=32, seed=1)


def test_batch_norms_are_synchronised_on_gpus_and_restored(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    x = torch.rand(2, 3, 32, 32)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = network(x)
    with sync_batch_norms(network):
        inside = [m for m in network.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert len(inside) == len(norms)
        torch.testing.assert_close(network(x), before)  # activations are still there
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == norms


def test_only_norms_that_measure_batches_are_noted(network: Network) -> None:
    assert has_local_batch_norm(network, GradientTraining())
    assert not has_local_batch_norm(network, GradientTraining(freeze_norm=True))
    assert not has_local_batch_norm(network, GradientTraining(freeze="all"))


def test_a_broken_connection_is_named_and_other_errors_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    with pytest.raises(TrainingError, match="another process of this training ended") as caught:  # noqa: SIM117
        with name_lost_process():
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert "--resume" in caught.value.hint
    with pytest.raises(RuntimeError, match="shape"), name_lost_process():
        raise RuntimeError("shape")
