"""Names of images: a file, or one of the images in a file, as ``FILE#NAME`` or ``FILE#NUMBER``."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["image_exists", "image_in", "image_name", "split_scene"]


def split_scene(source: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE#SCENE`` into the file and the scene; a file may have ``#`` in its name.

    Returns
    -------
    The file, and the scene or None.
    """
    path, text = Path(source), str(source)
    if path.is_file():
        return path, None
    for found in re.finditer("#", text):
        file = Path(text[: found.start()])
        if file.is_file():
            return file, text[found.end() :]
    return path, None


def image_exists(source: str | Path) -> bool:
    """Say whether the file of an image is there."""
    return split_scene(source)[0].is_file()


def image_in(folder: Path, named: str) -> Path | None:
    """Find an image that a file in a folder names: where its path says, or in the folder by its name alone.

    Returns
    -------
    The file, with its scene; None if there is none.
    """
    cuts = (found.start() for found in re.finditer("#", named))
    # A scene may have slashes in its name, and a file may have "#".
    moved = (f"{Path(named[:cut]).name}{named[cut:]}" for cut in cuts)
    places = [folder / each for each in (named, Path(named).name, *moved)]
    return next((each for each in places if image_exists(each)), None)


def image_name(source: str | Path) -> str:
    """Name an image by its file, without endings, and its scene: a name for a section and its file."""
    path, scene = split_scene(source)
    stem = path.name.partition(".")[0]
    return stem if scene is None else f"{stem}_{re.sub(r'[^0-9A-Za-z_-]+', '_', scene).strip('_')}"
