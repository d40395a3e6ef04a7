"""Values that become dense only where they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nh2st_graph.nn import Rows, blocks_of, dense


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.5, size=(30, 4)).astype(np.float64)


@given(st.lists(st.integers(0, 29), max_size=40), st.booleans(), st.booleans())
def test_rows_are_those_of_the_dense_array(index, as_sparse, scaled):
    values = np.random.default_rng(1).poisson(0.5, size=(30, 4)).astype(np.float64)
    values[:, 2] = 1.0
    mean, std = values.mean(axis=0), values.std(axis=0)
    scale = {"mean": mean, "std": std} if scaled else {}
    rows = Rows(sparse.csr_matrix(values) if as_sparse else values, **scale)
    expected = np.divide(values - mean, std, out=np.zeros_like(values), where=std > 0) if scaled else values
    wanted = np.array(index, dtype=np.int64)
    found = rows[torch.from_numpy(wanted)]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(expected[wanted].astype(np.float32)))


def test_some_of_the_spots_of_some(values):
    rows = Rows(values).take(np.array([5, 3, 20, 7])).take(torch.tensor([2, 0]))
    assert rows.shape == (2, 4)
    assert torch.equal(dense(rows), torch.from_numpy(values[[20, 5]]).float())


def test_blocks_are_all_rows_in_order(values):
    for each in (Rows(values), Rows(sparse.csr_matrix(values)), torch.from_numpy(values).float()):
        parts = list(blocks_of(each, 7))
        assert [len(part) for part in parts] == [7, 7, 7, 7, 2]
        assert torch.equal(torch.cat(parts), torch.from_numpy(values).float())


def test_a_memory_map_is_read_by_row(values, tmp_path):
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    rows = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert torch.equal(rows[torch.tensor([4, 4])], torch.from_numpy(values[[4, 4]]).float())


def test_a_map_is_the_same_after_its_pages_went_back(values, tmp_path, monkeypatch):
    monkeypatch.setattr("nh2st_graph.nn._rows._MOST_MAPPED", 100)
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    for mode in ("r", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            mapped[3] = 7  # in memory alone
        rows = Rows(mapped)
        for _ in range(3):
            assert torch.equal(dense(rows), torch.from_numpy(np.array(mapped)))


def test_bytes_stay_bytes():
    assert Rows(np.arange(6, dtype=np.uint8).reshape(3, 2))[torch.tensor([1])].dtype == torch.uint8
