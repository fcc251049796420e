"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.core.errors import ConfigError

DataArgument = Annotated[
    Path, typer.Argument(help="Folder of images in any known layout, or a CSV manifest.")
]
LayoutOption = Annotated[
    str, typer.Option("--layout", help="Name of a layout, where the folder is not recognised.")
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="FOLDER=CLASS", help="What a folder name stands for."),
]
OptionalData = Annotated[
    Path | None, typer.Argument(help="Folder of images in any known layout, or a manifest.")
]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a study or training run.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        help=f"Recipe name or TOML file; may be repeated. Default: {DEFAULT_RECIPE}.",
    ),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option("--protocol", "-p", help="Protocol; may be repeated. Default: all that apply."),
]
OneRecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="Recipe name or file.")]
RunRecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Default: the run's first.")
]
HoldOutOption = Annotated[str, typer.Option("--protocol", "-p", help="How to hold images out.")]
PreprocessingOption = Annotated[str, typer.Option("--recipe", "-r", help="Whose preprocessing.")]
EngineOption = Annotated[str, typer.Option(help="auto, openvino or onnxruntime.")]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, fp32, bf16 or int8; auto: the fastest that is offered.")
]
FittingBundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", "-b", help="The model's folder. Default: the installed one that fits."
    ),
]
UmPerPxOption = Annotated[
    float | None,
    typer.Option("--um-per-px", min=0.001, help="Pixel scale of the images in µm."),
]
ScaleBarOption = Annotated[
    float | None,
    typer.Option("--scale-bar-um", min=0.1, help="Length of their scale bar in µm."),
]
WholeOption = Annotated[
    bool, typer.Option("--whole", help="Do not cut images larger than the model's field.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. training.epochs=3."),
]
BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="Use this backbone in place of the recipe's own."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="imagenet|none|FILE|FOLDER", help="Weights to start from."),
]
NoBundleOption = Annotated[
    bool, typer.Option("--no-bundle", help="Measure only: save the fit on all images.")
]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=1, help="Fits at once, each in a process of its own.")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="local|ray", help="Where the processes of --jobs run.")
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="Processes (GPUs) that share each training.")
]
NodesOption = Annotated[
    int, typer.Option("--nodes", min=1, help="Machines of --devices each; torchrun or SLURM.")
]
FoldsOption = Annotated[int, typer.Option("--folds", help="Number of folds; 1 is a hold-out.")]
UsualFoldsOption = Annotated[
    int | None,
    typer.Option(
        "--folds",
        help="Number of folds; 1 is a hold-out. Default: 10, or 5 where networks are trained.",
    ),
]


def class_map(texts: list[str] | None) -> dict[str, str]:
    """The mapping that ``--class FOLDER=CLASS`` options describe.

    >>> class_map(["Blasts A=all"])
    {'Blasts A': 'all'}
    """
    mapping = {}
    for text in texts or ():
        folder, separator, name = text.rpartition("=")
        if not separator or not folder:
            raise ConfigError(f"--class expects FOLDER=CLASS, got {text!r}")
        mapping[folder] = name.strip()
    return mapping
