"""Gradient training: early stopping, the best epoch kept, resumable to the same result."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.core.errors import TrainingError
from leukoscope.core.files import sha256_json
from leukoscope.core.known_classes import Roles
from leukoscope.learning.activations import Trainable
from leukoscope.learning.augment import build_augmentation
from leukoscope.learning.batches import Batches, ImageSet
from leukoscope.learning.checkpoint import RESUME
from leukoscope.learning.distributed import (
    is_first,
    name_lost_process,
    sync_batch_norms,
    trainer_options,
    wait_for_all,
)
from leukoscope.learning.lean import v2
from leukoscope.learning.linear_head import balanced_weights
from leukoscope.learning.loop import (
    LEFT_OUT,
    MODES,
    AtomicIO,
    BatchProgress,
    EpochEnd,
    Loop,
    StopCallback,
    Tell,
    TrainingState,
    deterministic,
    interruptible,
    keep_checkpoint,
    quiet_lightning,
    read_state,
)
from leukoscope.learning.optimisers import build_loss, fast_depthwise, precision_of
from leukoscope.learning.trackers import IDS, tracking
from leukoscope.learning.weights import tensors_sha256

__all__ = ["ImageSet", "TrainingResult", "train_gradient"]

HORIZON = ("cosine", "one-cycle")


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training; the network holds the weights of the best epoch."""

    best_epoch: int  # epoch whose weights were kept, counted from 1
    best_value: float  # value of ``keep_best`` in that epoch
    epochs: int  # epochs that were run, in all sessions together
    stopped_early: bool  # whether ``patience`` ended it
    history: tuple[dict[str, float], ...]  # the rows of ``history.csv``


def train_gradient(
    network: Trainable,
    recipe: Recipe,
    train: ImageSet,
    val: ImageSet,
    out: Path,
    *,
    seed: int,
    class_names: Sequence[str] = (),
    roles: Roles | None = None,
    resume: bool = True,
    progress: Tell | None = None,
    epoch_end: EpochEnd | None = None,
) -> TrainingResult:
    """Train all of a network, in place.

    Shuffling, augmentation and dropout of an epoch depend on (seed, epoch) alone, so that a run
    that was killed and resumed ends where an uninterrupted one does (on the same kind of machine
    and number of torch threads). Where several processes train together, all must call this with
    the same values, and the first one writes: ``history.csv``, ``not_finite.csv`` where batches
    were left out, TensorBoard files, and below ``resume/`` the state after each epoch, which
    :func:`~leukoscope.learning.checkpoint.save_checkpoint` deletes.

    Args:
        network: The network, freshly built, or the part of one above what is cached; left in
            evaluation mode with its best weights.
        recipe: ``recipe.training`` must be gradient training.
        val: Images that select the epoch and stop.
        class_names: In the order of the logits; only the hierarchical loss needs them.
        roles: What the user's own classes stand for; likewise.
        resume: Go on from ``out/resume`` where that stems from the same recipe and images.
        epoch_end: Called with (epoch from 1, its row of the history) after each epoch; True
            ends the training there.

    Raises:
        TrainingError: No images in a set, a setting that does not fit network, classes or images,
            or an input, loss or gradient that is not finite (names epoch, batch, images).
    """
    training = _checked(recipe, train, val)
    if is_first():
        _prepare_resume(out, _fingerprint(network, recipe, train, val, out, seed), resume=resume)
    with name_lost_process():
        wait_for_all()
        result = _fit(
            network,
            training,
            recipe.preprocess,
            build_augmentation(recipe.augmentation),
            (train, val),
            out,
            seed=seed,
            loss=build_loss(training, _class_weight(network, training, train), class_names, roles),
            progress=progress,
            epoch_end=epoch_end,
        )
        wait_for_all()  # the first deletes the state once it goes on, and every one reads it
    return result


def _checked(recipe: Recipe, train: ImageSet, val: ImageSet) -> GradientTraining:
    """The recipe's training, where it is by gradients and has images."""
    training = recipe.training
    if not isinstance(training, GradientTraining):
        raise TrainingError(f"recipe {recipe.name!r} asks for {training.method}, not for gradients")
    for part, images in (("training", train), ("validation", val)):
        if not len(images.y):
            raise TrainingError(f"gradient training needs {part} images, and there are none")
    return training


def _class_weight(
    network: Trainable, training: GradientTraining, train: ImageSet
) -> torch.Tensor | None:
    """(K,) float32 weights of the classes in the loss; None where all weigh the same."""
    if not training.class_weights:
        return None
    return torch.tensor(balanced_weights(train.y, network.head.out_features)).float()


def _prepare_resume(out: Path, key: str, *, resume: bool) -> None:
    """Keep the state of an interrupted run with the same fingerprint; delete any other."""
    folder = out / RESUME
    if not (resume and _same_run(folder, key)):
        shutil.rmtree(folder, ignore_errors=True)
        (out / LEFT_OUT).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fingerprint.txt").write_text(key, encoding="utf-8")


def _fit(
    network: Trainable,
    config: GradientTraining,
    spec: PreprocessSpec,
    transform: v2.Transform,
    sets: tuple[ImageSet, ImageSet],
    out: Path,
    *,
    seed: int,
    loss: nn.Module,
    progress: Tell | None,
    epoch_end: EpochEnd | None,
) -> TrainingResult:
    last = out / RESUME / "last.ckpt"
    settings = {**config.model_dump(mode="json", exclude={"logger"}), "seed": seed}
    with (
        quiet_lightning(),
        deterministic(),
        sync_batch_norms(network),
        tracking(config.logger, out, last.with_name(IDS), settings) as trackers,
    ):
        module = Loop(network, config, spec, loss, sets, out, seed)
        train = Batches(sets[0], config.batch_size, module, transform, sampling=config.sampling)
        val = Batches(sets[1], config.batch_size, module, None)
        stop = EarlyStopping(config.stop_on, mode=MODES[config.stop_on], patience=config.patience)
        keep = keep_checkpoint(last.parent, "best", config.keep_best)
        trainer = pl.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            precision=precision_of(config),
            max_epochs=config.epochs,
            callbacks=[
                stop,
                keep,
                keep_checkpoint(last.parent, "last"),
                BatchProgress(len(train), progress),
                *([StopCallback(epoch_end)] if epoch_end else []),
            ],
            logger=[
                TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False),
                *trackers,
            ],
            plugins=[AtomicIO()],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            deterministic=True,
            **trainer_options(),
        )
        for part in (network, module.evaluated_network):
            part.train().to(memory_format=torch.channels_last)
        state = read_state(last)
        if state is None or not _finished(state, config):
            resume = last if state else None
            with interruptible(trainer), fast_depthwise(network):
                trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)
            state = read_state(last)
    assert state is not None
    return _finish(network, state, config, last.with_name("best.ckpt"))


def _waited(state: TrainingState) -> int:
    return next(
        int(s["wait_count"]) for key, s in state["callbacks"].items() if key.startswith("EarlyStop")
    )


def _finished(state: TrainingState, config: GradientTraining) -> bool:
    return len(state["history"]) >= config.epochs or _waited(state) >= config.patience


def _finish(
    network: Trainable, state: TrainingState, config: GradientTraining, best: Path
) -> TrainingResult:
    """Load the best weights into the network and build the result."""
    saved = cast(TrainingState, read_state(best))
    prefix = "average.module." if config.ema else "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
    )
    network.requires_grad_(True)
    network.cpu().to(memory_format=torch.contiguous_format)
    network.eval()
    history = state["history"]
    epoch = len(saved["history"])
    return TrainingResult(
        best_epoch=epoch,
        best_value=history[epoch - 1][config.keep_best],
        epochs=len(history),
        stopped_early=_waited(state) >= config.patience,
        history=tuple(history),
    )


def _fingerprint(
    network: Trainable,
    recipe: Recipe,
    train: ImageSet,
    val: ImageSet,
    out: Path,
    seed: int,
) -> str:
    """What must be unchanged for a run to be resumed; the number of epochs may grow.

    Not so where the schedule reaches to the last epoch: its rates would have been others.
    """
    values = recipe.model_dump(mode="json")
    if recipe.training.method == "gradient" and recipe.training.schedule.kind not in HORIZON:
        del values["training"]["epochs"]
    for text in ("title", "reference", "notes"):
        del values[text]
    values["training"].pop("logger", None)
    return sha256_json(
        {
            "recipe": values,
            "tensors": tensors_sha256(network.state_dict()),
            "data": [train.sha256, val.sha256],
            "out": str(out.resolve()),
            "seed": seed,
        }
    )


def _same_run(folder: Path, key: str) -> bool:
    file = folder / "fingerprint.txt"
    return file.is_file() and file.read_text(encoding="utf-8") == key
