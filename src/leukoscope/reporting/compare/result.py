"""``comparison.json`` in memory: what the tables and figures of a comparison are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leukoscope.config.comparison import ComparedRecipe, ComparisonFile, NamedNetwork, ProtocolHead
from leukoscope.config.recipe import GradientTraining
from leukoscope.core.protocols import SEPARATING
from leukoscope.reporting.formats import DASH, finite

RESULT = "comparison.json"
OTHER_BACKBONE = "‡"
FEWER_EPOCHS = "§"


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison.

    Attributes:
        file: The content of ``comparison.json``.
    """

    file: ComparisonFile

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of every matrix."""
        return self.file.class_names

    @property
    def metric(self) -> str:
        """What ranks and is tested."""
        return self.file.metric

    @property
    def row(self) -> str:
        """What is classified and counted: ``image`` or ``patient``."""
        return self.file.row

    @property
    def level(self) -> str:
        """Level of the intervals, e.g. ``95 %``."""
        return f"{100 * self.file.confidence:g} %"

    @property
    def protocols(self) -> Sequence[ProtocolHead]:
        """Heads of the protocols, from the mildest to the harshest."""
        return self.file.protocols

    @cached_property
    def decisive(self) -> ProtocolHead:
        """Head of the strictest protocol among those that the most runs, and recipes, have."""

        def compared(head: ProtocolHead) -> tuple[int, int]:
            found = self.under(head.name)
            return len({entry.run for entry in found}), len(found)

        most = max(map(compared, self.protocols))
        heads = {head.name: head for head in self.protocols if compared(head) == most}
        return next((heads[name] for name in SEPARATING if name in heads), [*heads.values()][-1])

    @cached_property
    def entries(self) -> list[ComparedRecipe]:
        """Recipes, the best of the first protocol first; those without it come last."""
        first = self.protocols[0].name

        def place(entry: ComparedRecipe) -> float:
            result = entry.results.get(first)
            return result.place.rank if result else float("inf")

        return sorted(self.file.entries, key=place)

    def under(self, protocol: str) -> list[ComparedRecipe]:
        """Recipes with results under a protocol, the best first."""
        found = [entry for entry in self.entries if protocol in entry.results]
        return sorted(found, key=lambda e: e.results[protocol].place.rank)

    @cached_property
    def short(self) -> Mapping[str, str]:
        """Label → the same where space is scarce, with signs for deviations."""
        stems = {e.label: e.label.replace(f"-on-{_backbone(e)}", "") for e in self.entries}
        signed = {e.label: f"{stems[e.label]} {signs_of(e)}".strip() for e in self.entries}
        counts = Counter(signed.values())
        return {
            label: text if counts[text] == 1 else f"{label} {signs_of(entry)}".strip()
            for entry in self.entries
            for label, text in [(entry.label, signed[entry.label])]
        }

    def name(self, entry: ComparedRecipe) -> str:
        """Short name of an entry."""
        return self.short[entry.label]

    @property
    def published(self) -> Sequence[NamedNetwork]:
        """Published networks that did not run here, counted and timed."""
        return self.file.published

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


def signs_of(entry: ComparedRecipe) -> str:
    """Signs for the ways in which an entry is not its published recipe."""
    signs = OTHER_BACKBONE if any(mark.startswith("on ") for mark in entry.marks) else ""
    recipe, published = entry.made, entry.published_epochs
    if recipe is None or not published or not isinstance(recipe.training, GradientTraining):
        return signs
    configured = recipe.training.epochs + recipe.refine.epochs
    return signs + (FEWER_EPOCHS if configured < published else "")


def _backbone(entry: ComparedRecipe) -> str:
    return "" if entry.made is None else entry.made.model.backbone


def load_comparison(folder: Path) -> ComparisonResult:
    """Read ``comparison.json``.

    Raises:
        DataError: It is missing or damaged.
    """
    return ComparisonResult(ComparisonFile.load(folder / RESULT))


def mean(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing.

    >>> mean([1, 3]), mean([])
    (2.0, None)
    """
    return sum(values) / len(values) if values else None


def joined(cells: Sequence[str]) -> str:
    """Cells of several protocols in one, or one dash where all are unknown.

    >>> joined(["1", "—"]), joined(["—", "—"]), joined(["2", "2"])
    ('1 / —', '—', '2')
    """
    if len(set(cells)) == 1:
        return cells[0]
    return " / ".join(cells) or DASH


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
