"""Load weights of models that were trained with their authors' code."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor, nn

from nh2st_graph._errors import ConfigError, ModelError, setting
from nh2st_graph._settings import explain
from nh2st_graph.models._settings import MethodConfig

__all__ = [
    "Names",
    "block_names",
    "count_blocks",
    "load_original",
    "original_weight",
    "parse_settings",
    "size_of_head",
    "state_of",
]

logger = logging.getLogger(__name__)

#: Beginnings of names of weights here (a regular expression), and in the authors' code. The first match counts.
Names = Sequence[tuple[str, str]]


def block_names(ours: str, attention: str, feed_forward: str) -> Names:
    """List the names of the weights of a :class:`~nh2st_graph.nn.SelfAttentionBlock`, which several authors share.

    Parameters
    ----------
    ours
        Beginning of the block's names here, a regular expression.
    attention, feed_forward
        Beginnings of the names of its two parts in the authors' code.
    """
    return (
        (rf"{ours}\.norm\.", f"{attention}.norm."),
        (rf"{ours}\.query_key_value\.", f"{attention}.fn.to_qkv."),
        (rf"{ours}\.out\.", f"{attention}.fn.to_out."),
        (rf"{ours}\.feed_forward\.0\.", f"{feed_forward}.norm."),
        (rf"{ours}\.feed_forward\.1\.", f"{feed_forward}.fn.net.0."),
        (rf"{ours}\.feed_forward\.4\.", f"{feed_forward}.fn.net.3."),
    )


def state_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Give the weights by name, from a state dict or a Lightning checkpoint that holds one."""
    weights: Mapping[str, Tensor] = checkpoint.get("state_dict", checkpoint)
    return weights


def original_weight(weights: Mapping[str, Tensor], name: str, method: str) -> Tensor:
    """Find one of the authors' weights by its name.

    Raises
    ------
    ModelError
        If the weight is missing.
    """
    if name not in weights:
        raise ModelError(f"the weights have no {name!r}; give the state_dict of a checkpoint of the authors' {method}")
    return weights[name]


S = TypeVar("S", bound=MethodConfig)


def parse_settings(schema: type[S], values: Mapping[str, Any]) -> S:
    """Make the settings of a method, checked as in a configuration.

    Raises
    ------
    ConfigError
        If a setting is unknown or its value not allowed.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"from_original: {explain(error.errors()[0], schema)}") from None


def count_blocks(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count the blocks of a kind: the names that fully match ``pattern``, a regular expression."""
    return sum(re.fullmatch(pattern, name) is not None for name in weights)


def size_of_head(query_key_value: Tensor, heads: int) -> int:
    """Compute the size of a head if one matrix holds queries, keys and values, ``(3 * heads * size, width)``.

    Raises
    ------
    ModelError
        If the heads do not divide the matrix.
    """
    inner = len(query_key_value) // 3
    if heads < 1 or inner % heads:
        raise ModelError(
            f"{setting('heads', heads)} does not divide the {inner} columns of the weights' attention; give the "
            "number of heads that the weights were trained with"
        )
    return inner // heads


def load_original(
    module: nn.Module, weights: Mapping[str, Tensor], names: Names, method: str, unread: tuple[str, ...] = ()
) -> None:
    """Load the weights of a model that was trained with its authors' code into a module.

    Parameters
    ----------
    module
        Module with the sizes of the weights.
    weights
        Weights by their names in the authors' code.
    names
        Names here, and in the authors' code.
    method
        Name of the method, for errors.
    unread
        Beginnings of the authors' names that may be left out; the log lists these weights.

    Raises
    ------
    ModelError
        If a weight is missing, unknown or of the wrong shape.
    """
    theirs = {name: _original_name(name, names) for name in module.state_dict()}
    found = {name: original_weight(weights, original, method) for name, original in theirs.items()}
    left_out = sorted(set(weights) - set(theirs.values()))
    for name in left_out:
        if not name.startswith(unread):
            raise ModelError(
                f"the weights hold {name!r}, which the authors' {method} does not have with these settings"
            )
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(f"the weights are not of one {method}: {' '.join(str(error).split())}") from None
    if left_out:
        logger.info("%s from the authors' weights, without %s", method, ", ".join(left_out))


def _original_name(name: str, names: Names) -> str:
    for ours, theirs in names:
        renamed, n_found = re.subn(f"^{ours}", theirs, name)
        if n_found:
            return renamed
    return name
