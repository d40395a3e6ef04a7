"""Check that a change of the code changes no number: measure before and after it, then compare.

    python benchmarks/house.py measure before.json.gz --data DIR
    python benchmarks/house.py compare before.json.gz after.json.gz --out comparison.md

``measure`` runs the command line of the checkout in the current folder, with the Python that runs this script:

- the demo;
- ``configs/her2st_mini.yaml`` on C3 to C6, each section predicted from the other three;
- a small benchmark on sections of two patients: baselines, NH2ST-Graph and published networks, two seeds;
- a small ablation on synthetic tissue: a variant for each kind of switch, two seeds.

``DIR`` holds ``her2st/`` (the repository almaan/her2st) and ``gene_panels/her_hvg_cut_1000.txt``. All scores, training
losses and predictions go into one file, without wall-clock times and memory. Long columns are stored as a digest and a
mean. ``compare`` lists what differs, and its exit code is 1 if anything does.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

SECTIONS = ("C3", "C4", "C5", "C6")

#: Old names and their new ones, in keys and in the ``role`` column of tables.
RENAMED = {
    "floors": "baselines",
    "floors_chosen": "baselines_chosen",
    "floor": "baseline",
    "pcc_mean_floor": "pcc_mean_baseline",
    "pcc_partial_floor": "pcc_partial_baseline",
}

#: Keys and columns that differ between two runs of the same code, or that are no result.
SKIPPED = {"seconds", "fit_seconds", "predict_seconds", "peak_memory_mb", "version"}

#: Columns that say what the row of a table is about.
ROW = ("split", "variant", "method", "fold", "section", "seed", "gene", "stage", "epoch")

#: Settings of every run. They change no number.
QUIET = ("train.progress=false", "evaluate.figures=false")

#: Methods of the small benchmark. No key here is one that has been renamed.
METHODS: dict[str, dict[str, Any]] = {
    "training mean": {"model.name": "mean"},
    "mean colour + ridge": {"model.name": "ridge", "features.encoder": "pixels:1"},
    "ridge": {"model.name": "ridge"},
    "ridge with neighbours": {"model.name": "ridge_neighbours"},
    "PCA and ridge": {"model.name": "pca_ridge"},
    "nearest spots": {"model.name": "knn"},
    "random forest": {"model": {"name": "random_forest", "trees": 10}},
    "NH2ST-Graph": {},
    "NH2ST": {
        "graph": {"mode": "knn", "n_neighs": 8},
        "features.standardize": "train",
        "model": {
            "embedding": "linear",
            "operator": "hypergraph_ego",
            "edge_features": "none",
            "cross_attention": "single",
            "contrast_on": "attended",
            "symmetric": False,
            "projection": False,
            "decoder": "linear",
            "decoder_input": "query",
        },
    },
    "HisToGene": {
        "features": {"encoder": "pixels:16", "patch_um": 77, "standardize": "none"},
        "model": {"name": "histogene", "width": 32, "depth": 1, "heads": 2, "head_width": 16},
    },
    "ST-Net": {"model.name": "stnet"},
    "BLEEP": {"model": {"name": "bleep", "width": 64}},
    "EGGN": {"model": {"name": "eggn", "width": 128, "depth": 2}},
    "TRIPLEX": {
        "model": {"name": "triplex", "target_tokens": 1, "width": 64, "depth_global": 2, "depth_neighbours": 1},
    },
}

BENCHMARK: dict[str, Any] = {
    "set": {"data.panel": "hvg:100", "train.max_epochs": 6, "train.folds": 2},
    "methods": METHODS,
    "splits": {
        "within": {"train": ["C3", "C4"], "test": ["C5"]},
        "across": {"train": ["C3", "C4"], "test": ["B4"]},
    },
    "seeds": [0, 1],
}

#: Variants of the small ablation, one or two of each study in ``configs/ablations``.
VARIANTS: dict[str, dict[str, Any]] = {
    "no neighbour branch": {"model.neighbours": False},
    "no gene side at all": {"model.contrast": "none", "model.cross_attention": "none"},
    "linear embedding": {"model.embedding": "linear"},
    "no components": {"model.decoder": "mlp"},
    "GATv2": {"model.operator": "gatv2"},
    "hypergraph, two hops": {"model": {"operator": "hypergraph", "edge_features": "none", "hops": 2}},
    "8 nearest spots": {"graph": {"mode": "knn", "n_neighs": 8}},
    "random neighbours": {"graph.mode": "random"},
    "negatives of the section": {"model.negatives": "section"},
    "negative binomial": {"model.regression": "nb"},
    "colour alone": {"features.encoder": "squidpy:summary"},
}

ABLATION: dict[str, Any] = {
    "base": "demo",
    "set": {
        "data.synthetic": {"n_sections": 3, "n_rows": 10, "n_cols": 10},
        "train.max_epochs": 6,
        "train.folds": 2,
    },
    "folds": {
        "S2": {"train": ["S1", "S3"], "test": ["S2"], "split": "within a patient"},
        "S3": {"train": ["S1", "S2"], "test": ["S3"], "split": "across patients"},
    },
    "seeds": [0, 1],
    "variants": VARIANTS,
}

Values = dict[str, Any]


# Reading the files of a run.


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested values with their paths, without skipped keys."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        yield path, value
        return
    for key, each in parts:
        if key not in SKIPPED:
            yield from flat(each, f"{path}/{key}")


def number(text: str) -> float | str:
    """Read a cell of a table as a number, if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def digest(content: bytes, n: int, mean: float | None) -> Values:
    """Summarise many values: their number, the first digits of their SHA-256, and their mean."""
    return {"n": n, "sha256": hashlib.sha256(content).hexdigest()[:16], "mean": mean}


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, which may be compressed."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


def cells(path: Path, name: str) -> Values:
    """Read every cell of a short table, by its row and column."""
    found: Values = {}
    for row in read_table(path):
        place = " | ".join(row[column] for column in ROW if column in row)
        found |= {f"{name}/{place}/{c}": number(v) for c, v in row.items() if c not in ROW and c not in SKIPPED}
    return found


def columns(path: Path, name: str) -> Values:
    """Summarise each column of a long table; skip empty columns."""
    rows = read_table(path)
    found: Values = {}
    for column in rows[0] if rows else ():
        texts = [row[column] for row in rows]
        if column not in SKIPPED and any(texts):
            numbers = [x for x in map(number, texts) if isinstance(x, float) and math.isfinite(x)]
            mean = math.fsum(numbers) / len(numbers) if numbers else None
            found[f"{name}/{column}"] = digest("\n".join(texts).encode(), len(texts), mean)
    return found


def predictions(folder: Path) -> Values:
    """Summarise each predicted section, to the last bit."""
    found: Values = {}
    for path in sorted(folder.glob("*.h5ad")):
        with h5py.File(path) as file:
            predicted = np.asarray(file["X"])
        found[f"predictions/{path.stem}"] = digest(
            predicted.tobytes(), predicted.size, float(predicted.astype(np.float64).mean())
        )
    return found


def run_folder(folder: Path) -> Values:
    """Read scores, training log and predictions of one run."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    found = dict(flat(metrics, "metrics.json")) | columns(folder / "metrics_per_gene.csv", "metrics_per_gene.csv")
    if (folder / "log.csv").is_file():  # an Estimator has no log
        found |= columns(folder / "log.csv", "log.csv")
    return found | predictions(folder / "predictions")


def study_folder(folder: Path, name: str, tables: Sequence[str]) -> dict[str, Values]:
    """Read the tables of a study, and each of its runs."""
    found: Values = {}
    for table in tables:
        found |= cells(folder / table, table)
    for path in sorted(folder.glob("per_gene.csv.gz")):
        found |= columns(path, path.name)
    runs = sorted(path.parent for path in folder.glob("runs/*/*/metrics.json"))
    return {f"{name}: tables": found} | {f"{name}: {'/'.join(run.parts[-2:])}": run_folder(run) for run in runs}


# Measuring.


class Runner:
    """Call the command line of the checkout in the current folder, and print how long each call took."""

    def __init__(self, work: Path) -> None:
        self.work = work
        # A separate cache, so that the measured code computes the features.
        self.environment = {**os.environ, "NH2ST_GRAPH_CACHE": str(work.resolve() / "cache")}
        # Python keeps what it compiles; otherwise each call would compile all libraries again.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __call__(self, name: str, *arguments: str, changes: Sequence[str] = ()) -> Path:
        """Run one command; return the folder that it wrote."""
        out = self.work / name
        given = [part for change in (*changes, *QUIET) for part in ("--set", change)]
        command = [sys.executable, "-m", "nh2st_graph", *arguments, *given, "--out", str(out)]
        print(f"{name} ...", end=" ", flush=True)
        start = time.perf_counter()
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return out

    def file(self, name: str, values: Mapping[str, Any]) -> str:
        """Write a study file."""
        path = self.work / name
        path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
        return str(path)


def demo(run: Runner) -> dict[str, Values]:
    folder = run("demo", "demo")
    runs = ("full", "without_neighbours")
    return {"demo: by kind": columns(folder / "by_kind.csv", "by_kind.csv")} | {
        f"demo: {name}": run_folder(folder / name) for name in runs
    }


def leave_one_out(run: Runner, data: Path, sections: Sequence[str]) -> dict[str, Values]:
    found = {}
    for test in sections:
        train = ",".join(name for name in SECTIONS if name != test)
        changes = [
            f"data.root={data / 'her2st'}",
            f"data.panel={data / 'gene_panels' / 'her_hvg_cut_1000.txt'}",
            f"data.train=[{train}]",
            f"data.test=[{test}]",
        ]
        folder = run(f"loso_{test}", "train", "configs/her2st_mini.yaml", changes=changes)
        found[f"her2st_mini: {test} from the others"] = run_folder(folder)
    return found


def benchmark(run: Runner, data: Path) -> dict[str, Values]:
    base = {"base": str(Path("configs/her2st_mini.yaml").resolve())}
    file = run.file("small_benchmark.yaml", base | BENCHMARK)
    # Two processes, so that the pool of workers is tested too.
    folder = run("benchmark", "benchmark", file, "--jobs", "2", changes=[f"data.root={data / 'her2st'}"])
    return study_folder(folder, "benchmark", ["scores.csv", "leaderboard.csv"])


def ablation(run: Runner) -> dict[str, Values]:
    folder = run("ablation", "ablate", run.file("small_ablation.yaml", ABLATION), "--jobs", "1")
    return study_folder(folder, "ablation", ["scores.csv", "table.csv"])


def measure(out: Path, data: Path, parts: Sequence[str], work: Path | None) -> None:
    """Run everything in the current checkout, and write all numbers into one file."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Runner(work or Path(temporary))
        run.work.mkdir(parents=True, exist_ok=True)
        available = {
            "demo": lambda: demo(run),
            "loso": lambda: leave_one_out(run, data, SECTIONS),
            "benchmark": lambda: benchmark(run, data),
            "ablation": lambda: ablation(run),
        }
        runs: dict[str, Values] = {}
        for part in parts or available:
            runs |= available[part]()
    content = json.dumps({"about": about(), "runs": runs}, indent=1) + "\n"
    packed = gzip.compress(content.encode(), mtime=0) if out.suffix == ".gz" else content.encode()
    out.write_bytes(packed)
    print(f"{sum(count(value) for each in runs.values() for value in each.values())} values of {len(runs)} runs: {out}")


def about() -> Values:
    """Describe what was measured, and where."""
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    packages = ("torch", "torch-geometric", "numpy", "scipy", "scikit-learn", "anndata", "squidpy")
    return {
        "commit": revision.stdout.strip() or None,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in packages},
    }


# Comparing.


def count(value: Any) -> int:
    """Count the values that an entry stands for."""
    return value["n"] if isinstance(value, Mapping) else 1


def renamed(values: Mapping[str, Any]) -> Values:
    """Give every key its new name, and the values of the ``role`` column too."""
    found = {}
    for key, value in values.items():
        new = "/".join(RENAMED.get(part, part) for part in key.split("/"))
        found[new] = RENAMED.get(value, value) if new.endswith("/role") else value
    return found


def difference(before: Any, after: Any) -> float:
    """Compute the difference of two unequal entries (digests: of their means); infinite for other values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        before, after = before["mean"], after["mean"]
    if isinstance(before, int | float) and isinstance(after, int | float):
        return abs(before - after)
    return math.inf


def same(before: Any, after: Any) -> bool:
    """Say whether two entries are equal to the last digit; NaN equals NaN."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return bool(before["n"] == after["n"] and before["sha256"] == after["sha256"])
    return bool(before == after or (before != before and after != after))


def shown(value: Any) -> str:
    return f"mean {value['mean']!r} of {value['n']}" if isinstance(value, Mapping) else repr(value)


def compare_runs(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Compare two runs; return a row of the table, and a line for each difference."""
    first, second = renamed(before), renamed(after)
    shared = [key for key in first if key in second]
    unequal = [key for key in shared if not same(first[key], second[key])]
    lines = [f"`{key}`: {shown(first[key])} before, {shown(second[key])} after" for key in unequal]
    lines += [f"`{key}`: only before" for key in first if key not in second]
    lines += [f"`{key}`: only after" for key in second if key not in first]
    largest = max((difference(first[key], second[key]) for key in unequal), default=0.0)
    verdict = "the same to the last digit" if not lines else f"**{len(lines)} entries differ**"
    return f"{sum(count(first[key]) for key in shared)} | {largest:.3g} | {verdict}", lines


def compare(before: Path, after: Path, out: Path | None) -> bool:
    """Write the differences of two measurements; return whether there are any."""
    first, second = read(before), read(after)
    rows, details, total = [], [], 0
    for name in [*first["runs"], *(name for name in second["runs"] if name not in first["runs"])]:
        if name not in second["runs"] or name not in first["runs"]:
            rows.append(f"| {name} | 0 | | **only {'before' if name in first['runs'] else 'after'}** |")
            details.append(name)
            continue
        row, lines = compare_runs(first["runs"][name], second["runs"][name])
        total += int(row.partition(" ")[0])
        rows.append(f"| {name} | {row} |")
        if lines:
            details += ["", f"## {name}", "", *(f"- {line}" for line in lines)]
    verdict = (
        f"**All {total} values of {len(rows)} runs are the same to the last digit.**"
        if not details
        else f"**Some of {total} values of {len(rows)} runs differ**; they are listed below the table."
    )
    text = "\n".join(
        [
            "# Before and after: every number",
            "",
            "    python benchmarks/house.py measure OUT.json.gz --data DIR",
            "    python benchmarks/house.py compare BEFORE.json.gz AFTER.json.gz --out comparison.md",
            "",
            verdict,
            "",
            "Scores, training losses and predictions; wall-clock times and memory are left out. Where a whole column "
            "or a prediction differs, the difference is between the means.",
            "",
            *described(first["about"], second["about"]),
            "",
            "| run | values | largest difference | |",
            "| --- | ---: | ---: | --- |",
            *rows,
            *details,
            "",
        ]
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    print(text if out is None or details else verdict)
    return bool(details)


def described(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Format the comparison as a table."""
    keys = list(dict.fromkeys([*before, *after]))
    rows = [f"| {key} | {before.get(key, '')} | {after.get(key, '')} |" for key in keys]
    return ["| | before | after |", "| --- | --- | --- |", *rows]


def read(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measured = verbs.add_parser("measure", help="run everything in the current checkout")
    measured.add_argument("out", type=Path, help="file to write: .json or .json.gz")
    measured.add_argument("--data", type=Path, required=True, help="folder with her2st/ and gene_panels/")
    measured.add_argument("--only", action="append", default=[], choices=["demo", "loso", "benchmark", "ablation"])
    measured.add_argument("--work", type=Path, help="folder for the runs, which are kept; a temporary one if not given")
    compared = verbs.add_parser("compare", help="list what differs between two measurements")
    compared.add_argument("before", type=Path)
    compared.add_argument("after", type=Path)
    compared.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.verb == "measure":
        measure(options.out.resolve(), options.data.resolve(), options.only, options.work)
    elif compare(options.before, options.after, options.out):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
