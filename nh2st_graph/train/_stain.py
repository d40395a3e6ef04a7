"""Fit the stain reference of a model on its training sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anndata import AnnData

from nh2st_graph._errors import DataError, ImageError, setting
from nh2st_graph.im._stain import pooled_reference, section_pixels
from nh2st_graph.section import open_image

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = ["learned_stain"]


def learned_stain(method: str, train: Mapping[str, AnnData]) -> StainReference | None:
    """Fit the stain reference of a model.

    It comes from the images of these sections and from nothing else, also where sections have features of another
    reference, which may have been fitted on test sections.

    Parameters
    ----------
    method
        As ``features.stain``.
    train
        The training sections, by name.

    Returns
    -------
    The reference; None without a method.

    Raises
    ------
    DataError
        If an image is missing.
    ImageError
        If a section's stain cannot be measured.
    """
    if method == "none":
        return None
    pixels = {}
    for name, section in train.items():
        try:
            with open_image(section) as slide:
                pixels[name] = section_pixels(section, slide)
        except (DataError, ImageError) as error:
            raise type(error)(
                f"{setting('features.stain', method)} needs the images of training sections, and that of {name!r} "
                f"cannot be used: {error.args[0]}"
            ) from None
    return pooled_reference(pixels, method)
