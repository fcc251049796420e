"""One training in several processes: each computes its share of the same batch.

All processes draw the same batch and see the logits of all of it, so loss, counts, the decision to
leave a batch out and the end of the training are the same everywhere without being agreed on; only
the gradient is shared work, and torch's DistributedDataParallel averages it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from leukoscope.config.training import GradientTraining
from leukoscope.core.errors import TrainingError
from leukoscope.learning.optimisers import freeze

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

    from leukoscope.learning.activations import Trainable

T = TypeVar("T")


def process_count() -> int:
    """How many processes train together; 1 without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def is_first() -> bool:
    """Whether this process is the first one, which writes all files."""
    return process_count() == 1 or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Block until every process has reached this point."""
    if process_count() > 1:
        distributed.all_reduce(torch.zeros(1))  # of the CPUs; a barrier might take one GPU for all


def shared_rows(n: int, rank: int, world: int) -> Tensor:
    """The rows of a batch of ``n`` that one process computes, equally many in each.

    What is missing is filled with the last row; its results are cut off again. At least two rows,
    since batch norm has no variance of one.

    >>> [shared_rows(5, rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4, 4]]
    """
    share = max(2, -(-n // world))
    return torch.arange(rank * share, (rank + 1) * share).clamp(max=n - 1)


def gather_logits(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Logits (N, K) of a batch, of which this process computes a share and gets the rest.

    Only its own rows carry a gradient: that of a loss on all rows is the sum over the processes.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    own = apply(x[shared_rows(len(x), rank, world).to(x.device)]).float()
    parts = [torch.empty_like(own) for _ in range(world)]
    distributed.all_gather(parts, own.detach().contiguous())
    parts[rank] = own
    return torch.cat(parts)[: len(x)]


def trainer_options() -> dict[str, Any]:
    """Options that describe the processes to Lightning's trainer."""
    from pytorch_lightning.strategies import DDPStrategy

    world = process_count()
    if world == 1:
        return {"devices": 1}
    names: list[object] = [None] * world
    environment = cluster_environment()
    assert environment is not None
    distributed.all_gather_object(names, environment.node_rank())
    here = names.count(environment.node_rank())
    return {
        "devices": here,
        "num_nodes": world // here,
        "strategy": DDPStrategy(cluster_environment=environment),
        "use_distributed_sampler": False,  # every process has every batch
    }


def cluster_environment() -> ClusterEnvironment | None:
    """Lightning's description of the processes, where torchrun or SLURM started this one."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None


def has_local_batch_norm(network: nn.Module, training: GradientTraining) -> bool:
    """Whether some batch norm would measure each process's share instead of the whole batch."""
    frozen = {m for part in freeze(cast("Trainable", network), training) for m in part.modules()}
    norms = (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return not torch.cuda.is_available() and any(norm not in frozen for norm in norms)


@contextmanager
def sync_batch_norms(network: nn.Module) -> Iterator[None]:
    """Batch norms measure the whole batch while processes on GPUs train; torch has none for CPUs.

    timm's conversion keeps the activations of its own batch norms, which torch's would drop.
    """
    from timm import layers

    convert: Any = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    replaced = []
    if process_count() > 1 and torch.cuda.is_available():
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    replaced.append((parent, name, layer))
    for parent, name, layer in replaced:
        setattr(parent, name, convert(layer))
    try:
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)


@contextmanager
def name_lost_process() -> Iterator[None]:
    """The end of another process becomes an error that says so.

    Raises:
        TrainingError: The connection to another process broke, or it did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = isinstance(error, distributed.DistError) or "gloo" in text.lower()
        if process_count() == 1 or not lost:
            raise
        raise TrainingError(
            f"another process of this training ended or does not answer ({text.splitlines()[0]})",
            hint="go on from the last epoch with --resume",
        ) from None


def broadcast(value: T, group: distributed.ProcessGroup | None = None) -> T:
    """The first process's ``value``, in all of them."""
    box = [value]
    distributed.broadcast_object_list(box, src=0, group=group, device=torch.device("cpu"))
    return box[0]
