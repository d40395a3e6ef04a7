"""Train on sections of HER2ST with 1, 2 and 4 threads, and compare what they predict.

    python benchmarks/threads.py --data DIR [--cache DIR] [--threads 1 2 4] [--finetune]

For each number of threads a process trains NH2ST-Graph on C3 for a few epochs, twice, and predicts C4. With
``--finetune`` a small encoder is trained with it: its gradients are sums over all pixels, which threads share, so that
another number of threads rounds them otherwise, and every step carries that on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCHS = 5


def train(options: argparse.Namespace) -> None:
    """Train and predict in this process, and write the prediction."""
    import numpy as np

    import nh2st_graph as ng

    settings = {"max_epochs": EPOCHS, "threads": options.threads[0], "progress": False, "normalize": "panel"}
    settings |= {"panel": "hvg:250", "validation": "blocks", "cache": str(options.cache)}
    if options.finetune:
        settings |= {"encoder": "timm:test_resnet@random", "patch_um": 224, "finetune": True, "learning_rate": 1e-4}
    else:
        settings |= {"encoder": "handcrafted", "patch_um": 112}
    sections = ng.read.her2st(options.data / "her2st", ["C3", "C4"])
    model = ng.tl.fit([sections["C3"]], **settings)
    np.save(options.out, ng.tl.predict(sections["C4"], model).to_df().to_numpy())


def main() -> None:
    """Train with each number of threads, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with her2st/")
    parser.add_argument("--cache", type=Path, help="folder of cached features")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--finetune", action="store_true", help="train a small encoder too")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is not None:
        return train(options)
    import numpy as np

    found: dict[int, list[np.ndarray]] = {}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            for again in range(2):
                out = Path(folder) / f"{threads}_{again}.npy"
                cache = options.cache or Path(folder) / "cache"
                command = [sys.executable, __file__, "--data", str(options.data), "--cache", str(cache)]
                command += ["--threads", str(threads), "--out", str(out), *(["--finetune"] if options.finetune else [])]
                subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
                found.setdefault(threads, []).append(np.load(out))
    first = found[options.threads[0]][0]
    print(f"{EPOCHS} epochs on C3, prediction of C4 (log expression):\n")
    print(f"| threads | equal to the last bit, run again | largest difference to {options.threads[0]} |")
    print("| ---: | --- | ---: |")
    for threads, (one, other) in found.items():
        equal = "yes" if np.array_equal(one, other) else f"no: {np.abs(one - other).max():.1e}"
        print(f"| {threads} | {equal} | {np.abs(one - first).max():.1e} |")
    return None


if __name__ == "__main__":
    main()
