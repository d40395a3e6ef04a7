"""Likelihoods of counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["negative_binomial_nll", "zero_inflated_negative_binomial_nll"]


def negative_binomial_nll(counts: Tensor, mean: Tensor, log_dispersion: Tensor) -> Tensor:
    r"""Compute the negative log-likelihood of counts under a negative binomial, element by element.

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
        :math:`\ln \theta` of each gene, ``(n_genes,)``, or of each count, ``(n, n_genes)``.

    Returns
    -------
    ``(n, n_genes)``.
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


def zero_inflated_negative_binomial_nll(
    counts: Tensor, mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
) -> Tensor:
    r"""Compute the negative log-likelihood of counts under a zero-inflated negative binomial, element by element.

    With probability :math:`\pi` a count is zero (a dropout), else it is drawn from the negative binomial :math:`p` of
    :func:`negative_binomial_nll`, as in scVI (Lopez et al., 2018):

    .. math:: p_0(k) = \pi\, [k = 0] + (1 - \pi)\, p(k), \qquad \pi = \operatorname{sigmoid}(l)

    Parameters
    ----------
    counts, mean, log_dispersion
        As in :func:`negative_binomial_nll`. The mean is that of counts that did not drop out.
    dropout_logits
        :math:`l`, ``(n, n_genes)`` or ``(n_genes,)``.

    Returns
    -------
    ``(n, n_genes)``.
    """
    kept = negative_binomial_nll(counts, mean, log_dispersion) - F.logsigmoid(-dropout_logits)
    return torch.where(counts == 0, -torch.logaddexp(F.logsigmoid(dropout_logits), -kept), kept)
