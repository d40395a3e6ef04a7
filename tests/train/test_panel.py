"""Panels of sections where little was counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from nh2st_graph import DataError
from nh2st_graph.config import DataConfig
from nh2st_graph.train import choose_panel


def counted(name: str, n_genes: int, *, zero: bool = False, only: int | None = None) -> AnnData:
    rng = np.random.default_rng(len(name))
    counts = rng.poisson(np.linspace(1, 9, n_genes), (30, n_genes)) * (not zero)
    if only is not None:
        counts[:, np.arange(n_genes) != only] = 0
    obs = pd.DataFrame({"section": pd.Categorical([name] * 30)}, index=[f"{name}-{i}" for i in range(30)])
    var = pd.DataFrame(index=[f"g{i:02d}" for i in range(n_genes)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def panel(n: int, *sections: AnnData) -> list[str]:
    train = {str(each.obs["section"].iloc[0]): each for each in sections}
    return choose_panel(train, {}, DataConfig(panel=f"hvg:{n}", train=tuple(train)))


def test_an_all_zero_section_has_no_say(caplog):
    one = counted("A", 20)
    with caplog.at_level("WARNING"):
        assert panel(5, one, counted("BB", 20, zero=True), counted("CCC", 20, only=3)) == panel(5, one)
    assert "BB, CCC: counts of fewer than two genes" in caplog.text


@pytest.mark.parametrize("n", [1, 2, 19])
def test_few_genes(n):
    assert len(panel(n, counted("A", 20), counted("BB", 20))) == n


@pytest.mark.parametrize("n_genes", [1, 2])
def test_all_genes_of_few(n_genes):
    assert panel(5, counted("A", n_genes)) == [f"g{i:02d}" for i in range(n_genes)]


def test_nothing_was_counted():
    with pytest.raises(DataError, match="no gene has counts in the training sections A"):
        panel(5, counted("A", 20, zero=True))


def test_no_section_has_two_genes():
    with pytest.raises(DataError, match=r"panel hvg:1: no training section \(A, BB\) has counts of two genes or more"):
        panel(1, counted("A", 20, only=2), counted("BB", 20, only=5))
