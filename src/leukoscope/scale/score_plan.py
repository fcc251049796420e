"""What a scoring run is to do, written down before it begins, so that every part can be redone.

The folder of a run::

    plan.json            bundle, engine, precision, number of images, their hash
    inputs.jsonl         name of one image a line
    journal.jsonl        one line per committed shard
    predictions/         part-000000.parquet …: whole as soon as it has this name
    quarantine.csv       images without a prediction, with the reason
    manifest.json        written last: every file with rows and checksum
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from leukoscope.config.base import validate_record
from leukoscope.core.errors import BundleError, DataError, UsageError
from leukoscope.core.files import atomic_path, read_json, write_json
from leukoscope.runtime.bundle import bundle_folder
from leukoscope.runtime.input_files import SAMPLES
from leukoscope.scale.fetching import UrlRule

SCHEMA = 1
SHARD_IMAGES = 2000
_LEAST, _SHARDS_EACH = 50, 8  # images in the smallest shard; shards for each worker


@dataclass(frozen=True)
class ScoreFolder:
    """The names of the files of a scoring run, in one place."""

    path: Path

    @property
    def plan(self) -> Path:
        """What is to be done."""
        return self.path / "plan.json"

    @property
    def inputs(self) -> Path:
        """Name of one image a line, as JSON."""
        return self.path / "inputs.jsonl"

    @property
    def offsets(self) -> Path:
        """(shards + 1,) int64: byte of :attr:`inputs` at which each shard begins, and the end."""
        return self.path / "inputs.offsets.npy"

    @property
    def journal(self) -> Path:
        """What is done."""
        return self.path / "journal.jsonl"

    @property
    def predictions(self) -> Path:
        """Folder of the shards."""
        return self.path / "predictions"

    @property
    def parts(self) -> Path:
        """Folder of what was said of the parts of large images; there if there are any."""
        return self.path / "parts"

    @property
    def quarantine(self) -> Path:
        """Images without a prediction."""
        return self.path / "quarantine.csv"

    @property
    def manifest(self) -> Path:
        """Every file of the finished run."""
        return self.path / "manifest.json"

    def shard(self, number: int) -> Path:
        """Where a committed shard lies."""
        return self.predictions / f"part-{number:06d}.parquet"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        bundle: Its folder.
        reason: Why this bundle.
        bundle_sha256: Its hash.
        engine: ``openvino`` or ``onnxruntime``: every worker takes the same.
        precision: Likewise.
        um_per_px: Pixel scale of the images, as in :class:`leukoscope.runtime.tiling.Cutter`.
        scale_bar_um: Likewise.
        whole: Large images are not cut.
        shard_images: Images in a shard; the last one may hold fewer.
        images: Number of images.
        inputs_sha256: Of ``inputs.jsonl``.
        sources: What the user named.
        root: What relative names were relative to, where the user said so.
        urls: Which URLs a table or list may name.
    """

    bundle: str
    reason: str
    bundle_sha256: str
    engine: str
    precision: str
    um_per_px: float | None
    scale_bar_um: float | None
    whole: bool
    shard_images: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=0)]
    inputs_sha256: str
    sources: tuple[str, ...]
    root: str | None = None
    urls: UrlRule = "any"

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.images / self.shard_images)

    def rows(self, shard: int) -> range:
        """Numbers of a shard's images."""
        start = shard * self.shard_images
        return range(start, min(self.images, start + self.shard_images))

    def save(self, folder: ScoreFolder) -> None:
        """Write ``plan.json``."""
        write_json(folder.plan, {"schema": SCHEMA, **asdict(self)})


@dataclass(frozen=True)
class Request:
    """What a user asks of a scoring run; None where the user left it open.

    A new run takes the default for what is open, one that goes on takes what its plan says.

    Attributes:
        sources: See :func:`leukoscope.scale.fetching.image_names`.
        bundle: Its folder, that of its run, or the name of an installed one. Default: the installed
            one that the images resemble.
        root: What relative names are relative to.
        urls: Which URLs a table or list may name. Default: none.
        engine: See :func:`leukoscope.runtime.engine_choice.open_for`. Default: auto.
        precision: Likewise.
        um_per_px: See :class:`Plan`, like all below.
        scale_bar_um: Default: unknown.
        whole: Default: large images are cut.
        shard_images: Default: see :func:`write_inputs`.
    """

    sources: tuple[str, ...] | None = None
    bundle: Path | None = None
    root: str | None = None
    urls: UrlRule | None = None
    engine: str | None = None
    precision: str | None = None
    um_per_px: float | None = None
    scale_bar_um: float | None = None
    whole: bool | None = None
    shard_images: int | None = None

    def differences(self, plan: Plan) -> list[str]:
        """What of it differs from a plan, in words."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.bundle is not None:
            with suppress(BundleError):  # gone by now: then the path is what differs
                asked["bundle"] = bundle_folder(self.bundle)
            asked["bundle"] = str(asked["bundle"].resolve())
        return [
            f"{name.replace('_', ' ')} is {getattr(plan, name)}, asked for {value}"
            for name, value in asked.items()
            if value is not None and getattr(plan, name) != value
        ]


def load_plan(folder: ScoreFolder) -> Plan:
    """Read ``plan.json``.

    Raises:
        UsageError: The folder holds no scoring run.
        DataError: The file is damaged or of another version.
    """
    if not folder.plan.is_file():
        raise UsageError(
            f"{folder.path}: expected the folder of a scoring run, but plan.json is missing",
            hint="name the folder that --out of `leukoscope score` named",
        )
    values = read_json(folder.plan)
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise DataError(f"{folder.plan}: expected a plan of schema {SCHEMA}; score anew")
    values.setdefault("urls", "any")  # plans of version 0.1 had no rule
    if set(values) != {field.name for field in fields(Plan)}:
        raise DataError(f"{folder.plan}: expected the fields of a plan, found {', '.join(values)}")
    try:
        return validate_record(_plans(), values)
    except ValueError as error:
        raise DataError(f"{folder.plan}: expected a plan, but {error}") from None


@cache
def _plans() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def write_inputs(
    folder: ScoreFolder, names: Iterable[str], shard_images: int | None = None, workers: int = 1
) -> tuple[int, str, int]:
    """Write down the images, once and for all, in constant memory.

    Args:
        folder: Of the run.
        names: Of the images.
        shard_images: Images in a shard. None takes :data:`SHARD_IMAGES`, or so few that each
            worker gets eight shards, that none has to wait long for the last one.
        workers: How many there will be.

    Returns:
        Number of images, hash of the file, images in a shard.
    """
    digest, count, offset = hashlib.sha256(), 0, 0
    fine = [0]  # byte of every fiftieth name, as long as smaller shards may be chosen
    step = shard_images or SHARD_IMAGES
    coarse = [0]
    most = _SHARDS_EACH * workers * SHARD_IMAGES if shard_images is None else 0
    with atomic_path(folder.inputs) as temporary, temporary.open("wb") as file:
        for name in names:
            # ASCII: a name that is no UTF-8 comes back as it was.
            line = json.dumps(name).encode() + b"\n"
            file.write(line)
            digest.update(line)
            count, offset = count + 1, offset + len(line)
            if count % step == 0:
                coarse.append(offset)
            if count <= most and count % _LEAST == 0:
                fine.append(offset)
    if count < most:
        each = max(1, round(count / (_SHARDS_EACH * workers * _LEAST)))
        step, coarse = each * _LEAST, fine[::each]
    if coarse[-1] != offset:
        coarse.append(offset)
    with atomic_path(folder.offsets) as temporary:
        np.save(temporary, np.array(coarse, np.int64), allow_pickle=False)
    return count, digest.hexdigest(), step


def read_inputs(folder: ScoreFolder, shard: int) -> Iterator[str]:
    """Names of a shard's images.

    Raises:
        DataError: The list does not fit its plan.
    """
    try:
        offsets = np.load(folder.offsets, mmap_mode="r", allow_pickle=False)
        start, end = int(offsets[shard]), int(offsets[shard + 1])
        with folder.inputs.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).splitlines()
        return (str(json.loads(line)) for line in lines)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{folder.inputs}: the list of images is damaged: {error}") from None


def sample_inputs(folder: ScoreFolder, images: int, shard_images: int) -> list[str]:
    """Some names, spread evenly over all."""
    rows = np.unique(np.linspace(0, images - 1, min(SAMPLES, images)).round().astype(int)).tolist()
    names = []
    for shard in sorted({row // shard_images for row in rows}):
        inside = list(read_inputs(folder, shard))
        names += [inside[row % shard_images] for row in rows if row // shard_images == shard]
    return names
