"""Random changes of training images; mixup and cutmix."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from leukoscope.config.recipe import Augmentation
from leukoscope.config.training import GradientTraining
from leukoscope.imaging.corruption import compressed
from leukoscope.imaging.stain import BLACK
from leukoscope.learning.lean import v2

# Unit optical densities (RGB) of methylene blue and eosin, the dyes of Giemsa's and of the other
# Romanowsky stains of blood: G. Landini's measurement, the entry "Giemsa" of ImageJ's colour
# deconvolution. Haematoxylin, which the method was published for, does not occur in smears.
_BLUE, _EOSIN = (0.834750, 0.513556, 0.196330), (0.092789, 0.954111, 0.283111)


class AffineChange(TypedDict):
    """What :class:`torchvision.transforms.v2.RandomAffine` draws for an image."""

    angle: float  # degrees
    translate: tuple[float, float]  # px
    scale: float
    shear: tuple[float, float]  # degrees


class MirroredAffine(v2.RandomAffine):  # type: ignore[misc]
    """A random affine change whose uncovered corners show the mirrored image, not black.

    Black corners would be a mark of their own, and their size would tell the angle.
    """

    def transform(self, inpt: Tensor, params: AffineChange) -> Tensor:
        """Change one image (3, H, W)."""
        height, width = inpt.shape[-2:]
        pad = _reach(height, width, params)
        padded = v2.functional.pad(inpt, [pad] * 4, padding_mode="reflect")
        changed: Tensor = super().transform(padded, params)
        cropped: Tensor = v2.functional.center_crop(changed, [height, width])
        return cropped


class CropBack(v2.RandomResizedCrop):  # type: ignore[misc]
    """A random crop, enlarged to the size that the image had."""

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Change one image (3, H, W)."""
        side = list(inpt.shape[-2:])
        resized: Tensor = v2.functional.resized_crop(inpt, **params, size=side, antialias=True)
        return resized


class QuarterTurn(v2.Transform):  # type: ignore[misc]
    """A turn by a multiple of 90°; images are square, so that nothing is lost."""

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw the number of turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Change one image (3, S, S)."""
        return torch.rot90(inpt, params["turns"], (-2, -1))


class StainJitter(v2.Transform):  # type: ignore[misc]
    """Change how much of each dye an image holds: s' = α·s + β (Tellez et al. 2018).

    Amounts s of two dyes and of what is left (perpendicular to both) are found by colour
    deconvolution (Ruifrok & Johnston 2001) in optical density ``−ln((I + 1) / 256)``. α and β are
    drawn for each image and dye; black surroundings of a cut-out cell stay.

    Args:
        sigma: α is uniform in 1 ± sigma, β in ± sigma.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        blue, eosin = torch.tensor(_BLUE), torch.tensor(_EOSIN)
        rest = torch.linalg.cross(blue, eosin)
        self.stains = torch.stack((blue, eosin, rest / rest.norm()))
        self.amounts_of = torch.linalg.inv(self.stains)

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw α and β, (3,) each."""
        alpha, beta = torch.empty(2, 3).uniform_(-self.sigma, self.sigma)
        return {"alpha": 1 + alpha, "beta": beta}

    def transform(self, inpt: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Change one image (3, H, W) uint8."""
        density = -torch.log((inpt.permute(1, 2, 0).float() + 1) / 256)
        amounts = density @ self.amounts_of * params["alpha"] + params["beta"]
        levels = 256 * torch.exp(-(amounts @ self.stains)) - 1
        changed = levels.round().clamp(0, 255).byte().permute(2, 0, 1)
        return torch.where(inpt.amax(0) >= BLACK, changed, inpt)


class Compression(v2.Transform):  # type: ignore[misc]
    """Compress an image as JPEG.

    Args:
        loss: The quality is uniform from 100 · (1 - loss) to 100.
    """

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.least = round(100 * (1 - loss))

    def make_params(self, flat_inputs: list[object]) -> dict[str, object]:
        """Draw the quality."""
        return {"quality": int(torch.randint(self.least, 101, ()))}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Change one image (3, H, W) uint8."""
        changed = compressed(inpt.permute(1, 2, 0).numpy(), params["quality"])
        return torch.from_numpy(changed).permute(2, 0, 1)


def _reach(height: int, width: int, params: AffineChange) -> int:
    """How far beyond the border a change may look, px; at most what mirroring can fill."""
    angle = math.radians(params["angle"])
    shear = sum(abs(math.tan(math.radians(degrees))) for degrees in params["shear"])
    stretch = (abs(math.cos(angle)) + abs(math.sin(angle)) + shear) / params["scale"]
    half = max(height, width) / 2
    shift = max(abs(pixels) for pixels in params["translate"])
    reach: int = math.ceil((half + shift) * stretch - half) + 1
    return max(0, min(reach, min(height, width) - 1))


def build_augmentation(config: Augmentation) -> v2.Transform:
    """The random changes that a recipe asks for.

    Returns:
        A transform of one image, (3, H, W) uint8 to the same. It draws from torch's global
        random state.
    """
    steps: list[v2.Transform] = []
    if config.crop_min_area < 1:
        steps.append(CropBack(size=(1, 1), scale=(config.crop_min_area, 1)))
    if config.quarter_turns:
        steps.append(QuarterTurn())
    if config.rotation_deg or config.shift or config.shear_deg or config.zoom:
        steps.append(
            MirroredAffine(
                degrees=config.rotation_deg,
                translate=(config.shift, config.shift) if config.shift else None,
                scale=(1 - config.zoom, 1 + config.zoom) if config.zoom else None,
                shear=config.shear_deg or None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if config.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if config.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    if config.brightness or config.contrast or config.saturation or config.hue:
        steps.append(
            v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
        )
    # New kinds go last: they must not shift what the others draw.
    if config.stain:
        steps.append(StainJitter(config.stain))
    if config.blur_px:
        kernel = 2 * math.ceil(3 * config.blur_px) + 1
        steps.append(v2.GaussianBlur(kernel, (min(0.1, config.blur_px), config.blur_px)))
    if config.invert:
        steps.append(v2.RandomInvert(config.invert))
    if config.jpeg:
        steps.append(Compression(config.jpeg))
    return v2.Compose(steps) if steps else v2.Identity()


def augment_batch(images: Tensor, transform: v2.Transform, seed: int) -> Tensor:
    """Change each image of a batch on its own, drawing from ``seed`` alone.

    Args:
        images: (N, H, W, 3) uint8.
        seed: The global random state is put back afterwards.

    Returns:
        (N, H, W, 3) uint8.
    """
    if isinstance(transform, v2.Identity):
        return images
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        changed = [transform(image.permute(2, 0, 1)) for image in images]
    return torch.stack(changed).permute(0, 2, 3, 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sharing a single small image between threads costs more than it gains, up to 100-fold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Blend(ABC):
    """Each image of a batch with a part of another one, and their losses in the same shares.

    The loss is the blend of the two images' losses, which equals the loss of blended targets
    where the loss is linear in them, as cross entropy is, and is defined for every loss.

    Args:
        alpha: Parameter of the symmetric Beta distribution of the share.
    """

    def __init__(self, alpha: float, rng: np.random.Generator) -> None:
        self._rng = rng
        self.share = float(rng.beta(alpha, alpha))
        self.partners = torch.empty(0, dtype=torch.long)

    def images(self, x: Tensor) -> Tensor:
        """The blended images, (N, 3, S, S) float32."""
        order = self._rng.permutation(len(x))
        self.partners = torch.from_numpy(order).to(x.device)
        return self._blend(x, x[self.partners])

    @abstractmethod
    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        """``share`` of ``x`` and the rest of ``other``."""

    def loss(self, loss: nn.Module, logits: Tensor, y: Tensor) -> Tensor:
        """The blended loss () of the blended images' logits (N, K) and the classes (N,)."""
        first: Tensor = loss(logits, y)
        second: Tensor = loss(logits, y[self.partners])
        return self.share * first + (1 - self.share) * second


class Mixup(Blend):
    """Every pixel is a mixture of both images (Zhang et al. 2018)."""

    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        return self.share * x + (1 - self.share) * other


class CutMix(Blend):
    """A rectangle of the image is replaced by that of the other (Yun et al. 2019, eq. 1–2).

    The rectangle has the image's shape and lies around a place that is drawn uniformly; what
    reaches beyond the border is cut off, and ``share`` becomes the area that is really left.
    """

    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        side = np.sqrt(1 - self.share) / 2
        y, x_ = self._rng.uniform(0, (height, width))
        top, bottom = np.clip(np.rint((y - side * height, y + side * height)), 0, height)
        left, right = np.clip(np.rint((x_ - side * width, x_ + side * width)), 0, width)
        place = (..., slice(int(top), int(bottom)), slice(int(left), int(right)))
        mixed = x.clone()
        mixed[place] = other[place]
        self.share = float(1 - (bottom - top) * (right - left) / (height * width))
        return mixed


def build_blend(config: GradientTraining, entropy: tuple[int, ...]) -> Blend | None:
    """What a recipe blends a batch with; where it names both, either one at even chances."""
    rng = np.random.default_rng(entropy)
    cut = config.cutmix > 0
    if cut and config.mixup:
        cut = bool(rng.random() < 0.5)
    if cut:
        return CutMix(config.cutmix, rng)
    return Mixup(config.mixup, rng) if config.mixup else None
