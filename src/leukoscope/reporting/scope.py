"""What a study can and cannot show, from what it did."""

from __future__ import annotations

from collections import Counter

from leukoscope.evaluation.intervals import MIN_GROUPS
from leukoscope.reporting.formats import count, plural
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
        "cohort": "How the model does on cohorts (a hospital, years) that it has never seen ({}).",
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
    others = study.metrics.get("external") or ()
    if others:  # without their names: this text goes into the bundle's card too
        images = sum(entry["n"] for entry in others)
        items.append(
            f"Whether {plural(len(others), 'other data set')} ({count(images)} images) came out as "
            "this study forecast."
        )
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
    if study.metrics.get("external"):
        items.append(
            "How the model does in laboratories beyond those of this study and of the other data "
            "that it was measured on."
        )
    elif "external" not in study.protocols:
        items.append(
            "How the model does in another laboratory, with another stain, microscope or camera: "
            "all images come from one data set."
        )
    share = _trained_share(study)
    if share is not None:
        items.append(
            "How good the packed model itself is: the figures are those of models that were "
            f"trained on {100 * share:.0f} % of the images, it on nearly all, so it is probably a "
            "little better than they say."
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
        and (entry.get("n_groups") or 0) < MIN_GROUPS
    ]
    if shaky:
        items.append(
            f"A reliable interval where fewer than {MIN_GROUPS} groups could be held out; such "
            "results are marked † (few groups)."
        )
    items.append("Any use on patients. This is research software, not a medical device.")
    return tuple(items)


def _trained_share(study: Study) -> float | None:
    """Mean share of the images that the models behind the figures were trained or selected on."""
    tested = [fold for fold in study.folds if fold.protocol in study.protocols]
    if not tested or not any(fold.protocol == "final" for fold in study.folds):
        return None
    parts = [Counter(fold.parts.values()) for fold in tested]
    return sum((n["train"] + n["val"]) / n.total() for n in parts) / len(parts)
