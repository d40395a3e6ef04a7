"""Compare encoders that can be had without a hub, under ridge and NH2ST-Graph, on the sections of ``her2st_mini``.

    python benchmarks/encoders.py --root DIR --panel FILE --out FOLDER [--jobs 2] [--seeds 0 1 2]

``FOLDER`` gets a study file with two methods for each entry of :data:`FEATURES`, and the study that ``nh2st-graph
benchmark`` makes of it; the script continues a study that is there. The encoders are timed on section C3, from the file
of the image to features, without a cache; ``seconds.csv`` keeps the times. The script writes
``benchmarks/results/encoders/encoders.md`` and the scores of each run beside it.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

import nh2st_graph as ng
from nh2st_graph.study import read_benchmark, run_study

HERE = Path(__file__).resolve().parent
PATIENT_C = ["C3", "C4", "C5", "C6"]
SPLITS = {
    "loso": {"leave_one_section_out": PATIENT_C},
    "C_to_B": {"train": PATIENT_C, "test": ["B4"]},
    "B_to_C": {"train": ["B4"], "test": PATIENT_C},
}
#: The network alone: a closed form that held-out sections do not correct would say nothing of the network.
METHODS = {"ridge": {"model.name": "ridge"}, "NH2ST-Graph": {"model.closed_form": False}}

COMMAND = "python benchmarks/encoders.py --root DIR --panel FILE --out FOLDER"
COLOUR = "squidpy:summary+texture+histogram"
SCALES = (112, 224, 448)


def blocks(*names: str, scales: tuple[float, ...] = (224,), **more: Any) -> dict[str, Any]:
    """Settings of a join of encoders, each at each scale."""
    return {"features.encoders": [{"encoder": n, "patch_um": um} for n in names for um in scales], **more}


#: What is compared: a name, and its settings.
FEATURES = {
    "colour and texture": blocks(COLOUR),
    "colour and texture, 112 um": blocks(COLOUR, scales=(112,)),
    "colour and texture, three scales": blocks(COLOUR, scales=SCALES),
    "EfficientNet-Lite0, random weights": blocks("timm:tf_efficientnet_lite0@random"),
    "EfficientNet-Lite0": blocks("efficientnet-lite0"),
    "EfficientNet-Lite0, 112 um": blocks("efficientnet-lite0", scales=(112,)),
    "EfficientNet-Lite0, three scales": blocks("efficientnet-lite0", scales=SCALES),
    "EfficientNet-Lite0, 8 views": blocks("efficientnet-lite0", **{"features.views": 8}),
    "EfficientNet-Lite2": blocks("efficientnet-lite2"),
    "colour and texture and EfficientNet-Lite0": blocks(COLOUR, "efficientnet-lite0"),
    "colour and texture and EfficientNet-Lite0, three scales": blocks(COLOUR, "efficientnet-lite0", scales=SCALES),
}


def seconds_per_thousand(settings: dict[str, Any], root: Path) -> float:
    """Encode section C3 without a cache; give the seconds that a thousand spots take."""
    entries = [(each["encoder"], each["patch_um"]) for each in settings["features.encoders"]]
    section = ng.read.her2st(root, ["C3"])["C3"]
    start = time.perf_counter()
    ng.im.features(section, entries, views=settings.get("features.views", 1), cache=False, progress=False)
    return 1000 * (time.perf_counter() - start) / section.n_obs


def study_file(out: Path, seeds: list[int]) -> Path:
    """Write the study: every method on every encoder."""
    variants = {f"{m} | {f}": {**method, **FEATURES[f]} for f in FEATURES for m, method in METHODS.items()}
    study = {
        "base": str(HERE.parent / "configs" / "her2st_mini.yaml"),
        "variants": variants,
        "splits": SPLITS,
        "seeds": seeds,
    }
    path = out / "encoders.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def table(scores: pd.DataFrame, seconds: dict[str, float]) -> list[str]:
    """Lay out mean r, and in brackets r given depth: a row for each encoder, a column for each split and method."""
    scores = scores.groupby(["split", "variant", "section"])[["pcc_mean", "pcc_partial"]].mean()
    means = scores.groupby(["split", "variant"]).mean()
    columns = [(split, method) for split in SPLITS for method in METHODS]
    head = "| features | s per 1,000 spots | " + " | ".join(f"{split}: {method}" for split, method in columns) + " |"
    lines = [head, "| --- " + "| ---: " * (len(columns) + 1) + "|"]
    for name in FEATURES:
        found = (means.loc[(split, f"{method} | {name}")] for split, method in columns)
        cells = " | ".join(f"{row['pcc_mean']:.3f} ({row['pcc_partial']:.3f})" for row in found)
        lines.append(f"| {name} | {seconds[name]:.1f} | {cells} |")
    return lines


def main() -> None:
    """Time the encoders, run the study, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the HER2ST sections")
    parser.add_argument("--panel", type=Path, required=True, help="file of gene symbols")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; an earlier one is continued")
    parser.add_argument("--jobs", type=int, default=None, help="processes; one for each core by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of everything that is drawn")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "seconds.csv"
    if not kept.exists():
        timed = {name: seconds_per_thousand(settings, options.root) for name, settings in FEATURES.items()}
        pd.Series(timed, name="seconds").to_csv(kept, index_label="features")
    seconds = pd.read_csv(kept, index_col="features")["seconds"].to_dict()
    changes = [f"data.root={options.root.resolve()}", f"data.panel={options.panel.resolve()}", "train.progress=false"]
    study = read_benchmark(study_file(options.out, options.seeds), changes)
    folder = options.out / "study"
    result = run_study(study, folder, jobs=options.jobs, resume=folder.exists(), watch=say)
    scores = result.results.scores
    scores = scores[scores["variant"].isin([variant.name for variant in study.variants])]
    about = (
        f"Seeds: {', '.join(map(str, options.seeds))}. Panel: {options.panel.stem}. Targets are not smoothed. Mean r "
        "over sections, and in brackets r given depth. Seconds are from the file of C3's image to features, without "
        f"a cache, on {platform.machine()} with {torch.get_num_threads()} threads."
    )
    results = HERE / "results" / "encoders"
    results.mkdir(parents=True, exist_ok=True)
    scores.to_csv(results / "scores.csv", index=False, float_format="%.6g")
    text = "\n".join(["# Encoders without a hub", "", f"    {COMMAND}", "", about, "", *table(scores, seconds), ""])
    (results / "encoders.md").write_text(text, encoding="utf-8")
    print(text)


def say(run: Any, outcome: Any) -> None:
    """Print each run that ended."""
    if outcome is not None:
        print(f"{run.variant}, {run.fold.name}, seed {run.seed}: {outcome.reason or 'done'}", flush=True)


if __name__ == "__main__":
    main()
