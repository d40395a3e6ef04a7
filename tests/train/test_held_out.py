"""What is said before training of genes that cannot be judged."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from nh2st_graph.train._held_out import say_rarely_detected


def test_a_panel_of_rare_genes_is_said_in_one_line(caplog):
    counts = torch.zeros(30, 3)
    counts[:20, 0] = counts[:5, 1] = 2.0
    graphs = [Data(counts=counts, num_nodes=30)] * 2
    say_rarely_detected(["A", "B", "C"], graphs, "genes.txt")
    assert "1 of 3 genes of the panel are detected in fewer than 10 training spots" in caplog.text, "B has ten in both"
    assert "rare they are" not in caplog.text
    caplog.clear()
    say_rarely_detected(["A", "B", "C"], graphs, "hvg:3")
    (record,) = caplog.records
    assert "hvg:3 takes the genes that vary most, however rare they are" in record.getMessage()
    assert "'panel'" in record.getMessage()
    caplog.clear()
    say_rarely_detected(["A"], [Data(counts=counts[:, :1], num_nodes=30)], "hvg:1")
    assert not caplog.records
