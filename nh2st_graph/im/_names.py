"""Names of encoders with their options: ``NAME?pooling=cls+mean&size=224``, several joined by commas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph.im._recipes import Pooling

__all__ = [
    "Channels",
    "Options",
    "PatchSize",
    "Precision",
    "allowed_options",
    "chosen_parts",
    "join_options",
    "split_names",
    "split_options",
]

#: Side of a patch in um, or the side that the encoder was trained at.
PatchSize = float | Literal["auto"]

#: Numbers that a network computes in.
Precision = Literal["float32", "bfloat16", "float16"]

#: Longest side of an input, in pixels. Memory for a longer one is asked for before anything else shows the mistake.
_LARGEST = 4096

#: Red, green and blue.
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Options:
    """What a name says besides the model; None where it says nothing.

    Attributes
    ----------
    pooling
        What becomes of the tokens of the model.
    size
        Side of its input, in pixels.
    mean, std
        Statistics that pixel values from 0 to 1 are normalised by.
    precision
        Numbers that the model computes in.
    remote_code
        Whether code from the model's own repository may run.
    """

    pooling: Pooling | None = None
    size: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    precision: Precision | None = None
    remote_code: bool | None = None

    def given(self) -> dict[str, Any]:
        """Give the options that the name says."""
        return {key: value for key in _KEYS if (value := getattr(self, key)) is not None}


_KEYS = tuple(field.name for field in fields(Options))


def split_names(names: str) -> list[str]:
    """Split names at their commas; options stay with their name, blanks around a name go."""
    return [name.strip() for name in names.split(",")]


def split_options(name: str) -> tuple[str, Options]:
    """Split a name from its options, which follow the last ``?``.

    Raises
    ------
    ConfigError
        If an option is unknown, is given twice, or has an impossible value.
    """
    plain, mark, query = name.rpartition("?")
    if not mark:
        return name, Options()
    values: dict[str, Any] = {}
    for part in query.split("&"):
        key, equals, text = part.partition("=")
        if not equals or not text:
            raise _error(name, f"{part!r} is no option; write KEY=VALUE, such as {plain}?size=224")
        if key in values:
            raise _error(name, f"the option {key!r} is given twice")
        values[key] = _parsed(name, key, text)
    return plain, Options(**values)


def chosen_parts(prefix: str, parts: str, known: Iterable[str]) -> tuple[str, ...]:
    """Split the parts of an encoder that are joined by ``+``, and give them in the order in which they are known.

    Raises
    ------
    ConfigError
        If a part is unknown or occurs twice.
    """
    wanted, order = [part.strip() for part in parts.split("+")], list(known)
    for part in wanted:
        if part not in order:
            raise _error(f"{prefix}:{parts}", f"{prefix} has no features {part!r}; {nearest(part, order)}")
        if wanted.count(part) > 1:
            raise _error(f"{prefix}:{parts}", f"{part!r} occurs twice; name each part once")
    return tuple(part for part in order if part in wanted)


def allowed_options(name: str, taken: frozenset[str]) -> tuple[str, Options]:
    """Split a name as :func:`split_options`, and refuse options that its encoder does not take."""
    plain, options = split_options(name)
    for key in options.given():
        if key not in taken:
            hint = nearest(key, taken) if taken else "leave it out"
            raise _error(name, f"this encoder takes no option {key!r}; {hint}")
    return plain, options


def join_options(name: str, options: Mapping[str, Any]) -> str:
    """Write options behind a name; those that are None are left out.

    Parameters
    ----------
    name
        The name of one encoder. It may have options already, but not these.
    options
        Values of :class:`Options`; ``mean`` and ``std`` as three numbers.

    Raises
    ------
    ConfigError
        If an option is unknown, stands in the name already, or has an impossible value.

    Examples
    --------
    >>> join_options("timm:resnet18", {"size": 128, "mean": [0.5, 0.5, 0.5]})
    'timm:resnet18?size=128&mean=0.5/0.5/0.5'
    """
    plain, before = split_options(name)
    said, new = before.given(), {key: value for key, value in options.items() if value is not None}
    twice = [key for key in new if key in said]
    if twice:
        raise _error(name, f"the option {twice[0]!r} is given twice")
    for key, value in new.items():
        said[key] = _parsed(name, key, _text(value))
    query = "&".join(f"{key}={_text(said[key])}" for key in _KEYS if key in said)
    return f"{plain}?{query}" if query else plain


def _parsed(name: str, key: str, text: str) -> Any:
    """Read the value of an option."""
    if key not in _KEYS:
        raise _error(name, f"no option {key!r}; {nearest(key, _KEYS)}")
    if key in {"pooling", "precision"}:
        known = get_args(Pooling if key == "pooling" else Precision)
        if text not in known:
            raise _error(name, f"{key}={text}; {nearest(text, known)}")
        return text
    if key == "remote_code":
        if text not in {"true", "false"}:
            raise _error(name, f"{key}={text}; give true or false")
        return text == "true"
    if key == "size":
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST)) and 0 < int(text) <= _LARGEST):
            raise _error(name, f"{key}={text}; give the side of the input in pixels, a whole number to {_LARGEST}")
        return int(text)
    try:
        values = tuple(float(part) for part in text.split("/"))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)) or (key == "std" and min(values) <= 0):
        above = ", all above 0" if key == "std" else ""
        raise _error(name, f"{key}={text}; give red, green and blue{above}: {key}=0.5/0.5/0.5")
    return values


def _text(value: Any) -> str:
    """Write the value of an option."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "/".join(map(str, value))
    return str(value)


def _error(name: str, what: str) -> ConfigError:
    return ConfigError(f"{setting('features.encoder', name)}: {what}")
