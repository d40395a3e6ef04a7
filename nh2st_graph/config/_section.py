"""What every part of the configuration is: a checked, fixed set of keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Positive", "Section", "Share"]

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys refused, values fixed after checking."""

    # YAML reads section names such as 1 and precisions such as 32 as numbers: both are names here.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    def __hash__(self) -> int:  # values may be mappings
        return hash(self.model_dump_json())
