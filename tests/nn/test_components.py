"""Components of many spots against the singular value decomposition of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import sparse

from nh2st_graph.nn import ComponentDecoder, Rows, components


def make_targets(seed: int, sizes: tuple[int, ...], n_genes: int, rank: int, mean: float = 3.0) -> list[torch.Tensor]:
    """Expression of a few programmes, with an offset for each section."""
    rng = np.random.default_rng(seed)
    programmes = rng.normal(size=(rank, n_genes))
    parts = [rng.normal(size=(n, rank)) * 2.0 ** -np.arange(rank) @ programmes for n in sizes]
    return [torch.from_numpy(each + mean + i).float() for i, each in enumerate(parts)]


def projector(loadings: torch.Tensor) -> torch.Tensor:
    return loadings.T @ loadings


def agree(few, many) -> None:
    torch.testing.assert_close(many.mean, few.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(many.singular, few.singular, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(projector(many.loadings), projector(few.loadings), rtol=0, atol=1e-5)
    torch.testing.assert_close(many.loadings, few.loadings, rtol=0, atol=1e-5)


@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    n_genes=st.integers(2, 9),
    rank=st.integers(1, 9),
    apart=st.booleans(),
    weighted=st.booleans(),
    n_components=st.integers(1, 10),
)
def test_the_gram_matrix_gives_the_singular_vectors(seed, sizes, n_genes, rank, apart, weighted, n_components):
    targets = make_targets(seed, tuple(sizes), n_genes, min(rank, n_genes))
    draw = torch.Generator().manual_seed(seed)
    weights = [0.5 + torch.rand(len(each), generator=draw).double() for each in targets] if weighted else None
    few, all_of_them = (
        components(targets, k, apart=apart, weights=weights, large=10**9) for k in (n_components, n_genes)
    )
    many = components(targets, n_components, apart=apart, weights=weights, large=0)
    # Of equal singular values, any rotation is as good; and rounding to float32 adds some of no size.
    singular = torch.cat([all_of_them.singular, torch.zeros(1)])
    assume(bool((singular[:-1] - singular[1:] > 1e-4 * singular[0]).all()))
    agree(few, many)


@pytest.mark.parametrize("large", [0, 10**9])
def test_a_lower_rank_gives_fewer_components(large):
    (targets,) = make_targets(0, (40,), 8, 3)
    exact = targets.double()
    low = (exact - exact.mean(dim=0)) @ projector(torch.linalg.svd(exact - exact.mean(dim=0))[2][:2]) + 1
    assert len(components([low], 8, large=large).loadings) == 2
    assert len(components([torch.full((40, 8), 0.1)], 8, large=large).loadings) == 0
    assert len(components([low[:1]], 8, large=large).loadings) == 0


def test_what_the_gram_matrix_cannot_tell_from_rounding_is_left_out():
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.normal(size=(50, 3)) * [1.0, 1e-5, 1e-9])
    assert len(components([targets], 3, large=10**9).loadings) == 2
    assert len(components([targets * torch.tensor([1, 1, 1e3])], 3, large=10**9).loadings) == 3
    assert len(components([targets], 3, large=0).loadings) == 2


def test_a_large_mean_takes_nothing_from_the_gram_matrix():
    targets = [each.double() for each in make_targets(1, (30, 25), 6, 4, mean=1e5)]
    for apart in (False, True):
        agree(*(components(targets, 4, apart=apart, large=large) for large in (10**9, 0)))


def test_a_sparse_matrix_is_read_in_blocks_of_spots(monkeypatch):
    values = sparse.random(90, 6, 0.3, format="csr", dtype=np.float32, random_state=0)
    dense = torch.from_numpy(values.toarray())
    expected = components([dense], 4, large=10**9)
    monkeypatch.setattr("nh2st_graph.nn._components._ROWS", 20)
    agree(expected, components([Rows(values)], 4, large=0))
    agree(expected, components([Rows(values, np.arange(40)), dense[40:]], 4, large=0))


def test_a_decoder_of_many_spots_is_that_of_few(monkeypatch):
    targets = make_targets(2, (40, 30), 7, 5)
    decoders = [ComponentDecoder(4, 1, 7, 3) for _ in range(3)]
    decoders[0].set_targets(torch.cat(targets))
    decoders[1].set_targets(*targets)
    monkeypatch.setattr("nh2st_graph.nn._decoder.LARGE", 10)
    monkeypatch.setattr("nh2st_graph.nn._decoder.components", lambda parts, k: components(parts, k, large=10))
    decoders[2].set_targets(*(Rows(each.numpy()) for each in targets))
    for name in ("mean", "loadings", "scale", "total_variance"):
        few, *others = (getattr(each, name) for each in decoders)
        assert torch.equal(others[0], few)
        torch.testing.assert_close(others[1], few, rtol=1e-5, atol=1e-6)
