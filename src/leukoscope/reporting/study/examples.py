"""Single images: where the model looks, whether its heat maps hold, what it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.config.explanations import (
    AuditFile,
    AuditSettings,
    Explanation,
    FeatureMap,
    MapSummary,
    MaskKind,
    MeanScore,
)
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, read_json
from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.examples import choose_examples
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Case,
    Cases,
    Column,
    Folded,
    Heading,
    Panels,
    Paragraph,
    Picture,
    Section,
    Table,
)
from leukoscope.reporting.figures.example_grids import load_thumb
from leukoscope.reporting.figures.heatmaps import METHOD_TITLES, audit_figure, feature_figure
from leukoscope.reporting.formats import (
    UNRELIABLE_NOTE,
    count,
    interval,
    number,
    plural,
    upper_first,
)
from leukoscope.reporting.gallery import Gallery, thumb_uri
from leukoscope.reporting.record_tables import Field, plain, table_of, text, value
from leukoscope.reporting.study_files import PooledScores, Study, inside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISTAKE = "mistakes"
MISTAKES, UNCERTAIN, USUAL = 120, 24, 3  # most images in the gallery; usual ones of each class
CASE_PX = 112
CASE_QUALITY = 72
MASKS: Mapping[MaskKind, str] = {
    "segmented": "leukocytes found by our own segmentation (Dice .967 with whole cells drawn by "
    "hand, 300 images of single cells of Zheng et al. 2018)",
    "exact": "exact masks of drawn phantoms",
    "given": "masks that the user gave",
}
_COLUMNS: tuple[tuple[str, Callable[[MapSummary], MeanScore | None], str], ...] = (
    ("Pointing game", lambda e: e.hit, "share"),
    ("Heat in leukocytes", lambda e: e.share, "share"),
    ("Insertion", lambda e: e.insertion, ""),
    ("Deletion", lambda e: e.deletion, ""),
    ("ROAD", lambda e: e.road, ""),
    ("Head randomised", lambda e: e.randomised[0], ""),
    ("All randomised", lambda e: e.randomised[-1], ""),
    ("Under noise", lambda e: e.noise, ""),
    ("Max-sensitivity", lambda e: e.sensitivity, ""),
)


def audit_blocks(study: Study, gallery: Gallery) -> list[Block]:
    """The audit in the report; nothing where none was made, a note where models changed since."""
    path = study.run.explanations / "audit.json"
    if not path.is_file():
        return []
    audit = AuditFile.load(path)
    title = Heading("Are the heat maps reliable?")
    if not audit.complete:
        return [
            title,
            Paragraph("The audit of the heat maps was stopped; run it again.", note=True),
        ]
    if not _current(study.run, audit.settings):
        text = "The models were trained again since the heat maps were audited; run it again."
        return [title, Paragraph(text, note=True)]
    table, words = audit_table(audit)
    picture = gallery.draw(
        "explanation-audit",
        lambda: audit_figure(audit),
        caption=(
            "Insertion and deletion curves, share of the heat in leukocytes with its interval "
            "beside the share of the area, and rank correlation of the maps before and after "
            f"layers were randomised (n = {plural(len(audit.images), 'image')})."
        ),
        alt="Heat maps scored beside maps that know no model.",
    )
    return [title, Bullets(tuple(words)), table, picture]


def _current(run: RunFolder, settings: AuditSettings) -> bool:
    """Whether the models that were audited are those of the run."""
    try:
        return all(
            read_json(run.model(settings.recipe, settings.protocol, int(fold))
                      / "checkpoint.json")["sha256"] == sha256
            for fold, sha256 in settings.checkpoints.items()
        )  # fmt: skip
    except DataError:
        return False


def finished_audit(study: Study) -> AuditFile | None:
    """``audit.json``, where it is complete and of the models that are there."""
    path = study.run.explanations / "audit.json"
    audit = AuditFile.load(path) if path.is_file() else None
    if audit is None or not audit.complete:
        return None
    return audit if _current(study.run, audit.settings) else None


def audit_table(audit: AuditFile) -> tuple[Table, list[str]]:
    """One row a map, methods first, and what may be said of each method."""
    settings, summary = audit.settings, audit.summary
    rows = [
        (_title(name), *(interval(entry(scores), metric) for _, entry, metric in _COLUMNS))
        for name, scores in summary.items()
    ]
    area = next((s.area for s in summary.values() if s.area), None)
    n, groups = len(audit.images), len({image.group for image in audit.images})
    table = Table(
        caption=(
            f"Heat maps of {settings.recipe} ({protocol_title(settings.protocol).lower()}): "
            f"{plural(n, 'test image')} of {plural(groups, settings.unit)}"
        ),
        columns=(Column("Map"), *(Column(title, numeric=True) for title, _, _ in _COLUMNS)),
        rows=tuple(rows),
        note=(
            f"Masks: {MASKS[settings.masks]}; leukocytes cover {interval(area, 'share')} of the "
            "image, which is what the pointing game gives by chance and heat if spread evenly. "
            "Insertion, ROAD: more is better; deletion: less. Randomised: similarity with the map "
            "of the trained model, less is better; under noise: more is better, of "
            f"max-sensitivity less. Intervals resample groups ({settings.unit}s). "
            + UNRELIABLE_NOTE
        ),
    )
    words = [
        f"{_title(name)} {verdict.text}. {upper_first(verdict.place)}."
        for name, verdict in audit.verdicts.items()
    ]
    return table, words


def _title(name: str) -> str:
    return upper_first(METHOD_TITLES.get(name, name))


def explanations(study: Study, gallery: Gallery) -> Section:
    """Heat maps of right and wrong predictions beside the original, and a map of the features."""
    title = "Where the model looks"
    blocks = [
        *_heat_maps(study, gallery),
        *audit_blocks(study, gallery),
        *_feature_map(study, gallery),
    ]
    return Section("heatmaps", title, blocks)


def _heat_maps(study: Study, gallery: Gallery) -> list[Block]:
    if not study.explanations:
        return [Paragraph("No heat maps were made in this study.", note=True)]
    protocol = protocol_title(study.explanations[0].protocol).lower()
    blocks: list[Block] = [
        Paragraph(
            "Grad-CAM marks the regions that raise the score of the predicted class, on images "
            f"that the model had not seen (protocol: {protocol}). It shows where, not why: heat "
            "on a leukocyte does not prove that its morphology was read."
        )
    ]
    for kind, title in (("right", "Right predictions"), ("wrong", "Wrong predictions")):
        entries = [e for e in study.explanations if e.kind == kind]
        pictures = tuple(p for e in entries if (p := _panel(study, gallery, e)) is not None)
        if pictures:
            blocks.append(Panels(f"{title} (n = {len(pictures)} shown)", pictures))
        if len(pictures) < len(entries):
            blocks.append(
                Paragraph(f"{plural(len(entries) - len(pictures), 'panel')} missing.", note=True)
            )
    return [*blocks, *_shares(study)]


def _shares(study: Study) -> list[Block]:
    """How much of the heat lies within leukocytes, against what even heat would give."""
    shares = [
        (e.share_in_leukocytes, e.area_of_leukocytes)
        for e in study.explanations
        if e.share_in_leukocytes is not None
    ]
    if not shares:
        return []
    heat, even = (number(value, "share") for value in np.mean(shares, axis=0))
    return [
        Paragraph(
            f"On average {heat} of the heat lies within leukocytes; heat spread evenly would give "
            f"{even} "
            f"(n = {plural(len(shares), 'panel')})."
        )
    ]


def _panel(study: Study, gallery: Gallery, entry: Explanation) -> Picture | None:
    path = inside(study.run.path, entry.panel)
    if path is None:
        return None
    true, predicted, share = entry.y_true, entry.y_pred, entry.share_in_leukocytes
    within = (
        "no leukocyte was found"
        if share is None
        else f"{number(share, 'share')} of the heat within leukocytes"
    )
    what = (
        f"True {class_title(true)}, predicted {class_title(predicted)} "
        f"({number(entry.p, 'share')}); {within}."
    )
    name = Path(entry.path).name
    return gallery.stored(path, caption=f"{what} `{name}`", alt=f"Original and heat map. {what}")


def examples(study: Study, _: Gallery) -> Section:
    """A gallery of mistakes, of right answers that were least certain, and of usual ones."""
    recipe = study.recipes[0]
    protocol, scores = study.harshest(recipe)
    title = "Right, wrong and uncertain images"
    if scores is None:
        return Section("examples", title, [
            Paragraph("There are no stored test predictions to look at.", note=True)
        ])  # fmt: skip
    wrong, total = int((scores.y_pred != scores.y_true).sum()), len(scores.y_true)
    where = f"recipe {recipe}, {protocol_title(protocol).lower()}"
    mistakes = plural(wrong, "mistake") if wrong else "No mistake"
    cases, absent = _cases(study, scores)
    shown = sum(case.kind == MISTAKE for case in cases)
    blocks: list[Block] = [Paragraph(f"{mistakes} among {plural(total, 'test image')} ({where}).")]
    if cases:
        named = any(record.patient_id for record in study.manifest.usable)
        unit = "patient" if named else "cluster"
        caption = (
            f"Mistakes, the most confident first ({count(shown)} of {count(wrong)} shown); right "
            f"answers that were least certain; usual right answers (n = {count(total)} images)."
        )
        blocks.append(Cases(caption, tuple(cases), unit))
    if absent:
        blocks.append(
            Paragraph(
                f"{plural(absent, 'thumbnail')} left out: the image is no longer where the "
                "configuration says, or cannot be read.",
                note=True,
            )
        )
    return Section("examples", title, blocks)


def _cases(study: Study, scores: PooledScores) -> tuple[list[Case], int]:
    """Images for the gallery, and how many could not be read."""
    wrong = scores.y_pred != scores.y_true
    sure = scores.probs.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    usual = [row for rows in choose_examples("right", scores.y_true, scores.probs)
             for row in rows[:USUAL]]  # fmt: skip
    least = [row for row in order[::-1] if not wrong[row] and row not in usual][:UNCERTAIN]
    chosen = (
        (MISTAKE, [row for row in order if wrong[row]][:MISTAKES]),
        ("right, least certain", least),
        ("right, usual", usual),
    )
    cases, absent = [], 0
    for kind, rows in chosen:
        for row in rows:
            record = study.record(scores.image_id[row])
            image = load_thumb(study.image_path(scores.image_id[row]), CASE_PX)
            if record is None or image is None:
                absent += 1
                continue
            first, second = np.argsort(-scores.probs[row], kind="stable")[:2].tolist()
            cases.append(
                Case(
                    uri=thumb_uri(image, CASE_PX, CASE_QUALITY),
                    name=Path(record.path).name,
                    true=class_title(study.class_names[scores.y_true[row]]),
                    predicted=class_title(study.class_names[first]),
                    p=round(float(scores.probs[row, first]), 4),
                    second=f"{class_title(study.class_names[second])} "
                    f"{scores.probs[row, second]:.2f}",
                    group=record.patient_id or record.acquisition_id,
                    kind=kind,
                )
            )
    return cases, absent


def _feature_map(study: Study, gallery: Gallery) -> list[Block]:
    """What the features encode, on one fold's test images."""
    folder = study.run.explanations
    if not (folder / "features.csv").is_file() or not (folder / "features.json").is_file():
        return []
    rows, found = read_csv(folder / "features.csv"), FeatureMap.load(folder / "features.json")
    caption = (
        f"The two principal components of the {count(found.dimensions)} features that the "
        f"last layer reads, recipe {found.recipe}, "
        f"{protocol_title(found.protocol).lower()}, test images of fold {found.fold} "
        f"(n = {plural(found.n, 'image')})."
    )
    try:
        figure = gallery.draw(
            "features",
            lambda: _drawn(rows, found.explained_variance),
            caption=caption,
            alt="Scatter plots of the features, coloured by class and by origin of the images.",
        )
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{folder}: features.csv is damaged or of another version ({error})",
            hint=FeatureMap.hint,
        ) from None
    numbers = [Folded("Numbers behind this", (_structures(found),))] if found.structures else []
    return [
        Heading("What the features encode"),
        figure,
        Paragraph(found.verdict),
        *numbers,
    ]


def _drawn(rows: list[dict[str, str]], shares: Sequence[float]) -> Figure:
    figure = feature_figure(rows, "pca", shares)
    if figure is None:
        raise ValueError("features.csv has no coordinates")
    return figure


def _structures(found: FeatureMap) -> Table:
    def purity(title: str, key: str) -> Field:
        return value(title, lambda row: number(getattr(row.purity, key), "share"))

    return table_of(
        f"Share of the {found.neighbours} nearest neighbours that agree", found.structures,
        text("Labelling", "labelling"),
        text("Neighbours", lambda row: str(row.crossed or "any")),
        value("Groups", "groups"),
        value("Images", lambda row: count(row.purity.n)),
        plain("Silhouette", "silhouette", "silhouette"),
        purity("Agreeing", "value"), purity("By chance", "chance"), purity("At best", "best"),
        plain("From chance to best", "above_chance", "share"),
        note="Each image is compared with the images whose features are nearest. By chance: the "
        "share that agrees if neighbours are drawn at random; at best: if all that could agree "
        "were the nearest. Images of the same component (duplicates, overlapping fields) are never "
        "neighbours. Other groups, other patients: those of the image’s own are left out. Same "
        "class: those of other classes are left out.",
    )  # fmt: skip
