"""Make ``format_1``: a run, its archive, a section and a checkpoint, as the first version with formats writes them.

    python tests/golden/make_format_1.py tests/golden

As ``make.py``, it is kept to show what they are. Files of a later format get a folder and a script of their own.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from make import _RUN, copy_files, make_sections, without_image

import nh2st_graph as ng

SMALL = {
    "data": {"format": "h5ad", "root": "sections", "train": ["S1", "S2"], "test": ["S3"], "panel": "hvg:8"},
    "features": {"encoder": "squidpy:summary", "patch_um": 112},
    "model": {"width": 8, "n_components": 3, "heads": 2},
    "train": {"max_epochs": 3, "folds": 2, "batch_spots": 32, "device": "cpu", "progress": False},
    "evaluate": {"figures": False},
}


def without_places(checkpoint: Path, copy: Path) -> None:
    """Copy a checkpoint without the folders of this machine, which Lightning writes into it."""
    content = torch.load(checkpoint, weights_only=True)
    for state in content["callbacks"].values():
        for key, value in state.items():
            if isinstance(value, str) and Path(value).is_absolute():
                state[key] = "/".join(Path(value).parts[Path(value).parts.index("run") :])
    torch.save(content, copy)


def main() -> None:
    """Make everything in a temporary folder, and copy what is kept."""
    golden = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["NH2ST_GRAPH_CACHE"] = "cache"
        out = Path("format_1")
        config = ng.Config.parse(SMALL)
        make_sections(config, Path("sections"))
        ng.tl.train_run(config, "run")
        copy_files(Path("run"), out / "run", [name for name in _RUN if name != "predictions"])
        ng.save(ng.load("run"), out / "model.zip")
        section = without_image(ng.read.h5ad_section("sections/S3.h5ad"), np.random.default_rng(0))
        ng.read.write_h5ad(section, out / "S3.h5ad")
        without_places(sorted(Path("run").glob("checkpoints/*/last.ckpt"))[0], out / "last.ckpt")
        predicted = ng.tl.predict(ng.read.h5ad_section(out / "S3.h5ad"), ng.load(out / "run"))
        ng.read.write_h5ad(predicted, out / "run" / "predictions" / "S3.h5ad")
        predicted.to_df().to_csv(out / "predicted.csv", float_format="%.9g")
        shutil.copytree(out, golden / "format_1")


if __name__ == "__main__":
    main()
