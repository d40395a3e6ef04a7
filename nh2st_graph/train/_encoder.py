"""Make the patch encoder that a model fine-tunes, and the patches that it reads."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph import im
from nh2st_graph.config import FeaturesConfig
from nh2st_graph.im._made_from import floored
from nh2st_graph.im._names import join_options, split_options
from nh2st_graph.nn import PatchEncoder
from nh2st_graph.section import Key

__all__ = ["named_elsewhere", "patch_encoder", "section_patches"]


def patch_encoder(
    features: FeaturesConfig, *, trained: bool, name: str | None = None, size: int | None = None
) -> PatchEncoder | None:
    """Make the encoder that is fine-tuned; None if ``features.finetune`` is off.

    Parameters
    ----------
    features
        Settings that name a timm model.
    trained
        Load the weights that ``features.encoder`` names. Without them, the encoder waits for those of a saved model.
    name
        Name of the encoder to use in place of ``features.encoder``.
    size
        Side of its input in training, in pixels, which its file of weights may have told.

    Raises
    ------
    ConfigError
        If the weights cannot be loaded.
    """
    if not features.finetune:
        return None
    prefix, _, name = (name or features.encoder).partition(":")
    # The name of a hub model stands for its weights, so that it has no random version.
    if not trained and not named_elsewhere(f"{prefix}:{name}"):
        plain, options = split_options(name)
        name = join_options(f"{plain.partition('@')[0]}@random", {"size": size} | options.given())
    (encoder,) = im.make_encoders(f"{prefix}:{name}", "cpu")
    assert isinstance(encoder, im.TimmEncoder)
    pixels = encoder.normalisation
    standardize = features.standardize != "none"
    return PatchEncoder(encoder.network, pixels["mean"], pixels["std"], encoder.n_features, standardize)


def named_elsewhere(encoder: str) -> bool:
    """Whether the architecture of an encoder is described in a hub or a folder, not by timm."""
    return encoder.partition(":")[2].startswith(("hf-hub:", "local-dir:"))


def section_patches(adata: AnnData, features: FeaturesConfig) -> NDArray[np.uint8]:
    """Cut the patches that the features of a section were computed from, ``(n_spots, size, size, 3)``."""
    known = adata.uns[Key.uns.image]
    size, interpolation = int(known["input_size"][0]), str(known["normalisation"]["0"]["interpolation"])
    placed = floored(adata) if features.floor_centres else adata
    ((_, patch_um),) = features.blocks
    stain = known.get(Key.features.stain)
    return np.stack(list(im.patches(placed, float(patch_um), size, interpolation=interpolation, stain=stain)))
