"""From the features of a patient's images to one answer, in NumPy: what a study of patients fits.

Each head says, besides its answer, what every image contributed to it: the answer with all images
against the answer without this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.combining import PatientResult, log_probs

Features = NDArray[np.floating]
FloatArray = NDArray[np.float64]
REPLICATES = 200
"""Of the bootstrap over a patient's images, whose features are pooled anew each time."""
HEAD = "patient_head.safetensors"
"""The file with the tensors of a head, beside a fit's predictions and in a bundle."""


@dataclass(frozen=True, eq=False)
class Bags:
    """The features of the images of each patient.

    Attributes:
        X: (m, D) features, patient after patient.
        ends: (P,) where the rows of each patient end.
    """

    X: Features
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, features: Features, rows: Sequence[NDArray[np.int64]]) -> Bags:
        """Of patients whose images stand in ``rows`` of ``features`` (n, D)."""
        ends = np.cumsum([len(one) for one in rows], dtype=np.int64)
        return cls(features[np.concatenate([np.empty(0, np.int64), *rows])], ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[Features]:
        """(n_i, D) features of each patient."""
        return iter(np.split(self.X, self.ends[:-1]) if len(self.ends) else [])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(P,) number of images of each patient."""
        return np.diff(self.ends, prepend=0)

    @property
    def members(self) -> NDArray[np.int64]:
        """(m,) row of the patient of each image."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def take(self, rows: NDArray[np.int64]) -> Bags:
        """Some of the patients, in the wanted order."""
        starts = self.ends - self.sizes
        return Bags.of(self.X, [np.arange(starts[row], self.ends[row]) for row in rows])

    def followed_by(self, other: Bags) -> Bags:
        """These patients, and others after them."""
        ends = np.concatenate([self.ends, len(self.X) + other.ends])
        return Bags(np.concatenate([self.X, other.X]), ends)

    def pooled(self, quantiles: Sequence[float] = ()) -> NDArray[np.float32]:
        """(P, (2 + q) D) :func:`mean_and_spread` of each patient."""
        found = [mean_and_spread(X, quantiles) for X in self]
        return np.asarray(np.stack(found), dtype=np.float32)


def mean_and_spread(X: Features, quantiles: Sequence[float] = ()) -> FloatArray:
    """Mean, standard deviation and quantiles of each feature over the images of one patient.

    Args:
        X: (n, D) features, n ≥ 1.
        quantiles: In (0, 1).

    Returns:
        ((2 + q) D,) float64: all means, all deviations (0 for one image), then each quantile.

    >>> mean_and_spread(np.array([[1.0], [3.0]]), [0.5]).tolist()
    [2.0, 1.0, 2.0]
    """
    values = np.asarray(X, np.float64)
    parts = [values.mean(axis=0), values.std(axis=0)]
    return np.concatenate([*parts, *(np.quantile(values, q, axis=0) for q in quantiles)])


class PatientHead(Protocol):
    """Answers for a patient from the features of its images."""

    def logits(self, X: Features) -> FloatArray:
        """(n, D) features of one patient's images, n ≥ 1, to (K,) logits."""

    def weights(self, X: Features) -> FloatArray:
        """(n,) ≥ 0, sum 1: how much each image counts where they are averaged."""

    def without_each(self, X: Features) -> FloatArray:
        """(n, K) logits with each image left out in turn, n ≥ 2."""

    def of_one_image(self) -> tuple[FloatArray, FloatArray]:
        """(K, D) weight and (K,) bias of the answer for a patient of one image: it is linear."""

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Everything as arrays, for a safetensors file."""


def bag_logits(head: PatientHead, bags: Bags) -> FloatArray:
    """(P, K) logits of patients; (0, 0) of none."""
    found = [head.logits(X) for X in bags]
    return np.stack(found) if found else np.empty((0, 0))


def contributions(head: PatientHead, X: Features) -> FloatArray:
    """What each image adds to the log odds of each class against all others.

    Args:
        head: The head.
        X: (n, D) features of one patient's images.

    Returns:
        (n, K): log odds with all images minus log odds without this one; 0 for a single image.
    """
    whole = log_odds(head.logits(X))
    if len(X) < 2:
        return np.zeros((len(X), len(whole)))
    return whole - log_odds(head.without_each(X))


def log_odds(logits: FloatArray) -> FloatArray:
    """(…, K) logarithms of p / (1 − p) for the softmax of logits (…, K).

    >>> log_odds(np.array([2.0, 0.0, 0.0])).round(3).tolist()
    [1.307, -2.127, -2.127]
    """
    others = np.broadcast_to(logits[..., None, :], (*logits.shape, logits.shape[-1])).copy()
    own = np.arange(logits.shape[-1])
    others[..., own, own] = -np.inf
    largest = others.max(axis=-1)
    rest = largest + np.log(np.exp(others - largest[..., None]).sum(axis=-1))
    return np.asarray(logits - rest)


class _Stored:
    """A head whose attributes are its tensors."""

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """See :class:`PatientHead`."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.floating]]) -> Self:
        """The head of :meth:`tensors`."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class MeanProbabilityHead(_Stored):
    """Log of the mean of the images' probabilities.

    Attributes:
        weight: (K, D) of the linear classifier of an image.
        bias: (K,).

    >>> head = MeanProbabilityHead(np.eye(2), np.zeros(2))
    >>> np.exp(head.logits(np.array([[0.0, 0.0], [np.log(3), 0.0]]))).round(3).tolist()
    [0.625, 0.375]
    """

    weight: FloatArray
    bias: FloatArray

    def of_images(self, X: Features) -> FloatArray:
        """(n, K) probabilities of the images."""
        return softmax(X @ self.weight.T + self.bias)

    def logits(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        return log_probs(self.of_images(X).mean(axis=0))

    def weights(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        return np.full(len(X), 1 / len(X))

    def of_one_image(self) -> tuple[FloatArray, FloatArray]:
        """See :class:`PatientHead`."""
        return self.weight, self.bias

    def without_each(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        probs = self.of_images(X)
        return log_probs((probs.sum(axis=0) - probs) / (len(X) - 1))


@dataclass(frozen=True, eq=False)
class MeanSpreadHead(_Stored):
    """A linear classifier of :func:`mean_and_spread`.

    Attributes:
        weight: (K, (2 + q) D).
        bias: (K,).
        quantiles: (q,).
    """

    weight: FloatArray
    bias: FloatArray
    quantiles: FloatArray

    def logits(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        pooled = mean_and_spread(X, self.quantiles.tolist())
        return np.asarray(self.weight @ pooled + self.bias, dtype=np.float64)

    def weights(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        return np.full(len(X), 1 / len(X))

    def of_one_image(self) -> tuple[FloatArray, FloatArray]:
        """See :class:`PatientHead`; the deviation is 0, and each quantile the image itself."""
        mean, _, *quantiles = np.split(self.weight, 2 + len(self.quantiles), axis=1)
        return np.sum([mean, *quantiles], axis=0), self.bias

    def without_each(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        if len(self.quantiles):
            return np.stack([self.logits(np.delete(X, row, axis=0)) for row in range(len(X))])
        values = np.asarray(X, np.float64)
        n, centre = len(values), values.mean(axis=0)
        from_centre = values - centre
        means = centre - from_centre / (n - 1)
        # Of the others, about their own mean (Welford's update backwards).
        squares = (from_centre**2).sum(axis=0) - from_centre**2 * n / (n - 1)
        spread = np.sqrt(np.maximum(squares, 0) / (n - 1))
        return np.asarray(np.hstack([means, spread]) @ self.weight.T + self.bias)


@dataclass(frozen=True, eq=False)
class AttentionHead(_Stored):
    """Gated attention (Ilse et al. 2018, equation 9) over components of the features.

    With z = (x − center) · directions an image has the score w · (tanh(V z + v) ⊙ σ(U z + u)); the
    softmax of the scores over the patient's images are its weights. S networks with different
    seeds are averaged.

    Attributes:
        center: (D,).
        directions: (D, P).
        V, U: (S, H, P).
        v, u: (S, H).
        w: (S, H).
        weight: (S, K, P) of the classifier of the weighted mean of z.
        bias: (S, K).
    """

    center: FloatArray
    directions: FloatArray
    V: FloatArray
    v: FloatArray
    U: FloatArray
    u: FloatArray
    w: FloatArray
    weight: FloatArray
    bias: FloatArray

    def components(self, X: Features) -> FloatArray:
        """(n, P) components of the images."""
        return np.asarray((X - self.center) @ self.directions, dtype=np.float64)

    def _attention(self, z: FloatArray) -> FloatArray:
        """(S, n) weights by each network."""
        half = (np.einsum("np,shp->snh", z, self.U) + self.u[:, None]) / 2
        gate = (1 + np.tanh(half)) / 2  # the sigmoid, without overflow
        score = np.tanh(np.einsum("np,shp->snh", z, self.V) + self.v[:, None]) * gate
        return softmax(np.einsum("snh,sh->sn", score, self.w))

    def logits(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        z = self.components(X)
        found = self._classified((self._attention(z) @ z)[:, None])
        return np.asarray(found[0])

    def weights(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        return np.asarray(self._attention(self.components(X)).mean(axis=0))

    def of_one_image(self) -> tuple[FloatArray, FloatArray]:
        """See :class:`PatientHead`."""
        weight = self.weight.mean(axis=0) @ self.directions.T
        return weight, self.bias.mean(axis=0) - weight @ self.center

    def without_each(self, X: Features) -> FloatArray:
        """See :class:`PatientHead`."""
        z = self.components(X)
        attention = self._attention(z)
        rest = np.maximum(1 - attention, 1e-12)[:, :, None]
        others = (attention @ z)[:, None] - attention[:, :, None] * z
        return self._classified(others / rest)

    def _classified(self, pooled: FloatArray) -> FloatArray:
        """(S, n, P) pooled vectors to (n, K) logits, averaged over the networks."""
        found = np.einsum("snp,skp->snk", pooled, self.weight) + self.bias[:, None]
        return np.asarray(found.mean(axis=0))


def head_result(
    patient: str,
    X: Features,
    head: PatientHead,
    calibrated: Callable[[FloatArray], FloatArray],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> PatientResult:
    """One patient by a head that was fitted on patients, with a bootstrap over the images.

    Its interval says what that of
    :func:`~leukoscope.evaluation.combining.patient_result` does, and no more.

    Args:
        patient: The name.
        X: (n, D) features of the images, n ≥ 1.
        head: What answers for all of them.
        calibrated: (m, K) logits to calibrated probabilities.
        confidence: Of the interval.
        seed: Of the bootstrap.
    """
    n = len(X)
    whole = calibrated(head.logits(X)[None])[0]
    predicted = int(whole.argmax())
    low = high = stability = None
    if n > 1:
        drawn = np.random.default_rng(seed).integers(0, n, (REPLICATES, n))
        found = calibrated(np.stack([head.logits(X[rows]) for rows in drawn]))
        tail = (1 - confidence) / 2
        low, high = (float(x) for x in np.quantile(found[:, predicted], [tail, 1 - tail]))
        stability = float((found.argmax(axis=1) == predicted).mean())
    weight, bias = head.of_one_image()
    agreement = float(((X @ weight.T + bias).argmax(axis=1) == predicted).mean())
    return PatientResult(patient, n, whole, predicted, low, high, stability, agreement)


HEADS: Mapping[str, type[MeanSpreadHead | MeanProbabilityHead | AttentionHead]] = MappingProxyType(
    {
        "mean-spread": MeanSpreadHead,
        "mean-probability": MeanProbabilityHead,
        "gated-attention": AttentionHead,
    }
)
"""Kind of pooling → what answers with it."""


def head_to_bytes(kind: str, head: PatientHead) -> bytes:
    """The content of the file :data:`HEAD`."""
    from safetensors.numpy import save

    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in head.tensors().items()}
    return bytes(save(arrays, metadata={"kind": kind}))


def head_from_bytes(kind: str, data: bytes, where: str) -> PatientHead:
    """The head of :func:`head_to_bytes`; it computes with float32 tensors.

    Raises:
        DataError: The tensors are not those of such a head; names ``where``.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        head: PatientHead = HEADS[kind].from_tensors(tensors)
    except (SafetensorError, KeyError) as error:
        raise DataError(
            f"{where}: expected the tensors of a patient head of kind {kind}, but {error}"
        ) from None
    return head
