"""Defer modules that libraries import and this package does not use, until somebody uses them."""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

__all__ = ["defer"]


class _Finder(MetaPathFinder):
    """Find the deferred modules; all others are found as before."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a deferred module, which loads on first use."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.names else None
        if spec is not None and spec.loader is not None:
            spec.loader = _OnUse(spec.loader)
        return spec


class _OnUse(Loader):
    """Load a module when one of its names, or a module in it, is first asked for.

    The standard library's ``LazyLoader`` also loads it when its ``__file__`` is asked for, as ``inspect`` does of all
    modules.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.lock = RLock()

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make an empty module."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Wait for the first use."""
        hidden = {"__path__": module.__dict__.pop("__path__")} if "__path__" in module.__dict__ else {}

        def load(name: str) -> Any:
            if name.startswith("__") and name not in {"__all__", *hidden}:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            with self.lock:
                if module.__dict__.pop("__getattr__", None) is not None:
                    module.__dict__.update(hidden)
                    if module.__spec__ is not None:
                        module.__spec__.loader = module.__loader__ = self.loader
                    self.loader.exec_module(module)
            return getattr(module, name)

        module.__dict__["__getattr__"] = load


def defer(*names: str) -> None:
    """Let these modules load on first use, where nobody has imported them yet.

    ``import x`` and ``from package import x`` defer ``x``; ``from x import y`` and ``import x.y`` load it.
    """
    sys.meta_path.insert(0, _Finder({name for name in names if name not in sys.modules}))
