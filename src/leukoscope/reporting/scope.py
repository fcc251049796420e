"""What a study can and cannot show, from what it did."""

from __future__ import annotations

from leukoscope.reporting.formats import plural
from leukoscope.reporting.result_tables import sample
from leukoscope.reporting.source import Study


def can_show(study: Study) -> tuple[str, ...]:
    """Questions that the study's protocols and probes answer."""
    first = study.recipes[0]
    said = {
        "random": "How well images are sorted when their neighbours may be in the training data "
        "({}): comparable with published figures, no forecast for new slides.",
        "deduplicated": "How much of that remains without duplicates and overlapping fields of "
        "test images in training ({}).",
        "given": "What the data’s own split gives ({}).",
        "grouped": "How the model does on patients it has never seen ({}), from the same source.",
        "acquisition": "How the model does when images with alike background are held out "
        "together ({}).",
        "acquisition-merged": "How far it falls when, besides, no slide may be cut in two ({}): "
        "the harshest stand-in for an unseen slide that this data allows.",
        "external": "How the model does on another data set ({}).",
    }
    items = [
        text.format(sample(entry))
        for name, text in said.items()
        if (entry := study.result(first, name)) is not None
    ]
    probes = list(dict.fromkeys(entry["probe"] for entry in study.metrics.get("probes", ())))
    if probes:
        items.append(
            f"How much of the accuracy needs no morphology, by {plural(len(probes), 'probe')}: "
            f"{', '.join(probes)}."
        )
    if (study.metrics.get("decisions") or {}).get("coverage"):
        items.append("Whether probabilities and prediction sets keep their promise on this data.")
    return tuple(items)


def cannot_show(study: Study) -> tuple[str, ...]:
    """Questions that must stay open."""
    items = []
    reasons = {e["protocol"]: e["reason"] for e in study.metrics.get("inapplicable", ())}
    if "grouped" not in study.protocols:
        reason = reasons.get("grouped", "that protocol was not run").rstrip(".")
        items.append(
            f"How the model does on a new patient: patients could not be held out ({reason})."
        )
    if "external" not in study.protocols:
        items.append(
            "How the model does in another laboratory, with another stain, microscope or camera: "
            "all images come from one data set."
        )
    if not study.metrics.get("probes"):
        items.append("Whether a shortcut is at work: no probe was run.")
    items.append(
        "That the model reads morphology. Probes can expose a shortcut, they cannot exclude one; "
        "heat maps show where a model looks, not why."
    )
    if "benign" in study.class_names and "healthy" not in study.class_names:
        items.append(
            "Anything about healthy blood: the class Benign holds hematogones (benign precursors "
            "of B cells), and no healthy smear is among the classes."
        )
    shaky = [
        entry
        for entry in study.results
        if any(v.get("reliable") is False for v in entry["metrics"].values() if isinstance(v, dict))
        and (entry.get("n_groups") or 0) < 10
    ]
    if shaky:
        items.append(
            "A reliable interval where fewer than 10 groups could be held out; such results are "
            "marked †."
        )
    items.append("Any use on patients. This is research software, not a medical device.")
    return tuple(items)
