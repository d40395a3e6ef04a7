"""Make the golden folders: sections, models, a run and a study, as the code of one commit writes them.

    python tests/golden/make.py tests/golden

``tests/test_golden.py`` holds later code to them. They were made once, by the commit that ``README.md`` names. Made
anew by later code they would prove nothing, so this script is kept to show what they are, in the words of that commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.cli import main as command_line
from nh2st_graph.config import load_config

#: What all models share; every key that is left out keeps its default.
SMALL = {
    "data": {"format": "h5ad", "root": "sections", "train": ["S1", "S2"], "test": ["S3"], "panel": "hvg:8"},
    "features": {"encoder": "squidpy:summary", "patch_um": 112},
    "model": {"width": 8, "rank": 3, "heads": 2},
    "train": {
        "max_epochs": 4,
        "learning_rate": 0.02,
        "folds": 2,
        "batch_spots": 32,
        "average": 0.9,
        "device": "cpu",
        "progress": False,
    },
    "evaluate": {"floors": True, "figures": False},
}

#: Models and what each changes. ``run`` keeps its scores and predictions, the others the model alone.
MODELS = {
    "run": [],
    "mlp": ["model.decoder=mlp", "model.rank=6", "train.average=0"],
    "linear": [
        "model.embedding=linear",
        "model.operator=hypergraph_ego",
        "model.edge_features=none",
        "model.decoder=linear",
        "model.rank=5",
        "train.average=0.5",
        "features.standardize=train",
    ],
    "ridge_neighbours": ["model.name=ridge_neighbours", "evaluate.floors=false"],
    "bleep": ["model.name=bleep", "model.width=8", "model.k=5"],
    "stnet": ["model.name=stnet", "model.average=false"],
}

STUDY = {
    "base": "small.yaml",
    "seeds": [0],
    "variants": {
        "no neighbour branch": {"model.neighbours": False},
        "two components": {"model.rank": 2},
        "slower average": {"train.average": 0.99},
    },
}

_MODEL = ("model.safetensors", "model.json", "log.csv")
_RUN = (*_MODEL, "config.yaml", "metrics.json", "metrics_per_gene.csv", "predictions")
_STUDIED = ("config.yaml", "metrics.json", "metrics_per_gene.csv", "study.json")


def without_image(section: AnnData, rng: np.random.Generator) -> AnnData:
    """A section with features and graph, and without its image; its spots in an order of no meaning."""
    section = section[rng.permutation(section.n_obs)].copy()
    (library,) = section.uns["spatial"].values()
    del library["images"], library["metadata"]["source_image_path"]
    for slot in (section.layers, section.varm, section.uns, section.obsm):
        for key in [key for key in slot if "truth" in key]:
            del slot[key]
    del section.obs["domain"], section.var["kind"]
    return section


def make_sections(config: ng.Config, folder: Path) -> None:
    """Two sections to learn from and one to predict, with images, features and graph."""
    sections = ng.datasets.synthetic_tissue(3, folder="tissue", n_rows=6, n_cols=6, n_own=4, n_neighbour=4, n_noise=2)
    for name, section in sections.items():
        ng.read.write_h5ad(section, f"raw/{name}.h5ad")
    ng.tl.prepare_sections(config.override(["data.root=raw"]), folder)


def copy_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy files and folders, paths of this machine replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).suffix in {".yaml", ".json"}:
            text = (source / name).read_text(encoding="utf-8")
            (target / name).write_text(text.replace(f"{Path.cwd()}/", ""), encoding="utf-8")
        elif (source / name).is_file():
            shutil.copy(source / name, target / name)


def main() -> None:
    """Make everything in a temporary folder, and copy what is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the golden folders")
    out: Path = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["NH2ST_GRAPH_CACHE"] = "cache"
        make(out)


def make(out: Path) -> None:
    """Make everything in the current folder; see :func:`main`."""
    Path("small.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False), encoding="utf-8")
    Path("small_study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    copy_files(Path(), out, ["small.yaml", "small_study.yaml"])
    config = load_config("small.yaml")
    make_sections(config, Path("sections"))
    rng = np.random.default_rng(0)
    (out / "sections").mkdir(parents=True)
    for path in sorted(Path("sections").glob("*.h5ad")):
        without_image(ng.read.h5ad(path), rng).write_h5ad(out / "sections" / path.name)

    for name, changes in MODELS.items():
        ng.tl.train_run(config.override(changes), Path("models") / name)
        copy_files(Path("models") / name, out / name, _RUN if name == "run" else _MODEL)
    with suppress(SystemExit):  # with code 0
        command_line(["ablate", "small_study.yaml", "--out", "small_study", "--jobs", "1"])
    copy_files(Path("small_study"), out / "small_study", ["study.yaml", "scores.csv", "table.csv"])
    for run in sorted(Path("small_study").glob("runs/*/*")):
        copy_files(run, out / run, _STUDIED)

    # From here on without the images, as the test does it.
    os.chdir(out)
    scores = Path("run/metrics.json").read_text(encoding="utf-8")
    ng.tl.evaluate_run("run")
    assert Path("run/metrics.json").read_text(encoding="utf-8") == scores
    section = ng.read.h5ad("sections/S3.h5ad")
    for name in MODELS:
        predicted = ng.tl.predict(ng.load(name), section)
        predicted.to_df().to_csv(Path(name) / "predicted.csv", float_format="%.9g")
    embedded = ng.tl.embed(ng.load("run"), section, copy=True)
    assert embedded is not None
    for key in ("X_nh2st_image", "X_nh2st_gene"):
        np.savetxt(f"run/{key}.csv", embedded.obsm[key], fmt="%.9g", delimiter=",")


if __name__ == "__main__":
    main()
