"""The models of the installed timm, read from its files: importing timm loads torch, and takes seconds."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["timm_has", "timm_names", "timm_says"]

_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_EARLIER = re.compile(r"register_model_deprecations\(__name__,\s*\{(.*?)\}\s*\)", re.DOTALL)
_WORD = re.compile(r"\w+")
_KEY = re.compile(r"""['"]([\w.]+)['"]\s*:""")


def timm_has(architecture: str) -> bool:
    """Whether timm has an architecture, as far as its files tell; all are sorted only to list them."""
    timm = sys.modules.get("timm")
    if timm is not None and timm.is_model(architecture):
        return True
    known = timm_names()
    return not known or architecture in known


def timm_names() -> set[str]:
    """List the architectures of timm, with their earlier names.

    Where timm is loaded, it says so itself, since other packages may have added some. Empty where its files tell
    nothing: then nothing is known.
    """
    if "timm" not in sys.modules:
        return set(_in_files())
    import timm
    from timm.models import _registry

    return {*timm.list_models(), *getattr(_registry, "_deprecated_models", ())}


def timm_says(tag: str) -> bool:
    """Whether a tag of weights, such as ``a1_in1k``, stands anywhere in timm's files."""
    return set(_WORD.findall(tag)) <= _words()


@cache
def _in_files() -> frozenset[str]:
    found: set[str] = set()
    for text in _texts():
        found.update(_REGISTERED.findall(text))
        for earlier in _EARLIER.findall(text):
            found.update(_KEY.findall(earlier))
    return frozenset(found)


@cache
def _words() -> frozenset[str]:
    return frozenset(word for text in _texts() for word in _WORD.findall(text))


@cache
def _texts() -> tuple[str, ...]:
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("models/*.py"))]
    return tuple(text for file in files if "register_model" in (text := file.read_text(encoding="utf-8")))
