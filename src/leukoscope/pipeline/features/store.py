"""Features and pixels of every image, computed once per recipe and input and kept on disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining, LinearHeadTraining, Recipe
from leukoscope.config.study import OWN_GROUND, SWAPPED
from leukoscope.core.errors import BundleError
from leukoscope.core.files import atomic_path, sha256_file, sha256_json, write_text
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.observation import on_ground
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.learning.activations import (
    activation_shape,
    pooled_views,
    save_activations,
    upper_part,
)
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import CachedRows
from leukoscope.learning.features import FeatureEngine, extract_features
from leukoscope.pipeline.features.inputs import (
    GROUND,
    Rows,
    load_input,
    observe,
    partner_rows,
    reading_order,
)
from leukoscope.pipeline.features.one_pass import NumberTable, OnePass, Shown
from leukoscope.pipeline.jobs import Announce, Labelled
from leukoscope.pipeline.progress import Progress


@dataclass(frozen=True)
class Wanted:
    """Features that a study will ask for.

    Attributes:
        recipe: Whose network and preprocessing.
        variant: Of which version of the images.
        rows: Of which images, in ascending order; None means all.
    """

    recipe: Recipe
    variant: str
    rows: Rows | None = None


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
        pairs_of_patients: All images of a patient have their partners, whose leukocytes are removed
            too, in one class.
        parent: The store of which this one is a part, see :meth:`subset`.
        parent_rows: Rows of the parent that are its rows.
    """

    run: RunFolder
    manifest: Manifest
    data: Labelled
    progress: Progress
    shared: bool = False
    announce: Announce | None = None
    pairs_of_patients: bool = False
    parent: InputStore | None = None
    parent_rows: Rows | None = None
    _networks: dict[str, Network] = field(default_factory=dict)
    _partners: dict[tuple[int, bool], Rows] = field(default_factory=dict, init=False)

    @property
    def images(self) -> InputStore:
        """The store whose rows are images: this one."""
        return self

    def subset(self, rows: Rows, run: RunFolder) -> InputStore:
        """A store of some of the images, whose features, tables and pixels are rows of these.

        Args:
            rows: (m,) rows of this store, each once.
            run: Folder of what is fitted on them.
        """
        data = replace(self.data, records=tuple(self.data.records[row] for row in rows))
        return replace(self, run=run, data=data, parent=self, parent_rows=np.asarray(rows))

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

    def prepare(self, wanted: Sequence[Wanted], tables: Sequence[NumberTable], seed: int) -> None:
        """Compute in one pass over the files what is not in the cache: features and tables.

        Each file is decoded once and its leukocytes are looked for once, whatever is wanted.
        """
        if self.parent is not None:
            self.parent.prepare(wanted, tables, seed)
            return
        wanted = [w for w in wanted if w.rows is None] + [w for w in wanted if w.rows is not None]
        paths: dict[Path, Wanted] = {}
        for w in wanted:
            of_all = self.features_path(w.recipe, w.variant, seed)
            if w.rows is None or not (of_all in paths or _is_whole(of_all)):
                paths[self.features_path(w.recipe, w.variant, seed, w.rows)] = w
        missing = {path: w for path, w in paths.items() if not _is_whole(path)}
        bare = {self._table_path(t.name): t for t in tables}
        bare = {path: table for path, table in bare.items() if not _is_whole(path)}
        if not missing and not bare:
            return
        every = np.arange(len(self.data.records))
        engines: dict[str, FeatureEngine] = {}
        shown = []
        for w in missing.values():
            key = sha256_json([w.recipe.model.model_dump(), w.recipe.preprocess.model_dump()])
            if key not in engines:
                engines[key] = FeatureEngine(self.network(w.recipe, seed), w.recipe.preprocess)
            rows = every if w.rows is None else w.rows
            partners = self.grounds(w.variant, seed)
            shown.append(Shown(w.variant, w.recipe.preprocess, engines[key], rows, partners))
        order = reading_order(self.data.records)
        if not bare and all(w.rows is not None for w in missing.values()):
            order = order[np.isin(order, np.concatenate([one.rows for one in shown]))]
        transplants = any(one.variant == GROUND for one in shown)
        holes = self.partner_rows(seed) if transplants else every
        hashes = [record.sha256 for record in self.data.records]
        one_pass = OnePass(self.paths(), hashes, order, list(bare.values()), shown, holes)
        names = [f"features of {one.variant}" for one in shown] + [t.name for t in bare.values()]
        with self.progress.step(names[0] if len(names) == 1 else "features and probes") as tell:
            features, numbers = one_pass.run(tell)
        found: list[NDArray[np.generic]] = [*features, *numbers]
        for path, values in zip([*missing, *bare], found, strict=True):
            with atomic_path(path) as temporary:
                np.save(temporary, values, allow_pickle=False)

    def features(
        self,
        recipe: Recipe,
        variant: str,
        seed: int,
        made: NDArray[np.uint8] | None = None,
        rows: Rows | None = None,
    ) -> NDArray[np.float32]:
        """(n, D) float32 pooled features of the frozen backbone, from the cache or computed.

        Args:
            recipe: Whose network and preprocessing.
            variant: Of which version of the images.
            seed: The study's.
            made: (m, S, S, 3) images that were made of the data's, under a name of their own.
            rows: (m,) of these images only, in ascending order.
        """
        if made is None:
            if self.parent is not None and self.parent_rows is not None:
                mine = self.parent_rows if rows is None else self.parent_rows[rows]
                if rows is None:
                    return self.parent.features(recipe, variant, seed)[mine]
                order = np.argsort(mine)
                found = self.parent.features(recipe, variant, seed, rows=mine[order])
                return found[np.argsort(order)]
            self.prepare([Wanted(recipe, variant, rows)], [], seed)
            of_all = self.features_path(recipe, variant, seed)
            if rows is not None and _is_whole(of_all):
                return np.asarray(np.load(of_all, mmap_mode="r")[rows])
            return np.asarray(np.load(self.features_path(recipe, variant, seed, rows)))
        network = self.network(recipe, seed)

        def compute(tell: Callable[[int, int], None]) -> NDArray[np.generic]:
            return extract_features(
                network, made, recipe.preprocess, total=len(made), progress=tell
            )  # fmt: skip

        path = self.features_path(recipe, variant, seed)
        return self._cached(path, f"features of {variant}", compute)

    def features_path(
        self, recipe: Recipe, variant: str, seed: int, rows: Rows | None = None
    ) -> Path:
        """Where :meth:`features` keeps its array; the file need not be there."""
        weights = self.network(recipe, seed).weights_record.sha256
        records = self.data.records
        if rows is not None:
            records = tuple(records[row] for row in rows)
        partners = self.partner_rows(seed) if variant == GROUND else self.grounds(variant, seed)
        return _features_path(self.run, recipe, weights, variant, records, partners)

    def partner_rows(self, seed: int, *, own_class: bool = False) -> Rows:
        """(n,) row of the image whose leukocytes are removed from each one's ground too.

        ``own_class`` asks for partners of the same class.
        """
        key = seed, own_class
        if key not in self._partners:
            self._partners[key] = partner_rows(
                self.data.records, self.data.y, len(self.data.class_names), seed,
                of_patients=self.pairs_of_patients, own_class=own_class,
            )  # fmt: skip
        return self._partners[key]

    def grounds(self, variant: str, seed: int) -> Rows | None:
        """(n,) row of the image on whose ground a version puts the leukocytes of each image."""
        if variant not in SWAPPED:
            return None
        return self.partner_rows(seed, own_class=variant == OWN_GROUND)

    def partner_classes(self, seed: int) -> dict[str, int]:
        """Image id → class of its partner in the transplant control; those without have none."""
        if self.parent is not None:
            mine = {record.image_id for record in self.data.records}
            found = self.parent.partner_classes(seed)
            return {name: k for name, k in found.items() if name in mine}
        y, partners = self.data.y, self.partner_rows(seed)
        return {
            record.image_id: int(y[partners[row]])
            for row, record in enumerate(self.data.records)
            if y[partners[row]] != y[row]
        }

    def pixels(
        self, recipe: Recipe, variant: str = "image", rows: Rows | None = None, seed: int = 0
    ) -> NDArray[np.uint8]:
        """(n, S, S, 3) uint8 preprocessed images, in memory or, where shared, mapped.

        ``rows`` asks for some images only, which are never shared; ``seed`` draws the grounds of
        the versions that have them.
        """
        if self.parent is not None and self.parent_rows is not None:
            if rows is None:
                return self.parent.pixels(recipe, variant, seed=seed)[self.parent_rows]
            return self.parent.pixels(recipe, variant, self.parent_rows[rows], seed)
        if rows is not None or not self.shared:
            return self._read_pixels(recipe, variant, rows, seed)
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

    def _read_pixels(
        self, recipe: Recipe, variant: str, rows: Rows | None = None, seed: int = 0
    ) -> NDArray[np.uint8]:
        n = len(self.data.records) if rows is None else len(rows)
        size = recipe.preprocess.size_px
        out = np.empty((n, size, size, 3), dtype=np.uint8)
        with self.progress.step(f"reading {variant}") as tell:
            for row, image in enumerate(self.stream(recipe.preprocess, variant, rows, seed)):
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

        def compute(tell: Callable[[int, int], None]) -> NDArray[np.generic]:
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
        if self.parent is not None:
            return self.parent.table(name, function)[self.parent_rows]

        def compute(tell: Callable[[int, int], None]) -> NDArray[np.generic]:
            rows = []
            for row in ordered_map(function, self.paths()):
                rows.append(row)
                tell(len(rows), len(self.data.records))
            return np.stack(rows)

        return self._cached(self._table_path(name), name, compute)

    def numbers(self, table: NumberTable) -> NDArray[np.float64]:
        """(n, d) float64 numbers of each image, from the cache or computed."""
        if self.parent is not None:
            return self.parent.numbers(table)[self.parent_rows]
        self.prepare([], [table], 0)
        return np.asarray(np.load(self._table_path(table.name)))

    def _table_path(self, name: str) -> Path:
        key = sha256_json([record.sha256 for record in self.data.records])
        return self.run.cache / "features" / f"{name}-{key[:16]}.npy"

    def stream(
        self, spec: PreprocessSpec, variant: str, rows: Rows | None = None, seed: int = 0
    ) -> Iterator[NDArray[np.uint8]]:
        """Each image, or each of ``rows``, as a model sees it: (S, S, 3) uint8; see :meth:`pixels`.

        Raises:
            DataError: A file was changed since it was audited.
            ImageError: A file cannot be read.
        """
        paths, hashes = self.paths(), [record.sha256 for record in self.data.records]
        partners = self.grounds(variant, seed)

        def load(row: int) -> NDArray[np.uint8]:
            if partners is None:
                return load_input(paths[row], variant, spec, sha256=hashes[row])
            seen, other = (observe(paths[r], hashes[r]) for r in (row, int(partners[row])))
            return apply_preprocess(on_ground(seen, other), spec)

        return ordered_map(load, range(len(paths)) if rows is None else rows.tolist())

    def _cached(
        self,
        path: Path,
        step: str,
        compute: Callable[[Callable[[int, int], None]], NDArray[np.generic]],
    ) -> NDArray[Any]:
        if path.is_file():
            try:
                stored: NDArray[np.generic] = np.load(path, allow_pickle=False)
                return stored
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: compute it again
        with self.progress.step(step) as tell:
            values = compute(tell)
        with atomic_path(path) as temporary:
            np.save(temporary, values, allow_pickle=False)
        return values


def stored_features(
    run: RunFolder, recipe: Recipe, weights: str, records: Sequence[ImageRecord]
) -> NDArray[np.float32] | None:
    """(n, D) features of whole images that a linear head was fitted on, where a run has them.

    Args:
        run: The study's folder.
        recipe: Whose network and preprocessing.
        weights: SHA-256 of the weights of its backbone.
        records: All usable images of the study, in their order.
    """
    if not isinstance(recipe.training, LinearHeadTraining):
        return None
    path = _features_path(run, recipe, weights, "image", records)
    return np.asarray(np.load(path), np.float32) if _is_whole(path) else None


def _features_path(
    run: RunFolder,
    recipe: Recipe,
    weights: str,
    variant: str,
    records: Sequence[ImageRecord],
    partners: Rows | None = None,
) -> Path:
    """Named after everything that the features depend on."""
    values: dict[str, object] = {
        "preprocess": recipe.preprocess.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json"),
        "weights": weights,
        "variant": variant,
        "images": [record.sha256 for record in records],
    }
    if partners is not None:
        values["partners"] = partners.tolist()
    return run.cache / "features" / f"{variant}-{sha256_json(values)[:16]}.npy"


def _is_whole(path: Path) -> bool:
    """Whether a file holds an array; one that is damaged is deleted."""
    if not path.is_file():
        return False
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        path.unlink()
        return False
    return True
