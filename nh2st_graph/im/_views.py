"""Average the features of a patch over its views: turned by quarters, and mirrored."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph.im._encoders import Encoder
from nh2st_graph.im._pixels import PixelsEncoder
from nh2st_graph.im._timm import TimmMapEncoder

__all__ = ["ViewsEncoder", "in_views", "number_of_views"]


class ViewsEncoder(Encoder):
    """The mean of an encoder's features over views of the patch, so that they do not depend on how tissue lies.

    Parameters
    ----------
    encoder
        The encoder of one view.
    views
        4, the quarter turns, or 8, also of the mirrored patch (the dihedral group of the square).

    Raises
    ------
    ConfigError
        If features are pixels or places of a feature map, which turn with the patch.
    """

    def __init__(self, encoder: Encoder, views: int) -> None:
        if isinstance(encoder, PixelsEncoder | TimmMapEncoder) or encoder.encode(encoder._blank()).dtype == np.uint8:
            raise _no_mean(encoder, views)
        self.encoder, self.views = encoder, views
        self.name, self.input_size, self.interpolation = encoder.name, encoder.input_size, encoder.interpolation
        self.normalisation = encoder.normalisation
        self.fingerprint = {**encoder.fingerprint, "views": views}

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode each view of the patches, and average; see :meth:`Encoder.encode`."""
        total: NDArray[np.float64] | None = None
        for mirrored in (False, True)[: self.views // 4]:
            images = patches[:, :, ::-1] if mirrored else patches
            for turns in range(4):
                found = self.encoder.encode(np.ascontiguousarray(np.rot90(images, turns, axes=(1, 2))))
                total = found.astype(np.float64) if total is None else total + found
        assert total is not None
        return (total / self.views).astype(np.float32)

    @cached_property
    def n_features(self) -> int:
        """Length of a feature vector, that of one view."""
        return self.encoder.n_features

    @cached_property
    def feature_names(self) -> list[str]:
        """Names of the features, those of one view."""
        return self.encoder.feature_names


def in_views(encoder: Encoder, views: int) -> Encoder:
    """Give an encoder that averages over views; the encoder itself for one view.

    Raises
    ------
    ConfigError
        If there is no such number of views, or the features have no mean over them.
    """
    if views not in {1, 4, 8}:
        raise ConfigError(f"{setting('features.views', views)}; give 1, 4 (quarter turns) or 8 (mirrored too)")
    return encoder if views == 1 else ViewsEncoder(encoder, views)


def number_of_views(encoder: Encoder) -> int:
    """Say over how many views an encoder averages."""
    return encoder.views if isinstance(encoder, ViewsEncoder) else 1


def _no_mean(encoder: Encoder, views: int) -> ConfigError:
    return ConfigError(
        f"{setting('features.views', views)}: features of {encoder.name} are places of the patch, which turn with it "
        f"and have no mean over views; give {setting('features.views', 1)}"
    )
