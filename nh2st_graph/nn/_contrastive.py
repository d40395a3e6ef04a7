"""Contrastive loss between two modalities, its levels without alignment, and retrieval as a measure of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nh2st_graph.nn._retrieval import AT_ONCE, partner_rank, rank_of

__all__ = ["chance_level", "collapse_level", "info_nce", "info_nce_and_ranks", "retrieval_at_k"]

#: Anchors and candidates of a tile, whose logits stay in a core's cache.
_TILE = 1024


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    symmetric: bool = True,
    negative_weight: float = 1.0,
    anchors: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    r"""Compute InfoNCE: row ``i`` of ``b`` is the partner of row ``i`` of ``a``, and other rows are negatives.

    For anchors :math:`A` and the negatives :math:`N_i` of anchor :math:`i` (all spots but itself and excluded ones),

    .. math::
        L(a, b) = -\frac{1}{|A|} \sum_{i \in A}
            \log \frac{e^{s_{ii}/\tau}}{e^{s_{ii}/\tau} + \sum_{j \in N_i} e^{w s_{ij}/\tau}}, \qquad
        s_{ij} = \cos(a_i, b_j)

    which is van den Oord et al. (2018, eq. 4) with a weight :math:`w` on the negatives' logits. By default :math:`w` is
    1 and the result is the mean of :math:`L(a, b)` and :math:`L(b, a)`, as in CLIP (Radford et al., 2021). NH2ST (Qu et
    al., 2025) has :math:`L(a, b)` with :math:`\tau = 0.05` and :math:`w = 0.1`, image embeddings as ``a`` and the
    batch as candidates.

    Many spots are compared in blocks, forward and backward, so that memory is linear in their number. The result is
    that of all similarities at once.

    Parameters
    ----------
    a, b
        Embeddings of the same spots in two modalities, ``(n, width)``: the candidates, in a batch or a section.
    temperature
        :math:`\tau`; a scalar tensor if it is learned.
    symmetric
        Average both directions; otherwise rows of ``a`` look for their partner in ``b`` only.
    negative_weight
        :math:`w`. Below 1, embeddings that are all alike have a low loss; see :func:`collapse_level`.
    anchors
        Indices of the spots whose partner is looked for, ``(n_anchors,)``, among all ``n``; by default all.
    excluded
        Pairs of spots that are no negatives of each other, ``(2, n_pairs)``, in either order, such as the edges of a
        graph. A spot always keeps its own partner.

    Returns
    -------
    A scalar; 0 for an anchor without negatives. Compare it with :func:`chance_level` and :func:`collapse_level`.

    Raises
    ------
    ValueError
        If ``a`` and ``b`` have different shapes.
    """
    form = _form(a, b, symmetric, negative_weight, anchors, excluded)
    return _loss_and_similarity(a, b, temperature, form)[0]


def info_nce_and_ranks(
    a: Tensor,
    b: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    symmetric: bool = True,
    negative_weight: float = 1.0,
    anchors: Tensor | None = None,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`info_nce`, and from the same similarities the rank of each anchor's partner.

    Parameters
    ----------
    a, b, temperature, symmetric, negative_weight, anchors, excluded
        As in :func:`info_nce`.

    Returns
    -------
    The loss, and the ranks of the anchors' partners among all rows of ``b``, ``(n_anchors,)`` int64 without gradient;
    see :func:`~nh2st_graph.nn.partner_rank`.
    """
    form = _form(a, b, symmetric, negative_weight, anchors, excluded)
    loss, similarity = _loss_and_similarity(a, b, temperature, form)
    if similarity is None:
        return loss, partner_rank(a[form.anchors], b, form.anchors)
    return loss, rank_of(similarity.detach(), form.anchors)


class _Barred(NamedTuple):
    """Candidates that are no negatives, by spot: those of spot i are ``others[start[i]:start[i + 1]]``."""

    start: Tensor
    others: Tensor

    def counts(self, spots: Tensor) -> Tensor:
        """Count the candidates that are barred for each of some spots."""
        return self.start[spots + 1] - self.start[spots]

    def places(self, spots: Tensor) -> tuple[Tensor, Tensor]:
        """Give rows and columns of what is barred in a matrix of some spots and all candidates."""
        counts = self.counts(spots)
        row = torch.arange(len(spots), device=spots.device).repeat_interleave(counts)
        first = self.start[spots] - (counts.cumsum(0) - counts)
        return row, self.others[torch.arange(len(row), device=spots.device) + first[row]]


def _barred(n: int, excluded: Tensor) -> _Barred:
    """Sort excluded pairs, in both orders and each once; a spot is never barred from itself."""
    first, second = torch.cat([excluded, excluded.flip(0)], dim=1)
    pairs = (first * n + second)[first != second].unique()
    start = torch.searchsorted(pairs, torch.arange(n + 1, device=pairs.device) * n)
    return _Barred(start, pairs % n)


class _Form(NamedTuple):
    """The form of the loss: anchors (whether they are all spots), directions, weight of negatives, pairs without."""

    anchors: Tensor
    every: bool
    symmetric: bool
    negative_weight: float
    barred: _Barred | None

    def logits(self, similarity: Tensor, temperature: float | Tensor, first: int = 0) -> Tensor:
        """Give the logits of the anchors' candidates from ``first`` on, ``(n_anchors, n_columns)``."""
        logits = similarity / temperature
        if self.negative_weight != 1:
            own = _within(torch.arange(len(logits), device=logits.device), self.anchors, first, logits.shape[1])
            logits = (self.negative_weight * logits).index_put(own, logits[own])
        if self.barred is not None:
            barred = _within(*self.barred.places(self.anchors), first, logits.shape[1])
            logits = logits.index_put(barred, logits.new_tensor(-math.inf))
        return logits

    def tiles(self, n: int) -> Iterator[tuple[slice, slice, _Form]]:
        """Cut the matrix of anchors and candidates into tiles; give rows, columns and the form of the rows."""
        for row in range(0, len(self.anchors), _TILE):
            rows = slice(row, row + _TILE)
            some = self._replace(anchors=self.anchors[rows])
            for column in range(0, n, _TILE):
                yield rows, slice(column, column + _TILE), some


def _form(
    a: Tensor,
    b: Tensor,
    symmetric: bool,
    negative_weight: float,
    anchors: Tensor | None,
    excluded: Tensor | None,
) -> _Form:
    if a.shape != b.shape:
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} differ in shape; give embeddings of the same spots"
        )
    own = torch.arange(len(a), device=a.device) if anchors is None else anchors
    barred = None if excluded is None else _barred(len(a), excluded)
    return _Form(own, anchors is None, symmetric, negative_weight, barred)


def _within(row: Tensor, column: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Take the places in some columns of a matrix."""
    inside = (column >= first) & (column < first + width)
    return row[inside], column[inside] - first


def _loss_and_similarity(
    a: Tensor, b: Tensor, temperature: float | Tensor, form: _Form
) -> tuple[Tensor, Tensor | None]:
    """Compute the loss, and the similarities of anchors and candidates if they are few enough to be held."""
    if len(form.anchors) * len(a) > AT_ONCE:
        return _loss_in_tiles(F.normalize(a, dim=-1), F.normalize(b, dim=-1), temperature, form), None

    def loss(similarity: Tensor) -> Tensor:
        return F.cross_entropy(form.logits(similarity, temperature), form.anchors)

    similarity = _similarity(a if form.every else a[form.anchors], b)
    if not form.symmetric:
        return loss(similarity), similarity
    back = similarity.T if form.every else _similarity(b[form.anchors], a)
    return (loss(similarity) + loss(back)) / 2, similarity


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def _loss_in_tiles(a: Tensor, b: Tensor, temperature: float | Tensor, form: _Form) -> Tensor:
    """Compute the loss of normalised embeddings, in single precision or more."""
    exact = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(exact), b.to(exact)
    warm = torch.as_tensor(temperature, device=a.device).to(exact)
    # Mixed precision would round logits to three digits.
    with torch.autocast(a.device.type, enabled=False):
        rows = a[form.anchors]
        partners = (rows * b[form.anchors]).sum(dim=1) / warm
        if form.every:
            sums = _Sums.apply(a, b, warm, form, form.symmetric)
            loss = sums / (2 if form.symmetric else 1) - partners.sum()
        else:
            loss = _Sums.apply(rows, b, warm, form, False) - partners.sum()
            if form.symmetric:
                back = _Sums.apply(b[form.anchors], a, warm, form, False) - partners.sum()
                loss = (loss + back) / 2
        return loss / len(form.anchors)


class _Sums(torch.autograd.Function):
    """Sum the log-sum-exp of the logits of all rows, and with ``both`` also of all columns, a tile at a time.

    Only these of every row and column are kept between the two passes: with them the gradient of a tile is known, and
    backward computes each tile again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, b: Tensor, temperature: Tensor, form: _Form, both: bool) -> Tensor:
        across, down = (one.new_full((len(one),), -math.inf) for one in (rows, b))
        for part, columns, some in form.tiles(len(b)):
            logits = some.logits(rows[part] @ b[columns].T, temperature, columns.start)
            across[part] = torch.logaddexp(across[part], logits.logsumexp(dim=1))
            if both:
                down[columns] = torch.logaddexp(down[columns], logits.logsumexp(dim=0))
        ctx.save_for_backward(rows, b, temperature, across, down)
        ctx.form, ctx.both = form, both
        return across.sum() + down.sum() if both else across.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, b, temperature, across, down = ctx.saved_tensors
        of_rows, of_b, of_temperature = (torch.zeros_like(each) for each in (rows, b, temperature))
        warm = temperature.detach().requires_grad_(ctx.needs_input_grad[2])
        for part, columns, some in ctx.form.tiles(len(b)):
            similarity = (rows[part] @ b[columns].T).requires_grad_()
            with torch.enable_grad():
                logits = some.logits(similarity, warm, columns.start)
            values = logits.detach()
            of_logits = (values - across[part].unsqueeze(1)).exp_()
            if ctx.both:
                of_logits += (values - down[columns]).exp_()
            found = torch.autograd.grad(logits, [similarity, warm] if warm.requires_grad else [similarity], of_logits)
            of_rows[part] += found[0] @ b[columns]
            of_b[columns] += found[0].T @ rows[part]
            if warm.requires_grad:
                of_temperature += found[1]
        return grad * of_rows, grad * of_b, grad * of_temperature, None, None


def _n_negatives(n_candidates: int, anchors: Tensor | None, excluded: Tensor | None) -> Tensor:
    """Count the negatives of each anchor; one number for all if nothing is excluded."""
    if excluded is None:
        return torch.tensor([n_candidates - 1.0], dtype=torch.float64)
    own = torch.arange(n_candidates, device=excluded.device) if anchors is None else anchors
    return (n_candidates - 1 - _barred(n_candidates, excluded).counts(own)).double()


def chance_level(n_candidates: int, *, anchors: Tensor | None = None, excluded: Tensor | None = None) -> float:
    r"""Compute InfoNCE of similarities that are all 0: ``ln(n_candidates)``, the loss of a model that knows nothing.

    It does not depend on the temperature or on ``negative_weight``. Independent embeddings whose cosines are 0 on
    average have this loss or more, since the loss is convex in the similarities; it is close to this level if cosines
    are small against the temperature. With a ``negative_weight`` below 1, embeddings without any alignment can have a
    lower loss by being alike; :func:`collapse_level` is their lower bound on average.

    Parameters
    ----------
    n_candidates
        Number of candidates, including the partner; 1 gives 0.
    anchors, excluded
        As in :func:`info_nce`. With excluded pairs, the result is the mean over anchors of the log number of
        candidates.
    """
    if excluded is None:
        return math.log(n_candidates)
    return float(_n_negatives(n_candidates, anchors, excluded).log1p().mean())


def collapse_level(
    n_candidates: int,
    temperature: float = 0.1,
    *,
    negative_weight: float = 1.0,
    anchors: Tensor | None = None,
    excluded: Tensor | None = None,
) -> float:
    r"""Compute InfoNCE of embeddings that are all equal: the lowest loss of embeddings that do not distinguish spots.

    .. math:: \ln\left(1 + (n - 1)\, e^{-(1 - w) / \tau}\right)

    for :math:`n` candidates. If partners are no more alike than other pairs, with a mean cosine :math:`\bar s`, the
    mean loss is at least :math:`\ln(1 + (n - 1) e^{-(1 - w) \bar s / \tau})` (Jensen's inequality), which is this level
    at :math:`\bar s = 1`. At :math:`w = 1` it is :func:`chance_level`. With the published :math:`w = 0.1` and
    :math:`\tau = 0.05` it is 1e-7 for a batch of eight: a loss near 0 then shows no alignment.

    Parameters
    ----------
    n_candidates, temperature, negative_weight, anchors, excluded
        As in :func:`info_nce` and :func:`chance_level`.
    """
    negatives = _n_negatives(n_candidates, anchors, excluded)
    return float((negatives * math.exp((negative_weight - 1) / temperature)).log1p().mean())


@torch.no_grad()
def retrieval_at_k(a: Tensor, b: Tensor, k: int = 10) -> float:
    """Compute the share of rows of ``a`` whose partner is among the ``k`` nearest rows of ``b`` (cosine).

    Chance is ``k / n``. Ties and NaN count as misses, so that embeddings that are all equal, or broken, retrieve
    nothing among more than ``k``.
    """
    return float((partner_rank(a, b) <= k).float().mean())
