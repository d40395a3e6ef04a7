from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nh2st_graph.nn import ArrayConvolution, WindowEncoder, array_window, read_window


def _array(n, seed=0, side=6):
    place = torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))[:n]
    return torch.stack([place % side, place // side], dim=1)


def _points(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 20), seed=st.integers(0, 99), reach=st.integers(0, 3), shift=st.integers(-50, 50))
def test_a_window_holds_the_spots_at_each_of_its_positions_row_by_row(n, seed, reach, shift):
    array = _array(n, seed) + shift
    centres = array[: n // 2 + 1]
    number = {tuple(position): i for i, position in enumerate(array.tolist())}
    steps = range(-reach, reach + 1)
    expected = [[number.get((x + dx, y + dy), -1) for dy in steps for dx in steps] for x, y in centres.tolist()]
    assert array_window(array, centres, 2 * reach + 1).tolist() == expected


def test_what_is_read_where_there_is_no_spot_is_zero():
    h = _points(3, 2)
    read = read_window(h, torch.tensor([[2, -1], [-1, 0]]))
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(read, torch.stack([torch.stack([h[2], zero]), torch.stack([zero, h[0]])]))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_convolution_is_the_dense_one_at_the_spots(kernel):
    array, h = _array(15), _points(15, 4)
    ours = ArrayConvolution(4, kernel).double()
    dense = nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=4).double()
    with torch.no_grad():
        dense.weight.copy_(ours.weight.reshape(4, 1, kernel, kernel))
        dense.bias.copy_(ours.bias)
    grid = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    grid[0, :, array[:, 1], array[:, 0]] = h.T
    expected = dense(grid)[0, :, array[:, 1], array[:, 0]].T
    torch.testing.assert_close(ours(h, array_window(array, array, kernel)), expected)


def test_biases_are_by_distance_in_either_direction(drawn):
    encoder = drawn(WindowEncoder(4, side=3, depth=1, heads=2, hidden=5))
    places = list(itertools.product(range(3), range(3)))
    apart = [[(abs(a - c), abs(b - d)) for c, d in places] for a, b in places]
    bias = [[[of_head[3 * dy + dx] for dy, dx in row] for row in apart] for of_head in encoder.biases[0].tolist()]
    h = _points(2, 9, 4)
    expected = encoder.norm(encoder.blocks[0](h, torch.tensor(bias, dtype=torch.float64)))
    torch.testing.assert_close(encoder(h, torch.ones(2, 9, dtype=torch.bool)), expected)


def test_places_that_are_absent_are_read_by_none(drawn):
    encoder = drawn(WindowEncoder(4, side=3, depth=2, heads=2, hidden=5))
    h, present = _points(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    present[0, [1, 7]] = False
    changed = h.clone()
    changed[0, [1, 7]] *= -1
    torch.testing.assert_close(encoder(changed, present)[present], encoder(h, present)[present])
    everywhere = torch.ones_like(present)
    assert not torch.allclose(encoder(changed, everywhere)[0, 0], encoder(h, everywhere)[0, 0])
