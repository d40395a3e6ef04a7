from __future__ import annotations

import pytest
import torch

from nh2st_graph.nn._shifted import solve_shifted


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (5, 5), (255, 9), (256, 256), (300, 400), (300, 20)])
def test_equals_one_solution_after_the_other(n, rank):
    generator = torch.Generator().manual_seed(n)
    root = torch.randn(n, rank, generator=generator).double()
    matrix, wanted = root @ root.T, torch.randn(n, 3, generator=generator).double()
    given = matrix.clone(), wanted.clone()
    shifts = [0.01, 1.0, 300.0]
    found = solve_shifted(matrix, wanted, shifts)
    for each, shift in zip(found, shifts, strict=True):
        expected = torch.linalg.solve(matrix + shift * torch.eye(n).double(), wanted)
        torch.testing.assert_close(each, expected, rtol=1e-8, atol=1e-8)
    assert torch.equal(matrix, given[0])
    assert torch.equal(wanted, given[1])


def test_a_shift_within_rounding_is_no_error():
    root = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).double()
    matrix = root @ root.T
    found = solve_shifted(matrix, root[:, :1], [1e-18, 1.0])
    expected = torch.linalg.solve(matrix + torch.eye(300).double(), root[:, :1])
    torch.testing.assert_close(found[1], expected)
