"""Checkpoints: tensors as safetensors, everything else as JSON; no pickle."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.config.base import validate
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import WeightsError
from leukoscope.core.files import read_json, sha256_bytes, write_bytes, write_json
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.feature_models import head_from
from leukoscope.learning.linear_head import LinearHead
from leukoscope.learning.weights import WeightsRecord

TENSORS = "checkpoint.safetensors"
RECORD = "checkpoint.json"
RESUME = "resume"
SCHEMA = 1
_KEYS = (
    "schema",
    "recipe",
    "class_names",
    "seed",
    "frozen_backbone",
    "weights",
    "shapes",
    "sha256",
    "extra",
)


@dataclass(frozen=True)
class CheckpointMeta:
    """Content of ``checkpoint.json``."""

    recipe: Recipe  # how the model was made
    class_names: tuple[str, ...]  # in the order of the logits
    seed: int  # seed of the network's random parts
    frozen_backbone: bool  # only the head is stored; the backbone is that of ``weights``
    weights: WeightsRecord  # where the backbone's weights came from (before any training)
    sha256: str  # hash of the tensor file
    extra: Mapping[str, object]  # further JSON values of the caller


def save_checkpoint(
    folder: Path,
    network: Network,
    recipe: Recipe,
    class_names: Sequence[str],
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write ``checkpoint.safetensors`` and, when that stands, ``checkpoint.json``.

    Of a model with a frozen backbone only the head is stored, with the hash of the backbone's
    weights. What an interrupted training would have resumed from is deleted.

    Raises:
        WeightsError: The number of classes differs from the head's.
    """
    from safetensors.torch import save

    if len(class_names) != network.head.out_features:
        raise WeightsError(
            f"{folder}: {len(class_names)} class names for {network.head.out_features} logits"
        )
    frozen = recipe.frozen_features
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not (frozen and name.startswith("backbone."))
    }
    data = save(tensors)
    record = {
        "schema": SCHEMA,
        "recipe": recipe.model_dump(mode="json"),
        "class_names": list(class_names),
        "seed": network.seed,
        "frozen_backbone": frozen,
        "weights": asdict(network.weights_record),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "sha256": sha256_bytes(data),
        "extra": dict(extra or {}),
    }
    write_bytes(folder / TENSORS, data)
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / RESUME, ignore_errors=True)


def load_checkpoint(folder: Path, like: Network | None = None) -> tuple[Network, CheckpointMeta]:
    """Rebuild a network from its folder, in evaluation mode.

    Args:
        folder: Of the model.
        like: A network that was loaded before; where only a head stands on the same frozen
            backbone, a copy of it is filled, which spares reading that backbone again.

    Raises:
        DataError: ``checkpoint.json`` is missing or is no JSON.
        WeightsError: Files that do not belong together, a damaged file, another schema, or a
            frozen backbone whose weights are not at hand or have changed.
    """
    meta, shapes = _read_record(folder / RECORD)
    tensors = _read_tensors(folder / TENSORS, meta.sha256, shapes)
    model = meta.recipe.model
    if not meta.frozen_backbone:
        # Everything is in the file; the weights it started from need not be at hand.
        model = model.model_copy(update={"weights": "none"})
    if like is not None and _same_but_for_the_head(like, meta):
        network = copy.deepcopy(like)
    else:
        network = build_network(
            model,
            num_classes=len(meta.class_names),
            size_px=meta.recipe.preprocess.size_px,
            seed=meta.seed,
        )
    if meta.frozen_backbone and network.weights_record.sha256 != meta.weights.sha256:
        raise WeightsError(
            f"{folder}: the head was fitted on {meta.weights.source} "
            f"(sha256 {meta.weights.sha256[:12]}…), but {network.weights_record.source} "
            f"(sha256 {network.weights_record.sha256[:12]}…) was found",
            hint="restore those weights or train again",
        )
    network.weights_record, network.config = meta.weights, meta.recipe.model
    head = head_from(
        {n.removeprefix("head."): t for n, t in tensors.items() if n.startswith("head.")}
    )
    if head is not None:
        network.set_feature_head(head)
    own = network.state_dict()
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in own.items()
        if not (meta.frozen_backbone and name.startswith("backbone."))
    }
    if wanted != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise WeightsError(
            f"{folder / TENSORS}: its tensors do not fit the recipe and classes in {RECORD}",
            hint="the two files do not belong together; train again",
        )
    network.load_state_dict({**own, **tensors})
    return network, meta


def _same_but_for_the_head(network: Network, meta: CheckpointMeta) -> bool:
    """Whether a network has the frozen backbone and the kind of head of a checkpoint."""
    return (
        meta.frozen_backbone
        and isinstance(network.head, nn.Linear)
        and network.head.out_features == len(meta.class_names)
        and network.config == meta.recipe.model
        and network.size_px == meta.recipe.preprocess.size_px
        and network.weights_record.sha256 == meta.weights.sha256
    )


def load_head(folder: Path) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """The classifier of a frozen backbone alone, for features that are at hand.

    Returns:
        From (n, D) features to (n, K) float64 logits.

    Raises:
        DataError: ``checkpoint.json`` is missing or is no JSON.
        WeightsError: As :func:`load_checkpoint`, or the backbone was trained too.
    """
    meta, shapes = _read_record(folder / RECORD)
    if not meta.frozen_backbone:
        raise WeightsError(f"{folder}: expected a head on a frozen backbone, which was trained too")
    tensors = _read_tensors(folder / TENSORS, meta.sha256, shapes)
    own = {n.removeprefix("head."): t for n, t in tensors.items() if n.startswith("head.")}
    head = head_from(own)
    if head is not None:
        return head.logits
    return LinearHead(own["weight"].numpy(), own["bias"].numpy(), 0.0, ()).logits


def _read_record(path: Path) -> tuple[CheckpointMeta, dict[str, list[int]]]:
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        came = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise WeightsError(
            f"{path}: expected schema {SCHEMA}, found {came}",
            hint="this checkpoint is of another version; train again",
        )
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise WeightsError(f"{path}: {', '.join(missing)} missing", hint="train again")
    meta = CheckpointMeta(
        recipe=validate(Recipe, record["recipe"], str(path)),
        class_names=tuple(record["class_names"]),
        seed=int(record["seed"]),
        frozen_backbone=bool(record["frozen_backbone"]),
        weights=WeightsRecord(**record["weights"]),
        sha256=record["sha256"],
        extra=record["extra"],
    )
    return meta, record["shapes"]


def _read_tensors(path: Path, sha256: str, shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    came = sha256_bytes(data)
    if came != sha256:
        raise WeightsError(
            f"{path}: expected sha256 {sha256[:12]}…, found {came[:12]}…",
            hint="the file was changed or damaged after training; train again",
        )
    tensors = load(data)
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if found != dict(shapes):
        raise WeightsError(f"{path}: its tensors are not those that {RECORD} lists")
    return tensors
