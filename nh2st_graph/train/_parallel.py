"""Compute the losses of a batch's pieces on several threads, with the same numbers on any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.models import Network
from nh2st_graph.nn import drawing_from, on_threads

__all__ = ["losses_of_pieces"]


def losses_of_pieces(network: Network, pieces: Sequence[Data], threads: int) -> dict[str, Tensor]:
    """Compute the mean losses over the seeds of all pieces; the gradient of ``loss`` is ready with it.

    Each piece draws from a generator of its own, and gradients are added in the order of the pieces, so that the result
    is the same to the last bit on any number of threads.

    Parameters
    ----------
    network
        The network, in training. One whose layers draw from torch's own generator (:attr:`Network.threaded` is False)
        computes one piece after the other.
    pieces
        Parts of one section, with ``seeds``.
    threads
        Pieces that are computed at a time on the CPU.
    """
    sizes = torch.tensor([len(piece.seeds) for piece in pieces], dtype=torch.float64)
    shares = (sizes / sizes.sum()).tolist()
    if next(network.parameters()).device.type != "cpu":
        return _mean([network.losses(piece) for piece in pieces], shares)
    seeds = torch.randint(2**62, (len(pieces),)).tolist()
    weights = [weight for weight in network.parameters() if weight.requires_grad]

    def compute(k: int) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        with torch.enable_grad(), drawing_from(seeds[k]):
            losses = network.losses(pieces[k])
            gradients = torch.autograd.grad(losses["loss"] * shares[k], weights, allow_unused=True)
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    with torch.no_grad():
        done = on_threads(compute, range(len(pieces)), threads if network.threaded else 1)
    told = _mean([losses for losses, _ in done], shares)
    summed = [_sum(each) for each in zip(*(gradients for _, gradients in done), strict=True)]
    return {**told, "loss": _Ready.apply(told["loss"], summed, *weights)}


def _mean(losses: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for each in losses for name in each)
    return {name: sum(share * each[name] for share, each in zip(shares, losses, strict=True)) for name in names}  # type: ignore[misc]


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    there = [each for each in gradients if each is not None]
    return torch.stack(there).sum(dim=0) if there else None


class _Ready(torch.autograd.Function):
    """A loss whose gradient was computed with it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if each is None else each * grad for each in ctx.gradients))
