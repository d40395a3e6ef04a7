"""What made a result: versions of libraries, git revision, seed, settings and digests of the data."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nh2st_graph import __version__
from nh2st_graph.config import Config
from nh2st_graph.train._card import without_paths

__all__ = ["made_with", "record", "settings_of"]

#: Parts of ``data`` that say which files are read; digests say what is in them.
_OF_FILES = {"format", "root", "options", "train", "test", "synthetic"}

#: Libraries that a number of a result may depend on.
_LIBRARIES = (
    "anndata",
    "lightning",
    "numpy",
    "pandas",
    "pillow",
    "scanpy",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "squidpy",
    "tifffile",
    "timm",
    "torch",
    "torch-geometric",
)


def record(config: Config, sections: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, Any]:
    """Describe what made a result, as JSON values.

    Parameters
    ----------
    config
        The configuration.
    sections
        Digests of its sections, by name.

    Returns
    -------
    ``versions`` and ``revision`` of :func:`made_with`; ``seed``; ``settings``, the configuration without folders of
    files; and ``sections``, if they are given.
    """
    settings = without_paths(settings_of(config))
    settings["train"].pop("progress")  # whether bars are shown
    found = {**made_with(), "seed": config.seed, "settings": settings}
    return found if sections is None else {**found, "sections": {name: dict(each) for name, each in sections.items()}}


def settings_of(config: Config) -> dict[str, Any]:
    """Give the settings that weights depend on: without files, evaluation and threads."""
    values = config.model_dump(mode="json", exclude={"evaluate": True, "data": _OF_FILES, "train": {"threads"}})
    return dict(values)


def made_with() -> dict[str, Any]:
    """Give ``versions`` of Python and libraries by name, and the git ``revision`` of this package, or None."""
    return {"versions": dict(_versions()), "revision": _revision()}


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "nh2st-graph": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _revision() -> str | None:
    """Find the revision that was installed, or that of the source tree, with ``-dirty`` if files were changed."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return (
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
            )
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        installed = json.loads(Distribution.from_name("nh2st-graph").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = installed.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)
