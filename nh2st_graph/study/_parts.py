"""The base of a study file's parts, and what an error says of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler

from nh2st_graph._errors import ConfigError
from nh2st_graph._settings import explain

__all__ = ["Part", "checked", "expected"]

T = TypeVar("T", bound=BaseModel)


class Part(BaseModel):
    """A part of a study file: unknown keys are refused, and values are fixed after checking."""

    # YAML reads names such as 1 as numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def checked(schema: type[T], values: Any, source: str) -> T:
    """Check nested values against a schema; an error names the source, the key and what is allowed."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected keys and values, found {values!r}")
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        reason = f"key {str(first['loc'][0])!r} is missing" if missing else explain(first, schema)
        raise ConfigError(f"{source}: {reason}") from None


def expected(**what: str) -> Callable[[Any, ValidatorFunctionWrapHandler, ValidationInfo], Any]:
    """Make a validator (mode ``wrap``) that says in one error what a key of several kinds may be, given by key."""

    def check_kind(given: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return check(given)
        except ValidationError:
            raise ValueError(f"{info.field_name} = {given!r}; expected {what[str(info.field_name)]}") from None

    return check_kind
