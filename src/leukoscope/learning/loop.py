"""The training loop, on Lightning: a step, an epoch, weight averaging, and resuming."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining
from leukoscope.core.errors import TrainingError
from leukoscope.core.files import atomic_path, write_csv
from leukoscope.core.run_folder import HISTORY
from leukoscope.evaluation.statistics.metrics import weighted_f1
from leukoscope.learning.activations import Trainable
from leukoscope.learning.augment import build_blend
from leukoscope.learning.batches import ImageSet, batch_count, batch_seed
from leukoscope.learning.distributed import gather_logits, is_first, process_count
from leukoscope.learning.optimisers import build_optimizer, build_schedule, freeze

if TYPE_CHECKING:
    from pytorch_lightning.utilities.types import OptimizerLRScheduler

Tell = Callable[[int, int], None]
EpochEnd = Callable[[int, dict[str, float]], bool]
HISTORY_COLUMNS = (
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
)
LEFT_OUT = "not_finite.csv"
LEFT_OUT_COLUMNS = ("epoch", "batch", "what", "value", "images")
# Warnings of Lightning that tell a user of this program nothing to act on.
_HARMLESS = (
    "Checkpoint directory .* exists and is not empty",  # that is what resuming means
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # its own use of torch
    "`training_step` returned `None`",  # that is how a batch is left out
    # Asked for by `skip`, where the first batch is left out.
    r"Detected call of `lr_scheduler.step\(\)` before",
    "It is recommended to use `self.log.*sync_dist=True",  # every process has the same values
    "Grad strides do not match bucket view strides",  # of channels-last weights; a copy more
)
MODES = {"val_loss": "min", "val_accuracy": "max", "val_f1": "max"}
Batch = tuple[Tensor, Tensor, Tensor]


def moving_average(network: Trainable, decay: float) -> AveragedModel:
    """A copy that follows a network in training (as in Szegedy et al. 2016, section 8).

    After step n each weight, and each statistic of batch norm, moves towards the network's by
    ``1 − min(decay, (1 + n) / (10 + n))``, the warm-up of TensorFlow's ExponentialMovingAverage:
    a plain decay of 0.999 would still show the first weights after some hundred steps.

    Args:
        network: The network to follow, by ``update_parameters(network)`` after each step.
        decay: Largest share of the old value that is kept.

    Returns:
        The average; its state dict restores it. ``module`` is the averaged network.
    """

    def follow(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        steps = int(count)
        return old + (new - old) * (1 - min(decay, (1 + steps) / (10 + steps)))

    average = AveragedModel(network, avg_fn=follow, use_buffers=True)
    average.requires_grad_(False)
    return average


class Loop(pl.LightningModule):
    """Lightning module: the loss, the sums of an epoch, and its row of the history."""

    def __init__(
        self,
        network: Trainable,
        config: GradientTraining,
        spec: PreprocessSpec,
        loss: nn.Module,
        sets: tuple[ImageSet, ImageSet],
        out: Path,
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.config, self.out, self.seed = network, config, out, seed
        self.sets = dict(zip(("train", "val"), sets, strict=True))
        self.to_input = network.to_input(spec)
        self.loss = loss
        # No parameters of this module: they are the network's already.
        self.frozen = (freeze(network, config),)
        self.average = moving_average(network, config.ema) if config.ema else None
        self.moved, self.without = False, False  # the batch changed the weights, was left out
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {}
        self.norms: list[float] = []
        self.skipped = 0
        self.left_out: list[dict[str, object]] = []
        self.rate = config.learning_rate
        self.place: tuple[int, Tensor] = (0, torch.empty(0))
        self.started = 0.0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Lightning asks for the optimiser and the schedule."""
        optimizer = build_optimizer(self.network, self.config)
        batches = batch_count(len(self.sets["train"].y), self.config.batch_size, training=True)
        schedule = build_schedule(optimizer, self.config, batches)
        if schedule is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_start(self) -> None:
        """Seed dropout from the epoch, and start the sums anew."""
        torch.manual_seed(batch_seed(self.seed, self.current_epoch, -1))  # dropout, cached views
        for part in self.frozen[0]:
            part.eval()
        if self.average is not None:
            self.average.eval()
        self.sums = {"train": [0.0, 0.0, 0.0], "val": [0.0, 0.0, 0.0]}
        classes = self.network.head.out_features
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.norms, self.skipped = [], 0
        self.started = time.perf_counter()

    def training_step(self, batch: Batch, number: int) -> Tensor | None:
        """Loss of one batch; None leaves it out."""
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        self.rate = float(optimizer.param_groups[0]["lr"])
        self.place = (number, batch[2])
        loss = self._step("train", batch, number)
        self.without = loss is None
        if (
            loss is None and process_count() > 1
        ):  # they stay in step, with a gradient that is not used
            weights = [p.sum() for p in self.network.parameters() if p.requires_grad]
            loss = 0 * torch.stack(weights).sum()
        return loss

    def validation_step(self, batch: Batch, number: int) -> None:
        """Count one batch."""
        self._step("val", batch, number)

    def _step(self, part: str, batch: Batch, number: int) -> Tensor | None:
        images, y, rows = batch
        x = self.to_input(images)
        mix = None
        if part == "train":
            mix = build_blend(self.config, (self.seed, self.current_epoch, number, 1))
            x = mix.images(x) if mix else x
        fine = torch.isfinite(x).flatten(1).all(dim=1)
        if not fine.all():
            self._not_finite(part, "input", "NaN or infinite", number, rows[~fine])
            return None
        careful = part == "train" and self.config.not_finite == "skip"
        before = [b.clone() for b in self.network.buffers()] if careful else []
        logits = self._logits(
            self.network if part == "train" else self.evaluated_network.predict, x, number
        )
        loss = mix.loss(self.loss, logits, y) if mix else cast(Tensor, self.loss(logits, y))
        value = float(loss.detach())
        if not np.isfinite(value):
            fine = torch.isfinite(logits.detach()).all(dim=1)
            guilty = rows if fine.all() else rows[~fine]
            self._not_finite(part, "loss", str(value), number, guilty)
            # The forward pass has spoilt the statistics of batch norm.
            for buffer, kept in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(kept)
            return None
        predicted = logits.detach().argmax(dim=1)
        if part == "val":
            np.add.at(self.confusion, (y.cpu().numpy(), predicted.cpu().numpy()), 1)
        right = float((predicted == y).sum())
        for place, amount in enumerate((value * len(y), right, len(y))):
            self.sums[part][place] += amount
        return loss * process_count() if process_count() > 1 else loss  # the gradient is averaged

    def _logits(self, apply: Callable[[Tensor], Tensor], x: Tensor, number: int) -> Tensor:
        """(N, K) float32 of all images; where several processes train, each computes a share."""
        if process_count() == 1:
            return apply(x).float()
        with torch.random.fork_rng():  # each drops other units; what all draw stays the same
            torch.manual_seed(batch_seed(self.seed, self.current_epoch, number) + self.global_rank)
            return gather_logits(apply, x)

    @property
    def evaluated_network(self) -> Trainable:
        """The network that is validated and kept: the trained one, or its average."""
        return self.network if self.average is None else cast(Trainable, self.average.module)

    def on_train_batch_end(self, *_: object) -> None:
        """Let the average follow, unless the batch was left out."""
        if self.average is not None and self.moved:
            self.average.update_parameters(self.network)
        self.moved = False

    def _not_finite(self, part: str, what: str, value: str, number: int, rows: Tensor) -> None:
        """Stop, or count the batch as left out and write which one it was."""
        images = self.sets[part].describe(sorted(rows.tolist()))
        epoch, batch = self.current_epoch + 1, number + 1
        if part == "train" and self.config.not_finite == "skip":
            self.skipped += 1
            row = dict(zip(LEFT_OUT_COLUMNS, (epoch, batch, what, value, images), strict=True))
            self.left_out.append(row)
            if is_first():
                write_csv(self.out / LEFT_OUT, LEFT_OUT_COLUMNS, self.left_out)
            return
        raise TrainingError(
            f"the {part} {what} became {value} in epoch {epoch}, batch {batch} ({images})",
            hint='lower training.learning_rate, set training.precision = "fp32", or leave such '
            'batches out with training.not_finite = "skip"',
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: object = None,
        gradient_clip_algorithm: object = None,
    ) -> None:
        """Measure the gradient's norm, and clip it where the recipe says so."""
        if self.without:
            optimizer.zero_grad(set_to_none=True)
            return
        weights = [p for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([cast(Tensor, p.grad) for p in weights])
        value = float(norm)
        if not np.isfinite(value):
            number, rows = self.place
            self._not_finite("train", "gradient", str(value), number, rows)
            optimizer.zero_grad(set_to_none=True)
            return
        self.norms.append(value)
        self.moved = True
        if self.config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.clip_norm, norm)

    def on_validation_epoch_end(self) -> None:
        """Write the row of the history; the callbacks after this read its values."""
        row: dict[str, float] = {"epoch": self.current_epoch + 1}
        if not self.norms:
            raise TrainingError(
                f"every batch of epoch {self.current_epoch + 1} was left out: its input, loss or "
                "gradient was not finite",
                hint="lower training.learning_rate",
            )
        for part, (loss, right, count) in self.sums.items():
            row |= {f"{part}_loss": loss / count, f"{part}_accuracy": right / count}
        row["val_f1"] = weighted_f1(self.confusion)
        row["lr"] = self.rate
        row |= {"grad_norm": float(np.mean(self.norms)), "skipped": self.skipped}
        row["seconds"] = round(time.perf_counter() - self.started, 2)
        self.history.append(row)
        if is_first():
            write_csv(self.out / HISTORY, HISTORY_COLUMNS, self.history)
        values = {k: float(v) for k, v in row.items() if k != "epoch"}
        self.log_dict(values, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"], checkpoint["left_out"] = self.history, self.left_out

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = list(checkpoint["history"])
        self.left_out = list(checkpoint["left_out"])


class TrainingState(TypedDict):
    """What is read of a file of Lightning."""

    history: list[dict[str, float]]
    left_out: list[dict[str, object]]
    state_dict: dict[str, Tensor]
    callbacks: dict[str, dict[str, int]]


class BatchProgress(Callback):
    """Callback that reports how many batches are done."""

    def __init__(self, batches: int, progress: Tell | None) -> None:
        self.batches, self.progress = batches, progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Pass the count on."""
        if self.progress:
            done = trainer.current_epoch * self.batches + trainer.fit_loop.batch_idx + 1
            self.progress(done, cast(int, trainer.max_epochs) * self.batches)


class StopCallback(Callback):
    """Callback that passes each epoch's row to a caller, who may end the training."""

    def __init__(self, epoch_end: EpochEnd) -> None:
        self.epoch_end = epoch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pass the row on."""
        row = cast(Loop, pl_module).history[-1]
        if self.epoch_end(int(row["epoch"]), dict(row)):
            trainer.should_stop = True


class AtomicIO(TorchCheckpointIO):
    """Writes checkpoints atomically, so that a killed process leaves the one before intact."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
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


def read_state(path: Path) -> TrainingState | None:
    """A file of Lightning, tensors and plain values only; None where there is none."""
    if not path.is_file():
        return None
    return cast(TrainingState, torch.load(path, map_location="cpu", weights_only=True))


@contextmanager
def quiet_lightning() -> Iterator[None]:
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
