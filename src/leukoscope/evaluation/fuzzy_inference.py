"""Mamdani fuzzy inference (Mamdani & Assilian 1975) with NumPy alone.

Crisp inputs become degrees of membership in words (low, medium, high); each rule holds to the
degree of its AND (minimum or product); its consequent's word is cut (or scaled) at that degree;
the words are joined by their maximum; the centroid of the joined area is the crisp output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError

FloatArray = NDArray[np.float64]
MembershipShape = Literal["triangular", "gaussian"]
TNorm = Literal["min", "product"]
GRID = 101  # points of the output's range at which its area is sampled
_BLOCK = 512  # images whose areas are held at once


@dataclass(frozen=True)
class Term:
    """A word of a variable: a membership function.

    Attributes:
        name: Such as ``low``.
        shape: ``triangular`` (left foot, peak, right foot; a foot on the peak makes that side a
            vertical edge) or ``gaussian`` (mean, standard deviation).
        values: The numbers of the shape.
    """

    name: str
    shape: MembershipShape
    values: tuple[float, ...]

    def membership(self, x: ArrayLike) -> FloatArray:
        """Degrees in [0, 1] of (…) values.

        >>> Term("low", "triangular", (0, 0, 0.5)).membership([0, 0.25, 1]).tolist()
        [1.0, 0.5, 0.0]
        """
        at = np.asarray(x, dtype=np.float64)
        if self.shape == "gaussian":
            mean, sd = self.values
            return np.asarray(np.exp(-0.5 * ((at - mean) / sd) ** 2))
        left, peak, right = self.values
        rising = (at - left) / (peak - left) if peak > left else np.where(at >= peak, 1.0, 0.0)
        falling = (right - at) / (right - peak) if right > peak else np.where(at <= peak, 1.0, 0.0)
        return np.clip(np.minimum(rising, falling), 0.0, 1.0)


@dataclass(frozen=True)
class Variable:
    """An input or output and its words."""

    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Rule:
    """IF input IS term AND … THEN output IS term, …."""

    conditions: tuple[tuple[int, int], ...]  # (input, term) indices
    conclusions: tuple[tuple[int, int], ...]  # (output, term) indices
    weight: float = 1.0  # certainty in (0, 1], multiplies the degree to which the rule holds


@dataclass(frozen=True)
class FuzzySystem:
    """A rule base."""

    inputs: tuple[Variable, ...]
    outputs: tuple[Variable, ...]  # its outputs, each over [0, 1]
    rules: tuple[Rule, ...]
    t_norm: TNorm = "min"  # what AND and THEN mean: ``min`` (Mamdani) or ``product`` (Larsen)

    def infer(self, x: ArrayLike) -> FloatArray:
        """Crisp outputs (n, outputs) in [0, 1]; 0.5 where no rule holds at all.

        Args:
            x: (n, inputs) crisp values.

        Raises:
            DataError: Another number of inputs.
        """
        values = np.asarray(x, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.inputs):
            raise DataError(
                f"fuzzy inference: expected (n, {len(self.inputs)}) values, got {values.shape}"
            )
        blocks = [values[i : i + _BLOCK] for i in range(0, len(values), _BLOCK)]
        found = [self._infer(block) for block in blocks]
        return np.concatenate(found) if found else np.empty((0, len(self.outputs)))

    def _infer(self, x: FloatArray) -> FloatArray:
        held = self.activations(x)
        universe = np.linspace(0.0, 1.0, GRID)
        outputs = []
        for index, variable in enumerate(self.outputs):
            area = np.zeros((len(x), GRID))
            for number, term in enumerate(variable.terms):
                own = [
                    r for r, rule in enumerate(self.rules) if (index, number) in rule.conclusions
                ]
                if own:
                    degree = held[:, own].max(axis=1)[:, None]
                    word = term.membership(universe)[None]
                    cut = np.minimum(degree, word) if self.t_norm == "min" else degree * word
                    area = np.maximum(area, cut)
            outputs.append(centroid(universe, area))
        return np.stack(outputs, axis=1)

    def activations(self, x: FloatArray) -> FloatArray:
        """Degree (n, rules) to which each rule holds, its weight included."""
        degrees = [
            np.stack([term.membership(x[:, v]) for term in variable.terms], axis=1)
            for v, variable in enumerate(self.inputs)
        ]
        held = np.empty((len(x), len(self.rules)))
        for number, rule in enumerate(self.rules):
            parts = np.stack([degrees[v][:, t] for v, t in rule.conditions], axis=1)
            joined = parts.min(axis=1) if self.t_norm == "min" else parts.prod(axis=1)
            held[:, number] = rule.weight * joined
        return held

    def sentences(self) -> list[str]:
        """The rules in words, in their order."""
        lines = []
        for rule in self.rules:
            weight = "" if rule.weight == 1 else f" (weight {rule.weight:.2f})"
            when = " AND ".join(_say(self.inputs, pair) for pair in rule.conditions)
            then = ", ".join(_say(self.outputs, pair) for pair in rule.conclusions)
            lines.append(f"IF {when} THEN {then}{weight}")
        return lines


def _say(variables: Sequence[Variable], pair: tuple[int, int]) -> str:
    variable = variables[pair[0]]
    return f"{variable.name} IS {variable.terms[pair[1]].name}"


def rules_text(system: FuzzySystem, class_names: Sequence[str] = ()) -> str:
    """A rule base for readers: its words with their numbers, then its rules.

    Args:
        class_names: Names of its outputs; empty keeps their own.
    """
    names = class_names or [output.name for output in system.outputs]
    outputs = tuple(replace(o, name=n) for o, n in zip(system.outputs, names, strict=True))
    lines = [f"AND is the {'minimum' if system.t_norm == 'min' else 'product'}.", ""]
    for variable in (*system.inputs, *outputs):
        words = "; ".join(
            f"{t.name} = {t.shape}({', '.join(f'{v:.3g}' for v in t.values)})"
            for t in variable.terms
        )
        lines.append(f"{variable.name}: {words}")
    return "\n".join([*lines, "", *replace(system, outputs=outputs).sentences(), ""])


def centroid(universe: FloatArray, area: FloatArray) -> FloatArray:
    """Centre of the area under straight lines between sampled points.

    Args:
        universe: (g,) places, evenly spaced.
        area: (n, g) heights ≥ 0.

    Returns:
        (n,); the middle of the range where there is no area.

    >>> centroid(np.array([0.0, 0.5, 1.0]), np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [0.5, 0.5]
    """
    step = universe[1] - universe[0]
    left, right, start = area[:, :-1], area[:, 1:], universe[:-1]
    surface = (left + right).sum(axis=1) * step / 2
    moment = (step * (left + right) / 2 * start + step**2 * (left + 2 * right) / 6).sum(axis=1)
    middle = (universe[0] + universe[-1]) / 2
    filled = surface > 1e-12
    return np.asarray(np.where(filled, moment / np.where(filled, surface, 1.0), middle))


def even_terms(names: Sequence[str], shape: MembershipShape = "triangular") -> tuple[Term, ...]:
    """Words spread evenly over [0, 1]; neighbours cross at one half.

    >>> [term.values for term in even_terms(("low", "high"))]
    [(0.0, 0.0, 1.0), (0.0, 1.0, 1.0)]
    """
    return terms_at(np.linspace(0.0, 1.0, len(names)), names, shape)


def terms_at(peaks: ArrayLike, names: Sequence[str], shape: MembershipShape) -> tuple[Term, ...]:
    """Words with the given peaks; neighbours cross at (about) one half.

    A triangular first or last word is one-sided, so the caller cuts values to the range of the
    peaks. The width of a Gaussian word is that at which it crosses its nearer neighbour at 0.5.
    """
    at = np.asarray(peaks, dtype=np.float64).tolist()
    terms = []
    for i, (name, peak) in enumerate(zip(names, at, strict=True)):
        left, right = at[max(0, i - 1)], at[min(len(at) - 1, i + 1)]
        if shape == "triangular":
            terms.append(Term(name, shape, (left, peak, right)))
        else:
            gap = min(g for g in (peak - left, right - peak) if g > 0)
            terms.append(Term(name, shape, (peak, gap / (2 * np.sqrt(2 * np.log(2))))))
    return tuple(terms)


WORDS = {2: ("low", "high"), 3: ("low", "medium", "high"),
         5: ("very low", "low", "medium", "high", "very high")}  # fmt: skip


def member_system(
    members: Sequence[str], *, shape: MembershipShape = "triangular", t_norm: TNorm = "min"
) -> FuzzySystem:
    """Rules that turn what members say of one class into the support for it.

    Every two members give nine rules: both high, very high; one high and one medium, high; and so
    on down. The same rules serve every class, and nothing is fitted.

    Args:
        shape: Of the words low, medium, high of a probability.

    Raises:
        DataError: Fewer than two members.
    """
    if len(members) < 2:
        raise DataError(f"fuzzy combination: expected two or more members, got {len(members)}")
    inputs = tuple(Variable(name, even_terms(WORDS[3], shape)) for name in members)
    rules = [
        Rule(((a, high_a), (b, high_b)), ((0, high_a + high_b),))
        for a in range(len(members))
        for b in range(a + 1, len(members))
        for high_a in range(3)
        for high_b in range(3)
    ]
    output = Variable("support", even_terms(WORDS[5], shape))
    return FuzzySystem(inputs, (output,), tuple(rules), t_norm)


def combine_members(system: FuzzySystem, probs: ArrayLike) -> FloatArray:
    """Support of each class from the members' probabilities, scaled to sum to 1.

    Args:
        probs: (members, n, K).
    """
    values = np.asarray(probs, dtype=np.float64)
    _, n, k = values.shape
    support = system.infer(values.transpose(1, 2, 0).reshape(n * k, -1)).reshape(n, k)
    return np.asarray(support / support.sum(axis=1, keepdims=True))
