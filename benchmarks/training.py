"""How much faster is `finetune` than a plain fine-tune, to the same validation score?

Both start from the same ImageNet weights, see the same training images of fold 0 and are judged
on the same validation images. The plain one is what a user would write: timm, a DataLoader with
two workers, the same augmentation, every weight trained in float32. They run one after the other
in one process, each from image files on, and the time is counted to each validation accuracy. The
cache counts in full, though all folds share it.

python benchmarks/training.py RUN DATA [--protocol random] [--epochs 3] > docs/results/training.md
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.core.records import Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning.augment import augment_batch, build_augmentation
from leukoscope.learning.backbones import ToInput, build_network
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.gradient_training import GradientTrainer
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.progress import Progress

Rows = dict[str, NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished study, for its splits")
    parser.add_argument("data", type=Path)
    parser.add_argument("--protocol", default="random")
    parser.add_argument("--epochs", type=int, default=3, help="at most, of the plain fine-tune")
    options = parser.parse_args()
    run = RunFolder(options.run)
    manifest = Manifest.load(run.manifest, options.data)
    names = manifest.class_names
    data = Labelled(manifest.usable, names)
    fold = next(f for f in load_folds(run.splits) if (f.protocol, f.fold) == (options.protocol, 0))
    rows = {part: data.rows(fold, part) for part in ("train", "val", "cal", "test")}
    recipe = load_recipe("finetune")
    with tempfile.TemporaryDirectory() as folder:
        fast = finetune(Path(folder), recipe, manifest, data, rows)
    plain = plain_finetune(recipe, manifest, data, rows, fast["val_accuracy"], options.epochs)
    report(fast, plain, rows, fold.protocol)


def finetune(
    folder: Path, recipe: Recipe, manifest: Manifest, data: Labelled, rows: Rows
) -> dict[str, Any]:
    """One fold of the recipe from files to predictions, and where its time goes."""
    start = time.perf_counter()
    progress = Progress(_tell)
    store = InputStore(RunFolder(folder), manifest, data, progress)
    pixels = store.pixels(recipe)
    views = store.views(recipe, pixels, 42)
    cached = time.perf_counter() - start
    trainer = GradientTrainer(recipe, pixels, views, data)
    logits = trainer.fit(rows, folder / "model", 42, lambda *_: None)
    history = np.genfromtxt(folder / "model" / "history.csv", delimiter=",", names=True)
    best = int(np.argmin(history["val_loss"]))
    y = data.y
    return {
        "seconds": time.perf_counter() - start,
        "cached": cached,
        "curve": [
            (cached + float(seconds), float(value))
            for seconds, value in zip(
                np.cumsum(history["seconds"]), history["val_accuracy"], strict=True
            )
        ],
        "val_accuracy": float(history["val_accuracy"][best]),
        "accuracy": float((logits["test"].argmax(1) == y[rows["test"]]).mean()),
        "epochs": best + 1,
    }


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images read and augmented by the workers of a DataLoader."""

    def __init__(self, paths: list[Path], y: NDArray[np.int64], recipe: Recipe, train: bool):
        self.paths, self.y, self.spec = paths, y, recipe.preprocess
        self.transform = build_augmentation(recipe.augmentation) if train else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(load_input(self.paths[index], "image", self.spec))
        if self.transform is not None:
            drawn = int(torch.randint(2**31, ()))
            image = augment_batch(image[None], self.transform, drawn)[0]
        return image, int(self.y[index])


def plain_finetune(
    recipe: Recipe, manifest: Manifest, data: Labelled, rows: Rows, target: float, epochs: int
) -> dict[str, Any]:
    """Every weight, float32, until the validation accuracy reaches the target."""
    start = time.perf_counter()
    network = timm.create_model(recipe.model.backbone, num_classes=len(data.class_names))
    ours = build_network(
        recipe.model, num_classes=len(data.class_names), size_px=recipe.preprocess.size_px
    )
    network.load_state_dict(ours.backbone.state_dict(), strict=False)  # the ImageNet weights
    to_input = ToInput(recipe.preprocess)
    paths = [manifest.path_of(record) for record in data.records]
    loaders = {
        part: DataLoader(
            Files([paths[r] for r in rows[part]], data.y[rows[part]], recipe, part == "train"),
            batch_size=32,
            shuffle=part == "train",
            num_workers=2,
        )
        for part in ("train", "val")
    }
    steps = epochs * len(loaders["train"])
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    curve = []
    for epoch in range(epochs):
        network.train()
        for number, (images, y) in enumerate(loaders["train"]):
            optimizer.zero_grad()
            loss(network(to_input(images)), y).backward()
            optimizer.step()
            schedule.step()
            _tell(f"plain epoch {epoch + 1}", number, len(loaders["train"]))
        network.eval()
        with torch.inference_mode():
            hits = sum(
                int((network(to_input(images)).argmax(1) == y).sum())
                for images, y in loaders["val"]
            )
        curve.append((time.perf_counter() - start, hits / len(rows["val"])))
        if curve[-1][1] >= target:
            break
    return {"curve": curve, "epochs": epochs}


def report(fast: dict[str, Any], plain: dict[str, Any], rows: Rows, protocol: str) -> None:
    """Print the tables."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("# Speed of fine-tuning\n")
    print("```bash\npython benchmarks/training.py RUN DATA --epochs N\n```\n")
    print(
        f"Fold 0 of `{protocol}`: {len(rows['train'])} training, {len(rows['val'])} validation, "
        f"{len(rows['test'])} test images; {torch.get_num_threads()} threads; one run. The plain "
        f"fine-tune trains every weight in float32 (timm, DataLoader with two workers, one-cycle "
        f"over {plain['epochs']} epochs at most).\n"
    )
    print("| | seconds from the files on | validation accuracy |")
    print("|---|---|---|")
    for name, found in (("`finetune`", fast), ("plain fine-tune", plain)):
        for epoch, (when, value) in enumerate(found["curve"], start=1):
            print(f"| {name}, epoch {epoch} | {when:.0f} | {value:.3f} |")
    print("\n| validation accuracy | `finetune`, s | plain fine-tune, s | ratio |")
    print("|---|---|---|---|")
    for target in (0.9, 0.95, 0.97, 0.98, 0.99, fast["val_accuracy"]):
        times = [
            next((when for when, value in found["curve"] if value >= target), None)
            for found in (fast, plain)
        ]
        cells = ["not reached" if t is None else f"{t:.0f}" for t in times]
        ratio = f"{times[1] / times[0]:.1f}" if times[0] and times[1] else "—"
        print(f"| {target:.3f} | {cells[0]} | {cells[1]} | {ratio} |")
    print(
        f"\nFiles to predictions of all held-out images: {fast['seconds']:.0f} s, of these "
        f"{fast['cached']:.0f} s for the cache, which all folds share; test accuracy "
        f"{fast['accuracy']:.3f}. Peak memory of the process {memory:.1f} GiB."
    )


def _tell(step: str, done: int, total: int) -> None:
    if total and done % 20 == 0:
        print(f"{time.strftime('%H:%M:%S')} {step} {done}/{total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
