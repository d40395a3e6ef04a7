"""Random views of patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["random_views"]

#: Weights of red, green and blue in an image's luma (ITU-R BT.601), as torchvision rounds them.
_LUMA = (0.2989, 0.587, 0.114)


def random_views(
    images: Tensor, grey: float = 0.1, degrees: float = 90.0, flip: float = 0.2, *, apart: bool = False
) -> Tensor:
    """Draw a view of each image: grey or not, rotated about its centre, flipped or not, as in Hist2ST.

    The pixels of a rotated image are its nearest ones, and corners that the rotation uncovers are zero (black).

    Parameters
    ----------
    images
        Square images, ``(n, 3, size, size)``.
    grey, flip
        Probabilities of a grey image, and of one that is flipped along its last axis.
    degrees
        Largest angle, in either direction; angles are equally likely.
    apart
        Draw for each image by itself; one draw for all of them otherwise.

    Returns
    -------
    ``(n, 3, size, size)``. Drawn are in turn whether grey, the angle and whether flipped, by torch's generator of the
    CPU.
    """
    n_draws = len(images) if apart else 1
    is_grey = torch.rand(n_draws) < grey
    angle = torch.empty(n_draws).uniform_(-degrees, degrees).deg2rad()
    is_flipped = torch.rand(n_draws) < flip
    luma = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    views = torch.where(_each(is_grey, images), luma, images)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Where each pixel of the view lies in the image.
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(turn.to(images), list(images.shape), align_corners=False)
    views = F.grid_sample(views, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.where(_each(is_flipped, images), views.flip(-1), views)


def _each(drawn: Tensor, images: Tensor) -> Tensor:
    """One truth for each image, or one for all, to be read beside ``images``."""
    return drawn.to(images.device).view(-1, 1, 1, 1)
