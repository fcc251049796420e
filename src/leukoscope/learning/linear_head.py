"""Multinomial logistic regression on frozen features, along a path of regularisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import TrainingError
from leukoscope.core.threads import one_blas_thread

_GRADIENT_TOLERANCE = 1e-4  # of the scaled problem, whose curvature is near 1
_LEAST_CURVATURE = 1e-4
_MAX_ITERATIONS = 500
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on raw (not standardised) features.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        c: Selected inverse strength of the L2 penalty.
        history: One row per strength: ``c``, ``train_loss``, ``val_loss``, ``val_accuracy``
            (losses are mean log losses; the last two None without ``val``).
        val_logits: (m, K) logits of the validation images by the head as selected, before any
            refit: it was never fitted on them. None without ``val``.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    c: float
    history: tuple[dict[str, float | None], ...]
    val_logits: NDArray[np.float64] | None = None

    def logits(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, D) features to (n, K) float64 logits."""
        return np.asarray(X @ self.weight.T + self.bias, dtype=np.float64)


def balanced_weights(y: NDArray[np.integer], n_classes: int) -> NDArray[np.float64]:
    """Class weights n / (K · n_k), as scikit-learn's ``balanced``; 0 for an absent class.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2).round(3).tolist()
    [0.667, 2.0]
    """
    counts = np.bincount(y, minlength=n_classes)
    present = np.count_nonzero(counts)
    weights = np.zeros(n_classes)
    weights[counts > 0] = len(y) / (present * counts[counts > 0])
    return weights


def fit_linear_head(
    X: NDArray[np.floating],
    y: NDArray[np.integer],
    n_classes: int,
    *,
    c_grid: Sequence[float],
    X_val: NDArray[np.floating] | None = None,
    y_val: NDArray[np.integer] | None = None,
    sample_weight: NDArray[np.float64] | None = None,
    val_weight: NDArray[np.float64] | None = None,
    unit_penalty: float = 0.0,
    units: NDArray[np.integer] | None = None,
    val_units: NDArray[np.integer] | None = None,
    copy_penalty: float = 0.0,
    images: NDArray[np.integer] | None = None,
    val_images: NDArray[np.integer] | None = None,
    refit_with_val: bool = False,
) -> LinearHead:
    """Fit one head per strength, each started from the one before; the best on ``val`` wins.

    Minimises ``c · Σ w log loss + ½ ‖W‖²`` on standardised features, scikit-learn's
    ``LogisticRegression``; the bias is not penalised. Nothing is random.

    Args:
        X: (n, D) features of the training images.
        c_grid: Inverse strengths, > 0.
        X_val: (m, D) features that select the strength; may be None with one strength.
        sample_weight, val_weight: (n,) and (m,) what each image counts for; None for 1 each.
        unit_penalty: μ ≥ 0 of the penalty ``½ Wᵀ(I + μ·B + ν·C)W``, where B is the covariance of
            the means of units about the mean of their class; 0 needs no units.
        units, val_units: (n,) and (m,) number of each image's unit (patient, acquisition cluster).
        copy_penalty: ν ≥ 0, where C is the covariance of the versions of an image about their
            mean; 0 needs no images.
        images, val_images: (n,) and (m,) of which image each row is a version; no number twice.
        refit_with_val: Fit once more on both with the selected strength.

    Raises:
        TrainingError: No training images, features that are not finite, or several strengths
            and nothing to select on.
    """
    train = _Rows(X, y, sample_weight, units, images)
    val = None
    if X_val is not None and y_val is not None and len(y_val) > 0:
        val = _Rows(X_val, y_val, val_weight, val_units, val_images)
    _check(X, y, c_grid, val is not None)
    penalty = _Penalty(unit_penalty, copy_penalty)
    problem = _Problem.of(train, n_classes, penalty)
    strengths = sorted(c_grid)
    fits = problem.path(strengths)
    history = [_measured(c, fit, train, val) for c, fit in zip(strengths, fits, strict=True)]
    best = min(range(len(history)), key=lambda i: history[i]["val_loss"] or 0.0)
    c, (weight, bias) = strengths[best], fits[best]
    val_logits = None if X_val is None else np.asarray(X_val @ weight.T + bias, dtype=np.float64)
    if refit_with_val and val is not None:
        both = _Problem.of(train.followed_by(val), n_classes, penalty)
        weight, bias = both.raw(both.solve(c, both.standardised(weight, bias)))
    return LinearHead(weight, bias, c, tuple(history), val_logits)


def _measured(
    c: float,
    fit: tuple[NDArray[np.float64], NDArray[np.float64]],
    train: _Rows,
    val: _Rows | None,
) -> dict[str, float | None]:
    """The line of the history about one strength."""
    loss, accuracy = val.scores(*fit) if val is not None else (None, None)
    return {
        "c": c,
        "train_loss": train.scores(*fit)[0],
        "val_loss": loss,
        "val_accuracy": accuracy,
    }


def _check(
    X: NDArray[np.floating], y: NDArray[np.integer], c_grid: Sequence[float], has_val: bool
) -> None:
    if not len(y):
        raise TrainingError("a linear head was asked for, but there are no training images")
    if not np.isfinite(X).all():
        raise TrainingError("features are not finite", hint="check the weights of the backbone")
    if not c_grid or (len(c_grid) > 1 and not has_val):
        raise TrainingError(
            f"{len(c_grid)} strengths of the penalty need validation images to select on",
            hint="set training.c_grid to one value",
        )


@dataclass(frozen=True)
class _Rows:
    """Rows of one part: features (n, D), classes, what each counts for, its unit, its image."""

    X: NDArray[np.floating]
    y: NDArray[np.integer]
    weight: NDArray[np.float64] | None
    units: NDArray[np.integer] | None
    images: NDArray[np.integer] | None

    def followed_by(self, other: _Rows) -> _Rows:
        """These images, and others after them."""
        return _Rows(
            np.concatenate([self.X, other.X]),
            np.concatenate([self.y, other.y]),
            _joined(self.weight, other.weight),
            _joined(self.units, other.units),
            _joined(self.images, other.images),
        )

    def scores(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[float, float]:
        """Mean log loss, by what each image counts for, and accuracy of a head."""
        z = self.X @ weight.T + bias
        accuracy = float((z.argmax(1) == self.y).mean())
        z = z - z.max(axis=1, keepdims=True)
        losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(self.y)), self.y]
        if self.weight is None:
            return float(losses.mean()), accuracy
        return float(np.average(losses, weights=self.weight)), accuracy


def _joined(
    first: NDArray[_Number] | None, second: NDArray[_Number] | None
) -> NDArray[_Number] | None:
    assert (first is None) == (second is None)  # what one part has the other has, too
    return None if first is None or second is None else np.concatenate([first, second])


@dataclass(frozen=True)
class _Penalty:
    """½ Wᵀ(I + μ·B + ν·C)W on weights of standardised features."""

    unit: float  # μ
    copy: float  # ν

    def applies_to(self, rows: _Rows) -> bool:
        """Whether it is another than the plain one."""
        units, copies = rows.units is not None, rows.images is not None
        return bool(self.unit and units) or bool(self.copy and copies)

    def root(
        self, rows: _Rows, standard: NDArray[np.float32], n_classes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(D, D) square root of I + μ·B + ν·C of standardised features (n, D), and its inverse."""
        parts = [np.empty((0, standard.shape[1]))]
        if self.unit and rows.units is not None:
            parts.append(
                np.sqrt(self.unit) * _between_units(rows.units, standard, rows.y, n_classes)
            )
        if self.copy and rows.images is not None:
            parts.append(np.sqrt(self.copy) * _within_images(rows.images, standard))
        identity = np.eye(standard.shape[1])
        _, singular, axes = np.linalg.svd(np.concatenate(parts), full_matrices=False)
        growth = np.sqrt(1 + singular**2)
        root = identity + (axes.T * (growth - 1)) @ axes
        inverse = identity + (axes.T * (1 / growth - 1)) @ axes
        return root.astype(np.float32), inverse.astype(np.float32)


def _between_units(
    units: NDArray[np.integer],
    standard: NDArray[np.float32],
    y: NDArray[np.integer],
    n_classes: int,
) -> NDArray[np.float64]:
    """(m, D) A with AᵀA = B, the covariance of means of units about the mean of their class."""
    deviations = [np.empty((0, standard.shape[1]))]
    for k in range(n_classes):
        members = np.unique(units[y == k], return_inverse=True)[1]
        if not len(members) or members.max() == 0:
            continue  # one unit differs from none
        means = _means(members, standard[y == k])
        deviations.append((means - means.mean(axis=0)) / np.sqrt(len(means) - 1))
    classes = max(1, len(deviations) - 1)
    return np.asarray(np.concatenate(deviations) / np.sqrt(classes), dtype=np.float64)


def _within_images(
    images: NDArray[np.integer], standard: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(D, D) A with AᵀA = C, the covariance of the versions of an image about their mean."""
    members = np.unique(images, return_inverse=True)[1]
    deviations = standard - _means(members, standard)[members]
    freedom = max(1, len(images) - members.max() - 1)
    variance, axes = np.linalg.eigh(deviations.T @ deviations / freedom)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0))[:, None] * axes.T)


def _means(members: NDArray[np.integer], standard: NDArray[np.float32]) -> NDArray[np.float64]:
    """(m, D) mean of the rows of each of m members, numbered without gaps."""
    sums = np.zeros((members.max() + 1, standard.shape[1]))
    np.add.at(sums, members, standard)
    return np.asarray(sums / np.bincount(members)[:, None])


@dataclass(frozen=True)
class _Problem:
    """Standardised features of one fit in the basis of their principal axes, and its targets.

    A rotation leaves the penalty as it is, and weights outside the span of the images are zero at
    the optimum. In this basis the curvature is nearly diagonal, so that a scale for each axis
    makes a fit several times shorter. float32, for speed.
    """

    Z: NDArray[np.float32]  # (n, r) standardised features along the principal axes
    axes: NDArray[np.float32]  # (D, r) principal axes, shorter where a penalty is on them
    back: NDArray[np.float32]  # (D, r) from weights on standardised features to those on Z
    variance: NDArray[np.float64]  # (r,) variance along each axis
    y: NDArray[np.integer]
    w: NDArray[np.float32]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    n_classes: int

    @classmethod
    def of(cls, rows: _Rows, n_classes: int, penalty: _Penalty) -> _Problem:
        X, y = rows.X, rows.y
        mean = X.mean(axis=0, dtype=np.float64)
        sd = X.std(axis=0, dtype=np.float64)
        sd[sd < 1e-12] = 1.0  # a constant feature says nothing
        standard = ((X - mean.astype(np.float32)) / sd.astype(np.float32)).astype(np.float32)
        with one_blas_thread():
            if not penalty.applies_to(rows):
                axes, variance = _principal_axes(standard)
                back = axes
            else:
                root, inverse = penalty.root(rows, standard, n_classes)
                rotated, variance = _principal_axes(standard @ inverse)
                axes, back = inverse @ rotated, root @ rotated
            Z = standard @ axes
        w = np.ones(len(y), np.float32) if rows.weight is None else rows.weight.astype(np.float32)
        return cls(Z, axes, back, variance, y, w, mean, sd, n_classes)

    @property
    def start(self) -> NDArray[np.float64]:
        """Parameters of a head that says nothing."""
        return np.zeros(self.n_classes * (self.Z.shape[1] + 1))

    def path(
        self, strengths: Sequence[float]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Weight and bias at each strength, each started from the one before."""
        start, fits = self.start, []
        for c in strengths:
            start = self.solve(c, start)
            fits.append(self.raw(start))
        return fits

    def solve(self, c: float, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """L-BFGS on the objective divided by c · Σ w, which keeps its scale near 1."""
        from scipy.optimize import minimize

        penalty = 1.0 / (c * float(self.w.sum()))
        with one_blas_thread():
            scale = self._scale(start, penalty)
            result = minimize(
                self._scaled_loss,
                start * scale,
                args=(scale, penalty),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": _GRADIENT_TOLERANCE, "ftol": 1e-12, "maxiter": _MAX_ITERATIONS},
            )
        if not np.isfinite(result.fun):
            raise TrainingError(f"the linear head diverged (c = {c}): {result.message}")
        return np.asarray(result.x / scale, dtype=np.float64)

    def _scale(self, start: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
        """Square root of about the curvature of the objective in each parameter."""
        parameters = start.reshape(self.n_classes, -1)
        z = self.Z @ parameters[:, :-1].T.astype(np.float32) + parameters[:, -1]
        exp = np.exp(z - z.max(axis=1, keepdims=True))
        p = exp / exp.sum(axis=1, keepdims=True)
        curvature = max(_LEAST_CURVATURE, float((p * (1 - p)).mean()))
        each = np.sqrt(np.append(curvature * self.variance + penalty, curvature))
        return np.tile(each, self.n_classes)

    def _scaled_loss(
        self, flat: NDArray[np.float64], scale: NDArray[np.float64], penalty: float
    ) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = self._loss(flat / scale, penalty)
        return loss, gradient / scale

    def _loss(self, flat: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(self.n_classes, -1)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        z = self.Z @ weight.T.astype(np.float32) + bias.astype(np.float32)
        z -= z.max(axis=1, keepdims=True)
        rows = np.arange(len(self.y))
        exp = np.exp(z)
        total = exp.sum(axis=1)
        norm = float(self.w.sum())
        loss = float(np.dot(self.w, np.log(total) - z[rows, self.y]).astype(np.float64)) / norm
        error = exp / total[:, None]
        error[rows, self.y] -= 1
        error *= self.w[:, None] / norm
        gradient = np.empty_like(parameters)
        gradient[:, :-1] = error.T @ self.Z
        gradient[:, :-1] += penalty * weight
        gradient[:, -1] = error.sum(axis=0, dtype=np.float64)
        return loss + 0.5 * penalty * float(np.vdot(weight, weight)), gradient.ravel()

    def raw(self, flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The standardisation folded into weight and bias."""
        parameters = flat.reshape(self.n_classes, -1)
        weight = parameters[:, :-1] @ self.axes.T / self.sd
        return weight, parameters[:, -1] - weight @ self.mean

    def standardised(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The inverse of :meth:`raw`."""
        return np.column_stack([weight * self.sd @ self.back, bias + weight @ self.mean]).ravel()


def _principal_axes(
    standard: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(D, r) orthonormal axes of (n, D) features, r = min(n, D), and the variance along each."""
    n, d = standard.shape
    if n >= d:
        variance, axes = np.linalg.eigh(standard.T @ standard / n)
        return axes, np.maximum(variance.astype(np.float64), 0.0)
    _, singular, axes = np.linalg.svd(standard, full_matrices=False)
    return axes.T, singular.astype(np.float64) ** 2 / n
