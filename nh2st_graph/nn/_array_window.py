"""Windows of the array around spots: the spots in them, a transformer over them, and a convolution over the array."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nh2st_graph.nn._token_block import TokenBlock

__all__ = ["ArrayConvolution", "WindowEncoder", "array_window", "read_window"]


def array_window(array: Tensor, centres: Tensor, side: int) -> Tensor:
    """Find the spots in a square of array positions around each centre.

    Parameters
    ----------
    array
        Array positions of all spots, ``(n_spots, 2)`` int64, x then y; no position occurs twice.
    centres
        Positions of some of them, ``(n, 2)``.
    side
        Side of the square; odd.

    Returns
    -------
    Indices of the spots, ``(n, side * side)`` int64, row by row; -1 where there is none.
    """
    reach = side // 2
    steps = torch.arange(-reach, reach + 1, device=array.device)
    square = torch.cartesian_prod(steps, steps).flip(1)
    # Positions within reach of a spot are numbered row by row, so that spots are found by bisection.
    corner, length = array.amin(dim=0) - reach, array[:, 0].max() - array[:, 0].min() + side
    known, order = _numbered(array - corner, length).sort()
    wanted = _numbered(centres.unsqueeze(1) + square - corner, length)
    place = torch.searchsorted(known, wanted).clamp_max(len(known) - 1)
    return torch.where(known[place] == wanted, order[place], -1)


def read_window(h: Tensor, window: Tensor) -> Tensor:
    """Gather the embeddings of the spots of each window; zero where there is none.

    Parameters
    ----------
    h
        Embeddings of all spots, ``(n_spots, width)``.
    window
        From :func:`array_window`, ``(n, n_places)``.

    Returns
    -------
    ``(n, n_places, width)``.
    """
    return torch.cat([h, h.new_zeros(1, h.shape[1])])[window]  # -1 is the last row


class WindowEncoder(nn.Module):
    """A transformer over the places of a window, with a bias for the distance of two places in either direction.

    Each block and head has its own biases. They start at zero, and do not distinguish left from right or up from down
    (as in LeViT, Graham et al., 2021).

    Parameters
    ----------
    width
        Size of embeddings; divided by ``heads``.
    side
        Places of a row and of a column.
    depth, heads, hidden, dropout
        Number of blocks; heads, hidden units and dropout of each block.

    Shapes
    ------
    - **input:** ``(n, side * side, width)``, and a mask of the places with a spot, bool, ``(n, side * side)``; other
      places are not read
    - **output:** ``(n, side * side, width)``
    """

    def __init__(self, width: int, side: int, depth: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.side = side
        self.blocks = nn.ModuleList(TokenBlock(width, heads, width // heads, hidden, dropout) for _ in range(depth))
        self.biases = nn.Parameter(torch.zeros(depth, heads, side * side))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, present: Tensor) -> Tensor:
        """Let the places of each window read each other. See the class for shapes."""
        # Not a buffer, since a moving average of the weights would average its integers.
        line = torch.arange(self.side, device=h.device)
        places = torch.cartesian_prod(line, line)
        rows, columns = (places.unsqueeze(1) - places).abs().unbind(dim=-1)
        hidden_keys = ~present[:, None, None]
        for block, biases in zip(self.blocks, self.biases, strict=True):
            h = block(h, biases[:, rows * self.side + columns].masked_fill(hidden_keys, -torch.inf))
        encoded: Tensor = self.norm(h)
        return encoded


class ArrayConvolution(nn.Module):
    """Positions by a depthwise convolution over the array (APEG in the paper, PEGH in the first code).

    The same as a dense convolution (``torch.nn.Conv2d``, one group for each channel) with zeros between spots, but
    computed at the spots alone.

    Parameters
    ----------
    width
        Number of channels.
    kernel
        Side of the kernel.

    Shapes
    ------
    - **input:** ``(n, width)``, and the spots under the kernel, ``(n, kernel * kernel)``, from :func:`array_window`
    - **output:** ``(n, width)``
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, kernel * kernel).uniform_(-1 / kernel, 1 / kernel))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-1 / kernel, 1 / kernel))

    def forward(self, h: Tensor, window: Tensor) -> Tensor:
        """Convolve. See the class for shapes."""
        return torch.einsum("nkd,dk->nd", read_window(h, window), self.weight) + self.bias


def _numbered(position: Tensor, length: Tensor) -> Tensor:
    return position[..., 1] * length + position[..., 0]
