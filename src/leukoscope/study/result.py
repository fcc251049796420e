"""What a study gives back: its folder and its metrics, which show themselves in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leukoscope.config.metrics.file import StudyMetrics
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.views import data_frame, html_note, html_table, with_limits

if TYPE_CHECKING:
    import pandas as pd

    from leukoscope.config.metrics.results import ProbeResult, Result

_SHOWN = ("accuracy", "macro_f1", "roc_auc")  # in a notebook; to_frame has all


@dataclass(frozen=True)
class StudyResult:
    """Where a study's results are.

    Attributes:
        run: The study's folder.
        metrics: The content of ``metrics.json``.
        unreadable: Path and reason of each image that was quarantined.
    """

    run: RunFolder
    metrics: StudyMetrics
    unreadable: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        verdict = self.metrics.verdict
        return f"<StudyResult {self.run.path}: {verdict.level}, {verdict.headline}>"

    def _repr_html_(self) -> str:
        from leukoscope.reporting.formats import interval

        verdict = self.metrics.verdict
        rows = [
            (row.recipe, row.protocol, row.n, *(interval(row.metrics.get(m), m) for m in _SHOWN))
            for row in self.metrics.results
        ]
        titles = ("model", "held out", "n", *_SHOWN)
        return html_note(verdict.headline, verdict.level) + html_table(titles, rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a model or probe and protocol: every metric with its limits.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        names = [("model", row.recipe) for row in self.metrics.results]
        names += [("probe", row.probe) for row in self.metrics.probes]
        rows: list[Result | ProbeResult] = [*self.metrics.results, *self.metrics.probes]
        return data_frame(
            {"kind": kind, "name": name, "protocol": row.protocol, "n": row.n,
             "n_groups": row.n_groups, **with_limits(row.metrics)}
            for (kind, name), row in zip(names, rows, strict=True)
        )  # fmt: skip
