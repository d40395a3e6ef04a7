"""Time and memory of the contrast over many spots: InfoNCE, forward and backward.

Each number of spots has its own process. Peak memory is that above the embeddings and their gradients. All similarities
at once stand beside where they fit. Seconds are the median of three steps, or those of one from 100,000 spots on.

    python benchmarks/contrast.py [--spots 1000 10000 100000] [--threads 1]
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
import statistics
import subprocess
import sys
import time

WIDTH = 64


def dense(a, b, temperature):
    """All similarities at once."""
    import torch
    from torch.nn import functional as F

    logits, own = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature, torch.arange(len(a))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(form: str, n: int, threads: int) -> None:
    """Print seconds, peak memory in MB, loss, and the norm of the gradient."""
    import torch

    from nh2st_graph.nn import info_nce

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, WIDTH, generator=generator)
    b = a + torch.randn(n, WIDTH, generator=generator)
    a.requires_grad_()
    b.requires_grad_()
    loss_of = info_nce if form == "blocks" else dense
    # A first step loads what a library loads once.
    loss_of(a[:64], b[:64], 0.1).backward()
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    before, took = peak_mb(), []
    for _ in range(3 if n < 100_000 else 1):
        a.grad.zero_()
        b.grad.zero_()
        start = time.perf_counter()
        loss = loss_of(a, b, 0.1)
        loss.backward()
        took.append(time.perf_counter() - start)
    print(statistics.median(took), peak_mb() - before, float(loss.detach()), float(a.grad.norm()))


def run(form: str, n: int, threads: int) -> list[float]:
    command = [sys.executable, __file__, "--measure", form, "--spots", str(n), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dense-up-to", type=int, default=10_000, help="most spots of the dense form")
    parser.add_argument("--measure", choices=["blocks", "dense"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure, given.spots[0], given.threads)
        return
    print(f"{platform.processor() or platform.machine()}, {given.threads} thread(s), {WIDTH} dimensions, float32\n")
    head = ["spots", "seconds", "memory (MB)", "at once: seconds", "at once: memory (MB)"]
    head += ["difference of the loss", "of the gradient's norm"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    memory = []
    for n in given.spots:
        seconds, peak, loss, gradient = run("blocks", n, given.threads)
        memory.append(peak)
        row = [f"{n:,}", f"{seconds:.3g}", f"{peak:.0f}"]
        if n <= given.dense_up_to:
            dense_seconds, dense_peak, dense_loss, dense_gradient = run("dense", n, given.threads)
            row += [f"{dense_seconds:.3g}", f"{dense_peak:.0f}"]
            row += [f"{abs(loss - dense_loss) / dense_loss:.1e}", f"{abs(gradient / dense_gradient - 1):.1e}"]
        else:
            row += ["-"] * 4
        print(f"| {' | '.join(row)} |", flush=True)
    if len(memory) > 1:
        exponent = math.log(memory[-1] / memory[-2]) / math.log(given.spots[-1] / given.spots[-2])
        print(f"\nExponent of memory in the last step: {exponent:.2f}")


if __name__ == "__main__":
    main()
