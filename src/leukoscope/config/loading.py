"""Loading of recipes and study configurations, with ``--set`` overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from leukoscope.config.base import Strict, validate
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.core.files import write_text

_NAMED, _LONGEST = 3, 60  # keys in a message, letters of a value in it


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes in the box, sorted."""
    folder = resources.files("leukoscope.config") / "recipes"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name, or from a TOML file, with overrides applied.

    Args:
        name: Name of a recipe in the box, or path of a ``.toml`` file.
        overrides: Texts such as ``training.epochs=3``; values in TOML notation.

    Raises:
        ConfigError: The file or an override is invalid; names the key.
    """
    path = Path(name)
    if name.endswith(".toml"):
        if not path.is_file():
            raise ConfigError(f"{path}: this recipe file is missing")
        text, source = path.read_text(encoding="utf-8"), str(path)
    else:
        if name not in list_recipes():
            raise UnknownNameError("recipe", name, list_recipes())
        file = resources.files("leukoscope.config") / "recipes" / f"{name}.toml"
        text, source = file.read_text(encoding="utf-8"), f"recipe {name}"
    return validate(Recipe, apply_overrides(_parse_toml(text, source), overrides), source)


def load_study_config(path: Path) -> StudyConfig:
    """Read a study's ``config.toml``."""
    if not path.is_file():
        raise ConfigError(f"{path}: this study configuration is missing")
    return validate(
        StudyConfig, _parse_toml(path.read_text(encoding="utf-8"), str(path)), str(path)
    )


def save_study_config(path: Path, config: StudyConfig) -> None:
    """Write a study's ``config.toml``, every default spelled out."""
    import tomli_w

    write_text(path, tomli_w.dumps(config.model_dump(mode="json")))


def differs(path: Path, kept: Strict, given: Strict, hint: str) -> ConfigError:
    """The error of a folder that is resumed with another configuration: what differs.

    Args:
        path: Of the configuration that the folder keeps.
        kept: That configuration.
        given: What the options say.
        hint: What to do.
    """
    there, here = (_leaves("", config.model_dump(mode="json")) for config in (kept, given))
    other = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    keys = [key for key in other if not any(key.startswith(f"{outer}.") for outer in other)]
    shown = [
        f"{key} is {_short(there.get(key))} there, {_short(here.get(key))} given"
        for key in keys[:_NAMED]
    ]
    more = f"; and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ConfigError(
        f"{path} differs from the options given: {'; '.join(shown)}{more}", hint=hint
    )


def _leaves(key: str, value: object) -> dict[str, object]:
    """Dotted key → value; of recipes, which are lists of tables with names, also their names."""
    if isinstance(value, dict):
        inside = [_leaves(f"{key}.{name}" if key else str(name), x) for name, x in value.items()]
        return {name: x for found in inside for name, x in found.items()}
    tables = value if isinstance(value, list) else []
    if tables and all(isinstance(x, dict) and "name" in x for x in tables):
        by_name = {str(x["name"]): x for x in tables}
        return {key: ", ".join(by_name)} | _leaves(key, by_name)
    return {key: value}


def _short(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "not set"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def apply_overrides(values: Mapping[str, object], overrides: Iterable[str]) -> dict[str, object]:
    """A copy of nested ``values`` in which ``a.b=value`` texts are applied.

    >>> apply_overrides({"training": {"epochs": 20}}, ["training.epochs=3"])
    {'training': {'epochs': 3}}

    Raises:
        ConfigError: A text has no ``=`` or steps into a value that is no table.
    """
    result: dict[str, object] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for text in overrides:
        key, separator, raw = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"expected KEY=VALUE, got {text!r}", hint="e.g. training.epochs=3")
        *tables, last = key.strip().split(".")
        place = result
        for table in tables:
            inner = place.get(table, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{text!r}: {table!r} is a value, not a table")
            copied = dict(inner)
            place[table] = copied
            place = copied
        place[last] = _parse_value(raw.strip())
    return result


def _parse_toml(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML, {error}") from None
    except RecursionError:
        raise ConfigError(
            f"{source}: expected a configuration, found TOML nested too deeply"
        ) from None


def _parse_value(raw: str) -> object:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw  # a bare word is a string
