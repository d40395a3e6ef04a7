"""Lay sections out as tasks of HEST-Benchmark, and score them as published, repaired, and by our protocol.

    python benchmarks/hest.py --data DIR [--task NAME ...] [--only METHOD ...] [--public HEST/src]

``DIR`` holds ``her2st/`` (the repository almaan/her2st). Each task has the 50 genes whose logarithm varies most over
all of its samples: how the benchmark chose its genes is not public, but all samples were read. The tasks:

- ``HER2ST``: sections of two patients, one patient tested in each fold.
- ``HER2ST_SECTIONS``: the same sections in folds of one section each, as if each were a patient; ``ids.csv`` names
  the two patients, so that the repaired protocol and ours do not train on the patient that they test.
- ``SYNTHETIC``: synthetic tissue, each section tested by itself.

Patches are 224 px at 0.5 um per px, as the benchmark has them. Results go to ``benchmarks/results/hest``. With
``--public`` (the folder ``src`` of mahmoodlab/HEST, afd42c3) the benchmark's own code scores each task on pixels as
embeddings, and its numbers stand beside ours in ``public_code.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

import nh2st_graph as ng
from nh2st_graph.section import Key, library, open_image, patient_of
from nh2st_graph.study import read_benchmark, run_study
from nh2st_graph.study._text import markdown_table

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "benchmarks" / "hest.yaml"
#: Side of a patch in um and in pixels, number of genes, and the files of a study that are kept.
PATCH_UM, PATCH_PX, N_GENES = 112.0, 224, 50
KEPT = ("protocols.md", "protocols.csv", "repairs.csv", "published_genes.csv", "leaderboard.md", "report.html")
#: An encoder with as many features as the benchmark's head has components, and more.
PIXELS = "pixels:10"


def write_task(root: Path, sections: Mapping[str, AnnData], splits: list[tuple[list[str], list[str]]]) -> Path:
    """Write sections as one task."""
    for folder in ("adata", "patches", "splits"):
        (root / folder).mkdir(parents=True)
    shared = sorted(set.intersection(*(set(each.var_names) for each in sections.values())))
    logs = np.concatenate([np.log1p(each[:, shared].X.toarray()) for each in sections.values()])
    genes = [shared[i] for i in np.sort(np.argsort(-logs.var(axis=0), kind="stable")[:N_GENES])]
    (root / "var_50genes.json").write_text(json.dumps({"genes": genes}))
    for name, section in sections.items():
        plain = AnnData(section.X, obs=section.obs[["array_row", "array_col"]].copy(), var=section.var[[]].copy())
        plain.obsm[Key.obsm.spatial] = np.asarray(section.obsm[Key.obsm.spatial])
        plain.write_h5ad(root / "adata" / f"{name}.h5ad", compression="gzip")
        _write_patches(root / "patches" / f"{name}.h5", section)
    for i, fold in enumerate(splits):
        for side, names in zip(("train", "test"), fold, strict=True):
            paths = {
                "patches_path": [f"patches/{n}.h5" for n in names],
                "expr_path": [f"adata/{n}.h5ad" for n in names],
            }
            pd.DataFrame({"sample_id": names, **paths}).to_csv(root / "splits" / f"{side}_{i}.csv", index=False)
    return root


def _write_patches(path: Path, section: AnnData) -> None:
    side = PATCH_UM / library(section).microns_per_pixel
    centres = np.asarray(section.obsm[Key.obsm.spatial])
    corners = np.rint(centres - side / 2).astype(int)
    whole = round(side)
    with open_image(section) as slide, h5py.File(path, "w") as file:
        shape = (section.n_obs, PATCH_PX, PATCH_PX, 3)
        stored = file.create_dataset(
            "img", shape, np.uint8, chunks=(1, *shape[1:]), compression="gzip", compression_opts=1
        )
        image = slide.whole()
        for i, (x, y) in enumerate(corners):
            patch = image.crop((int(x), int(y), int(x) + whole, int(y) + whole))
            stored[i] = np.asarray(patch.resize((PATCH_PX, PATCH_PX), Image.Resampling.BICUBIC))
        stored.attrs["patch_size"] = whole
        file["coords"] = np.rint(centres[:, ::-1]).astype(int)  # centres, y then x, as the benchmark has them
        file["barcode"] = np.array(section.obs_names, dtype="S")[:, None]


def her2st(root: Path, data: Path, *, by_section: bool) -> Path:
    """Lay out the sections of two patients."""
    sections = ng.read.her2st(data / "her2st")
    patients = {name: patient_of(section, name) for name, section in sections.items()}
    groups = {name: name for name in sections} if by_section else patients
    splits = [
        ([n for n in sections if groups[n] != each], [n for n in sections if groups[n] == each])
        for each in dict.fromkeys(groups.values())
    ]
    task = write_task(root, sections, splits)
    rows = [f"{name},{patient}\n" for name, patient in patients.items()]
    (task / "ids.csv").write_text("sample_id,patient\n" + "".join(rows))
    return task


def synthetic(root: Path, folder: Path) -> Path:
    """Lay out synthetic tissue."""
    sections = ng.datasets.synthetic_tissue(4, folder=folder, n_rows=14, n_cols=14)
    splits = [([n for n in sections if n != each], [each]) for each in sections]
    return write_task(root, sections, splits)


def public_row(task: Path, source: Path, folder: Path) -> dict[str, object]:
    """Score one task by the public code and by ours, on pixels as embeddings."""
    from nh2st_graph.study._protocols import _task, published_scores

    embeddings = folder / "embeddings"
    embeddings.mkdir()
    for name, section in ng.read.hest_bench(task).items():
        with h5py.File(task / "patches" / f"{name}.h5") as patches, h5py.File(embeddings / f"{name}.h5", "w") as file:
            order = [each.decode() for each in patches["barcode"][:, 0]]
            ng.im.features(section, encoder=PIXELS, patch_um=PATCH_UM)
            file["embeddings"] = section[order].obsm[Key.obsm.image].astype(np.float32)
            file["barcodes"], file["coords"] = patches["barcode"][:], patches["coords"][:]
    numbers = folder / "public.json"
    script = HERE.parent / "tests" / "golden" / "make_hest.py"
    subprocess.run([sys.executable, str(script), str(source), str(numbers), str(task), str(embeddings)], check=True)
    public = json.loads(numbers.read_text())[task.name]
    place = f"features.embeddings={embeddings / '{section}.h5'}"
    study = read_benchmark(
        CONFIG, [f"data.root={task}", place, "features.encoder=pixels", f"features.patch_um={PATCH_UM}"]
    )
    ours = published_scores(_task(study))
    expected = pd.DataFrame(public["genes"]).T.loc[ours.index]
    return {
        "task": task.name,
        "public code": f"{public['mean']:.9f}",
        "ours": f"{ours.mean().mean():.9f}",
        "largest difference, of any gene and fold": f"{np.abs(ours.to_numpy() - expected.to_numpy()).max():.1e}",
    }


def main() -> None:
    """Lay out the tasks, score them, and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", nargs="+", default=["HER2ST", "HER2ST_SECTIONS", "SYNTHETIC"])
    parser.add_argument("--only", nargs="*", default=[], help="methods of ours, by their names in the configuration")
    parser.add_argument("--public", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "hest")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in given.task:
            root = folder / task
            if task == "SYNTHETIC":
                synthetic(root, folder)
            else:
                her2st(root, given.data, by_section=task == "HER2ST_SECTIONS")
            if given.public:
                (folder / f"{task}_public").mkdir()
                rows.append(public_row(root, given.public, folder / f"{task}_public"))
                continue
            study = read_benchmark(CONFIG, [f"data.root={root}", "evaluate.downstream=false"])
            run_study(study, folder / f"{task}_study", jobs=1, only=given.only)
            target = given.out / task.lower()
            target.mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(folder / f"{task}_study" / file, target / file)
            print((target / "protocols.md").read_text())
    if rows:
        table = pd.DataFrame(rows).set_index("task")
        given.out.mkdir(parents=True, exist_ok=True)
        text = "\n".join(markdown_table(table))
        (given.out / "public_code.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
