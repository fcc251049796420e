"""Published figures that results stand beside: cited, not measured here."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One published result.

    Attributes:
        work: Who and what.
        data: Which data.
        held_out: What was held out, as far as it is stated.
        figure: As published.
        source: Where.
    """

    work: str
    data: str
    held_out: str
    figure: str
    source: str


PRIOR_WORK: tuple[Published, ...] = (
    Published(
        "DenseNet-201 (Ghaderzadeh et al. 2022)",
        "4-class ALL",
        "not stated whether by patient",
        "accuracy 99.85 %",
        "doi 10.1002/int.22753",
    ),
    Published(
        "EfficientNetV2-S, transfer (study S0)",
        "4-class ALL",
        "images at random, 652 of 3,256",
        "accuracy 98.93 % (its own log: 98.62 %)",
        "Leukemia-Diagnosis-EfficientNetV2-vs-CNNs",
    ),
    Published(
        "Small CNN (study S0)",
        "4-class ALL",
        "images at random, 652 of 3,256",
        "accuracy 89.42 %",
        "Leukemia-Diagnosis-EfficientNetV2-vs-CNNs",
    ),
    Published(
        "DenseNet-121 with CLAHE (study S1)",
        "4-class ALL",
        "images at random, 10 %, also used to stop early",
        "accuracy 90–95 %",
        "study S1",
    ),
    Published(
        "Double transfer, phase 2 / evaluation (study S2)",
        "4-class ALL",
        "images; originals pooled with their segmented twins",
        "EfficientNet-B3 95.98 / 90.23 %, ResNet-50 83.76 / 95.50 %, Inception-v3 44.1 / 86.25 %",
        "study S2",
    ),
    Published(
        "Frozen features with a residual head, refined end to end (study S3)",
        "ALL images of Aria et al. 2021",
        "images, augmented before the split",
        "frozen AlexNet 82 %, VGG-16 72 %, ResNet-18 87 %; refined 94–97 %; baseline CNN 83.6 %",
        "study S3",
    ),
    Published(
        "“Stable” EfficientNet-B3 (study S4)",
        "C-NMC 2019",
        "images, 3 stratified folds",
        "F1 .955 / .948 / .953",
        "study S4",
    ),
    Published(
        "Pan et al., first place (transductive)",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .925",
        "ISBI 2019 challenge",
    ),
    Published(
        "Prellberg & Kramer",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .879",
        "ISBI 2019 challenge",
    ),
    Published(
        "Marzahl et al.",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .875",
        "ISBI 2019 challenge",
    ),
    Published(
        "EfficientNet-B1",
        "C-NMC 2019",
        "subjects disjoint",
        "ROC AUC .913, ECE .024; random splits inflate the AUC by about .04",
        "arXiv 2606.24944",
    ),
    Published(
        "CytoDiffusion (2025)",
        "blood cells of several sets",
        "other domains",
        "accuracy .854 under domain shift, anomaly AUC .990, 1.8 s an image",
        "Nature Machine Intelligence 2025",
    ),
)

FORMULAS: tuple[tuple[str, str, str], ...] = (
    ("Accuracy", "Σ_k TP_k / n", "share of images whose most probable class is the true one"),
    ("Precision of class k", "TP_k / (TP_k + FP_k)", "undefined where nothing is called k"),
    ("Recall (sensitivity) of class k", "TP_k / (TP_k + FN_k)", "undefined where no image is k"),
    ("Specificity of class k", "TN_k / (TN_k + FP_k)", ""),
    ("F1 of class k", "2 TP_k / (2 TP_k + FP_k + FN_k)", ""),
    ("Balanced accuracy", "(1/K) Σ_k recall_k", "mean over the K classes"),
    ("Macro F1", "(1/K) Σ_k F1_k", "every class counts the same"),
    ("Weighted F1", "Σ_k (n_k / n) F1_k", "every image counts the same"),
    (
        "ROC AUC of class k",
        "P(p_k of a k image > p_k of another) + ½ P(equal)",
        "averaged over classes, one against the rest; with two classes the positive one’s",
    ),
    ("PR AUC of class k", "Σ_t (R_t − R_(t−1)) P_t", "average precision, averaged likewise"),
    ("Log loss", "−(1/n) Σ_i ln p_i(true class)", ""),
    ("Brier score", "(1/n) Σ_i Σ_k (p_ik − y_ik)²", "halved for two classes (Brier 1950)"),
    (
        "ECE",
        "Σ_b (n_b / n) · |accuracy_b − confidence_b|",
        "15 equal bins of the largest probability (Guo et al. 2017)",
    ),
)
