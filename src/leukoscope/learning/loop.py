"""The training loop, on Lightning: what happens in a step, an epoch, and when resumed."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining
from leukoscope.core.errors import TrainingError
from leukoscope.core.files import atomic_path, write_csv
from leukoscope.learning.backbones import Network, ToInput
from leukoscope.learning.batches import batch_seed

Progress = Callable[[int, int], None]
HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
)
# Warnings of Lightning that tell a user of this program nothing to act on.
_HARMLESS = (
    "Checkpoint directory .* exists and is not empty",  # that is what resuming means
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # its own use of torch
)
MODES = {"val_loss": "min", "val_accuracy": "max"}


class Loop(pl.LightningModule):
    """Loss, sums of an epoch, and its row of the history."""

    def __init__(
        self,
        network: Network,
        config: GradientTraining,
        spec: PreprocessSpec,
        class_weights: NDArray[np.float64] | None,
        out: Path,
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.config, self.out, self.seed = network, config, out, seed
        self.to_input = ToInput(spec)
        weight = None if class_weights is None else torch.tensor(class_weights).float()
        self.loss = nn.CrossEntropyLoss(weight=weight)
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {}
        self.started = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Lightning asks for the optimiser."""
        return _optimizer(self.network, self.config)

    def on_train_epoch_start(self) -> None:
        """Seed dropout from the epoch, and start the sums anew."""
        torch.manual_seed(batch_seed(self.seed, self.current_epoch, -1))  # dropout
        self.sums = {"train": [0.0, 0.0, 0.0], "val": [0.0, 0.0, 0.0]}
        self.started = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Loss of one batch."""
        return self._step("train", batch, number)

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        """Count one batch."""
        self._step("val", batch, number)

    def _step(self, part: str, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, y = batch
        logits = self.network(self.to_input(images)).float()
        loss = cast(Tensor, self.loss(logits, y))
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"the {part} loss became {value} in epoch {self.current_epoch + 1}, "
                f"batch {number + 1}",
                hint='lower training.learning_rate, or set training.precision = "fp32"',
            )
        right = float((logits.detach().argmax(dim=1) == y).sum())
        for place, amount in enumerate((value * len(y), right, len(y))):
            self.sums[part][place] += amount
        return loss

    def on_validation_epoch_end(self) -> None:
        """Write the row of the history; the callbacks after this read its values."""
        row: dict[str, float] = {"epoch": self.current_epoch + 1}
        for part, (loss, right, count) in self.sums.items():
            row |= {f"{part}_loss": loss / count, f"{part}_accuracy": right / count}
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        row["lr"] = float(optimizer.param_groups[0]["lr"])
        row["seconds"] = round(time.perf_counter() - self.started, 2)
        self.history.append(row)
        write_csv(self.out / "history.csv", HISTORY_COLUMNS, self.history)
        self.log_dict({k: v for k, v in row.items() if k != "epoch"}, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = list(checkpoint["history"])


class Report(Callback):
    """Tells how many batches are done."""

    def __init__(self, batches: int, progress: Progress | None) -> None:
        self.batches, self.progress = batches, progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Pass the count on."""
        if self.progress:
            done = trainer.current_epoch * self.batches + trainer.fit_loop.batch_idx + 1
            self.progress(done, cast(int, trainer.max_epochs) * self.batches)


class AtomicIO(TorchCheckpointIO):
    """A kill while a checkpoint is written leaves the one before."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside the old file, then replace it."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def keep_checkpoint(folder: Path, name: str, monitor: str | None = None) -> ModelCheckpoint:
    """Keep one file: of the best epoch by ``monitor``, or of the last epoch."""
    return ModelCheckpoint(
        folder,
        name,
        monitor=monitor,
        mode=MODES[monitor] if monitor else "min",
        save_weights_only=monitor is not None,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def precision_of(config: GradientTraining) -> Any:
    """bfloat16 where the processor multiplies in it: half the time; float32 elsewhere."""
    if config.precision == "auto":
        if torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported()
        else:
            has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            fast = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
        return "bf16-mixed" if fast else "32-true"
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[config.precision]


def read_state(path: Path) -> dict[str, Any] | None:
    """A file of Lightning, tensors and plain values only; None where there is none."""
    if not path.is_file():
        return None
    return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning logs its device choice and tips; a program that uses it need not."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "pytorch_lightning",
            "lightning_fabric",
            "lightning.pytorch",
            "lightning.fabric",
        )
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _HARMLESS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt again: Lightning exits instead and leaves it switched off."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms inside; the global switch and random state as before outside."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _optimizer(network: nn.Module, config: GradientTraining) -> torch.optim.Optimizer:
    """The optimiser of a recipe; SGD with the usual momentum of 0.9."""
    weights, lr, decay = network.parameters(), config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr, momentum=0.9, weight_decay=decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr, weight_decay=decay)
    return torch.optim.Adam(weights, lr, weight_decay=decay)
