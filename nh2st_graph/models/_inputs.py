"""Inputs of methods: patches as images, and array positions."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph.nn import PatchEncoder

__all__ = ["as_images", "check_positions", "patch_side"]


def patch_side(n_features: int, patch_encoder: PatchEncoder | None, method: str) -> int:
    """Compute the side of a patch in pixels from the number of features.

    Parameters
    ----------
    n_features
        Number of features of a spot: a flattened RGB patch, from the encoder ``pixels:SIDE``.
    patch_encoder
        Patch encoder that is trained with the method, if any.
    method
        Name of the method, for the error.

    Raises
    ------
    ConfigError
        If the features are no pixels.
    """
    if patch_encoder is not None:
        raise ConfigError(
            f"{method} reads pixels itself, without {setting('features.finetune', True)}; "
            f"give {setting('features.finetune', False)} and {setting('features.encoder', 'pixels:SIDE')}"
        )
    side = isqrt(n_features // 3)
    if 3 * side**2 != n_features:
        raise ConfigError(
            f"{method} reads square RGB patches, and {setting('features.encoder')} gives {n_features} features a spot; "
            f"give {setting('features.encoder', 'pixels:SIDE')} and {setting('features.standardize', 'none')}"
        )
    return side


def as_images(features: Tensor) -> Tensor:
    """Turn features ``(n_spots, side * side * 3)`` into images, ``(n_spots, side, side, 3)``: row, column, colour."""
    side = isqrt(features.shape[1] // 3)
    return features.reshape(-1, side, side, 3)


def check_positions(data: Data, n_positions: int) -> None:
    """Check that a table of ``n_positions`` holds the array positions of a section.

    Raises
    ------
    DataError
        If it does not; the message names the section and a sufficient length.
    """
    lowest, highest = int(data.array.min()), int(data.array.max())
    if lowest < 0:
        raise DataError(f"section {data.section!r}: array positions start at {lowest}; number rows and columns from 0")
    if highest >= n_positions:
        raise DataError(
            f"section {data.section!r}: array positions reach {highest}, and the table has {n_positions}; "
            f"give {setting('model.n_positions', highest + 1)} or more"
        )
