"""From the options of a study, as a person types them, to its complete configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict, Unpack

from leukoscope.config import DEFAULT_RECIPE, PATIENT_RECIPES
from leukoscope.config.base import validate
from leukoscope.config.loading import apply_overrides, load_recipe
from leukoscope.config.recipe import EnsembleTraining, Recipe
from leukoscope.config.study import StudyConfig, chosen_probes, usual_folds
from leukoscope.core.errors import ConfigError, refuse_single_name
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import named_roles
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.datasets.layouts.load import stated_roles

_OF_STUDY = (
    "splits", "bootstrap", "confidence", "coverage", "set_score", "set_guarantee",
    "operating_point", "explanations", "bundle", "control_draws", "um_per_px", "unit",
)  # fmt: skip
"""Keys of overrides that change the study; all others change every recipe."""


class StudyOptions(TypedDict, total=False):
    """What may be said of a study; each option has a default.

    Attributes:
        recipes: Recipe names or TOML files; the first becomes the bundle. Default:
            :data:`~leukoscope.config.DEFAULT_RECIPE`, or those of
            :data:`~leukoscope.config.PATIENT_RECIPES`.
        unit: ``image``, or ``patient`` to classify each patient by all of its images together.
        protocols: Default: all, those that do not apply are recorded with the reason.
        probes: Default: those of :data:`~leukoscope.config.study.DEFAULT_PROBES`; ``all`` for
            every one.
        overrides: ``key=value`` texts. Keys that begin with ``splits.``, or name a field of the
            study (``bootstrap``, ``coverage``, …), change the study, all others every recipe.
        folds: Number of folds; 1 is a hold-out, None stands for
            :func:`~leukoscope.config.study.usual_folds`.
        seed: Seed of everything that is random; 42.
        layout: Name of a layout, or ``auto``.
        class_map: Folder name → class.
        roles: Class → ``malignant``, ``benign``, ``healthy`` or ``other``, where neither the column
            ``role`` of a manifest nor the table of known classes says so.
        target: Column that is the label; empty for the one that the layout gives.
        backbone: Put it in place of each recipe's own, see :func:`replace_backbone`.
        weights: ``imagenet``, ``none``, a file or a folder, in place of each recipe's own.
        external: Other data to measure the bundle on; ``class_map``, ``roles`` and ``target``
            hold for it too.
        external_layouts: Layout of each; one for all, or none for ``auto``.
    """

    recipes: Sequence[str]
    unit: str
    protocols: Sequence[str] | None
    probes: Sequence[str] | None
    overrides: Sequence[str]
    folds: int | None
    seed: int
    layout: str
    class_map: Mapping[str, str] | None
    roles: Mapping[str, str] | None
    target: str
    backbone: str | None
    weights: str | None
    external: Sequence[Path | str]
    external_layouts: Sequence[str]


_DEFAULTS: Final[StudyOptions] = {
    "recipes": (),
    "unit": "image",
    "protocols": None,
    "probes": None,
    "overrides": (),
    "folds": None,
    "seed": 42,
    "layout": "auto",
    "class_map": None,
    "roles": None,
    "target": "",
    "backbone": None,
    "weights": None,
    "external": (),
    "external_layouts": (),
}


def study_config(data: Path | str, **options: Unpack[StudyOptions]) -> StudyConfig:
    """Resolve options to a complete configuration.

    Args:
        data: Folder or CSV manifest.
        **options: See :class:`StudyOptions`.

    Raises:
        ConfigError: A value is invalid; names the key.
        UnknownNameError: No such recipe, backbone or role.
        UsageError: One name stands where a list of them is expected.
        TypeError: No such option.
    """
    if unknown := options.keys() - _DEFAULTS.keys():
        raise TypeError(f"a study has no option {', '.join(sorted(unknown))}")
    given: StudyOptions = {**_DEFAULTS, **options}
    _check_lists(given)
    overrides, unit, folds = given["overrides"], given["unit"], given["folds"]
    for_study = [text for text in overrides if text.partition("=")[0].split(".")[0] in _OF_STUDY]
    for_recipes = [text for text in overrides if text not in for_study]
    usual = PATIENT_RECIPES if unit == "patient" else (DEFAULT_RECIPE,)
    chosen = _trainable_recipes(given["recipes"] or usual, for_recipes)
    backbone, weights = given["backbone"], given["weights"]
    if backbone or weights:
        chosen = [replace_backbone(recipe, backbone, weights) for recipe in chosen]
    layout, class_map, target = given["layout"], given["class_map"], given["target"]
    of_column = stated_roles(data, layout=layout, class_map=class_map, target=target)
    stated = {**of_column, **named_roles(given["roles"] or {})}
    values = {
        "data": {
            "path": str(Path(data).expanduser().resolve()),
            "layout": layout,
            "class_map": class_map or {},
            "roles": stated,
            "target": target,
        },
        "unit": unit,
        "recipes": [recipe.model_dump() for recipe in chosen],
        "protocols": list(given["protocols"] or PROTOCOLS),
        "probes": list(chosen_probes(given["probes"], unit)),
        "splits": {"folds": usual_folds(chosen) if folds is None else folds},
        "seed": given["seed"],
        "external": external_values(
            given["external"], given["external_layouts"], class_map, stated, target
        ),
    }
    return validate(StudyConfig, apply_overrides(values, for_study), "study")


def _check_lists(given: StudyOptions) -> None:
    """Refuse a single name where a list of names is expected."""
    for option in ("recipes", "protocols", "probes", "overrides", "external", "external_layouts"):
        refuse_single_name(given[option], option)


def external_values(
    paths: Sequence[Path | str],
    layouts: Sequence[str],
    class_map: Mapping[str, str] | None,
    roles: Roles | None = None,
    target: str = "",
) -> list[dict[str, object]]:
    """Values of the key ``external`` of a study.

    Args:
        paths: Folder or CSV manifest of each data set.
        layouts: Layout of each; one holds for all, and none means ``auto``.
        class_map: Folder name → class, of every data set.
        roles: Class → role, of every data set.
        target: Column that is the label, of every data set.

    Raises:
        ConfigError: Neither one layout nor one for each.
    """
    given = list(layouts) or ["auto"]
    given = given * len(paths) if len(given) == 1 else given
    if len(given) != len(paths):
        raise ConfigError(
            f"{len(paths)} external data sets and {len(layouts)} layouts for them: expected one "
            "layout for all, or one each in the same order"
        )
    return [
        {
            "path": str(Path(path).expanduser().resolve()),
            "layout": layout,
            "class_map": dict(class_map or {}),
            "roles": {
                **stated_roles(path, layout=layout, class_map=class_map, target=target),
                **(roles or {}),
            },
            "target": target,
        }
        for path, layout in zip(paths, given, strict=True)
    ]


def _trainable_recipes(names: Sequence[str], overrides: Sequence[str]) -> list[Recipe]:
    """The recipes by name, changed as asked.

    Raises:
        ConfigError: One of them combines finished runs and cannot be trained.
    """
    chosen = [load_recipe(name, overrides) for name in names]
    for recipe in chosen:
        if isinstance(recipe.training, EnsembleTraining):
            raise ConfigError(
                f"recipe {recipe.name}: an ensemble of finished runs cannot be trained",
                hint="use `leukoscope ensemble RUN…`",
            )
    return chosen


def replace_backbone(recipe: Recipe, backbone: str | None, weights: str | None) -> Recipe:
    """A recipe on another backbone, or on other weights; its name and notes say so.

    Weights and the normalisation that they were trained with go together, so mean and standard
    deviation follow the backbone; everything else stays the recipe's own.

    Args:
        recipe: The recipe.
        backbone: A name of ``leukoscope models list`` or of timm; None keeps the recipe's.
        weights: Default: ImageNet where such weights are published for the backbone, else none.
    """
    from leukoscope.learning.catalogue import backbone_info

    values = recipe.model_dump()
    if weights:
        known = weights in ("imagenet", "none")
        values["model"]["weights"] = weights if known else str(Path(weights).expanduser().resolve())
    if backbone and backbone != recipe.model.backbone:
        info = backbone_info(backbone)
        values["name"] = f"{recipe.name}-on-{backbone.replace('.', '_')}"
        values["title"] = f"{recipe.title}; on {backbone} instead of {recipe.model.backbone}"
        values["notes"] = f"{recipe.notes}\nBackbone: {backbone}, not {recipe.model.backbone}."
        values["model"]["backbone"] = backbone
        values["preprocess"] |= {"mean": info.mean, "std": info.std}
        if not weights:
            values["model"]["weights"] = "none" if info.from_scratch else "imagenet"
    return validate(Recipe, values, f"recipe {recipe.name} on {backbone}")
