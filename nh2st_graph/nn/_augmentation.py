"""Random augmentations of patches."""

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
    """Augment each image at random as in Hist2ST: greyscale, rotation around the centre, and flip.

    Rotation takes nearest pixels, and uncovered corners are zero (black).

    Parameters
    ----------
    images
        Square images, ``(n, 3, size, size)``.
    grey, flip
        Probabilities of greyscale, and of a flip along the last axis.
    degrees
        Largest angle in either direction; the angle is uniform.
    apart
        Draw for each image by itself; by default, one draw is for all images.

    Returns
    -------
    ``(n, 3, size, size)``. Greyscale, angle and flip are drawn in this order, by torch's generator of the CPU.
    """
    n_draws = len(images) if apart else 1
    is_grey = torch.rand(n_draws) < grey
    angle = torch.empty(n_draws).uniform_(-degrees, degrees).deg2rad()
    is_flipped = torch.rand(n_draws) < flip
    luma = (images * images.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    views = torch.where(_each(is_grey, images), luma, images)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Coordinates of the view's pixels in the image.
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(turn.to(images), list(images.shape), align_corners=False)
    views = F.grid_sample(views, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.where(_each(is_flipped, images), views.flip(-1), views)


def _each(drawn: Tensor, images: Tensor) -> Tensor:
    """Reshape one truth value for each image, or one for all, to broadcast with ``images``."""
    return drawn.to(images.device).view(-1, 1, 1, 1)
