"""``predict``: images in, calibrated and explained answers out; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.cli.console import (
    DISCLAIMER,
    EXIT_SOME_UNREADABLE,
    command,
    console,
    print_json,
    progress_bars,
)
from leukoscope.cli.options import JsonOption

if TYPE_CHECKING:
    from leukoscope.runtime.prediction import Failure, Prediction


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
    engine: Annotated[str, typer.Option(help="auto, openvino or onnxruntime.")] = "auto",
    as_json: JsonOption = False,
) -> int:
    """Predict with a bundle: class, calibrated probabilities, prediction set, decision, reasons."""
    from contextlib import nullcontext

    from leukoscope.runtime.inputs import expand_inputs
    from leukoscope.runtime.outputs import PredictionWriter
    from leukoscope.runtime.prediction import Failure
    from leukoscope.runtime.predictor import load_bundle

    predictor = load_bundle(bundle, engine=engine)
    sources = list(expand_inputs(images))
    writer = PredictionWriter(out, predictor.class_names) if out else nullcontext()
    answers: list[Prediction | Failure] = []
    failures: list[Failure] = []
    with writer as file, progress_bars() as show:
        for done, answer in enumerate(predictor.predict_stream(sources, explain=explain), 1):
            if isinstance(answer, Failure):
                failures.append(answer)
            if file is not None:
                file.write(answer)
            else:
                answers.append(answer)
            if len(sources) > 1:
                show("predicting", done, len(sources))
    if as_json:
        print_json([answer.as_dict() for answer in answers])
    elif out is None:
        for answer in answers:
            _print(answer)
    else:
        for failure in failures:
            typer.echo(f"could not be read: {failure}", err=True)
        typer.echo(f"{len(sources) - len(failures)} predictions, {len(failures)} unreadable: {out}")
    typer.echo(f"{predictor.model}. {DISCLAIMER}", err=True)
    return EXIT_SOME_UNREADABLE if failures else 0


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
