from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph.nn import SAGEBlock

WIDTH = 4


def _by_adjacency(block, h, edge_index, aggregation, self_loops):
    """The same by a dense adjacency: row i holds the senders of spot i."""
    adjacency = torch.zeros(len(h), len(h), dtype=h.dtype)
    adjacency[edge_index[1], edge_index[0]] = 1.0
    adjacency += torch.eye(len(h)) if self_loops else 0
    rows = []
    for senders in adjacency.bool():
        read = h[senders] if senders.any() else torch.zeros_like(h[:1])
        read = read.mean(dim=0) if aggregation == "mean" else read.amax(dim=0)
        active = torch.relu(block.conv.lin_l.weight @ read)
        rows.append(active / active.norm() if active.any() else active)
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("aggregation", ["mean", "max"])
@pytest.mark.parametrize("self_loops", [False, True])
def test_equals_a_dense_adjacency(drawn, graphs, aggregation, self_loops):
    block = drawn(SAGEBlock(WIDTH, aggregation, self_loops))

    @given(graphs)
    def check(graph):
        expected = _by_adjacency(block, graph.h, graph.edge_index, aggregation, self_loops)
        torch.testing.assert_close(block(graph.h, graph.edge_index), expected)

    check()


@torch.no_grad()
@given(seed=st.integers(0, 99))
def test_outputs_have_length_one_or_are_zero(drawn, graph_of, seed):
    graph = graph_of(4, [(0, 1), (1, 2), (2, 0)], seed)
    length = drawn(SAGEBlock(WIDTH), seed)(graph.h, graph.edge_index).norm(dim=1)
    assert float(length[3]) == 0
    assert all(abs(float(value) - 1) < 1e-9 or float(value) == 0 for value in length[:3])


@torch.no_grad()
def test_messages_go_from_sender_to_receiver_and_leave_the_spot_out(drawn, graph_of):
    block, graph = drawn(SAGEBlock(WIDTH)), graph_of(3, [(0, 1)])
    before = block(graph.h, graph.edge_index)
    moved = {}
    for spot in range(3):
        h = graph.h.clone()
        h[spot] = -h[spot]
        changed = (block(h, graph.edge_index) != before).any(dim=1)
        moved[spot] = changed.nonzero().flatten().tolist()
    assert moved == {0: [1], 1: [], 2: []}
