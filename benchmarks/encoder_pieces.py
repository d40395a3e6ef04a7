"""Encode patches on a CPU in pieces of a batch: time, memory, and whether the features stay the same.

    python benchmarks/encoder_pieces.py [--encoders NAME ...] [--threads 2] --out benchmarks/results/encoder_pieces.md

A batch of 64 patches of 224 px is encoded three times with 8, 16, 32 and 64 images at a time, each number in a process
of its own; the least wall-clock and CPU time counts. Memory is the largest resident set. The package takes 16.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENCODERS = ("efficientnet-lite0", "timm:resnet50@random", "timm:vit_small_patch16_224@random")
PIECES = (8, 16, 32, 64)
N_PATCHES, SIDE, REPEATS = 64, 224, 3


def measure(name: str, piece: int, threads: int) -> dict[str, Any]:
    """Encode one batch in this process."""
    import numpy as np
    import torch

    from nh2st_graph.im import _network, make_encoders

    torch.set_num_threads(threads)
    _network._AT_A_TIME = piece
    patches = np.random.default_rng(0).integers(0, 255, (N_PATCHES, SIDE, SIDE, 3), dtype=np.uint8)
    (encoder,) = make_encoders(name, "cpu")
    took = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        features = encoder.encode(patches)
        took.append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"took": [min(each) for each in zip(*took, strict=True)], "peak": peak, "features": features.tolist()}


def in_a_process(name: str, piece: int, threads: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name, str(piece), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(names: Sequence[str], threads: int) -> str:
    """Measure all, and format the table."""
    import numpy as np

    lines = [
        f"By `python benchmarks/encoder_pieces.py --threads {threads}`; {os.cpu_count()} cores, {threads} threads,",
        f"{N_PATCHES} patches of {SIDE} px. The difference is the largest to all at once.",
        "",
        "| encoder | at a time | s | CPU s | peak MB | times as fast as all at once | difference | largest |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        found = {piece: in_a_process(name, piece, threads) for piece in PIECES}
        whole = found[N_PATCHES]
        expected = np.array(whole["features"])
        for piece, each in found.items():
            (wall, cpu), off = each["took"], np.abs(np.array(each["features"]) - expected).max()
            lines.append(
                f"| {name} | {piece} | {wall:.2f} | {cpu:.2f} | {each['peak']:.0f} | {whole['took'][0] / wall:.2f} "
                f"| {off:.1g} | {np.abs(expected).max():.3g} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all encoders, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file of the table")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "PIECE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, piece = options.measure
        print(json.dumps(measure(name, int(piece), options.threads)))
        return
    found = table(options.encoders, options.threads)
    print(found)
    if options.out:
        options.out.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
