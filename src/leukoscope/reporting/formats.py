"""How numbers are written, in one place: the page, the text and the card say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat

from leukoscope.config.metrics.results import Estimate
from leukoscope.core import views
from leukoscope.evaluation.statistics.intervals import MIN_CLASS_GROUPS, MIN_GROUPS
from leukoscope.evaluation.statistics.metrics import METRICS

plural = views.plural
DASH = "—"
UNRELIABLE = "†"
UNRELIABLE_NOTE = (
    f"† Few groups: fewer than {MIN_GROUPS}, or a class in fewer than {MIN_CLASS_GROUPS} of them. "
    "The interval may be too narrow to be relied on."
)
_PERCENT = ("coverage", "share", *(m.name for m in METRICS.values() if m.percent))


def is_percent(metric: str) -> bool:
    """Whether a metric is written as a percentage.

    >>> is_percent("recall_pro_b"), is_percent("roc_auc")
    (True, False)
    """
    return any(metric == name or metric.startswith(f"{name}_") for name in _PERCENT)


def finite(value: object) -> float | None:
    """The value as a float, or None where it is missing or not finite.

    >>> finite("0.5"), finite(None), finite(float("nan"))
    (0.5, None, None)
    """
    try:
        number = float(value) if isinstance(value, (str, SupportsFloat)) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def number(value: object, metric: str) -> str:
    """One value of a metric; a missing one is a dash, never zero.

    >>> number(0.9834, "accuracy"), number(0.9834, "roc_auc"), number(None, "ece")
    ('98.3 %', '0.983', '—')
    """
    known = finite(value)
    if known is None:
        return DASH
    if metric == "set_size":
        return f"{known:.2f}"
    text = f"{100 * known:.1f} %" if is_percent(metric) else f"{known:.3f}"
    return text.replace("-", "−")


ValueOrEstimate = Estimate | Mapping[str, object] | float | None
"""A value with its interval (as of a study, or as of another file), a plain number, or nothing."""


def _limits(entry: ValueOrEstimate) -> tuple[float | None, float | None, float | None, str]:
    """Value, lower and upper limit, and the mark of an interval that is not to be relied on."""
    if isinstance(entry, Estimate):
        reliable = entry.reliable
        value, low, high = entry.value, entry.low, entry.high
    elif isinstance(entry, Mapping):
        reliable = entry.get("reliable") is not False
        value, low, high = (finite(entry.get(name)) for name in ("value", "low", "high"))
    else:
        return finite(entry), None, None, ""
    return value, finite(low), finite(high), "" if reliable else UNRELIABLE


def interval(entry: ValueOrEstimate, metric: str) -> str:
    """A value with its interval in brackets.

    Args:
        entry: See :data:`ValueOrEstimate`.
        metric: Name of the metric, decides on per cent or decimals.

    >>> interval({"value": 0.983, "low": 0.979, "high": 0.987}, "accuracy")
    '98.3 % (97.9–98.7)'
    >>> interval({"value": 0.5, "low": None, "high": None}, "ece"), interval(None, "ece")
    ('0.500', '—')
    >>> interval({"value": 0.5, "low": 0.4, "high": 0.6, "reliable": False}, "accuracy")
    '50.0 % (40.0–60.0)†'
    >>> interval({"value": -0.2, "low": -0.4, "high": -0.1}, "accuracy")
    '−20.0 % (−40.0 to −10.0)'
    """
    value, low, high, mark = _limits(entry)
    text = number(value, metric)
    if text == DASH or low is None or high is None:
        return text
    between = " to " if low < 0 else "–"  # which would read as a sign
    if is_percent(metric):
        return f"{text} ({100 * low:.1f}{between}{100 * high:.1f}){mark}".replace("-", "−")
    return f"{text} ({number(low, metric)}{between}{number(high, metric)}){mark}"


def difference(entry: ValueOrEstimate, metric: str) -> str:
    """A signed difference with its interval, in percentage points where the metric is in per cent.

    >>> difference({"value": -0.031, "low": -0.05, "high": 0.002}, "accuracy")
    '−3.1 points (−5.0 to +0.2)'
    """
    value, low, high, mark = _limits(entry)
    if value is None:
        return DASH
    scale, digits, unit = (100.0, 1, " points") if is_percent(metric) else (1.0, 3, "")

    def signed(x: float) -> str:
        return f"{scale * x:+.{digits}f}".replace("-", "−")

    if low is None or high is None:
        return f"{signed(value)}{unit}"
    return f"{signed(value)}{unit} ({signed(low)} to {signed(high)}){mark}"


def p_value(p: float | None) -> str:
    """A p-value with three decimals.

    >>> p_value(0.0421), p_value(2e-5), p_value(None)
    ('0.042', '< 0.001', '—')
    """
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent_range(limits: Sequence[float] | None) -> str:
    """Two shares as a range in per cent.

    >>> percent_range((0.87, 0.925)), percent_range(None)
    ('87.0–92.5 %', '—')
    """
    return "–".join(f"{100 * limit:.1f}" for limit in limits) + " %" if limits else DASH


def count(value: object) -> str:
    """A whole number with thousands separators.

    >>> count(3256), count(None)
    ('3,256', '—')
    """
    known = finite(value)
    return DASH if known is None else f"{round(known):,}"


def sizes(numbers: Iterable[int]) -> str:
    """Sample sizes, one where all are equal.

    >>> sizes([400, 400]), sizes([400, 3256])
    ('400', '400, 3,256')
    """
    listed = list(numbers)
    return count(listed[0]) if len(set(listed)) == 1 else ", ".join(map(count, listed))


def seconds(value: object) -> str:
    """A duration.

    >>> seconds(3.21), seconds(200), seconds(7330)
    ('3.2 s', '3 min 20 s', '2 h 2 min')
    """
    known = finite(value)
    if known is None:
        return DASH
    if known < 60:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def metric_title(metric: str) -> str:
    """A metric's name for readers.

    >>> metric_title("ece"), metric_title("top_k")
    ('ECE', 'top k')
    """
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def metric_words(metric: str) -> str:
    """A metric's name in the middle of a sentence.

    >>> metric_words("balanced_accuracy"), metric_words("roc_auc")
    ('balanced accuracy', 'ROC AUC')
    """
    title = metric_title(metric)
    return title if title[:2].isupper() else lower_first(title)


def lower_first(text: str) -> str:
    """A title in the middle of a sentence.

    >>> lower_first("The whole recipe")
    'the whole recipe'
    """
    return text[:1].lower() + text[1:]


def upper_first(text: str) -> str:
    """A title at the beginning of a line.

    >>> upper_first("clusters held out")
    'Clusters held out'
    """
    return text[:1].upper() + text[1:]
