"""Dependence of two sets of embeddings: the Hilbert-Schmidt independence criterion (HSIC)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hsic", "normalized_hsic"]

#: Centred kernels below this, in units of the machine's precision, are rounding errors of a constant.
_ROUNDING = 64


def hsic(x: Tensor, y: Tensor, sigma: float | None = None) -> Tensor:
    r"""Compute the Hilbert-Schmidt independence criterion of two sets of features, which is 0 if they are independent.

    .. math::
        \operatorname{HSIC}(X, Y) = \frac{\operatorname{tr}(K_X H K_Y H)}{(n - 1)^2}, \qquad
        (K_X)_{ij} = e^{-\lVert x_i - x_j \rVert^2 / \sigma^2}, \qquad H = I - \tfrac{1}{n} \mathbf 1 \mathbf 1^\top

    which is the biased estimator of Gretton et al. (2005, eq. 9) with Gaussian kernels. Centring subtracts the means of
    rows and columns, which needs no product of ``n`` x ``n`` matrices.

    Parameters
    ----------
    x, y
        Features of the same spots, ``(n, d_x)`` and ``(n, d_y)``.
    sigma
        Width of both kernels, in units of the features. By default each kernel has the median distance between two
        different spots, taken as a constant.

    Returns
    -------
    A scalar, at least 0 up to rounding; 0 for a single spot.
    """
    return _hsic(_centred_kernel(x, sigma), _centred_kernel(y, sigma))


def normalized_hsic(x: Tensor, y: Tensor, sigma: float | None = None, *, offset: float = 0.0) -> Tensor:
    r"""Compute HSIC, normalised by the HSIC of each set of features with itself.

    .. math::
        \operatorname{nHSIC}(X, Y) = \frac{\operatorname{HSIC}(X, Y)}
            {\sqrt{c + \operatorname{HSIC}(X, X)} \sqrt{c + \operatorname{HSIC}(Y, Y)}}

    With :math:`c = 0` it is between 0 and 1, and 1 for a set with itself: centred kernel alignment (Cortes et al.,
    2012; Kornblith et al., 2019).

    Parameters
    ----------
    x, y, sigma
        As in :func:`hsic`.
    offset
        :math:`c`. ST-GCHB (Chi et al., 2024) has 1. HSIC is at most about :math:`1 / (n - 1)` and thus small against 1,
        so that nHSIC is then nearly HSIC itself.

    Returns
    -------
    A scalar; 0 if either set is the same for all spots.
    """
    k, m = _centred_kernel(x, sigma), _centred_kernel(y, sigma)
    # Clamp before the root, whose slope at zero is infinite.
    least = (_ROUNDING * torch.finfo(k.dtype).eps) ** 2
    norms = (offset + _hsic(k, k)).clamp_min(least) * (offset + _hsic(m, m)).clamp_min(least)
    return _hsic(k, m) / norms.sqrt()


def _centred_kernel(x: Tensor, sigma: float | None) -> Tensor:
    """Compute ``H K H`` of a Gaussian kernel, ``(n, n)``."""
    # Distances are differences of large numbers, which mixed precision would lose.
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        squared = x.square().sum(dim=1)
        distance = (squared[:, None] + squared - 2 * x @ x.T).clamp_min(0)
    scale = _median(distance.detach()) if sigma is None else sigma**2
    kernel = torch.exp(-distance / scale)
    return kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()


def _median(squared_distance: Tensor) -> Tensor:
    """Compute the median squared distance between different spots; 1 if none is above zero."""
    n = len(squared_distance)
    row, column = torch.triu_indices(n, n, offset=1, device=squared_distance.device)
    between = squared_distance[row, column]
    median = between.median() if n > 1 else squared_distance.new_zeros(())
    return torch.where(median > 0, median, torch.ones_like(median))


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    return (k * m).sum() / max(1, len(k) - 1) ** 2
