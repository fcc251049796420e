"""``predict``: images in, calibrated and explained answers out; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    EXIT_SOME_UNREADABLE,
    command,
    console,
    print_json,
    progress_bars,
)
from leukoscope.cli.options import EngineOption, JsonOption, PrecisionOption

if TYPE_CHECKING:
    from leukoscope.runtime.audit_log import AuditLog
    from leukoscope.runtime.by_patient import PatientCollector
    from leukoscope.runtime.prediction import Failure, Prediction
    from leukoscope.runtime.predictor import Predictor


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "predict",
        epilog="Example: leukoscope predict smears/ --bundle run/bundle --out predictions.csv",
    )(predict)


@command
def predict(
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or - for a list on standard input.")
    ],
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="The model's folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write .csv or .jsonl instead of a table.")
    ] = None,
    explain: Annotated[
        Path | None, typer.Option("--explain", help="Folder for heat maps beside the originals.")
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    audit_log: Annotated[
        Path | None, typer.Option("--audit-log", help="Append every answer to this chained log.")
    ] = None,
    by_subject: Annotated[
        Path | None,
        typer.Option("--by-subject", help="Also by patient: a CSV with image and patient_id."),
    ] = None,
    subject_from: Annotated[
        Path | None,
        typer.Option("--subject-from", help="Also by patient: a folder with one folder for each."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Predict with a bundle: class, calibrated probabilities, prediction set, decision, reasons."""
    from contextlib import nullcontext

    from leukoscope.runtime.inputs import expand_inputs
    from leukoscope.runtime.outputs import PredictionWriter
    from leukoscope.runtime.prediction import Failure
    from leukoscope.runtime.predictor import load_bundle

    predictor = load_bundle(bundle, engine=engine, precision=precision, bulk=True)
    sources = list(expand_inputs(images))
    patients = _patients(predictor, sources, by_subject, subject_from)
    writer = PredictionWriter(out, predictor.class_names) if out else nullcontext()
    log = _open_log(audit_log) if audit_log else nullcontext()
    answers: list[Prediction | Failure] = []
    failures: list[Failure] = []
    with writer as file, log as audit, progress_bars() as show:
        for done, answer in enumerate(predictor.predict_stream(sources, explain=explain), 1):
            if isinstance(answer, Failure):
                failures.append(answer)
            if patients is not None:
                patients.add(answer)
            if audit is not None:
                audit.add(answer, predictor)
            if file is not None:
                file.write(answer)
            else:
                answers.append(answer)
            if len(sources) > 1:
                show("predicting", done, len(sources))
    if as_json:
        listed = [answer.as_dict() for answer in answers]
        print_json(
            listed if patients is None else {"predictions": listed, "patients": patients.rows()}
        )
    elif out is None:
        for answer in answers:
            _print(answer)
    else:
        for failure in failures:
            typer.echo(f"could not be read: {failure}", err=True)
        typer.echo(f"{len(sources) - len(failures)} predictions, {len(failures)} unreadable: {out}")
    if audit is not None:
        typer.echo(f"audit log {audit_log}: head {audit.head}", err=True)
    if patients is not None:
        _tell_patients(patients, out, as_json)
    typer.echo(f"{predictor.model} on {predictor.engine}. {DISCLAIMER}", err=True)
    return EXIT_SOME_UNREADABLE if failures else 0


def _open_log(path: Path) -> AuditLog:
    from leukoscope.runtime.audit_log import AuditLog

    return AuditLog(path)


def _print(answer: Prediction | Failure) -> None:
    from leukoscope.runtime.prediction import Failure

    out = console()
    if isinstance(answer, Failure):
        out.print(f"could not be read: {answer}", style="red", markup=False)
        return
    colour = {"accept": "green", "review": "yellow", "reject": "red"}[answer.decision]
    out.print(answer.image, style="bold", markup=False)
    out.print(f"  {answer.predicted}  [{colour}]{answer.decision}[/]  ", end="")
    out.print("  ".join(f"{name} {p:.1%}" for name, p in answer.probabilities.items()))
    if answer.p_malignant is not None:
        out.print(f"  P(malignant) {answer.p_malignant:.1%}, ", end="")
    out.print(f"prediction set {{{', '.join(answer.prediction_set)}}}", markup=False)
    for reason in answer.reasons:
        out.print(f"  · {reason}", markup=False)


def _patients(
    predictor: Predictor,
    sources: list[Path | Failure],
    table: Path | None,
    root: Path | None,
) -> PatientCollector | None:
    from leukoscope.core.errors import UsageError
    from leukoscope.runtime import by_patient

    if table is not None and root is not None:
        raise UsageError("expected --by-subject or --subject-from, got both", hint="choose one")
    if table is not None:
        patient_of = by_patient.patients_of_table(table)
    elif root is not None:
        patient_of = by_patient.patients_of_folders(root)
    else:
        return None
    by_patient.check_patients(sources, patient_of)
    return by_patient.PatientCollector(predictor.record, predictor.model, patient_of)


def _tell_patients(patients: PatientCollector, out: Path | None, as_json: bool) -> None:
    rows = patients.rows()
    if out is not None:
        path = out.with_name(f"{out.stem}.patients.csv")
        patients.save(path)
        typer.echo(f"{len(rows)} patients: {path}")
    elif not as_json:
        for row in rows:
            _print_patient(row)


def _print_patient(row: dict[str, Any]) -> None:
    out = console()
    used = f"{row['n_images']} images" if row["n_images"] != 1 else "1 image"
    out.print(f"patient {row['patient']}", style="bold", markup=False)
    left = [f"{row[f'n_{why}']} {why}" for why in ("rejected", "unreadable") if row[f"n_{why}"]]
    tail = f" ({', '.join(left)} left out)" if left else ""
    if not row["predicted"]:
        out.print(f"  no image that could be used{tail}", markup=False)
        return
    p = row[f"p_{row['predicted']}"]
    span = "" if row["low"] is None else f" ({row['low']:.1%} to {row['high']:.1%})"
    out.print(f"  {row['predicted']}  {p:.1%}{span}, {row['method']} of {used}{tail}", markup=False)
