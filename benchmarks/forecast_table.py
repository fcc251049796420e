"""The tables of docs/results/forecast.md from the repetitions that forecast.py has finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from leukoscope.evaluation.statistics.intervals import proportion_interval

Row = dict[str, Any]
LEVELS = ("plausible", "plausible-by-clusters", "inconclusive")
KNOWN_HONEST = ("phantoms",)
"""Sets in which nothing was planted, so that a shortcut that is shown is a mistake."""


def tables(sets: Sequence[list[Row]]) -> Iterator[str]:
    """Coverage, bias and verdicts as Markdown, one line a set and recipe."""
    heads = (
        ("", "repetitions", "refused", "units left / taken away", "confidence interval holds it",
         "… for the models of its folds",
         "cohort interval", "… of the ROC AUC", "prediction interval of the next unit"),
        ("", "accuracy, points", "of it training", "ROC AUC, points", "log loss", "Brier", "ECE"),
        ("", "plausible", "plausible (by clusters)", "inconclusive", "unsafe: no skill",
         "unsafe: a shortcut or the control", "wrong", "share of wrong verdicts"),
    )  # fmt: skip
    titles = (
        "Do the intervals hold what came?",
        "Is the estimate right?",
        "Are the verdicts right?",
    )
    for title, head, cells in zip(titles, heads, (coverage, biases, verdicts), strict=True):
        shown = [rows for rows in sets if done(rows)]
        if cells is verdicts:
            shown = [rows for rows in shown if "level" in done(rows)[0]]
        if shown:
            yield f"## {title}\n"
            if cells is biases:
                yield "The report's value minus what came, in points or in the metric's own unit.\n"
            yield "| " + " | ".join(head) + " |"
            yield "|---|" + "---|" * (len(head) - 1)
            yield from (f"| {name_of(rows)} | " + " | ".join(cells(rows)) + " |" for rows in shown)
            yield ""
    yield from (f"- {line}" for rows in sets for line in shown_sources(rows))
    for rows in sets:
        for row in rows:
            why = wrong(row) if "level" in row else None
            if why:
                yield f"- {name_of(rows)}, {row['number']} ({row['level']}): {why}"


def done(rows: list[Row]) -> list[Row]:
    """Those that the study did not refuse."""
    return [row for row in rows if "refused" not in row]


def name_of(rows: list[Row]) -> str:
    """Set, recipe, and what was changed."""
    first = rows[0]
    no_verdict = [] if any("level" in row for row in rows) else ["no verdict"]
    return ", ".join(
        [first["set"], *(f"`{x}`" for x in (first["recipe"], *first["changed"])), *no_verdict]
    )


def coverage(rows: list[Row]) -> list[str]:
    """How often the outcome lay inside each interval."""
    run = done(rows)
    inside = [_holds(row["estimate"]["accuracy"], row["outcome"]["accuracy"]) for row in run]
    cohort = [row["outcome"]["forecast"] for row in run]
    of_units = [_units_inside(row) for row in run if "low" in row["next_unit"]]
    left = np.median([row["groups"] for row in run])
    return [
        str(len(run)),
        str(len(rows) - len(run)),
        f"{left:.0f} / {np.median([row['taken'] for row in run]):.0f}",
        _share(inside),
        _share([_holds(row["estimate"]["accuracy"], row["outcome"]["of_folds"]) for row in run]),
        _share([_inside(f["accuracy"]) for f in cohort if "accuracy" in f]),
        _share([_inside(f["roc_auc"]) for f in cohort if "roc_auc" in f]),
        _mean_share(of_units),
    ]


def biases(rows: list[Row]) -> list[str]:
    """Estimate minus outcome, mean with its 95 % interval over repetitions."""
    run = done(rows)

    def of(name: str) -> Callable[[Row], float | None]:
        def difference(row: Row) -> float | None:
            estimate, found = row["estimate"][name]["value"], row["outcome"][name]
            return None if estimate is None or found is None else estimate - found

        return difference

    def training(row: Row) -> float | None:
        return float(row["outcome"]["of_folds"] - row["outcome"]["accuracy"])

    return [
        _mean(map(of("accuracy"), run), 100, 1),
        _mean(map(training, run), 100, 1),
        _mean(map(of("roc_auc"), run), 100, 1),
        *(_mean(map(of(name), run), 1, 3) for name in ("log_loss", "brier", "ece")),
    ]


def verdicts(rows: list[Row]) -> list[str]:
    """How often each level, and how many were wrong."""
    run = done(rows)
    counts = [sum(row["level"] == level for row in run) for level in LEVELS]
    unsafe = [by_shortcut(row) for row in run if row["level"] == "unsafe"]
    bad = [wrong(row) is not None for row in run]
    counts += [unsafe.count(False), unsafe.count(True), sum(bad)]
    return [*map(str, counts), _share(bad)]


def shown_sources(rows: list[Row]) -> Iterator[str]:
    """How often each source of shortcut had which status."""
    run = [row for row in done(rows) if "level" in row]
    for source in run[0]["sources"] if run else ():
        counts = Counter(row["sources"][source] for row in run)
        said = ", ".join(f"{status} {n}" for status, n in counts.most_common())
        yield f"{name_of(rows)}, {source}: {said}"


def wrong(row: Row) -> str | None:
    """Why a verdict was wrong, as forecast.py defines it; None where it was not."""
    outcome = row["outcome"]
    if row["level"].startswith("plausible"):
        if outcome["roc_auc"] is not None and outcome["roc_auc"] <= 0.5:
            return f"no better than chance, ROC AUC {outcome['roc_auc']:.2f}"
        found = outcome["forecast"].get("accuracy")
        if found is not None and not _inside(found):
            return f"the accuracy lay outside {found['low']:.3f}–{found['high']:.3f}"
    if row["level"] == "unsafe":
        if by_shortcut(row):
            return "a shortcut where none was" if row["set"] in KNOWN_HONEST else None
        if outcome["roc_auc_low"] is not None and outcome["roc_auc_low"] > 0.5:
            return f"better than chance, ROC AUC at least {outcome['roc_auc_low']:.2f}"
    return None


def by_shortcut(row: Row) -> bool:
    """Whether ``unsafe`` came from a shortcut or the control, not from want of skill."""
    return row["control"] is False or "shown" in row["sources"].values()


def _holds(interval: dict[str, Any], value: float) -> bool:
    return bool(interval["low"] <= value <= interval["high"])


def _inside(found: dict[str, Any]) -> bool:
    return bool(found["verdict"].startswith("inside"))


def _units_inside(row: Row) -> tuple[int, int]:
    """How many of those taken away had an accuracy inside the prediction interval; of how many."""
    units = row["outcome"]["units"].values()
    return sum(_holds(row["next_unit"], accuracy) for accuracy, _ in units), len(units)


def _share(hits: Sequence[bool]) -> str:
    """Share with the exact interval of so many repetitions."""
    if not hits:
        return "—"
    low, high = proportion_interval(sum(hits), len(hits))
    return f"{sum(hits) / len(hits):.2f} ({low:.2f}–{high:.2f})"


def _mean_share(pairs: Sequence[tuple[int, int]]) -> str:
    """Share over all units of all repetitions, with the interval of the means of repetitions."""
    if not pairs:
        return "—"
    inside, total = np.array(pairs).T
    half = _half(inside / total)
    share = inside.sum() / total.sum()
    return f"{share:.3f} ({share - half:.3f}–{min(1.0, share + half):.3f})"


def _mean(values: Any, factor: float, digits: int) -> str:
    numbers = np.array([factor * value for value in values if value is not None])
    if len(numbers) < 2:
        return "—"
    mean, half = numbers.mean(), _half(numbers)
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"


def _half(values: Any) -> float:
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else float("nan")
