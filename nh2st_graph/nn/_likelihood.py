"""Count likelihoods."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["negative_binomial_nll"]


def negative_binomial_nll(counts: Tensor, mean: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Negative log-likelihood of counts under a negative binomial, element by element.

    Mean :math:`\mu` and inverse dispersion :math:`\theta` (variance :math:`\mu + \mu^2 / \theta`), as in scVI
    (Lopez et al., 2018, eq. 1 of the supplement):

    .. math::
        -\log p(k) = \ln\Gamma(\theta) + \ln\Gamma(k+1) - \ln\Gamma(k+\theta)
            - \theta \ln\frac{\theta}{\theta+\mu} - k \ln\frac{\mu}{\theta+\mu}

    Parameters
    ----------
    counts
        Observed counts, ``(n, n_genes)``.
    mean
        Expected counts, ``(n, n_genes)``, above 0.
    log_dispersion
        :math:`\ln \theta`, ``(n_genes,)``.
    """
    theta = log_dispersion.exp()
    log_sum = torch.log(theta + mean)
    return (
        torch.lgamma(theta)
        + torch.lgamma(counts + 1)
        - torch.lgamma(counts + theta)
        - theta * (log_dispersion - log_sum)
        - counts * (torch.log(mean) - log_sum)
    )
