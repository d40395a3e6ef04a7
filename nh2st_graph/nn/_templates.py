"""Keep the code that PyTorch Geometric generates out of the temporary folder."""

from __future__ import annotations

import importlib.util
import linecache
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from torch_geometric.nn.conv import message_passing

__all__ = ["leave_no_files"]


def leave_no_files() -> None:
    """Let PyTorch Geometric remove the modules that it generates, once they are loaded.

    For each class of layers, its first layer writes the class's ``propagate`` to a file, and imports it. The file would
    stay, from every process. Its text is kept for tracebacks, ``inspect`` and TorchScript.
    """
    generate = message_passing.module_from_template
    if hasattr(generate, "__wrapped__"):
        return

    @wraps(generate)
    def generated(*args: Any, **kwargs: Any) -> ModuleType:
        module: ModuleType = generate(*args, **kwargs)
        if module.__file__ is not None:
            _forget(Path(module.__file__))
        return module

    message_passing.module_from_template = generated


def _forget(file: Path) -> None:
    """Remove a module's file and its byte code, and keep its text."""
    with suppress(OSError):  # another has removed it
        text = file.read_text(encoding="utf-8")
        # Without a time of change, the text is not looked for in the file again.
        linecache.cache[str(file)] = (len(text), None, text.splitlines(keepends=True), str(file))
        file.unlink()
        code = Path(importlib.util.cache_from_source(str(file)))
        code.unlink(missing_ok=True)
        code.parent.rmdir()  # unless others' are there
