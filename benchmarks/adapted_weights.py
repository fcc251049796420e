"""A small network that goes on learning from smears without labels, for ``--weights FILE``.

EfficientNet-Lite0 starts from ImageNet and meets images of any folders or manifests, each prepared
as by a recipe. No label is read. What is learned depends on ``--method``:

norm     nothing but the mean and variance of every batch norm (Li et al. 2017, AdaBN)
distil   feature levels 3, 4 and 5 of a degraded copy must be those that the network of ImageNet
         has of the image as it is (Hinton et al. 2015), in standard deviations of each feature
vicreg   two views of an image, degraded and restained each on its own, must have the same levels
         (Bardes et al. 2022: weights 25, 25 and 1, projector of two layers)

python benchmarks/adapted_weights.py adapted.safetensors --method distil --steps 400 \
    --data aria_all=shallow --data development.csv=single-cell
leukoscope study IMAGES -r single-cell --weights adapted.safetensors

Images of a manifest are those of its rows, so that a development set without its test groups can be
given. Whoever scores a network on images that it has met here must say so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from leukoscope import load_dataset
from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Augmentation, ModelConfig
from leukoscope.core.errors import ImageError
from leukoscope.core.threads import ordered_map
from leukoscope.datasets.layouts.rules import list_files
from leukoscope.imaging.corruption import DEGRADATIONS
from leukoscope.imaging.decode import decode_image, read_image_file
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning.augment import augment_batch, build_augmentation
from leukoscope.learning.backbones import ToInput
from leukoscope.learning.optimisers import has_fast_bfloat16
from leukoscope.learning.weights import load_weights, timm_backbone

MODEL: Final = ModelConfig(backbone="tf_efficientnet_lite0")
LEVELS: Final = (2, 3, 4)
"""The feature levels 3, 4 and 5, which ``single-cell`` reads, as timm counts them."""
DAMAGE: Final = (
    "blur-0.5", "blur-1", "blur-1.5", "jpeg-95", "jpeg-85", "jpeg-70", "resampled", "noise",
    "stain-less", "stain-more", "darker", "brighter",
)  # fmt: skip
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
UNDAMAGED: Final = 0.3
"""Share of views that are not degraded."""
VIEWS: Final = Augmentation(
    quarter_turns=True, horizontal_flip=True, zoom=0.15, brightness=0.15, contrast=0.15,
    saturation=0.15, hue=0.02, stain=0.1,
)  # fmt: skip
Images = NDArray[np.uint8]
Source = tuple[Path, PreprocessSpec]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", action="append", required=True, metavar="DATA=RECIPE")
    parser.add_argument("--method", choices=sorted(METHODS), required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--crop", type=int, default=192, help="side of a random crop, px")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    batches = Batches(options.data, options.batch, options.crop, options.seed)
    network = lite0(options.crop)
    METHODS[options.method](network, batches, options.steps, options.rate)
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, options.out)
    print(f"{options.method}: {len(batches.sources)} images, {options.steps} steps: {options.out}")


def lite0(size_px: int) -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet, without its classifier."""
    network = timm_backbone(MODEL, size_px)
    load_weights(network, MODEL)
    return network


def images_of(data: Path) -> list[Path]:
    """The images of a manifest, or all below a folder."""
    if data.is_file():
        found = load_dataset(data)
        return [found.path_of(record) for record in found.usable]
    files = [data / name for name in list_files(data).files]
    return [path for path in files if path.suffix.lower() in SUFFIXES]


class Batches:
    """Random images of several folders, equally often of each folder."""

    def __init__(self, data: list[str], size: int, crop_px: int, seed: int) -> None:
        self.folders: list[list[Source]] = []
        for one in data:
            name, _, recipe = one.rpartition("=")
            spec = load_recipe(recipe).preprocess
            self.folders.append([(path, spec) for path in images_of(Path(name))])
        self.size, self.crop_px = size, crop_px
        self.rng = np.random.default_rng(seed)
        self.to_input = ToInput(self.folders[0][0][1])
        self.change = build_augmentation(VIEWS)

    @property
    def sources(self) -> list[Source]:
        """All images."""
        return [source for folder in self.folders for source in folder]

    def draw(self, *copies: bool) -> list[Images]:
        """(B, C, C, 3) of the same crops for each of ``copies``: degraded where it is true."""
        places = self.rng.integers(len(self.folders), size=self.size)
        chosen = [self.folders[at][self.rng.integers(len(self.folders[at]))] for at in places]
        kinds = [[self._kind() if bad else "" for bad in copies] for _ in chosen]
        corners = self.rng.random((self.size, 2))
        work = list(zip(chosen, kinds, corners, strict=True))
        return [np.stack(part) for part in zip(*ordered_map(self._crops, work), strict=True)]

    def _kind(self) -> str:
        """A degradation, or none."""
        return "" if self.rng.random() < UNDAMAGED else str(self.rng.choice(DAMAGE))

    def _crops(self, work: tuple[Source, list[str], NDArray[np.float64]]) -> list[Images]:
        """The same crop of an image as it is or degraded, as its recipe prepares it."""
        (path, spec), kinds, corner = work
        found: list[Images] = []
        try:
            image = decode_image(read_image_file(path), name=str(path)).image
        except ImageError as error:
            print(f"{error}: the next image in its place", flush=True)
            every = self.sources
            following = every[(every.index((path, spec)) + 1) % len(every)]
            return self._crops((following, kinds, corner))
        for kind in kinds:
            whole = apply_preprocess(DEGRADATIONS[kind](image) if kind else image, spec)
            y, x = (int(share * (whole.shape[0] - self.crop_px)) for share in corner)
            found.append(whole[y : y + self.crop_px, x : x + self.crop_px])
        return found

    def tensor(self, images: Images, *, change: bool = False) -> Tensor:
        """(B, 3, C, C) for the network; each image changed on its own where asked."""
        batch = torch.from_numpy(images)
        if change:
            batch = augment_batch(batch, self.change, int(self.rng.integers(2**31)))
        found: Tensor = self.to_input(batch)
        return found


def levels(network: Any, x: Tensor) -> Tensor:
    """(N, 472) means of the three levels."""
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
        maps = network.forward_intermediates(x, indices=LEVELS, intermediates_only=True)
    return torch.cat([one.float().mean((2, 3)) for one in maps], dim=1)


def norm(network: nn.Module, batches: Batches, steps: int, rate: float) -> None:
    """Take mean and variance of the batch norms anew, as the plain mean over all batches."""
    for layer in norms(network):
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    for step in Clock(steps):
        (images,) = batches.draw(False)
        with torch.no_grad():
            network(batches.tensor(images))
        step(0.0)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """All batch norms."""
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def distil(network: nn.Module, batches: Batches, steps: int, rate: float) -> None:
    """Learn to see in a degraded copy what the first network sees in the image."""
    teacher = lite0(batches.crop_px).eval()
    with torch.no_grad():
        seen = [levels(teacher, batches.tensor(batches.draw(False)[0])) for _ in range(8)]
    spread = torch.cat(seen).std(0).clamp_min(1e-4)
    network.eval()  # batch norms keep their statistics, so that both networks see alike
    learn = Learner(network.parameters(), steps, rate)
    for step in Clock(steps):
        whole, damaged = batches.draw(False, True)
        with torch.no_grad():
            wanted = levels(teacher, batches.tensor(whole))
        found = levels(network, batches.tensor(damaged))
        step(learn(functional.smooth_l1_loss(found / spread, wanted / spread)))


def vicreg(network: nn.Module, batches: Batches, steps: int, rate: float) -> None:
    """Learn levels that two views of an image share, that vary, and that are not correlated."""
    projector = nn.Sequential(
        nn.BatchNorm1d(472), nn.Linear(472, 1024), nn.BatchNorm1d(1024), nn.ReLU(),
        nn.Linear(1024, 1024),
    )  # fmt: skip
    network.train()
    learn = Learner([*network.parameters(), *projector.parameters()], steps, rate)
    for step in Clock(steps):
        views = [batches.tensor(part, change=True) for part in batches.draw(True, True)]
        a, b = (projector(levels(network, view)) for view in views)
        likeness = functional.mse_loss(a, b)
        varied = sum(functional.relu(1 - (one.var(0) + 1e-4).sqrt()).mean() for one in (a, b)) / 2
        linked = sum(covariance(one) for one in (a, b))
        step(learn(25 * likeness + 25 * varied + linked))


def covariance(values: Tensor) -> Tensor:
    """Sum of the squared covariances of (N, D) between features, divided by D."""
    centred = values - values.mean(0)
    found = centred.T @ centred / (len(values) - 1)
    return (found.square().sum() - found.diagonal().square().sum()) / values.shape[1]


class Learner:
    """AdamW along half a cosine."""

    def __init__(self, parameters: Any, steps: int, rate: float) -> None:
        self.optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, steps)

    def __call__(self, loss: Tensor) -> float:
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        return float(loss.detach())


class Clock:
    """Steps that print the mean loss and the time, 20 times in all."""

    def __init__(self, steps: int) -> None:
        self.steps, self.start = steps, time.monotonic()
        self.losses: list[float] = []

    def __iter__(self) -> Any:
        for number in range(1, self.steps + 1):
            yield self.losses.append
            if number % max(1, self.steps // 20) == 0:
                spent = time.monotonic() - self.start
                print(f"{number}/{self.steps} {np.mean(self.losses):.4f} {spent:.0f} s", flush=True)
                self.losses = []


METHODS: Final[dict[str, Callable[[nn.Module, Batches, int, float], None]]] = {
    "norm": norm,
    "distil": distil,
    "vicreg": vicreg,
}

if __name__ == "__main__":
    main()
