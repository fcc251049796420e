"""Support vector machines, one class against the rest (Rifkin & Klautau 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.classifiers import SvmClassifier
from leukoscope.evaluation.softmax import log_softmax
from leukoscope.learning.feature_heads import RbfHead
from leukoscope.learning.feature_models import (
    FeatureModel,
    Features,
    Link,
    Sample,
    Settings,
    Standard,
)


class SvmFamily:
    """SVMs on one training sample; the products of its images are computed once.

    Args:
        train: What is fitted.
        n_classes: K.
        config: The settings to try.
    """

    def __init__(self, train: Sample, n_classes: int, config: SvmClassifier) -> None:
        self.y, self.n_classes, self.config = train.y, n_classes, config
        self.standard = Standard.of(train.X)
        self.z = self.standard.apply(train.X)
        self.products = self.z @ self.z.T / self.z.shape[1]

    def settings(self) -> list[Settings]:
        """Every combination of the grid."""
        found: list[Settings] = []
        for kernel in self.config.kernels:
            for c in self.config.c:
                if kernel == "linear":
                    found.append({"kernel": kernel, "c": c})
                else:
                    found += [{"kernel": kernel, "c": c, "gamma": g} for g in self.config.gamma]
        return found

    def fit(self, settings: Settings, val: Sample | None, link: Link | None) -> FeatureModel:
        """One machine a class; the probability mapping is fitted on ``val`` unless given."""
        gamma = float(settings.get("gamma", 0.0))  # in units of 1 / D, as the products
        support, weight, bias = self._solve(float(settings["c"]), gamma)
        z, width = self.z[support], self.z.shape[1]

        def scores(X: Features) -> NDArray[np.float64]:
            near = self.standard.apply(X)
            return (
                self._kernel(near @ z.T / width, _norms(near), _norms(z), gamma) @ weight.T + bias
            )

        if link is None:
            assert val is not None
            link = Link.fit(scores(val.X), val.y)
        slope, offset = link.slope, link.offset
        if gamma == 0:
            straight = slope * weight @ z * self.standard.scale / width
            constant = slope * bias + offset - straight @ self.standard.mean
            return FeatureModel(
                lambda X: log_softmax(X @ straight.T + constant), (straight, constant), link
            )
        head = RbfHead(
            self.standard.mean, self.standard.scale, z, slope * weight, slope * bias + offset,
            gamma / width,
        )  # fmt: skip
        return FeatureModel(head.logits, head, link)

    def _kernel(
        self,
        products: NDArray[np.float64],
        rows: NDArray[np.float64],
        columns: NDArray[np.float64],
        gamma: float,
    ) -> NDArray[np.float64]:
        if gamma == 0:
            return products
        squared = rows[:, None] + columns - 2 * products
        return np.asarray(np.exp(-gamma * np.maximum(squared, 0)))

    def _solve(
        self, c: float, gamma: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Indices of the support vectors of any machine, (K, s) coefficients, (K,) intercepts."""
        from sklearn.svm import SVC

        norms = np.diag(self.products)
        kernel = self._kernel(self.products, norms, norms, gamma)
        weight = np.zeros((self.n_classes, len(self.y)))
        bias = np.full(self.n_classes, -1.0)  # a class without training images: certainly not
        for k in range(self.n_classes):
            target = self.y == k
            if target.all():
                bias[k] = 1.0
            elif target.any():
                machine = SVC(kernel="precomputed", C=c).fit(kernel, target)
                weight[k, machine.support_] = machine.dual_coef_[0]
                bias[k] = machine.intercept_[0]
        support = np.flatnonzero(weight.any(axis=0))
        if len(support) == 0:
            support = np.array([0])  # a graph needs one; its coefficients are zero
        return support, weight[:, support], bias


def _norms(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((z**2).mean(axis=1))
