"""What the verdict needs beside the predictions: partners, inapplicable probes, the control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leukoscope.config.study import StudyConfig
from leukoscope.study.control import negative_control
from leukoscope.study.events import Progress
from leukoscope.study.inapplicable import inapplicable_probes
from leukoscope.study.picture_scale import picture_scale
from leukoscope.study.probes import partner_classes
from leukoscope.study.protocols import ProtocolPlan
from leukoscope.study.shortcut_summary import Evidence
from leukoscope.study.store import InputStore


def gather_evidence(
    store: InputStore,
    plan: ProtocolPlan,
    config: StudyConfig,
    passport: Mapping[str, Any],
    progress: Progress,
) -> Evidence:
    """What was measured of the data and of the pipeline; fits the negative control."""
    return Evidence(
        inapplicable=inapplicable_probes(config, passport, store),
        partners=partner_classes(store, config.seed),
        control=negative_control(store, plan, config, progress),
        data_errors=data_errors(passport),
        scale=picture_scale(store, config).to_json() if "grain-only" in config.probes else None,
    )


def data_errors(passport: Mapping[str, Any]) -> list[str]:
    """Sentences of the audit's errors: label conflicts, parts that leak."""
    return [row["text"] for row in passport["findings"] if row["level"] == "error"]
