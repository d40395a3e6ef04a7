"""A task of HEST-Benchmark in the layout of its download, small and the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

GENES = [f"G{i:02d}" for i in range(12)]
#: Samples of the task COAD, whose published patients are wrong, and numbers of their spots.
COAD = {"TENX111": 300, "TENX147": 100, "TENX148": 100, "TENX149": 100}
#: So many spots that the public code, which computes in float32, gives the same on every processor, to 1e-6.
LARGER = {name: 4 * n_spots for name, n_spots in COAD.items()}
PUBLISHED = [(("TENX147", "TENX148", "TENX149"), ("TENX111",)), (("TENX111",), ("TENX147", "TENX148", "TENX149"))]
#: Features of a spot, and how many principal components of them the benchmark keeps.
N_FEATURES, N_COMPONENTS = 280, 256
#: Sides of patches as they are stored and on the slide, and the pitch of spots on the slide.
PATCH_PX, SIDE_PX, PITCH_PX = 16, 24, 20


def write_task(
    root: Path,
    samples: Mapping[str, int] = COAD,
    splits: Sequence[tuple[Sequence[str], Sequence[str]]] = PUBLISHED,
    *,
    parts: Sequence[str] = ("adata", "patches", "splits", "genes", "embeddings"),
    n_features: int = N_FEATURES,
) -> Path:
    """Write a task: counts that follow five directions of the embeddings and the depth of a spot."""
    weights = np.random.default_rng(0).normal(0, 0.4, (5, len(GENES)))[:n_features]
    for number, (name, n_spots) in enumerate(samples.items()):
        rng = np.random.default_rng(number + 1)
        seen = rng.normal(0, 1, (n_spots, n_features)).astype(np.float32) + np.float32(0.2 * number)
        # Directions from the 257th on hold next to nothing, or the noise of float32 decides which of them are kept.
        seen[:, N_COMPONENTS:] = seen[:, : max(n_features - N_COMPONENTS, 0)] + 0.1 * seen[:, N_COMPONENTS:]
        depth = rng.lognormal(0.2 * number, 0.4, n_spots)
        counts = rng.poisson(depth[:, None] * np.exp(0.5 + seen[:, :5] @ weights))
        others = rng.poisson(20 * depth[:, None], (n_spots, 3))
        width = int(np.ceil(np.sqrt(n_spots)))
        array = np.stack(np.divmod(np.arange(n_spots), width), axis=1)
        barcodes = [f"{row:03d}x{col:03d}" for row, col in array]
        # Tissue lies anywhere on a slide; the assembled patches begin at 0.
        centres = (array[:, ::-1] + 1) * PITCH_PX + (500, 9000)
        adata = AnnData(
            np.hstack([counts, others]).astype(np.float32),
            obs=pd.DataFrame({"array_row": array[:, 0], "array_col": array[:, 1], "in_tissue": 1}, index=barcodes),
            var=pd.DataFrame(index=[*GENES, "X1", "X2", "X3"]),
            obsm={"spatial": centres.astype(float)},
        )
        # The last spots of a sample have no patch, and patches have an order of their own.
        order = rng.permutation(n_spots - 2)
        names = np.array(barcodes, dtype="S7")[order]
        for folder in ("adata", "patches", "embeddings"):
            if folder in parts:
                (root / folder).mkdir(parents=True, exist_ok=True)
        if "adata" in parts:
            adata.write_h5ad(root / "adata" / f"{name}.h5ad")
        if "patches" in parts:
            with h5py.File(root / "patches" / f"{name}.h5", "w") as file:
                shade = 140 + 80 * np.tanh(seen[order, :3])
                noise = rng.integers(-20, 20, (len(order), PATCH_PX, PATCH_PX, 3))
                file["img"] = (shade[:, None, None] + noise).astype(np.uint8)
                file["coords"] = centres[order][:, ::-1]
                file["barcode"] = names[:, None]
                file["img"].attrs["patch_size"] = SIDE_PX
        if "embeddings" in parts:
            with h5py.File(root / "embeddings" / f"{name}.h5", "w") as file:
                file["embeddings"], file["barcodes"] = seen[order], names[:, None]
                file["coords"] = centres[order][:, ::-1]
    if "splits" in parts:
        (root / "splits").mkdir(parents=True, exist_ok=True)
        for i, fold in enumerate(splits):
            for side, names in zip(("train", "test"), fold, strict=True):
                table = pd.DataFrame({"sample_id": list(names)})
                table["patches_path"] = "patches/" + table["sample_id"] + ".h5"
                table["expr_path"] = "adata/" + table["sample_id"] + ".h5ad"
                table.to_csv(root / "splits" / f"{side}_{i}.csv", index=False)
    if "genes" in parts:
        (root / "var_50genes.json").write_text(json.dumps({"genes": GENES}))
    return root
