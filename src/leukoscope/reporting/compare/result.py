"""``comparison.json`` in memory: what the tables and figures of a comparison are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.reporting.formats import DASH, finite

RecipeEntry = Mapping[str, Any]
RESULT = "comparison.json"
OTHER_BACKBONE = "‡"
FEWER_EPOCHS = "§"


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison.

    Attributes:
        values: The content of ``comparison.json``.
    """

    values: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of every matrix."""
        return tuple(self.values["class_names"])

    @property
    def metric(self) -> str:
        """What ranks and is tested."""
        return str(self.values["metric"])

    @property
    def level(self) -> str:
        """Level of the intervals, e.g. ``95 %``."""
        return f"{100 * float(self.values['confidence']):g} %"

    @property
    def protocols(self) -> Sequence[RecipeEntry]:
        """Heads of the protocols, from the mildest to the harshest."""
        return list(self.values["protocols"])

    @cached_property
    def entries(self) -> list[RecipeEntry]:
        """Recipes, the best of the first protocol first; those without it come last."""
        first = self.protocols[0]["name"]

        def place(entry: RecipeEntry) -> float:
            result = entry["results"].get(first)
            return float(result["place"]["rank"]) if result else float("inf")

        return sorted(self.values["entries"], key=place)

    def under(self, protocol: str) -> list[RecipeEntry]:
        """Recipes with results under a protocol, the best first."""
        found = [entry for entry in self.entries if protocol in entry["results"]]
        return sorted(found, key=lambda e: float(e["results"][protocol]["place"]["rank"]))

    @cached_property
    def short(self) -> Mapping[str, str]:
        """Label → the same where space is scarce, with signs for deviations."""
        stems = {e["label"]: e["label"].replace(f"-on-{_backbone(e)}", "") for e in self.entries}
        signed = {e["label"]: f"{stems[e['label']]} {signs_of(e)}".strip() for e in self.entries}
        counts = Counter(signed.values())
        return {
            label: text if counts[text] == 1 else f"{label} {signs_of(entry)}".strip()
            for entry in self.entries
            for label, text in [(entry["label"], signed[entry["label"]])]
        }

    def name(self, entry: RecipeEntry) -> str:
        """Short name of an entry."""
        return self.short[entry["label"]]

    @property
    def published(self) -> Sequence[RecipeEntry]:
        """Published networks that did not run here, counted and timed."""
        return self.values.get("published") or ()

    @property
    def names(self) -> list[str]:
        """Short names in the order of every table."""
        return [self.name(entry) for entry in self.entries]

    @cached_property
    def signs(self) -> str:
        """What the signs behind names mean; empty where there are none."""
        others = sorted({_backbone(e) for e in self.entries if OTHER_BACKBONE in signs_of(e)})
        parts = []
        if others:
            parts.append(
                f"{OTHER_BACKBONE} on another backbone than published ({', '.join(others)}), with "
                "the recipe’s own preprocessing, head, loss, optimiser and schedule."
            )
        if any(FEWER_EPOCHS in signs_of(entry) for entry in self.entries):
            parts.append(f"{FEWER_EPOCHS} configured for fewer epochs than published.")
        return " ".join(parts)


def signs_of(entry: RecipeEntry) -> str:
    """Signs for the ways in which an entry is not its published recipe."""
    settings = entry.get("settings") or {}
    marks = list(entry["marks"])
    signs = OTHER_BACKBONE if any(mark.startswith("on ") for mark in marks) else ""
    configured = (settings.get("training") or {}).get("epochs")
    refinement = (settings.get("refine") or {}).get("epochs") or 0
    published = entry.get("published_epochs")
    if configured and published and configured + refinement < published:
        signs += FEWER_EPOCHS
    return signs


def _backbone(entry: RecipeEntry) -> str:
    settings = entry.get("settings") or {}
    return str((settings.get("model") or {}).get("backbone", ""))


def load_comparison(folder: Path) -> ComparisonResult:
    """Read ``comparison.json``.

    Raises:
        DataError: It is missing or damaged.
    """
    values = read_json(folder / RESULT)
    needed = ("class_names", "metric", "protocols", "entries", "tests", "runs")
    missing = [key for key in needed if not isinstance(values, dict) or key not in values]
    if missing:
        raise DataError(
            f"{folder / RESULT}: {', '.join(missing)} missing",
            hint="run `leukoscope compare` again",
        )
    return ComparisonResult(values)


def value_of(entry: RecipeEntry, protocol: str, metric: str) -> Any:
    """``{"value", "low", "high", "reliable"}`` of a metric, or None."""
    result = entry["results"].get(protocol)
    return None if result is None else result["metrics"].get(metric)


def mean(values: Sequence[Any]) -> float | None:
    """Mean of the known values, or None.

    >>> mean([1, None, 3]), mean([])
    (2.0, None)
    """
    known = [number for value in values if (number := finite(value)) is not None]
    return sum(known) / len(known) if known else None


def joined(cells: Sequence[str]) -> str:
    """Cells of several protocols in one, or one dash where all are unknown.

    >>> joined(["1", "—"]), joined(["—", "—"]), joined(["2", "2"])
    ('1 / —', '—', '2')
    """
    if len(set(cells)) == 1:
        return cells[0]
    return " / ".join(cells) or DASH


def latency_of(entry: RecipeEntry, batch: int) -> Mapping[str, Any] | None:
    """The measured latency at a batch size, or None."""
    timed = (entry.get("complexity") or {}).get("latency", ())
    return next((t for t in timed if t["batch"] == batch), None)


def big(value: object) -> str:
    """A large count in millions or billions, with three digits.

    >>> big(4288196), big(15_466_184_704), big(900_444), big(None)
    ('4.29 M', '15.5 G', '0.900 M', '—')
    """
    known = finite(value)
    if known is None:
        return DASH
    scale, unit = (1e9, "G") if known >= 1e9 else (1e6, "M")
    digits = max(0, 2 - (len(str(int(known / scale))) - 1)) if known >= scale else 3
    return f"{known / scale:.{digits}f} {unit}"
