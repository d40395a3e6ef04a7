"""Tiny sections on disk, in each layout, written by the tests themselves."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

PITCH_PX = 40.0  # pixels between ST spots; 200 um, so 5 um per pixel
GENES = ["GAPDH", "ERBB2", "HLA-A", "FO538757.1"]


@cache
def _image(width: int, height: int) -> Image.Image:
    """Noise of 4 x 4 pixels: to read what is finer takes twice as long."""
    noise = np.random.default_rng(0).integers(120, 255, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return Image.fromarray(noise.repeat(4, axis=0).repeat(4, axis=1)[:height, :width])


@cache
def _encoded(format: str, width: int, height: int, scale: float = 1.0) -> bytes:
    """Noise as a file holds it, made smaller by ``scale``: to encode it takes longer than all the rest of a section."""
    file = io.BytesIO()
    image = _image(width, height)
    image = image if scale == 1 else image.resize((round(width * scale), round(height * scale)))
    image.save(file, format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    return file.getvalue()


@pytest.fixture
def st_tables() -> Callable[..., SimpleNamespace]:
    """Tables of an ST section on a grid: ``spots`` as in a spot file, ``counts`` by spot name."""

    def make(n_rows: int = 4, n_cols: int = 5, seed: int = 0) -> SimpleNamespace:
        rng = np.random.default_rng(seed)
        x, y = (a.ravel() for a in np.meshgrid(np.arange(3, 3 + n_cols), np.arange(7, 7 + n_rows)))
        new_x, new_y = (v + rng.uniform(-0.1, 0.1, v.size).round(3) for v in (x, y))
        spots = pd.DataFrame(
            {
                "x": x,
                "y": y,
                "new_x": new_x,
                "new_y": new_y,
                "pixel_x": (new_x * PITCH_PX - 60).round(2),
                "pixel_y": (new_y * PITCH_PX - 240).round(2),
                "selected": 1,
            }
        )
        names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
        counts = pd.DataFrame(rng.poisson(1.5, (x.size, len(GENES))), index=names, columns=GENES)
        return SimpleNamespace(spots=spots, counts=counts)

    return make


@pytest.fixture
def write_her2st(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write tables and an image as one section of a repository; gives the paths."""

    def write(
        tables: SimpleNamespace,
        section: str = "A1",
        *,
        size: tuple[int, int] = (300, 260),
        packed: bool = True,
    ) -> SimpleNamespace:
        data = tmp_path / "repository" / "data"
        counts = data / "ST-cnts" / f"{section}.tsv{'.gz' if packed else ''}"
        spots = data / "ST-spotfiles" / f"{section}_selection.tsv"
        image = data / "ST-imgs" / section[0] / section / "scan.jpg"
        for path in (counts, spots, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        text = tables.counts.to_csv(sep="\t").encode()
        counts.write_bytes(gzip.compress(text) if packed else text)
        tables.spots.to_csv(spots, sep="\t", index=False)
        image.write_bytes(_encoded("JPEG", *size))
        return SimpleNamespace(root=data.parent, data=data, counts=counts, spots=spots, image=image)

    return write


@pytest.fixture
def write_visium(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write a Space Ranger folder: a hexagonal array, 100 um pitch, at ``microns_per_pixel``."""

    def write(
        name: str = "V1",
        *,
        header: bool = False,
        microns_per_pixel: float = 2.0,
        hires_scale: float = 0.25,
        outs: bool = False,
        genes: tuple[str, ...] = ("A", "B", "C"),
        change: Callable[[pd.DataFrame], pd.DataFrame] = lambda positions: positions,
        seed: int = 0,
    ) -> SimpleNamespace:
        rng = np.random.default_rng(seed)
        folder = tmp_path / "spaceranger" / name / ("outs" if outs else "")
        (folder / "spatial").mkdir(parents=True)
        row, col = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(0, 10, 2), indexing="ij"))
        col = col + row % 2
        positions = pd.DataFrame(
            {
                "barcode": [f"{i:04d}-1" for i in rng.permutation(row.size)],
                "in_tissue": (col > 1).astype(int),
                "array_row": row,
                "array_col": col,
                "pxl_row_in_fullres": (100 + row * 50 * 3**0.5 / microns_per_pixel).round().astype(int),
                "pxl_col_in_fullres": (140 + col * 50 / microns_per_pixel).round().astype(int),
            }
        )
        barcodes = positions["barcode"].to_numpy(str)
        counts = rng.poisson(2.0, (row.size, len(genes)))
        _write_10x(folder / "filtered_feature_bc_matrix.h5", counts, barcodes, genes)
        file = folder / "spatial" / ("tissue_positions.csv" if header else "tissue_positions_list.csv")
        changed = change(positions)
        changed.to_csv(file, header=header, index=False)
        factors = {
            "spot_diameter_fullres": 65 / microns_per_pixel,
            "fiducial_diameter_fullres": 105 / microns_per_pixel,
            "tissue_hires_scalef": hires_scale,
            "tissue_lowres_scalef": hires_scale / 4,
        }
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
        for level, scale in (("hires", hires_scale), ("lowres", hires_scale / 4)):
            (folder / "spatial" / f"tissue_{level}_image.png").write_bytes(_encoded("PNG", 480, 440, scale))
        image = tmp_path / f"{name}_full.png"
        image.write_bytes(_encoded("PNG", 480, 440))
        return SimpleNamespace(
            folder=folder,
            root=tmp_path / "spaceranger",
            positions=positions.set_index("barcode"),
            positions_file=file,
            counts=pd.DataFrame(counts, index=barcodes, columns=genes),
            counts_file=folder / "filtered_feature_bc_matrix.h5",
            image=image,
        )

    return write


def _write_10x(path: Path, counts: np.ndarray, barcodes: np.ndarray, genes: tuple[str, ...]) -> None:
    path.write_bytes(_10x(counts.shape, counts.tobytes(), tuple(barcodes), genes))


@cache
def _10x(shape: tuple[int, ...], content: bytes, barcodes: tuple[str, ...], genes: tuple[str, ...]) -> bytes:
    """The HDF5 layout of Space Ranger: genes x barcodes, column by column."""
    counts = np.frombuffer(content, dtype=np.int64).reshape(shape)
    spots, features = np.nonzero(counts)
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        matrix["data"] = counts[spots, features].astype("int32")
        matrix["indices"] = features.astype("int64")
        matrix["indptr"] = np.r_[0, np.bincount(spots, minlength=len(counts)).cumsum()]
        matrix["shape"] = np.array([len(genes), len(barcodes)], dtype="int32")
        group = matrix.create_group("features")
        group["id"] = np.array([f"ENSG{i}" for i in range(len(genes))], dtype="S")
        group["name"] = np.array(genes, dtype="S")
        group["feature_type"] = np.array(["Gene Expression"] * len(genes), dtype="S")
        group["genome"] = np.array(["GRCh38"] * len(genes), dtype="S")
    return held.getvalue()


@pytest.fixture
def write_prepared(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write tables and an image as one section of the folder that TRIPLEX gives for download."""

    def write(
        tables: SimpleNamespace,
        section: str,
        *,
        image: str = "{section}.tif",
        counts: str = "ST-cnts/{section}_sub.parquet",
        size: tuple[int, int] = (300, 260),
    ) -> SimpleNamespace:
        root = tmp_path / "prepared"
        paths = SimpleNamespace(
            root=root,
            counts=root / counts.format(section=section),
            spots=root / "ST-spotfiles" / f"{section}_selection.tsv",
            image=root / "ST-imgs" / image.format(section=section),
        )
        for path in (paths.counts, paths.spots, paths.image):
            path.parent.mkdir(parents=True, exist_ok=True)
        if paths.counts.suffix == ".parquet":
            tables.counts.to_parquet(paths.counts)
        else:
            tables.counts.to_csv(paths.counts, sep="\t")
        tables.spots.to_csv(paths.spots, sep="\t", index=False)
        _image(*size).save(paths.image)
        return paths

    return write


#: Tables of HEST that nothing changed, by whether they are dense and their order: to write one takes 30 ms.
_UNCHANGED: dict[tuple[bool, int | None], bytes] = {}


@pytest.fixture
def write_hest(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write one section in the layout of HEST-1k: 12 spots, 200 um apart, on a slide of 2 um per pixel."""

    def write(
        name: str = "SPA1",
        *,
        patient: object = "Patient 1",
        parts: tuple[str, ...] = ("st", "wsis", "patches", "metadata"),
        folder: str = "st",
        dense: bool = False,
        side: int = 8,
        bench: bool = False,
        change: Callable[[AnnData], AnnData] | None = None,
        order: int | None = None,
        root: str = "hest",
    ) -> SimpleNamespace:
        rng = np.random.default_rng(0)
        row, col = (a.ravel() for a in np.meshgrid(np.arange(3), np.arange(4), indexing="ij"))
        barcodes = [f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)]
        centres = np.column_stack([col, row]) * 100.0 + [90, 80]
        counts = rng.poisson(1.5, (len(row), len(GENES))).astype(np.float32)
        slide = _image(500, 400)
        obs = {"array_row": row, "array_col": col, "in_tissue": True, "total_counts": counts.sum(axis=1)}
        obs |= {"pxl_col_in_fullres": centres[:, 0], "pxl_row_in_fullres": centres[:, 1]}
        adata = AnnData(
            X=counts if dense else sparse.csr_matrix(counts),
            obs=pd.DataFrame(obs, index=barcodes),
            var=pd.DataFrame(index=GENES),
            obsm={"spatial": centres},
        )
        small = np.asarray(slide.resize((100, 80)))
        scalefactors = {"spot_diameter_fullres": 50.0, "tissue_downscaled_fullres_scalef": 0.2}
        adata.uns["spatial"] = {"ST": {"images": {"downscaled_fullres": small}, "scalefactors": scalefactors}}
        if change is not None:
            adata = change(adata)
        if order is not None:
            adata = adata[np.random.default_rng(order).permutation(adata.n_obs)].copy()
        place = tmp_path / root
        paths = SimpleNamespace(
            root=place,
            st=place / folder / f"{name}.h5ad",
            wsis=place / "wsis" / f"{name}.tif",
            patches=place / "patches" / f"{name}.h5",
            metadata=place / "metadata" / f"{name}.json",
        )
        for part in parts:
            getattr(paths, part).parent.mkdir(parents=True, exist_ok=True)
        if "st" in parts:
            if change is not None or (dense, order) not in _UNCHANGED:
                adata.write_h5ad(paths.st)
                if change is None:
                    _UNCHANGED[dense, order] = paths.st.read_bytes()
            else:
                paths.st.write_bytes(_UNCHANGED[dense, order])
        if "wsis" in parts:
            paths.wsis.write_bytes(_encoded("TIFF", 500, 400))
        if "metadata" in parts:
            about = {"id": name, "patient": patient, "st_technology": "Spatial Transcriptomics"}
            about |= {"pixel_size_um_embedded": 1.0, "pixel_size_um_estimated": 2.0, "spot_diameter": 100.0}
            paths.metadata.write_text(json.dumps(about))
        # As HEST, without a patch for the spots off tissue (here the first), and in an order of its own.
        kept = np.random.default_rng(7).permutation(np.arange(1, len(row)))
        images = rng.integers(0, 255, (len(kept), side, side, 3), dtype=np.uint8)
        if "patches" in parts:
            with h5py.File(paths.patches, "w") as file:
                file["img"] = images
                file["coords"] = (centres[kept, ::-1] if bench else centres[kept] - 56 // 2).astype(int)
                file["barcode"] = np.array([barcodes[i] for i in kept], dtype="S")[:, None]
                if bench:
                    file["coords"].attrs["patch_size"] = 56
        return SimpleNamespace(
            **vars(paths),
            counts=pd.DataFrame(counts, index=barcodes, columns=GENES),
            centres=pd.DataFrame(centres, index=barcodes),
            array=pd.DataFrame({"array_row": row, "array_col": col}, index=barcodes),
            images={barcodes[i]: image for i, image in zip(kept, images, strict=True)},
            small=small,
        )

    return write


@pytest.fixture
def write_visium_hd(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write a Space Ranger 3 folder of Visium HD: 10 x 12 bins of 16 um, and the 8 um bins that they consist of."""

    def write(
        name: str = "H1",
        *,
        microns_per_pixel: float = 0.5,
        hires_scale: float = 0.25,
        change: Callable[[pd.DataFrame], pd.DataFrame] = lambda positions: positions,
    ) -> SimpleNamespace:
        outs = tmp_path / "hd" / name / "outs"
        image = tmp_path / f"{name}_full.png"
        image.write_bytes(_encoded("PNG", 480, 440))
        bins = {}
        for bin_um in (8, 16):
            step = 16 // bin_um
            folder = outs / "binned_outputs" / f"square_{bin_um:03d}um"
            (folder / "spatial").mkdir(parents=True)
            row, col = (a.ravel() for a in np.meshgrid(np.arange(10 * step), np.arange(12 * step), indexing="ij"))
            side = bin_um / microns_per_pixel
            positions = pd.DataFrame(
                {
                    "barcode": [f"s_{bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)],
                    "in_tissue": (col >= step).astype(int),
                    "array_row": row,
                    "array_col": col,
                    "pxl_row_in_fullres": 20 + (row + 0.5) * side,
                    "pxl_col_in_fullres": 30 + (col + 0.5) * side,
                }
            )
            inside = positions["in_tissue"] == 1
            barcodes = positions["barcode"].to_numpy(str)[inside]
            counts = np.random.default_rng(bin_um).poisson(1.0, (len(barcodes), 3))
            _write_10x(folder / "filtered_feature_bc_matrix.h5", counts, barcodes, ("A", "B", "C"))
            change(positions).to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
            factors = {
                "bin_size_um": float(bin_um),
                "microns_per_pixel": microns_per_pixel,
                "spot_diameter_fullres": side,
                "fiducial_diameter_fullres": 300.0,
                "regist_target_img_scalef": hires_scale,
                "tissue_hires_scalef": hires_scale,
                "tissue_lowres_scalef": hires_scale / 4,
            }
            (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
            for level, scale in (("hires", hires_scale), ("lowres", hires_scale / 4)):
                (folder / "spatial" / f"tissue_{level}_image.png").write_bytes(_encoded("PNG", 480, 440, scale))
            bins[bin_um] = SimpleNamespace(
                folder=folder,
                positions=positions.set_index("barcode"),
                counts=pd.DataFrame(counts, index=barcodes, columns=["A", "B", "C"]),
            )
        (outs / "spatial").mkdir()
        return SimpleNamespace(outs=outs, root=tmp_path / "hd", bins=bins, image=image)

    return write
