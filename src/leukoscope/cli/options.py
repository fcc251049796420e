"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from leukoscope.cli.choices import completion
from leukoscope.config import DEFAULT_RECIPE, PATIENT_RECIPES
from leukoscope.core.errors import ConfigError
from leukoscope.core.known_classes import ROLES

if TYPE_CHECKING:
    from leukoscope.study.options import StudyOptions

DataArgument = Annotated[
    Path, typer.Argument(help="Folder of images in any known layout, CSV manifest, or .npz file.")
]
LayoutOption = Annotated[
    str,
    typer.Option(
        "--layout",
        autocompletion=completion("layout"),
        help="Name of a layout, or a pattern of the folders: '{class}/{patient}'.",
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="COLUMN",
        help="Column that is the label, such as diagnosis. Default: label, or the class folder.",
    ),
]
UnitOption = Annotated[
    str,
    typer.Option(
        "--unit",
        help="What is classified: each image, or each patient by all of its images together.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="FOLDER=CLASS", help="What a folder name stands for."),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="CLASS=ROLE",
        help=f"What a class stands for: {', '.join(ROLES)}.",
    ),
]
OptionalData = Annotated[
    Path | None,
    typer.Argument(help="Folder of images in any known layout, CSV manifest, or .npz file."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help=f"Recipe name or TOML file; may be repeated. Default: {DEFAULT_RECIPE}; with "
        f"--unit patient {' and '.join(PATIENT_RECIPES)}.",
    ),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        "-p",
        autocompletion=completion("protocol"),
        help="Protocol; may be repeated. Default: all that apply.",
    ),
]
OneRecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", autocompletion=completion("recipe"), help="Recipe name or file."
    ),
]
RunRecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Default: the run's first.")
]
HoldOutOption = Annotated[
    str,
    typer.Option(
        "--protocol", "-p", autocompletion=completion("protocol"), help="How to hold images out."
    ),
]
PreprocessingOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help="Recipe whose preprocessing to use.",
    ),
]
EngineOption = Annotated[
    str, typer.Option(autocompletion=completion("engine"), help="auto, openvino or onnxruntime.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, fp32, bf16 or int8; auto: the fastest that is offered.")
]
FittingBundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        "-b",
        help="Its folder, or the name of an installed one. Default: the one that fits.",
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
AuditLogOption = Annotated[
    Path | None, typer.Option("--audit-log", help="Append every answer to this chained log.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. training.epochs=3."),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        autocompletion=completion("backbone"),
        help="Use this backbone in place of the recipe's own.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="imagenet|none|FILE|FOLDER", help="Weights to start from."),
]
FoldsOption = Annotated[int, typer.Option("--folds", help="Number of folds; 1 is a hold-out.")]


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


def roles(texts: list[str] | None) -> dict[str, str]:
    """The roles that ``--role CLASS=ROLE`` options state.

    >>> roles(["apl=malignant"])
    {'apl': 'malignant'}
    """
    stated = {}
    for text in texts or ():
        name, separator, role = text.rpartition("=")
        if not separator or not name:
            raise ConfigError(f"--role expects CLASS=ROLE, got {text!r}")
        stated[name.strip()] = role.strip()
    return stated


def study_options(context: typer.Context, **own: Unpack[StudyOptions]) -> StudyOptions:
    """What the parser read about a study, under the names of ``study_config``.

    The commands that train have these options in common; read here, they are listed once. Those
    in ``own`` win.
    """
    given = context.params
    left_out = ("bundle=false",) if given.get("no_bundle") else ()
    shared: StudyOptions = {
        "recipes": _several(given["recipe"]),
        "unit": given.get("unit", "image"),
        "protocols": _several(given["protocol"]),
        "overrides": (*left_out, *_several(given["overrides"])),
        "folds": given["folds"],
        "seed": given["seed"],
        "layout": given["layout"],
        "class_map": class_map(given["classes"]),
        "roles": roles(given["roles"]),
        "target": given["target"],
        "backbone": given["backbone"],
        "weights": given["weights"],
        "external": _several(given.get("external")),
        "external_layouts": _several(given.get("external_layout")),
    }
    return {**shared, **own}


def _several(value: str | Sequence[str] | None) -> Sequence[str]:
    """The values of an option that some commands let repeat."""
    return (value,) if isinstance(value, str) else value or ()
