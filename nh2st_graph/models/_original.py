"""Weights of models that were trained with their authors' code."""

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

#: What names of weights begin with here, a regular expression, and in the authors' code. The first that fits counts.
Names = Sequence[tuple[str, str]]


def block_names(ours: str, attention: str, feed_forward: str) -> Names:
    """Names of the weights of a :class:`~nh2st_graph.nn.SelfAttentionBlock`, which several authors copied from one.

    Parameters
    ----------
    ours
        What the block's names begin with here, a regular expression.
    attention, feed_forward
        What those of its halves begin with in the authors' code.
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
    """Weights by name, of a state dict or of a Lightning checkpoint, which holds one."""
    weights: Mapping[str, Tensor] = checkpoint.get("state_dict", checkpoint)
    return weights


def original_weight(weights: Mapping[str, Tensor], name: str, method: str) -> Tensor:
    """One of the authors' weights by its name there.

    Raises
    ------
    ModelError
        If it is not there.
    """
    if name not in weights:
        raise ModelError(f"the weights have no {name!r}; give the state_dict of a checkpoint of the authors' {method}")
    return weights[name]


S = TypeVar("S", bound=MethodConfig)


def parse_settings(schema: type[S], values: Mapping[str, Any]) -> S:
    """Make a method's settings, checked as those of a configuration are.

    Raises
    ------
    ConfigError
        Naming the setting, the value and what is allowed.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"from_original: {explain(error.errors()[0], schema)}") from None


def count_blocks(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count the blocks of a kind: the names that match ``pattern``, a regular expression, in full."""
    return sum(re.fullmatch(pattern, name) is not None for name in weights)


def size_of_head(query_key_value: Tensor, heads: int) -> int:
    """Size of each of so many heads, whose queries, keys and values come from one matrix, ``(3 * all, width)``.

    Raises
    ------
    ModelError
        If they cannot share it equally.
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
    """Give a module the weights of a model that was trained with its authors' code.

    Parameters
    ----------
    module
        Built to the sizes of the weights.
    weights
        By their names in the authors' code.
    names
        From names here to names there.
    method
        Its name, for errors.
    unread
        Beginnings of the authors' names that may be left out; the log lists what was.

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
