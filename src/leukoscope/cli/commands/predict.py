"""``predict``: images in, calibrated and explained answers out; no torch."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    EXIT_SOME_UNREADABLE,
    Styled,
    command,
    print_json,
    progress_bars,
    say,
    tell_left_out,
)
from leukoscope.cli.options import (
    AuditLogOption,
    EngineOption,
    FittingBundleOption,
    JsonOption,
    PrecisionOption,
    ScaleBarOption,
    UmPerPxOption,
    WholeOption,
)
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from leukoscope.runtime.audit_log import AuditLog
    from leukoscope.runtime.by_patient import PatientCollector
    from leukoscope.runtime.input_files import Inputs
    from leukoscope.runtime.prediction import Failure, Prediction
    from leukoscope.runtime.predictor import Predictor

_NAMED = 20  # files that cannot be read and are named on the screen; the output names all

ImagesArgument = Annotated[
    list[str], typer.Argument(help="Files, folders, globs, or - for a list on standard input.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write .csv, .jsonl or .parquet instead of a table."),
]
ExplainOption = Annotated[
    Path | None,
    typer.Option(
        "--explain",
        help="Folder for heat maps, overlays of cut images, and with --by-patient and a bundle "
        "made for patients a sheet of the cells that decided about each.",
    ),
]
ByPatientOption = Annotated[
    Path | None,
    typer.Option(
        "--by-patient",
        help="Also by patient: a CSV with image and patient_id, or a folder that holds one "
        "folder for each.",
    ),
]
SimilarOption = Annotated[
    int, typer.Option("--similar", min=0, max=20, help="Show this many similar training cases.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say which engine and precision answer, and why.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "predict",
        epilog="Example: leukoscope predict smears/ --out predictions.csv",
    )(predict)


@command
def predict(
    images: ImagesArgument,
    bundle: FittingBundleOption = None,
    out: OutOption = None,
    explain: ExplainOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    audit_log: AuditLogOption = None,
    by_patient: ByPatientOption = None,
    um_per_px: UmPerPxOption = None,
    scale_bar_um: ScaleBarOption = None,
    whole: WholeOption = False,
    similar: SimilarOption = 0,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> int:
    """Classify images: probabilities, set, decision, reasons."""
    from functools import partial

    from leukoscope.core.errors import UsageError
    from leukoscope.core.run_folder import refuse_study
    from leukoscope.runtime.engines import one_thread_each
    from leukoscope.runtime.input_files import SAMPLES, Inputs
    from leukoscope.runtime.predictor import load_bundle

    if out is not None:
        refuse_study(out)
    one_thread_each()
    sources = Inputs(images)
    total, samples = sources.survey(SAMPLES)
    if total == 0:
        raise UsageError(f"{', '.join(images)}: no image in it, so there is nothing to predict")
    tell_left_out(sources.left_out.words)
    load = partial(
        load_bundle, engine=engine, precision=precision, bulk=True,
        similar=similar, whole=whole, um_per_px=um_per_px, scale_bar_um=scale_bar_um,
    )  # fmt: skip
    predictor = _predictor(bundle, samples, load, um_per_px, scale_bar_um)
    patients = _patients(predictor, sources, by_patient)
    outputs = _Outputs(out, explain, audit_log, patients, bool(similar), as_json)
    unreadable = _answer(predictor, sources, total, outputs)
    engine_words = f" on {predictor.engine}" if verbose else ""
    said = f"{predictor.model}{engine_words}: {predictor.record.promise_words}"
    say("\n".join(filter(None, (said, predictor.record.warning, DISCLAIMER))), err=True)
    return EXIT_SOME_UNREADABLE if unreadable else 0


@dataclass(frozen=True)
class _Outputs:
    """Where the answers go."""

    out: Path | None
    explain: Path | None
    audit_log: Path | None
    patients: PatientCollector | None
    similar: bool
    as_json: bool


def _answer(predictor: Predictor, sources: Inputs, total: int, outputs: _Outputs) -> int:
    """Predict all files and give their answers; returns the number that could not be read."""
    from leukoscope.runtime import bulk
    from leukoscope.runtime.prediction import Failure

    out, patients, log = outputs.out, outputs.patients, outputs.audit_log
    answers: list[Prediction | Failure] = []
    unreadable, start = 0, time.perf_counter()
    with ExitStack() as opened:
        files = None
        if out is not None:
            further = ("similar",) if outputs.similar else ()
            files = opened.enter_context(bulk.beside(out, predictor.class_names, further))
        audit = opened.enter_context(closing(_audit_log(log))) if log else None
        # One image shows no progress, and bars take their library's import.
        show = opened.enter_context(progress_bars("images")) if total > 1 else None
        stream = bulk.predict_files(predictor, sources, files, explain=outputs.explain)
        for done, answer in enumerate(stream, start=1):
            if isinstance(answer, Failure):
                unreadable += 1
                if files is not None and unreadable <= _NAMED:
                    say(f"could not be read: {answer}", err=True)
            if patients is not None:
                patients.add(answer)
            if audit is not None:
                audit.add(answer, predictor)
            if files is None:
                answers.append(answer)
            if show is not None:
                show("predicting", done, total)
    if out is None:
        _show(answers, patients, outputs.as_json)
    else:
        _tell_counts(out, total, unreadable, time.perf_counter() - start)
    if audit is not None:
        say(f"audit log {log}: head {audit.head}", err=True)
    if patients is not None:
        _tell_patients(patients, out, outputs.as_json)
        if outputs.explain is not None and patients.head is not None:
            sheets = patients.save_sheets(outputs.explain)
            say(
                f"{plural(len(sheets), 'sheet')} of the cells that decided: {outputs.explain}",
                err=True,
            )
    return unreadable


def _audit_log(path: Path) -> AuditLog:
    from leukoscope.runtime.audit_log import AuditLog

    return AuditLog(path)


def _show(
    answers: list[Prediction | Failure], patients: PatientCollector | None, as_json: bool
) -> None:
    if not as_json:
        for answer in answers:
            _print(answer)
        return
    listed = [answer.as_dict() for answer in answers]
    print_json(listed if patients is None else {"predictions": listed, "patients": patients.rows()})


def _tell_counts(out: Path, total: int, unreadable: int, seconds: float) -> None:
    if unreadable > _NAMED:
        say(f"… and {unreadable - _NAMED} more: see the column error", err=True)
    counts = f"{plural(total - unreadable, 'prediction')}, {unreadable} unreadable"
    say(f"{counts}, {total / max(1e-9, seconds):.3g} images/s: {out}")


def _predictor(
    bundle: Path | None,
    samples: list[Path],
    load: Callable[[Path], Predictor],
    um_per_px: float | None,
    bar_um: float | None,
) -> Predictor:
    """The bundle that was named, or the installed one that the images resemble."""
    if bundle is not None:
        return load(bundle)
    from leukoscope.runtime.bundle import installed_bundles
    from leukoscope.runtime.bundle_matching import choose_bundle

    chosen = choose_bundle(installed_bundles(), samples, load, um_per_px=um_per_px, bar_um=bar_um)
    say(f"bundle {chosen.why}", err=True)
    for name, better in chosen.elsewhere:
        say(f"  {name} fits {better} better: predict it with that bundle", err=True)
    return chosen.predictor


def _print(answer: Prediction | Failure) -> None:
    from leukoscope.runtime.prediction import Failure

    if isinstance(answer, Failure):
        say(Styled(f"could not be read: {answer}", "red"))
        return
    colour = {"accept": "green", "review": "yellow", "reject": "red"}[answer.decision]
    say(Styled(answer.image, bold=True))
    shares = "  ".join(f"{name} {p:.1%}" for name, p in answer.probabilities.items())
    say(f"  {answer.predicted}  ", Styled(answer.decision, colour), f"  {shares}")
    malignant = answer.p_malignant
    risk = "" if malignant is None else f"  P(malignant) {malignant:.1%}, "
    say(f"{risk}prediction set {{{', '.join(answer.prediction_set)}}}")
    for reason in answer.reasons:
        say(f"  · {reason}")
    if answer.tiles is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in answer.tiles["share"].items())
        say(f"  {answer.tiles['n']} {answer.tiles['kind']}: {shares}")
    if answer.similar:
        near = ", ".join(f"{c.label} {c.image_id} at {c.distance:.2f}" for c in answer.similar)
        say(f"  similar training cases: {near}")


def _patients(predictor: Predictor, sources: Inputs, place: Path | None) -> PatientCollector | None:
    if place is None:
        return None
    from leukoscope.runtime import by_patient

    patient_of = by_patient.patients_named(place)
    by_patient.check_patients(sources, patient_of)
    return by_patient.PatientCollector.of(predictor, patient_of)


def _tell_patients(patients: PatientCollector, out: Path | None, as_json: bool) -> None:
    rows = patients.rows()
    if out is not None:
        path = out.with_name(f"{out.stem}.patients.csv")
        patients.save(path)
        say(f"{plural(len(rows), 'patient')}: {path}")
    elif not as_json:
        for row in rows:
            _print_patient(row)


def _print_patient(row: dict[str, object]) -> None:
    used = plural(int(str(row["n_images"])), "image")
    say(Styled(f"patient {row['patient']}", bold=True))
    left = [f"{row[f'n_{why}']} {why}" for why in ("rejected", "unreadable") if row[f"n_{why}"]]
    tail = f" ({', '.join(left)} left out)" if left else ""
    if not row["predicted"]:
        say(f"  no image that could be used{tail}")
        return
    p = row[f"p_{row['predicted']}"]
    span = "" if row["low"] is None else f" ({row['low']:.1%} to {row['high']:.1%})"
    decided = f", {row['decision']}" if "decision" in row else ""
    say(f"  {row['predicted']}  {p:.1%}{span}, {row['method']} of {used}{tail}{decided}")
    if row.get("reasons"):
        say(f"  · {row['reasons']}")
