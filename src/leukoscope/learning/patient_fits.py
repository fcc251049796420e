"""Fits of the heads that answer for a patient, on features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.config.training import GatedAttention, LinearHeadTraining, MeanSpread
from leukoscope.core.errors import TrainingError
from leukoscope.evaluation.calibration.scaling import log_loss
from leukoscope.evaluation.patient_heads import (
    AttentionHead,
    Bags,
    MeanProbabilityHead,
    MeanSpreadHead,
    PatientHead,
    bag_logits,
)
from leukoscope.learning.feature_models import PrincipalComponents
from leukoscope.learning.linear_head import fit_linear_head

IntArray = NDArray[np.int64]
_COMPONENT_ROWS = 20_000
"""Images at most that principal components are found on."""
_LEAST_VARIANCE = 0.01
"""Of the first component; those with less are not enlarged to unit variance."""


@dataclass(frozen=True)
class PatientFit:
    """A fitted head.

    Attributes:
        head: What answers.
        val_logits: (P_val, K) by the head as selected, before any refit with these patients.
        history: A row for each setting or pass that was tried.
    """

    head: PatientHead
    val_logits: NDArray[np.float64]
    history: tuple[Mapping[str, object], ...]


def fit_mean_spread(
    train: Bags,
    y: IntArray,
    val: Bags,
    y_val: IntArray,
    n_classes: int,
    *,
    pooling: MeanSpread,
    training: LinearHeadTraining,
    versions: int = 1,
) -> PatientFit:
    """A linear head on mean, standard deviation and quantiles of the features of each patient.

    Args:
        train: Training patients.
        y: (P,) their classes.
        val: Patients that select the penalty.
        y_val: (P_val,) theirs.
        n_classes: K.
        pooling: Which quantiles.
        training: Penalties, and whether the selected one is fitted once more on both.
        versions: How often each patient is there, as it is and with degraded images; together
            they count as one.
    """
    shown, held = train.pooled(pooling.quantiles), val.pooled(pooling.quantiles)
    weighted, numbers = versions > 1, _versions_of(len(y), versions)
    fitted = fit_linear_head(
        shown, y, n_classes, c_grid=training.c_grid, X_val=held, y_val=y_val,
        sample_weight=np.full(len(y), 1 / versions) if weighted else None,
        val_weight=np.full(len(y_val), 1 / versions) if weighted else None,
        copy_penalty=training.copy_penalty, images=numbers,
        val_images=len(y) + _versions_of(len(y_val), versions),
        refit_with_val=training.refit_with_val,
    )  # fmt: skip
    assert fitted.val_logits is not None
    head = MeanSpreadHead(fitted.weight, fitted.bias, np.array(pooling.quantiles, np.float64))
    return PatientFit(head, fitted.val_logits, fitted.history)


def fit_mean_probability(
    train: Bags,
    y: IntArray,
    val: Bags,
    y_val: IntArray,
    n_classes: int,
    *,
    training: LinearHeadTraining,
    versions: int = 1,
) -> PatientFit:
    """A linear head on images that have their patient's class; patients count the same.

    The penalty with the best log loss of the validation *patients* wins. Arguments as in
    :func:`fit_mean_spread`.
    """

    def fit(bags: Bags, of: IntArray, images: IntArray, c: float) -> MeanProbabilityHead:
        # In all as many as the images, each counted in one of its versions.
        counts = bags.sizes.mean() / bags.sizes[bags.members] / versions
        found = fit_linear_head(
            bags.X, of[bags.members], n_classes, c_grid=(c,), sample_weight=counts,
            unit_penalty=training.unit_penalty, units=bags.members,
            copy_penalty=training.copy_penalty, images=images,
        )  # fmt: skip
        return MeanProbabilityHead(found.weight, found.bias)

    images, tried = _versions_of(len(train.X), versions), []
    for c in sorted(training.c_grid):
        head = fit(train, y, images, c)
        tried.append((head, bag_logits(head, val), {"c": c}))
        tried[-1][2].update(_losses(head, train, y, tried[-1][1], y_val))
    head, logits, chosen = min(tried, key=lambda one: one[2]["val_loss"])
    if training.refit_with_val:
        images = np.append(images, len(images) + _versions_of(len(val.X), versions))
        head = fit(train.followed_by(val), np.concatenate([y, y_val]), images, chosen["c"])
    return PatientFit(head, logits, tuple(row for _, _, row in tried))


def _versions_of(rows: int, versions: int) -> IntArray:
    """(n,) of which image each row is a version, where each version is a block of all images."""
    return np.tile(np.arange(rows // versions), versions)


def _losses(
    head: PatientHead, train: Bags, y: IntArray, val_logits: NDArray[np.float64], y_val: IntArray
) -> dict[str, float]:
    return {
        "train_loss": log_loss(bag_logits(head, train), y),
        "val_loss": log_loss(val_logits, y_val),
        "val_accuracy": float((val_logits.argmax(axis=1) == y_val).mean()),
    }


def fit_attention(
    train: Bags,
    y: IntArray,
    val: Bags,
    y_val: IntArray,
    n_classes: int,
    *,
    pooling: GatedAttention,
    seed: int,
) -> PatientFit:
    """Gated attention over components of the features; each seed stops by the ``val`` patients.

    Classes weigh n / (K · n_k) in the loss. Arguments as in :func:`fit_mean_spread`.

    Raises:
        TrainingError: The loss is not finite.
    """
    step = max(1, -(-len(train.X) // _COMPONENT_ROWS))
    found = PrincipalComponents.of(train.X[::step], pooling.components)
    scale = found.standard.scale[:, None] * _bounded(found.directions)
    shown, held = (Bags((b.X - found.standard.mean) @ scale, b.ends) for b in (train, val))
    nets, history = [], []
    for number in range(pooling.seeds):
        net, rows = _fit_network(shown, y, held, y_val, n_classes, pooling, seed + number)
        nets.append(net)
        history += [{"seed": number, **row} for row in rows]
    parts = {name: np.stack([net[name] for net in nets]) for name in nets[0]}
    head = AttentionHead(center=found.standard.mean, directions=scale, **parts)
    return PatientFit(head, bag_logits(head, val), tuple(history))


def _bounded(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, P) directions that give unit variance, a tenth of it at most where there is little.

    A component that the training images hardly vary in would make noise of new images large.
    """
    variance = 1 / (directions**2).sum(axis=0)
    least = _LEAST_VARIANCE * variance.max()
    return np.asarray(directions * np.sqrt(variance / np.maximum(variance, least)))


class _Attention(nn.Module):
    """Gated attention and a linear layer; padded images have the score −∞."""

    def __init__(self, width: int, hidden: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.V, self.U = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.w = nn.Linear(hidden, 1, bias=False)
        self.out = nn.Linear(width, n_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor, there: Tensor) -> Tensor:
        """(P, n, C) components and (P, n) which are images, to (P, K) logits."""
        z = self.dropout(z)
        score = self.w(torch.tanh(self.V(z)) * torch.sigmoid(self.U(z))).squeeze(-1)
        weight = torch.softmax(score.masked_fill(~there, -torch.inf), dim=1)
        return self.out(self.dropout(torch.einsum("pn,pnc->pc", weight, z)))  # type: ignore[no-any-return]

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Its tensors by their names in :class:`AttentionHead`."""
        found = {
            "V": self.V.weight, "v": self.V.bias, "U": self.U.weight, "u": self.U.bias,
            "w": self.w.weight[0], "weight": self.out.weight, "bias": self.out.bias,
        }  # fmt: skip
        return {k: t.detach().numpy().astype(np.float64).copy() for k, t in found.items()}


def _fit_network(
    train: Bags,
    y: IntArray,
    val: Bags,
    y_val: IntArray,
    n_classes: int,
    pooling: GatedAttention,
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], list[dict[str, float]]]:
    """One network: its tensors at the best pass, and a row for each pass."""
    rng = np.random.default_rng([seed, 29])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Attention(train.X.shape[1], pooling.hidden, n_classes, pooling.dropout)
        counts = np.bincount(y, minlength=n_classes)
        balance = np.where(counts > 0, len(y) / (n_classes * np.maximum(counts, 1)), 0.0)
        loss_of = nn.CrossEntropyLoss(torch.tensor(balance, dtype=torch.float32))
        optimiser = torch.optim.AdamW(
            net.parameters(), lr=pooling.learning_rate, weight_decay=pooling.weight_decay
        )
        truth, held = torch.from_numpy(y), _padded(list(val))
        best, kept = np.inf, net.arrays()
        history: list[dict[str, float]] = []
        waited = 0
        for epoch in range(pooling.epochs):
            net.train()
            loss = loss_of(net(*_padded(_drawn(train, pooling.images, rng))), truth)
            if not torch.isfinite(loss):
                raise TrainingError(f"gated attention: the loss is {loss.item()} at pass {epoch}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            net.eval()
            with torch.no_grad():
                logits = net(*held).double().numpy()
            val_loss = log_loss(logits, y_val)
            right = float((logits.argmax(axis=1) == y_val).mean())
            history.append(
                {"epoch": epoch, "train_loss": float(loss.detach()), "val_loss": val_loss,
                 "val_accuracy": right}
            )  # fmt: skip
            if val_loss < best:
                best, kept, waited = val_loss, net.arrays(), 0
            elif (waited := waited + 1) >= pooling.patience:
                break
    return kept, history


def _drawn(bags: Bags, most: int, rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """Some images of each patient."""
    return [X if len(X) <= most else X[rng.choice(len(X), most, replace=False)] for X in bags]


def _padded(bags: Sequence[NDArray[np.generic]]) -> tuple[Tensor, Tensor]:
    """(P, n, C) float32 with zeros after a patient's last image, and (P, n) which are images."""
    longest = max(len(X) for X in bags)
    z = np.zeros((len(bags), longest, bags[0].shape[1]), np.float32)
    there = np.zeros((len(bags), longest), bool)
    for row, X in enumerate(bags):
        z[row, : len(X)], there[row, : len(X)] = X, True
    return torch.from_numpy(z), torch.from_numpy(there)
