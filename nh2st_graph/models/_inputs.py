"""What some methods read of a section: patches as images, and array positions by a table."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph.nn import PatchEncoder

__all__ = ["as_images", "check_positions", "patch_side"]


def patch_side(n_features: int, patch_encoder: PatchEncoder | None, method: str) -> int:
    """Side, in pixels, of the patches that a spot's features are.

    Parameters
    ----------
    n_features
        Length of a spot's features: flattened RGB patches, as the encoder ``pixels:SIDE`` gives them.
    patch_encoder
        What is trained on patches, if anything.
    method
        Who asks, for the error.

    Raises
    ------
    ConfigError
        If they are no pixels.
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
    """Refuse a section with array positions that a table of ``n_positions`` does not hold.

    Raises
    ------
    DataError
        Naming the section and the length that would do.
    """
    lowest, highest = int(data.array.min()), int(data.array.max())
    if lowest < 0:
        raise DataError(f"section {data.section!r}: array positions start at {lowest}; number rows and columns from 0")
    if highest >= n_positions:
        raise DataError(
            f"section {data.section!r}: array positions reach {highest}, and the table has {n_positions}; "
            f"give {setting('model.n_positions', highest + 1)} or more"
        )
