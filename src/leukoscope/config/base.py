"""The strict base of every schema, and validation errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from leukoscope.core.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """Frozen; unknown keys are errors; no infinities or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validate(model: type[ModelT], values: Mapping[str, Any], source: str) -> ModelT:
    """Build ``model`` from ``values``.

    Raises:
        ConfigError: Names each key that is wrong, what was expected and what came.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']} "
            f"(got {item['input']!r})"
            for item in error.errors()
        )
        raise ConfigError(f"{source}: {problems}") from None
