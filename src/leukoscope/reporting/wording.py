"""The fixed words of a report: protocols, probes, verdict levels, glossary, sources."""

from __future__ import annotations

from collections.abc import Mapping

from leukoscope.core.program import DISCLAIMER

REPORT_DISCLAIMER = (
    f"{DISCLAIMER} Nothing in this report may be used to diagnose, treat or exclude a disease."
)
INPUT_TITLES: Mapping[str, str] = {
    "image": "the whole image",
    "colour-only": "colour statistics only",
    "background-only": "background only, leukocytes removed",
    "background-grey": "background only, in grey",
    "silhouette-only": "silhouettes only",
    "cells-only": "leukocytes only",
    "cells-only-grey": "leukocytes only, in grey",
    "scale-bar-only": "scale bar only",
    "stain-neutral": "grey density, without stain",
    "cell-share": "share of each cell type",
    "ground-of-another-class": "leukocytes on the ground of another class",
    "ground-of-own-class": "leukocytes on another ground of their own class",
}

PROBE_MEANING: Mapping[str, str] = {
    "colour-only": "A classifier that sees only seven colour statistics per channel; no shape.",
    "background-only": (
        "A plain classifier, trained and tested on images from which every leukocyte was removed "
        "(inpainted) and the scale bar masked."
    ),
    "background-grey": "The same on such images in grey: no hue is left.",
    "silhouette-only": (
        "The same on the leukocytes’ outlines, filled with one grey: number, size and shape only."
    ),
    "cells-only": "The same on the leukocytes alone, on a neutral background.",
    "cells-only-grey": "The same on these in grey.",
    "scale-bar-only": "A classifier that sees place, size, colour and ink of the scale bar alone.",
    "ground-only": (
        "The plain classifier on the ground: the leukocytes of the image and, so that the holes "
        "tell nothing, those of an image of another class are painted over."
    ),
    "grain-only": (
        "A linear head on the finest detail inside and outside leukocytes: noise, sharpness and "
        "traces of compression, which hold next to no morphology."
    ),
    "frame-only": (
        "A linear head on rim, borders, empty margins, fall-off of light and place of the cell."
    ),
    "file-only": "Trees on what the file says: size, format, depth, compression, metadata.",
    "stain-only": (
        "Trees on the colours of ground and red cells, or, of cells on black, on the hue of "
        "chromatin."
    ),
    "shape-only": "Trees on the silhouettes of leukocytes and nuclei; that is morphology.",
    "count-only": (
        "Trees on number and area of the leukocytes, which is disease as well as choice of the "
        "field."
    ),
    "order-only": "Trees on the place in the list of names and the time of the picture.",
    "cell-share": (
        "No shortcut but what a clinician would use: a logistic regression on the share of each "
        "cell type among a patient’s cells, as experts named them."
    ),
    "stain-neutral": (
        "The plain classifier on the whole image as grey optical density, from the image’s own "
        "ground to its darkest nuclei: neither hue nor strength of stain and lamp are left."
    ),
}

VERDICT_LEVELS: Mapping[str, tuple[str, str]] = {
    "unsafe": ("Unsafe", "✖"),
    "plausible": ("Plausible", "✔"),
    "plausible-by-clusters": ("Plausible (by clusters)", "✔"),
    "inconclusive": ("Inconclusive", "?"),
}

_GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Accuracy", "Share of {row}s whose most probable class is the true one."),
    (
        "Acquisition cluster",
        "Images with alike background, found without labels; a proxy of slide or session.",
    ),
    (
        "Advantage over chance",
        "What the ROC AUC has above 0.5. The share of a probe in it is how much of the model’s "
        "success needs no more than that probe sees.",
    ),
    (
        "ALL",
        "Acute lymphoblastic leukemia; early pre-B, pre-B, pro-B are stages of B-cell maturation.",
    ),
    (
        "AURC",
        "Mean error rate as the {row}s are answered in the order of confidence; smaller is better.",
    ),
    (
        "Balanced accuracy",
        "Mean recall over the classes, so that a rare class counts as much as a frequent one.",
    ),
    ("Benign", "Hematogones: benign precursors of B cells. Not healthy blood."),
    ("Brier score", "Mean squared error of the probabilities; 0 is perfect."),
    ("Calibration", "Whether {row}s given 80 % probability are right 80 % of the time."),
    (
        "Component",
        "Images tied together by duplication, overlap or origin; never cut by a grouped split.",
    ),
    (
        "Confidence interval",
        "Range that holds the true value in the stated share of repetitions; from resampling "
        "whole groups.",
    ),
    ("Coverage", "Share of {row}s whose prediction set holds the true class."),
    ("ECE", "Expected calibration error: mean gap between confidence and accuracy over bins."),
    (
        "F1",
        "Harmonic mean of precision and recall; macro averages over classes, weighted over {row}s.",
    ),
    ("Fold", "One of several rounds in which another part of the data is the test part."),
    ("Grad-CAM", "Map of the regions that raise the score of a class; where, not why."),
    (
        "Grain",
        "The finest detail of an image: noise, sharpness, traces of compression. It comes from "
        "camera and file, not from cells.",
    ),
    ("Ground", "What an image shows between its leukocytes: red cells, plasma, stain, light."),
    (
        "Group",
        "What intervals resample as a whole, such as a patient: images of one group are alike, so "
        "many images of few groups prove little.",
    ),
    (
        "Inflation",
        "How far the score of a random split lies above that of a protocol that holds out more.",
    ),
    (
        "Log loss",
        "Mean negative logarithm of the probability given to the true class; 0 is perfect.",
    ),
    ("Precision", "Share of the {row}s called a class that belong to it."),
    (
        "Prediction set",
        "Classes that cannot be ruled out at the chosen coverage (conformal prediction).",
    ),
    (
        "Probe",
        "A classifier that sees only what should not decide, such as the ground or the stain; a "
        "high score of it reveals a possible shortcut.",
    ),
    (
        "Protocol",
        "A rule of what may not be in the training and the test part at once: images, overlapping "
        "images, patients, acquisition clusters.",
    ),
    ("Recall", "Share of the {row}s of a class that are found; also sensitivity."),
    (
        "ROC AUC",
        "Chance that one {row} of the class ranks above one of another class; 0.5 is guessing.",
    ),
    (
        "Shortcut",
        "A feature that follows the class in this data but not in the disease, such as stain or "
        "scale bar.",
    ),
    ("Specificity", "Share of the {row}s of other classes that are not called this class."),
    (
        "Temperature",
        "One number that softens or sharpens probabilities, fitted on {row}s that no model behind "
        "it was trained on.",
    ),
)


def glossary(row: str) -> list[tuple[str, str]]:
    """Terms with their meaning; ``row`` is what is classified and counted, image or patient.

    >>> glossary("patient")[0]
    ('Accuracy', 'Share of patients whose most probable class is the true one.')
    """
    return [(term, meaning.format(row=row)) for term, meaning in _GLOSSARY]


REFERENCES: tuple[tuple[str, str], ...] = (
    (
        "Guo et al. 2017, On calibration of modern neural networks (temperature scaling)",
        "https://doi.org/10.48550/arXiv.1706.04599",
    ),
    (
        "Sadinle et al. 2019, Least ambiguous set-valued classifiers (prediction sets)",
        "https://doi.org/10.1080/01621459.2017.1395341",
    ),
    (
        "Romano, Sesia & Candès 2020; Angelopoulos et al. 2021 (APS, RAPS)",
        "https://doi.org/10.48550/arXiv.2006.02544",
    ),
    (
        "Lee, Barber & Willett 2023, Distribution-free inference with hierarchical data",
        "https://doi.org/10.48550/arXiv.2306.06342",
    ),
    (
        "Vovk 2012, Conditional validity of inductive conformal predictors",
        "https://doi.org/10.48550/arXiv.1209.2673",
    ),
    (
        "Geifman, Uziel & El-Yaniv 2019, Bias-reduced uncertainty estimation (AURC)",
        "https://doi.org/10.48550/arXiv.1805.08206",
    ),
    (
        "Murphy 1973, A new vector partition of the probability score",
        "https://doi.org/10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2",
    ),
    (
        "Selvaraju et al. 2017, Grad-CAM",
        "https://doi.org/10.1109/ICCV.2017.74",
    ),
    (
        "Okabe & Ito 2008, Color universal design (the palette)",
        "https://jfly.uni-koeln.de/color/",
    ),
)


def input_title(name: str) -> str:
    """What a classifier sees, for readers.

    >>> input_title("background-only"), input_title("mystery-only")
    ('background only, leukocytes removed', 'mystery only')
    """
    return INPUT_TITLES.get(name, name.replace("-", " "))


def level_title(level: str) -> tuple[str, str]:
    """A verdict level's word and sign.

    >>> level_title("unsafe"), level_title("odd")
    (('Unsafe', '✖'), ('odd', '?'))
    """
    return VERDICT_LEVELS.get(level, (level, "?"))
