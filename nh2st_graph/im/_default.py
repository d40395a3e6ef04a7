"""The encoders that ``auto`` stands for: the best of those that need no download, on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import TypeVar

from nh2st_graph.im._names import PatchSize
from nh2st_graph.im._recipes import recipes

__all__ = ["AUTO", "default_size", "in_full", "is_packaged"]

logger = logging.getLogger("nh2st_graph")

#: Name that stands for the encoders of this file.
AUTO = "auto"

#: Sides of their patches in um: half a spot's surroundings, a spot with its neighbours, the context.
_SCALES = (112.0, 224.0, 448.0)
_PLAIN = "handcrafted"
#: Joins it where its weights are installed.
_PRETRAINED = "efficientnet-lite0"
#: Side of the patches of any other encoder, in um.
_SIZE = 224.0

E = TypeVar("E")


def is_packaged(package: str) -> bool:
    """Whether a package of weights is installed; nothing is imported for this."""
    try:
        return bool(files(package))
    except PackageNotFoundError:
        return False


def default_size(encoder: object) -> PatchSize:
    """Give the side of patches that nobody has chosen: in um, or ``auto`` for the scales of ``auto``."""
    return "auto" if encoder == AUTO else _SIZE


def in_full(blocks: Sequence[tuple[E, PatchSize]]) -> list[tuple[E | str, PatchSize]]:
    """Put encoders in the place of ``auto``: each at three scales, or at the size that stands beside it.

    The choice is logged once.
    """
    found: list[tuple[E | str, PatchSize]] = []
    for name, size in blocks:
        if name != AUTO:
            found.append((name, size))
            continue
        names = [_PLAIN, *([_PRETRAINED] if is_packaged(recipes()[_PRETRAINED].location) else [])]
        sizes: Sequence[PatchSize] = _SCALES if size == AUTO else (size,)
        found += [(each, side) for each in names for side in sizes]
        _say(tuple(names), tuple(sizes))
    return found


@cache
def _say(names: tuple[str, ...], sizes: tuple[PatchSize, ...]) -> None:
    shown = f"{' and '.join(names)} at {', '.join(f'{size:g}' for size in sizes)} um"
    more = "" if _PRETRAINED in names else '; pip install "nh2st-graph[imagenet]" adds EfficientNet-Lite0 of ImageNet'
    logger.info("encoder auto: %s%s", shown, more)
