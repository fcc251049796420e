"""The page of cell counts by patient, from ``counts.json`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from leukoscope.config.counts import Agreement, ClassShare, CountsFile, PatientCount, Share
from leukoscope.core.labels import class_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Column,
    Folded,
    Head,
    Headline,
    Panels,
    Paragraph,
    References,
    Section,
    Tab,
    Table,
)
from leukoscope.reporting.figures import counts as draw
from leukoscope.reporting.formats import count, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.record_tables import Field, code, each, table_of, text, value

DASH = "—"
SOURCES = (
    ("Shares by EM (Saerens, Latinne & Decaestecker 2002)",
     "https://doi.org/10.1162/089976602753284446"),
    ("Adjusted count (Forman 2008)", "https://doi.org/10.1007/s10618-008-0097-y"),
    ("Limits of agreement (Bland & Altman 1986)",
     "https://doi.org/10.1016/S0140-6736(86)90837-8"),
)  # fmt: skip


def write_counts_page(
    out: Path, result: CountsFile, sheets: Mapping[str, str], tell: Callable[[int, int], None]
) -> None:
    """Write ``counts.html`` and ``figures/*.svg``.

    Args:
        out: The folder of the count.
        result: What was counted.
        sheets: Patient → file of its sheet of cells, below ``out``; may be empty.
        tell: Told (done, total) as figures are drawn.
    """
    gallery = Gallery(RunFolder(out))
    patients = result.patients
    parts = {
        "Result": [Section("result", "Result", _result(result, sheets, gallery))],
        "Cell types": [
            Section("patients", "Cell types by patient", _each_patient(result, gallery, tell))
        ],
        "Agreement": [
            Section("agreement", "Against the count of experts", _agreement(result, gallery))
        ],
        "Not counted": [Section("left-out", "Not counted", _left_out(patients))],
        "Method": [
            Section("method", "How the shares were adjusted", _method(result)),
            Section("sources", "Sources of the methods", [References(SOURCES)]),
        ],
    }
    facts = (
        (count(len(patients)), "patients or smears"),
        (count(sum(one.cells for one in patients)), result.noun + " counted"),
        (count(sum(one.rejected for one in patients)), "rejected"),
        (count(sum(len(one.unreadable) for one in patients)), "unreadable"),
        (count(result.corrections.cells), "decided by a person"),
    )
    title = f"Cell counts by {result.bundle.partition('@')[0]}"
    head = Head("cell counts", title, title, facts, _headline(result))
    tabs = [Tab(f"part-{name.lower().replace(' ', '-')}", name, sections)
            for name, sections in parts.items()]  # fmt: skip
    write_page(out / "counts.html", head, tabs)


def percent(share: float | None) -> str:
    """A share as per cent.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '—')
    """
    return DASH if share is None else f"{100 * share:.1f} %"


def with_limits(share: Share) -> str:
    """Adjusted share (counted, where it is not adjusted) with its interval.

    >>> with_limits(Share(cells=3, counted=0.3, adjusted=0.25, low=0.1, high=0.4))
    '25.0 % (10.0–40.0)'
    """
    if share.best is None or share.low is None or share.high is None:
        return DASH
    return f"{percent(share.best)} ({100 * share.low:.1f}–{100 * share.high:.1f})"


def _headline(result: CountsFile) -> Headline:
    """How many patients lie above the threshold of blasts."""
    patients = result.patients
    blasts = [class_title(name) for name in result.blast_classes]
    if not blasts:
        words = "No class of this bundle is known to be of blasts: name them with `--blast`."
        return Headline("inconclusive", "Result", "→", words)
    calls = [one.blasts.call for one in patients if one.blasts is not None]
    threshold = f"{100 * result.blast_threshold:g} %"
    empty = calls.count("no cells")
    without = f" {plural(empty, 'patient')} had no cell to count." if empty else ""
    words = (
        f"Blasts ({', '.join(blasts)}) against {threshold}: above in {calls.count('above')}, "
        f"below in {calls.count('below')}, uncertain in {calls.count('cannot be told')} of "
        f"{plural(len(patients), 'patient')}.{without} A patient is above or below only if the "
        "whole 95 % interval is."
    )
    return Headline("inconclusive", "Result", "→", words)


def _result(result: CountsFile, sheets: Mapping[str, str], gallery: Gallery) -> list[Block]:
    blocks: list[Block] = [Paragraph(note) for note in result.notes]
    shown = [one for one in result.patients if one.cells]
    blasts = [
        (f"{one.patient} ({one.cells})", one.blasts) for one in shown if one.blasts is not None
    ]
    if blasts:
        blocks.append(
            gallery.draw(
                "blasts",
                partial(draw.blast_chart, blasts, result.blast_threshold),
                caption=f"Blast share and 95 % interval of {plural(len(shown), 'patient')}.",
                alt="One line per patient; the table below holds the numbers.",
            )
        )
    return [*blocks, _overview(result, sheets)]


def _overview(result: CountsFile, sheets: Mapping[str, str]) -> Table:
    """One row a patient."""
    fields: list[Field] = [text("Patient", "patient")]
    fields += [value(result.noun, lambda one: count(one.cells))]
    if result.blast_classes:
        fields += [
            value("blasts counted", lambda one: percent(one.blasts.counted)),
            value("blasts adjusted", lambda one: with_limits(one.blasts)),
            text("threshold", lambda one: one.blasts.call, narrow=True),
        ]
    fields += [
        value("rejected", lambda one: count(one.rejected)),
        value("unreadable", lambda one: count(len(one.unreadable))),
        value("corrected", _corrected),
    ]
    if sheets:
        column = Column("sheet of cells", code=True, link=True)
        fields.append(Field(column, lambda one: sheets[one.patient]))
    return table_of("Patients and smears", result.patients, *fields)


def _corrected(one: PatientCount) -> str:
    """Cells that a person decided on, with their share."""
    total = one.cells + one.excluded
    if not one.corrected:
        return "0"
    return f"{one.corrected} ({100 * one.corrected / max(1, total):.0f} %)"


def _agreement(result: CountsFile, gallery: Gallery) -> list[Block]:
    truth = result.truth
    if truth is None:
        return []
    blocks: list[Block] = [
        Paragraph(
            f"The labels of {plural(truth.cells, 'cell')} of "
            f"{plural(truth.patients, 'patient')}, rejected and unreadable ones included. The "
            f"95 % intervals hold {100 * truth.held:.1f} % of the counted shares of classes; "
            f"those that allow for the classifier alone, not for the sample, "
            f"{100 * truth.held_cells:.1f} %. As the labels are of the very cells that were "
            "counted, the second is the stricter test."
        )
    ]
    if truth.other_labels:
        named = ", ".join(f"{name} {n}" for name, n in truth.other_labels.items())
        blocks.append(Paragraph(f"Labels that the bundle does not know, in the whole: {named}."))
    if truth.blasts is not None:
        blasts = truth.blasts
        blocks.append(
            gallery.draw(
                "agreement",
                partial(draw.agreement_chart, truth.blasts),
                caption=f"Blast share of {plural(truth.patients, 'patient')}: adjusted over "
                "counted (a cross: the interval misses it), and Bland–Altman plot with bias and "
                "limits of agreement.",
                alt=f"Mean absolute error {_points(blasts.mean_absolute_error.value)} points",
            )
        )
    rows: list[tuple[str, Agreement]] = [
        (class_title(one.class_name), one) for one in truth.classes
    ]
    if truth.blasts is not None:
        rows.append(("Blasts together", truth.blasts))
    blocks.append(
        table_of(
            "Agreement by class, in percentage points, over patients", rows,
            text("Class", lambda row: row[0]),
            value("mean absolute error", lambda row: _error(row[1])),
            value("bias", lambda row: _points(row[1].bias, signed=True)),
            value("limits of agreement", lambda row: _limits(row[1])),
            value("interval holds", lambda row: f"{100 * row[1].held:.0f} %"),
            value("classifier alone", lambda row: f"{100 * row[1].held_cells:.0f} %"),
        )
    )  # fmt: skip
    return blocks


def _points(share: float | None, *, signed: bool = False) -> str:
    if share is None:
        return DASH
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"


def _error(entry: Agreement) -> str:
    found = entry.mean_absolute_error
    return f"{_points(found.value)} ({_points(found.low)}–{_points(found.high)})"


def _limits(entry: Agreement) -> str:
    if entry.loa_low is None:
        return DASH
    return f"{_points(entry.loa_low, signed=True)} to {_points(entry.loa_high, signed=True)}"


def _each_patient(
    result: CountsFile, gallery: Gallery, tell: Callable[[int, int], None]
) -> list[Block]:
    shown = [one for one in result.patients if one.cells]
    pictures = []
    for place, one in enumerate(shown, start=1):
        pictures.append(
            gallery.draw(
                f"shares-{place:03d}",
                partial(draw.share_bars, one.classes),
                caption=f"{one.patient}: {plural(one.cells, result.noun[:-1])}",
                alt=", ".join(f"{e.class_name} {with_limits(e)}" for e in one.classes),
            )
        )
        tell(place, len(shown))
    names = result.class_names
    by_class = {name: place for place, name in enumerate(names)}
    what = "Bars: adjusted shares; lines: 95 % intervals; dots: as counted"
    if result.method is None:
        what = "Bars: counted shares; lines: 95 % intervals of the sample"

    def table(caption: str, write: Callable[[ClassShare], str]) -> Table:
        columns = each(names, class_title, lambda one, name: write(one.classes[by_class[name]]))
        return table_of(caption, shown, text("Patient", "patient"), *columns)

    if not pictures:
        return [Paragraph("No cell could be counted.")]
    return [
        Panels(what, tuple(pictures)),
        table("Cells", lambda e: count(e.cells)),
        table("Share with 95 % interval", with_limits),
    ]


def _left_out(patients: Sequence[PatientCount]) -> list[Block]:
    lost = [(one.patient, row) for one in patients for row in one.unreadable]
    empty = [(one.patient, path) for one in patients for path in one.without_cells]
    blocks: list[Block] = [
        Bullets(
            (
                f"{plural(sum(one.rejected for one in patients), 'cell')} rejected: unlike "
                "what the model was trained on, or of very poor quality. They stand at the end "
                "of each sheet, where a person can name them.",
                f"{plural(sum(one.excluded for one in patients), 'cell')} that a person said "
                "are none of these classes.",
                f"{plural(len(lost), 'image')} that could not be read.",
                f"{plural(len(empty), 'image')} in which no leukocyte was found.",
            )
        )
    ]
    rows = [(patient, row.path, row.reason) for patient, row in lost]
    rows += [(patient, path, "no leukocyte was found") for patient, path in empty]
    if rows:
        table = table_of(
            f"Images without a cell ({len(rows)})", rows,
            text("Patient", lambda row: row[0]), code("image", lambda row: row[1], narrow=False),
            text("why", lambda row: row[2]),
        )  # fmt: skip
        blocks.append(Folded("Their names", (table,)))
    return blocks


METHODS = {
    "em": "the EM algorithm on calibrated probabilities",
    "inversion": "inversion of the confusion matrix, constrained to shares",
    "posterior": "a Bayesian model in which each patient has a confusion matrix of its own",
}


def _method(result: CountsFile) -> list[Block]:
    behind = result.confusions
    if result.method is None or behind is None:
        return [Paragraph("They were not: see the note above.")]
    unit = plural(behind.n_units, behind.unit)
    way = ""
    if result.method == "em" and result.step is not None:
        way = (
            f" It goes {100 * result.step:.0f} % of the way from the counted shares to those of "
            "EM, which served the known patients: the whole way where they differ little."
        )
    return [
        Paragraph(
            f"Shares are adjusted by {METHODS[result.method]}.{way} The confusions were "
            f"measured on {plural(behind.n, 'image')} of {unit} that the models had held out "
            f"(protocol `{behind.protocol}`)."
        ),
        Paragraph(
            "An interval allows for the number of cells counted, for the number of labelled cells "
            "behind the confusions, and for how much they differ between units: "
            f"{result.widening:g} times as much as a simple model says, so that known patients, "
            "each judged by the others, are covered. It does not allow for a laboratory or stain "
            "unlike those of the study."
        ),
        Paragraph(
            "A cell that a person decided on counts as certain. Rejected cells are left out of "
            "counts and shares: where one type is rejected more often than others, the shares "
            "are off by that."
        ),
    ]
