"""Methods by name, as the configuration's ``model.name`` gives it; also those of other packages."""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points
from typing import Any, TypeVar

from nh2st_graph._errors import ConfigError, nearest
from nh2st_graph.models._network import Estimator, Network

__all__ = ["ENTRY_POINTS", "find_method", "known_methods", "register_method"]

#: Entry point group by which another package brings a method: the name, and the class.
ENTRY_POINTS = "nh2st_graph.methods"

Method = type[Network] | type[Estimator]
M = TypeVar("M", bound=Method)

_METHODS: dict[str, Method] = {}


def register_method(method: M) -> M:
    """Register a subclass of :class:`Network` or :class:`Estimator` under the name in its settings, as a decorator.

    A name that is taken is overwritten, with a warning.
    """
    name = _name(method)
    if name in _METHODS and _METHODS[name].__qualname__ != method.__qualname__:
        warnings.warn(f"method {name!r} is registered again; the earlier one is gone", stacklevel=2)
    _METHODS[name] = method
    return method


def find_method(name: str) -> Method:
    """Find a method: registered here, or brought by another package's entry point.

    Raises
    ------
    ConfigError
        If there is none of that name, or the other package's cannot be loaded.
    """
    if name not in _METHODS:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == name:
                return register_method(_load(entry))
        raise ConfigError(f"model.name = {name!r}: no such method; {nearest(name, known_methods())}")
    return _METHODS[name]


def known_methods() -> list[str]:
    """Names of all methods, also of those that other packages bring."""
    return sorted({*_METHODS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def _load(entry: Any) -> Method:
    try:
        method = entry.load()
    except Exception as error:  # whatever is wrong with it is the other package's
        raise ConfigError(f"method {entry.name!r} of {entry.value} cannot be loaded: {error}") from error
    if not (isinstance(method, type) and issubclass(method, (Network, Estimator))):
        raise ConfigError(f"method {entry.name!r}: {entry.value} is no subclass of models.Network or models.Estimator")
    if _name(method) != entry.name:
        raise ConfigError(f"method {entry.name!r}: the settings of {entry.value} call it {_name(method)!r}")
    return method


def _name(method: Method) -> str:
    return str(method.Settings.model_fields["name"].default)
