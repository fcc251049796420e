"""Features and pixels of every image, computed once per recipe and input and kept on disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.core.errors import BundleError
from leukoscope.core.files import atomic_path, sha256_file, sha256_json, write_text
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning.activations import activation_shape, save_activations, upper_part
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import CachedRows
from leukoscope.learning.features import extract_features
from leukoscope.learning.frozen import pooled_views
from leukoscope.study.events import Progress
from leukoscope.study.inputs import load_input, stream
from leukoscope.study.jobs import Labelled

if TYPE_CHECKING:
    from leukoscope.study.gradient_job import Announce


@dataclass
class InputStore:
    """What classifiers are fitted on.

    Attributes:
        run: The study's folder; features go below its cache.
        manifest: Where the images lie.
        data: The usable images, the order of every row.
        progress: Told as images pass.
        shared: Keep pixels in a file that several processes map, below :attr:`shared_folder`.
        announce: Tells other processes of each gradient training, in which they take part.
    """

    run: RunFolder
    manifest: Manifest
    data: Labelled
    progress: Progress
    shared: bool = False
    announce: Announce | None = None
    _networks: dict[str, Network] = field(default_factory=dict)

    def network(self, recipe: Recipe, seed: int) -> Network:
        """A fresh or shared network of the recipe; callers that train it must copy it first."""
        key = sha256_json([recipe.model.model_dump(), recipe.preprocess.size_px, seed])
        if key not in self._networks:
            self._networks[key] = build_network(
                recipe.model,
                num_classes=len(self.data.class_names),
                size_px=recipe.preprocess.size_px,
                seed=seed,
            )
        return self._networks[key]

    def features(
        self, recipe: Recipe, variant: str, seed: int, made: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float32]:
        """(n, D) float32 pooled features of the frozen backbone, from the cache or computed.

        ``made`` (m, S, S, 3) are images that were made of the data's, under a name of their own.
        """
        network = self.network(recipe, seed)

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            images = self._stream(recipe, variant) if made is None else made
            total = len(self.data.records) if made is None else len(made)
            return extract_features(
                network, images, recipe.preprocess, total=total, progress=tell
            )  # fmt: skip

        path = self.features_path(recipe, variant, seed)
        return self._cached(path, f"features of {variant}", compute)

    def features_path(self, recipe: Recipe, variant: str, seed: int) -> Path:
        """Where :meth:`features` keeps its array; the file need not be there."""
        network = self.network(recipe, seed)
        key = sha256_json(
            {
                "preprocess": recipe.preprocess.model_dump(mode="json"),
                "model": recipe.model.model_dump(mode="json"),
                "weights": network.weights_record.sha256,
                "variant": variant,
                "images": [record.sha256 for record in self.data.records],
            }
        )
        return self.run.cache / "features" / f"{variant}-{key[:16]}.npy"

    def pixels(self, recipe: Recipe, variant: str = "image") -> NDArray[np.uint8]:
        """(n, S, S, 3) uint8 preprocessed images, in memory or, where shared, mapped."""
        if not self.shared:
            return self._read_pixels(recipe, variant)
        key = sha256_json(
            [
                recipe.preprocess.model_dump(mode="json"),
                [record.sha256 for record in self.data.records],
            ]
        )
        path = self.shared_folder / f"{variant}-{key[:16]}.npy"
        if not path.is_file():
            with atomic_path(path) as temporary:
                np.save(temporary, self._read_pixels(recipe, variant), allow_pickle=False)
        return np.asarray(np.load(path, mmap_mode="r"))

    @property
    def shared_folder(self) -> Path:
        """Pixels of a store that is shared; whoever shared them deletes it."""
        return self.run.cache / "pixels"

    def _read_pixels(self, recipe: Recipe, variant: str) -> NDArray[np.uint8]:
        n, size = len(self.data.records), recipe.preprocess.size_px
        out = np.empty((n, size, size, 3), dtype=np.uint8)
        with self.progress.step(f"reading {variant}") as tell:
            for row, image in enumerate(self._stream(recipe, variant)):
                out[row] = image
                tell(row + 1, n)
        return out

    def views(self, recipe: Recipe, pixels: NDArray[np.uint8], seed: int) -> CachedRows | None:
        """What the frozen blocks give for copies of ``pixels``, where the recipe asks for them.

        Returns:
            All rows of the cache. None, and training computes everything anew, where the recipe
            asks for no cache, or where one of activations is needless (a GPU), impossible (the
            backbone is no chain of blocks) or too large for the disk; the progress says so.
        """
        training = recipe.training
        if not isinstance(training, GradientTraining) or not training.cached_views:
            return None
        key = sha256_json(
            {
                "recipe": recipe.model_dump(
                    mode="json", include={"preprocess", "model", "augmentation"}
                ),
                "weights": self.network(recipe, seed).weights_record.sha256,
                "views": training.cached_views,
                "seed": seed,
                "images": [record.sha256 for record in self.data.records],
                **({} if training.freeze == "all" else {"blocks": training.freeze}),
            }
        )
        path = self.run.cache / "features" / f"views-{key[:16]}.npy"
        every = np.arange(len(pixels))
        if training.freeze != "all":
            values = self._activations(path, recipe, pixels, seed, training)
            return None if values is None else CachedRows(values, every, key)

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            return pooled_views(recipe, pixels, training.cached_views, seed=seed, progress=tell)

        return CachedRows(self._cached(path, f"features of {recipe.name}", compute), every, key)

    def _activations(
        self,
        path: Path,
        recipe: Recipe,
        pixels: NDArray[np.uint8],
        seed: int,
        training: GradientTraining,
    ) -> NDArray[np.float16] | None:
        """The cache of activations as a memory map, computed unless its file is whole."""
        seal = path.with_suffix(".sha256")
        if path.is_file() and seal.is_file() and seal.read_text().strip() == sha256_file(path):
            return cast(NDArray[np.float16], np.load(path, mmap_mode="r"))
        assert isinstance(training.freeze, int)
        upper = upper_part(self.network(recipe, seed), training.freeze)
        megabytes = 0.0
        if upper is not None:
            values = len(pixels) * training.cached_views * math.prod(activation_shape(upper))
            megabytes = 2 * values / 1e6
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free / 1e6
        if upper is None:
            reason = "the backbone is no chain of blocks"
        elif torch.cuda.is_available():
            reason = "a GPU computes them as fast as a disk gives them"
        elif 2 * megabytes > free:
            reason = f"{megabytes:,.0f} MB are needed and {free:,.0f} MB of disk are free"
        else:
            with self.progress.step(f"activations of {recipe.name}, {megabytes:,.0f} MB") as tell:
                try:
                    save_activations(path, upper, recipe, pixels, seed=seed, progress=tell)
                    write_text(seal, sha256_file(path))
                    return cast(NDArray[np.float16], np.load(path, mmap_mode="r"))
                except BundleError:
                    reason = "the inference engine cannot run the frozen blocks"
        with self.progress.step(f"no cache of activations for {recipe.name}: {reason}"):
            return None

    def paths(self) -> list[Path]:
        """Files of the usable images."""
        return [self.manifest.path_of(record) for record in self.data.records]

    def table(
        self, name: str, function: Callable[[Path], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """(n, d) float64 statistics of each image, from the cache or computed."""

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            rows = []
            for row in stream(function, self.paths()):
                rows.append(row)
                tell(len(rows), len(self.data.records))
            return np.stack(rows)

        key = sha256_json([record.sha256 for record in self.data.records])
        return self._cached(self.run.cache / "features" / f"{name}-{key[:16]}.npy", name, compute)

    def _stream(self, recipe: Recipe, variant: str) -> Iterator[NDArray[np.uint8]]:
        return stream(partial(load_input, variant=variant, spec=recipe.preprocess), self.paths())

    def _cached(
        self,
        path: Path,
        step: str,
        compute: Callable[[Callable[[int, int], None]], NDArray[Any]],
    ) -> NDArray[Any]:  # fmt: skip
        if path.is_file():
            try:
                stored: NDArray[Any] = np.load(path, allow_pickle=False)
                return stored
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: compute it again
        with self.progress.step(step) as tell:
            values = compute(tell)
        with atomic_path(path) as temporary:
            np.save(temporary, values, allow_pickle=False)
        return values
