"""The typed study file: what is compared, on which folds, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nh2st_graph._errors import ConfigError
from nh2st_graph._settings import explain

__all__ = ["LEAVE_ONE_OUT", "BaseEntry", "FoldEntry", "Part", "StudyFile", "checked"]

#: The entry of ``folds`` that stands for one fold a section; also the split that they make up.
LEAVE_ONE_OUT = "leave_one_section_out"


class Part(BaseModel):
    """A part of a study file: unknown keys refused, values fixed after checking."""

    # YAML reads names such as 1 as numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class FoldEntry(Part):
    """One fold as it is written in a study file.

    Attributes
    ----------
    train, test
        Names of sections. Without ``train``, all that are not tested are trained on.
    split
        What the fold is a part of. Means are taken over the folds of a split and never across splits: scores within a
        patient and across patients are not one number.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    split: str = "folds"

    @model_validator(mode="after")
    def _check(self) -> FoldEntry:
        if not self.test:
            raise ValueError("test names no section; a fold without one cannot be scored")
        return self


class BaseEntry(Part):
    """What every study file begins with.

    Attributes
    ----------
    base
        The configuration that all runs share: a file beside the study file, or the name of one that ships with the
        package, such as ``demo``.
    set
        Changes to it that hold for every run: ``{model.width: 32}`` or ``["model.width=32"]``.
    seeds
        Everything runs once with each.
    """

    base: str
    set: dict[str, Any] | list[str] = {}
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)

    @field_validator("set", mode="before")
    @classmethod
    def _check_set(cls, given: Any) -> Any:
        if not isinstance(given, dict) and not (isinstance(given, list) and all(isinstance(x, str) for x in given)):
            raise ValueError(f"set = {given!r}; expected keys and values, or a list of KEY=VALUE")
        return given

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError(f"seeds = {list(seeds)}; expected one or more, each once")
        return seeds


class StudyFile(BaseEntry):
    """A study of variants as it is written in YAML; the base is what they are compared with.

    Attributes
    ----------
    base_name
        What tables call the base.
    folds
        :class:`FoldEntry` by name, or a list of them; ``leave_one_section_out: [S1, S2, S3]`` stands for one fold a
        section. The base's own ``data.train`` and ``data.test`` where it is empty.
    variants
        What each changes, by its name: ``{no neighbours: {model.neighbours: false}}``.
    grid
        In place of ``variants``: values by key, of which all combinations run.
    """

    base_name: str = "base"
    folds: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    grid: dict[str, list[Any]] = {}

    @field_validator("folds", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Name the folds of a list by the sections that they test."""
        if not isinstance(given, list):
            return given
        named = {"+".join(map(str, fold.get("test", ()))) if isinstance(fold, dict) else "": fold for fold in given}
        if len(named) < len(given):
            raise ValueError("folds: two of the list test the same sections; give each a name: folds: {NAME: ...}")
        return named

    @model_validator(mode="after")
    def _check(self) -> StudyFile:
        if self.variants and self.grid:
            raise ValueError("variants and grid are both given; give one of them")
        empty = [key for key, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"grid.{empty[0]} = []; give at least one value")
        return self


T = TypeVar("T", bound=BaseModel)


def checked(schema: type[T], values: Any, source: str) -> T:
    """Check nested values against a schema.

    Raises
    ------
    ConfigError
        Naming the source, the key, its value and what is allowed, or the nearest known key.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected keys and values, found {values!r}")
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        reason = f"key {str(first['loc'][0])!r} is missing" if missing else explain(first, schema)
        raise ConfigError(f"{source}: {reason}") from None
