"""Load libraries in less time: on first use, and without a search for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

__all__ = ["defer", "defer_rest", "load_uncollected"]


#: Objects that a large library makes.
_MANY = 20_000


class _Finder(MetaPathFinder):
    """Find some modules with another loader; all others are found as before."""

    def __init__(self, names: Collection[str], loader: Callable[[Loader], Loader]) -> None:
        self.names, self.loader = frozenset(names), loader

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find one of the modules."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.names else None
        if spec is not None and spec.loader is not None:
            spec.loader = self.loader(spec.loader)
        return spec


class _Uncollected(Loader):
    """Load a module while Python looks for no garbage."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make an empty module."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, with the loader that it would have had."""
        _give_back(module, self.loader)
        with _uncollected():
            self.loader.exec_module(module)


class _OnUse(Loader):
    """Load a module when one of its names, or a module in it, is first asked for.

    The standard library's ``LazyLoader`` also loads it when its ``__file__`` is asked for, as ``inspect`` does of all
    modules.
    """

    #: Python asks a package for it before it looks for a module in it, or takes a name from it.
    hidden: tuple[str, ...] = ("__path__",)

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.lock = RLock()

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make an empty module."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Wait for the first use.

        Other threads then wait until the module is whole; the one that loads it sees what is there by then.
        """
        hidden = {name: module.__dict__.pop(name) for name in self.hidden if name in module.__dict__}
        began = False

        def load(name: str) -> Any:
            nonlocal began
            if name.startswith("__") and name not in {"__all__", *hidden}:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            with self.lock:
                if not began:
                    began = True
                    module.__dict__.update(hidden)
                    _give_back(module, self.loader)
                    try:
                        with _uncollected():
                            self.loader.exec_module(module)
                    except BaseException:
                        began = False
                        raise
                    if module.__dict__.get("__getattr__") is load:  # it may have one of its own
                        del module.__dict__["__getattr__"]
                elif module.__dict__.get("__getattr__") is load and name not in module.__dict__:
                    raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(module, name)

        module.__dict__["__getattr__"] = load


class _RestOnUse(_OnUse):
    """Give some names of a package at once, and run its own code when anything else but a module of it is asked for."""

    hidden = ()

    def __init__(self, loader: Loader, names: Mapping[str, str], asked: Mapping[str, Any]) -> None:
        super().__init__(loader)
        self.names, self.asked = names, asked

    def exec_module(self, module: ModuleType) -> None:
        """Take the names from the modules that define them; a release that has them elsewhere is loaded whole."""
        try:
            module.__dict__.update(self.asked)
            with _uncollected():
                for name, part in self.names.items():
                    module.__dict__[name] = getattr(import_module(f"{module.__name__}.{part}"), name)
        except (ImportError, AttributeError):
            _give_back(module, self.loader)
            self.loader.exec_module(module)
        else:
            super().exec_module(module)


def _give_back(module: ModuleType, loader: Loader) -> None:
    if module.__spec__ is not None:
        module.__spec__.loader = module.__loader__ = loader


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage. Collection stays enabled by name: dask keeps for good what it was when dask was loaded."""
    threshold = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        if threshold[0] and not gc.get_threshold()[0]:
            # To count what somebody else has frozen takes as long as to search through what a small library makes.
            if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
                # All that was made goes to the old objects, without a search through it.
                gc.freeze()
                gc.unfreeze()
            gc.set_threshold(*threshold)


def defer(*names: str) -> None:
    """Let these modules load on first use, where nobody has imported them yet.

    ``import x`` and ``from package import x`` defer ``x``; ``from x import y`` and ``import x.y`` load it.
    """
    _find(names, _OnUse)


def defer_rest(package: str, names: Mapping[str, str], asked: Mapping[str, Any]) -> None:
    """Let a package give some names at once, and load all else of it on first use.

    Parameters
    ----------
    package
        The package, which nobody has imported yet.
    names
        The module of the package that defines each name, without the package's name, in the order in which they are
        loaded.
    asked
        What these modules ask the package itself for.
    """
    _find([package], lambda loader: _RestOnUse(loader, names, asked))


def load_uncollected(*names: str) -> None:
    """Let Python look for no garbage while these modules load, and what they import.

    A library's functions and classes are no garbage, but Python looks through all of them again and again while more
    are made: a quarter of the time of loading torch, PyTorch Geometric and Lightning.
    """
    _find(names, _Uncollected)


def _find(names: Collection[str], loader: Callable[[Loader], Loader]) -> None:
    sys.meta_path.insert(0, _Finder({name for name in names if name not in sys.modules}, loader))
