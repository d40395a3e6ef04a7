"""Registry of methods by name, including those of other packages."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph.models._network import Estimator, Network
from nh2st_graph.models._reads import ENTRY_POINTS

__all__ = ["ENTRY_POINTS", "find_method", "known_methods", "register_method"]

Method = type[Network] | type[Estimator]
M = TypeVar("M", bound=Method)

_METHODS: dict[str, Method] = {}


def register_method(method: M) -> M:
    """Register a subclass of :class:`Network` or :class:`Estimator` under the name in its settings, as a decorator.

    Registering a name again warns, and the later method counts.

    Raises
    ------
    ConfigError
        If the settings have no default for ``name``.
    """
    name = _own_name(method)
    if name is None:
        raise ConfigError(
            f"method {method.__name__}: its Settings have no name; declare name: Literal['mine'] = 'mine' there"
        )
    _add(name, method)
    return method


def find_method(name: str) -> Method:
    """Find a method.

    Parameters
    ----------
    name
        Name of a registered method, or of one that another package provides by an entry point; or the place of a class,
        ``module:Class``, where the module is installed or a file in the current folder.

    Raises
    ------
    ConfigError
        If the method is unknown, or cannot be loaded.
    """
    _load_own()
    if name not in _METHODS:
        brought = [entry for entry in _brought() if entry.name == name]
        if not brought and ":" not in name:
            raise ConfigError(f"{setting('model.name', name)}: no such method; {nearest(name, known_methods())}")
        if not brought:
            _find_files_here()
        _add(name, _load(brought[0] if brought else EntryPoint(name, name, ENTRY_POINTS)))
    return _METHODS[name]


def known_methods() -> list[str]:
    """List the names of all methods, including those of other packages; nothing of these is loaded."""
    _load_own()
    return sorted({*_METHODS, *(entry.name for entry in _brought())})


def _brought() -> list[EntryPoint]:
    """List the entry points of installed packages: what lies in the current folder is not installed."""
    here = Path.cwd().resolve()

    def installed(entry: EntryPoint) -> bool:
        return entry.dist is None or Path(str(entry.dist.locate_file(""))).resolve() != here

    return [entry for entry in entry_points(group=ENTRY_POINTS) if installed(entry)]


@cache
def _load_own() -> None:
    """Load every file of this room, which registers its methods."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")


def _add(name: str, method: Method) -> None:
    before = _METHODS.get(name)
    if before is not None and (before.__module__, before.__qualname__) != (method.__module__, method.__qualname__):
        warnings.warn(f"method {name!r} is registered again and replaces the earlier one", stacklevel=3)
    _METHODS[name] = method


def _find_files_here() -> None:
    """Let modules of the current folder be found: a command has its own folder in the path instead."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _load(entry: EntryPoint) -> Method:
    where = setting("model.name", entry.name)
    try:
        method: Any = entry.load()
    except Exception as error:  # another package may raise anything
        raise ConfigError(f"{where}: {entry.value} cannot be loaded: {error}") from error
    if not (isinstance(method, type) and issubclass(method, (Network, Estimator))):
        raise ConfigError(
            f"{where}: {entry.value} is no subclass of models.Network or models.Estimator; register one of these"
        )
    if _own_name(method) not in {None, entry.name}:
        raise ConfigError(f"{where}: the settings of {entry.value} name it {_own_name(method)!r}; use this name")
    return method


def _own_name(method: Method) -> str | None:
    default = method.Settings.model_fields["name"].default
    return default if isinstance(default, str) else None
