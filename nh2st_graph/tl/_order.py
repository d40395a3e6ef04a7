"""Take the data first; the order of version 0.1.0, model first, still works."""

from __future__ import annotations

import warnings
from typing import Any

from nh2st_graph._errors import ModelError, RenamedWarning
from nh2st_graph.train import FittedModel

__all__ = ["data_first", "fitted"]


def data_first(function: str, data: Any, model: Any) -> tuple[Any, FittedModel]:
    """Put data and model in this order, and warn if the model came first.

    Parameters
    ----------
    function
        Name of the function, for the warning.
    data, model
        Its first two arguments.

    Raises
    ------
    ModelError
        If neither is a model.
    """
    if isinstance(data, FittedModel):
        warnings.warn(
            f"ng.tl.{function} takes the data first and then the model; the other order is read until version 0.2",
            RenamedWarning,
            stacklevel=3,
        )
        return model, data
    return data, fitted(function, model)


def fitted(function: str, model: Any) -> FittedModel:
    """Refuse what is no fitted model, such as the path of one.

    Parameters
    ----------
    function
        Name of the function that takes the model, for the error.
    model
        What was given.

    Raises
    ------
    ModelError
        If it is no model.
    """
    if isinstance(model, FittedModel):
        return model
    raise ModelError(
        f"ng.tl.{function}: {type(model).__name__} is no fitted model; make one by ng.tl.fit, or load one by ng.load"
    )
