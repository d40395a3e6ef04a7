"""Score small tasks with HEST-Benchmark's own public code, and keep its numbers: ``hest.json``.

    python tests/golden/make_hest.py HEST/src tests/golden/hest.json [TASK_FOLDER EMBEDDINGS_FOLDER ...]

``HEST/src`` is the folder ``src`` of a checkout of mahmoodlab/HEST (afd42c3). Its code runs as it is; modules that it
imports to download, to log and to encode, and does not need where embeddings exist, are replaced by empty ones. The
first task is that of ``tests/hest_bench.py``; others may be named, each with its embeddings.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hest_bench import LARGER, write_task

#: Modules of the public code's imports that scoring does not use.
_EMPTY = (
    "hestcore", "hestcore.segmentation", "hestcore.datasets", "loguru", "huggingface_hub",
    "hest.bench.cpath_model_zoo", "hest.bench.cpath_model_zoo.inference_models",
)  # fmt: skip


def public_code(source: Path) -> Any:
    """Import the public benchmark."""
    for name in _EMPTY:
        sys.modules[name] = MagicMock()
    for name in ("hest", "hest.bench"):  # without their own imports of everything
        package = ModuleType(name)
        package.__path__ = [str(source / name.replace(".", "/"))]
        sys.modules[name] = package
    from hest.bench import benchmark

    benchmark.get_path = lambda path: path
    benchmark.get_bench_weights = lambda root, name: ""
    return benchmark


def score(benchmark: Any, task: Path, embeddings: Path, out: Path) -> dict[str, Any]:
    """Score one task, and give its numbers."""
    args = Namespace(**asdict(benchmark.BenchmarkConfig()))
    args.bench_data_root, args.embed_dataroot = str(task.parent), str(out / "embeddings")
    shutil.copytree(embeddings, out / "embeddings" / task.name / "encoder")
    benchmark.set_seed(args.seed)
    _, mean = benchmark.benchmark_grid(args, "cpu", ["encoder"], [task.name], str(out / "results"))
    found = json.loads((out / "results" / task.name / "encoder" / "results_kfold.json").read_text())
    return {
        "mean": mean["encoder"],
        "std": found["pearson_std"],
        "folds": found["mean_per_split"],
        "genes": {each["name"]: each["pearson_corrs"] for each in found["pearson_corrs"]},
    }


def main(source: str, target: str, *tasks: str) -> None:
    """Score the tasks, and write their numbers."""
    benchmark, numbers = public_code(Path(source)), {}
    with tempfile.TemporaryDirectory() as folder:
        small = write_task(Path(folder) / "task" / "COAD", LARGER)
        given = [(small, small / "embeddings"), *zip(map(Path, tasks[::2]), map(Path, tasks[1::2]), strict=True)]
        for number, (task, embeddings) in enumerate(given):
            name = "small" if number == 0 else task.name
            numbers[name] = score(benchmark, task, embeddings, Path(folder) / str(number))
    Path(target).write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
