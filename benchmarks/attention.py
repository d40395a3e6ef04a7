"""Measure attention over the edges of a piece of tissue: PyG's gathered form, and one pass over sorted edges.

    python benchmarks/attention.py [--side 64] [--repeats 20]

A piece of ``side`` x ``side`` spots with a rim of one spot, eight neighbours and 64 numbers each, four heads, one
thread. Bytes are the least that must be moved, each array once: queries, keys, values, messages, and the weights of
edges; backward also the gradients. The share is of the bandwidth at which this machine copies 256 MB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import softmax

from nh2st_graph.nn._segments import segment_attention

WIDTH, HEADS = 64, 4


def bandwidth() -> float:
    """Copy, and give bytes read and written in a second."""
    source, target = np.ones(2**25), np.ones(2**25)
    return 2 * source.nbytes / median(lambda: np.copyto(target, source), 5)


def median(work: Callable[[], object], repeats: int) -> float:
    """Time some work after it was done once; seconds."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure both forms, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, outer = options.side, options.side + 2
    y, x = np.divmod(np.arange(side * side), side)
    steps = np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)])
    sender = torch.from_numpy(((y[:, None] + 1 + steps[:, 1]) * outer + x[:, None] + 1 + steps[:, 0]).ravel())
    receiver = torch.arange(side * side).repeat_interleave(8)
    start = torch.arange(side * side + 1) * 8
    shape = (HEADS, WIDTH // HEADS)
    query = torch.randn(side * side, *shape, requires_grad=True)
    key, value = (torch.randn(outer * outer, *shape, requires_grad=True) for _ in range(2))
    bias, kept = torch.randn(len(sender), HEADS, requires_grad=True), torch.ones(len(sender), HEADS)
    given, grad = (query, key, value, bias), torch.randn(side * side, *shape)

    def gathered() -> Tensor:
        logits = (query[receiver] * key[sender]).sum(dim=-1) / shape[1] ** 0.5 + bias
        weights = softmax(logits, receiver, num_nodes=side * side) * kept
        return torch.zeros_like(query).index_add(0, receiver, value[sender] * weights.unsqueeze(-1))

    def one_pass() -> Tensor:
        return segment_attention(query, key, value, bias, kept, sender, start)[0]

    rows = 4 * WIDTH * (2 * side * side + 2 * outer * outer)
    edges = len(sender) * (4 * HEADS * 3 + 8)
    forward, backward = rows + edges, 2 * rows + 2 * edges
    copied = bandwidth()
    print(f"{side} x {side} spots, one thread; copies run at {copied / 1e9:.1f} GB/s\n")
    print("| | forward, ms | share of bandwidth | both, ms | share |\n| --- | ---: | ---: | ---: | ---: |")
    for name, work in (("gathered by edge", gathered), ("one pass", one_pass)):
        alone = median(work, options.repeats)
        both = median(lambda work=work: torch.autograd.grad(work(), given, grad), options.repeats)  # type: ignore[misc]
        shares = forward / alone / copied, (forward + backward) / both / copied
        print(f"| {name} | {1e3 * alone:.2f} | {shares[0]:.0%} | {1e3 * both:.2f} | {shares[1]:.0%} |")


if __name__ == "__main__":
    main()
