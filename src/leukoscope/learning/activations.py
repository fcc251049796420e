"""Activation caches of the frozen lower part of a network, and heads fitted on such caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.training import GradientTraining
from leukoscope.core.errors import TrainingError
from leukoscope.core.files import atomic_path
from leukoscope.learning.augment import augment_batch, build_augmentation
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import batch_seed
from leukoscope.learning.features import extract_features, stream_outputs
from leukoscope.learning.graphs.export import open_session, part_bytes
from leukoscope.learning.lean import TimmNetwork

BATCH = 32
LARGEST = float(np.finfo(np.float16).max)


class OneView(nn.Module):
    """(N, V, …) of V copies to (N, …): a random copy in training, else the first."""

    def forward(self, views: Tensor) -> Tensor:
        """Choose one copy of each image; draws from torch's global random state."""
        if not self.training or views.shape[1] == 1:
            return views[:, 0].float()
        chosen = torch.randint(views.shape[1], (len(views),), device=views.device)
        return views[torch.arange(len(views), device=views.device), chosen].float()


class HeadOnly(nn.Module):
    """The trainable layers of a network with a frozen backbone, shared and not copied.

    Attributes:
        config: The configuration of the network.
        backbone: Empty: there is nothing left to freeze.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.config = network.config
        self.backbone = nn.Identity()
        self.hidden, self.dropout, self.head = network.hidden, network.dropout, network.head

    def to_input(self, spec: PreprocessSpec) -> nn.Module:
        """Features need no normalisation, a copy has to be chosen."""
        return OneView()

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) pooled features to logits (N, K)."""
        return cast(Tensor, self.head(self.dropout(self.hidden(x))))

    def predict(self, x: Tensor) -> Tensor:
        """The same; a network may average views here."""
        return self.forward(x)


def pooled_views(
    recipe: Recipe,
    images: NDArray[np.uint8],
    views: int,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float16]:
    """Pooled features of each image and of augmented copies of it.

    Args:
        views: V, copies of each image; the first is the image itself.

    Returns:
        (n, V, D) float16; half the memory, and finer than what augmentation changes.
    """
    plain = {"hidden": (), "input_norm": "none", "norm": "none", "residual": False,
             "hidden_dropout": 0.0, "test_time": "none"}  # fmt: skip
    stem = build_network(
        recipe.model.model_copy(update=plain), num_classes=2, size_px=recipe.preprocess.size_px
    )
    out = np.empty((len(images), views, stem.num_features), dtype=np.float16)
    total = views * len(images)
    for view in range(views):

        def tell(done: int, _: int, before: int = view * len(images)) -> None:
            if progress:
                progress(before + done, total)

        stream = (
            image for batch in augmented_copies(recipe, images, view, seed) for image in batch
        )
        out[:, view] = extract_features(
            stem, stream, recipe.preprocess, total=len(images), progress=tell
        )
    return out


def augmented_copies(
    recipe: Recipe, images: NDArray[np.uint8], view: int, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """One copy of every image, in batches (≤ 32, S, S, 3) uint8; copy 0 is the image itself."""
    transform = build_augmentation(recipe.augmentation)
    for number, start in enumerate(range(0, len(images), BATCH)):
        batch = images[start : start + BATCH]
        if view:
            drawn = batch_seed(seed, view, number)
            batch = augment_batch(torch.from_numpy(batch), transform, drawn).numpy()
        yield batch


class UpperPart(nn.Module):
    """A network that starts at its first trainable block: the same layers, not copies.

    Attributes:
        network: The whole network; the blocks below the cut are frozen and never run.
        below: Blocks whose output is cached, in order.
        above: The blocks from the cut to the feature map, in order.
    """

    def __init__(self, network: Network, below: list[nn.Module], above: list[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.below, self.above = tuple(below), tuple(above)

    @property
    def config(self) -> ModelConfig:
        """The configuration of the network."""
        return self.network.config

    @property
    def backbone(self) -> nn.Module:
        """The whole backbone, so that freezing counts the same blocks."""
        return self.network.backbone

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return self.network.head

    def to_input(self, spec: PreprocessSpec) -> nn.Module:
        """Activations need no normalisation, a copy has to be chosen."""
        return OneView()

    def forward(self, x: Tensor) -> Tensor:
        """(N, h, w, C) activations to logits (N, K)."""
        x = x.permute(0, 3, 1, 2)
        for part in self.above:
            x = part(x)
        return self.network.logits_of(self.network.map_and_features_of(x)[1])

    def predict(self, x: Tensor) -> Tensor:
        """The same: a cache holds one view of the image as it is."""
        return self.forward(x)


class LowerPart(nn.Module):
    """The frozen blocks of a network, as a module of their own."""

    def __init__(self, upper: UpperPart) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*upper.below)
        self.limit = upper.config.clamp_input

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) normalised images to activations (N, h, w, C)."""
        x = x.clamp(-self.limit, self.limit) if self.limit else x
        found: Tensor = self.blocks(x)
        return found.permute(0, 2, 3, 1)


Trainable = Network | HeadOnly | UpperPart


def upper_part(network: Network, frozen_blocks: int) -> UpperPart | None:
    """Cut a network above its frozen blocks.

    Args:
        frozen_blocks: As in ``training.freeze``: blocks with weights, from the input on.

    Returns:
        None where the backbone is no chain of its modules, such as a transformer, so that no
        block's output alone determines the rest.

    Raises:
        TrainingError: More blocks than the backbone has.
    """
    blocks = len(backbone_blocks(network.backbone))
    if frozen_blocks > blocks:
        raise TrainingError(
            f"training.freeze = {frozen_blocks}, but {network.config.backbone} has {blocks} blocks",
            hint='set training.freeze = "all" to train the head only',
        )
    chain = _chain(network)
    if chain is None:
        return None
    weighted = [place for place, part in enumerate(chain) if _has_weights(part)]
    # What has no weights, as pooling, goes with the block before it.
    cut = weighted[frozen_blocks] if frozen_blocks < len(weighted) else len(chain)
    return UpperPart(network, chain[:cut], chain[cut:])


def _chain(network: Network) -> list[nn.Module] | None:
    """The modules that give the feature map when run one after the other, found by trying."""
    parts = list(_unfold(network.backbone))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((1, 3, network.size_px, network.size_px), generator=generator)
    with torch.no_grad():
        expected = cast(TimmNetwork, network.backbone).forward_features(x)
        for done, part in enumerate(parts, start=1):
            try:
                x = part(x)
            except (AssertionError, RuntimeError, TypeError, ValueError):
                return None
            if x.shape == expected.shape and x.ndim == 4 and torch.allclose(x, expected, atol=1e-5):
                return parts[:done]
    return None


def backbone_blocks(backbone: nn.Module) -> tuple[nn.Module, ...]:
    """Parts of a backbone that hold weights, from the input on; sequences are unfolded.

    In a ResNet these are the first convolution, its norm, and each residual block.
    """
    return tuple(filter(_has_weights, _unfold(backbone)))


def _unfold(module: nn.Module, *, top: bool = True) -> Iterator[nn.Module]:
    if top or isinstance(module, nn.Sequential):
        for child in module.children():
            yield from _unfold(child, top=False)
    else:
        yield module


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def activation_shape(upper: UpperPart) -> tuple[int, int, int]:
    """(h, w, C) of what is cached of one image."""
    size = upper.network.size_px
    with torch.no_grad():
        h, w, c = LowerPart(upper)(torch.zeros(1, 3, size, size)).shape[1:]
    return h, w, c


def save_activations(
    path: Path,
    upper: UpperPart,
    recipe: Recipe,
    images: NDArray[np.uint8],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the activations of each image and of augmented copies of it, one batch at a time.

    They are computed in float32 by the inference engine, on a CPU faster than by torch in bfloat16
    (``docs/results/steps.md``), while the next images are augmented.

    Args:
        path: A new ``.npy`` file: (n, V, h, w, C) float16, V = ``training.cached_views``; the
            first copy is the image itself.

    Raises:
        BundleError: The engine cannot run these blocks.
    """
    assert isinstance(recipe.training, GradientTraining)
    views = recipe.training.cached_views
    shape = (len(images), views, *activation_shape(upper))
    session = open_session(_lower_graph(upper, recipe.preprocess))
    copies = (
        image
        for view in range(views)
        for batch in augmented_copies(recipe, images, view, seed)
        for image in batch
    )
    done = 0
    with atomic_path(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for (found,) in stream_outputs(session, ["activations"], copies, recipe.preprocess):
            places = np.arange(done, done + len(found))
            out[places % len(images), places // len(images)] = found.clip(-LARGEST, LARGEST)
            done += len(found)
            if progress:
                progress(done, views * len(images))
        out.flush()
        del out


def _lower_graph(upper: UpperPart, spec: PreprocessSpec) -> bytes:
    return part_bytes(LowerPart(upper), spec, "activations", upper.config.backbone)
