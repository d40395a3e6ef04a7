"""Write a prediction as the folder that Cell Ranger writes, with coordinates: Seurat and Bioconductor read it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from nh2st_graph import __version__
from nh2st_graph._errors import RunError
from nh2st_graph._files import written_aside
from nh2st_graph.confidence import best_reliable
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, Library, section_name, spot_centres
from nh2st_graph.write._values import dense, drawn_library, unit, with_values

__all__ = ["write_seurat"]

#: Fiducial marks of a Visium slide to its spots, by Space Ranger's diameters; Seurat draws spots by it.
_FIDUCIAL = 1.6155
#: Longest side of the smaller image, in pixels, as Space Ranger makes it.
_LOWRES = 600
#: What is written into the folder: always, and where there is an image.
_ALWAYS = {
    *("matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz", "spots.csv", "genes.csv", "README.txt", "spatial"),
    *(f"spatial/{name}" for name in ("tissue_positions.csv", "scalefactors_json.json")),
}
_IMAGES = {f"spatial/tissue_{size}_image.png" for size in ("hires", "lowres")}
_ROWS = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


@documented
def write_seurat(
    prediction: SpatialObject,
    path: str | Path,
    *,
    genes: str | Sequence[str] | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write a prediction as a folder in Cell Ranger's layout, which ``Read10X`` of Seurat reads.

    ``matrix.mtx.gz``, ``features.tsv.gz`` and ``barcodes.tsv.gz`` are what ``Seurat::Read10X``,
    ``scanpy.read_10x_mtx`` and ``DropletUtils::read10xCounts`` read; ``spatial/`` holds what
    ``Seurat::Read10X_Image`` reads: ``tissue_positions.csv``, ``scalefactors_json.json`` and small images.
    ``spots.csv`` is ``obs`` (familiarity, annotation), ``genes.csv`` is ``var`` (which gene is reliable).

    **The values are log expression, not counts**, and may be below 0: they belong into Seurat's layer ``data`` and
    Bioconductor's assay ``logcounts``, and must not be normalised again. ``README.txt`` in the folder says so, and how
    to read it; the head of the matrix says so too.

    Parameters
    ----------
    prediction
        A prediction of :func:`nh2st_graph.tl.predict`.
    %(written_path)s A folder.
    %(genes)s A gene that is NaN in some spot is left out, and a message names it.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a gene is not in the prediction, no gene has values, or the diameter of spots is not known.
    RunError
        If something else is there under this path, or nothing can be written there.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> ng.write_seurat(prediction, "D1_10x")
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    some, path = with_values(section, genes, "a 10x folder"), Path(path)
    found, diameter = drawn_library(section)
    if path.exists() and not _is_ours(path):
        raise RunError(f"{path} exists, and is no folder that this function wrote; give another, or remove it")
    with written_aside(path, folder=True) as aside:
        (aside / "spatial").mkdir(parents=True)
        _write_matrix(some, aside / "matrix.mtx.gz")
        ids = some.var.get("gene_ids", some.var_names)
        rows = zip(map(str, ids), map(str, some.var_names), strict=True)
        _write_packed(aside / "features.tsv.gz", (f"{each}\t{symbol}\tGene Expression\n" for each, symbol in rows))
        _write_packed(aside / "barcodes.tsv.gz", (f"{spot}\n" for spot in section.obs_names))
        _write_positions(section, aside / "spatial" / "tissue_positions.csv")
        factors = _write_images(found, aside / "spatial")
        _write_factors(found, diameter, factors, aside / "spatial" / "scalefactors_json.json")
        section.obs.to_csv(aside / "spots.csv", index_label="barcode")
        some.var.to_csv(aside / "genes.csv", index_label="gene")
        (aside / "README.txt").write_text(_readme(section, some, path.name), encoding="utf-8")


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds what is written here, and nothing else."""
    there = {str(each.relative_to(folder)) for each in folder.rglob("*")} if folder.is_dir() else set[str]()
    return _ALWAYS <= there <= _ALWAYS | _IMAGES


def _write_packed(path: Path, lines: Iterable[str]) -> None:
    # Without a time, the same prediction gives the same bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as file,
    ):
        file.writelines(lines)


def _write_matrix(some: AnnData, path: Path) -> None:
    """Write genes x spots as Matrix Market, every value: 0 is a value of log expression like others."""
    values = dense(some)
    head = (
        "%%MatrixMarket matrix coordinate real general\n"
        f"% predicted by nh2st_graph {__version__}: {unit(some)}; not counts\n"
        f"{some.n_vars} {some.n_obs} {values.size}\n"
    )
    numbers = range(1, some.n_vars + 1)

    def lines() -> Iterable[str]:
        yield head
        for spot, row in enumerate(values.tolist(), start=1):
            yield "".join(f"{gene} {spot} {value:.6g}\n" for gene, value in zip(numbers, row, strict=True))

    _write_packed(path, lines())


def _write_positions(section: AnnData, path: Path) -> None:
    """Write Space Ranger's table of positions; array positions are blank where there is no array."""
    obs, centres = section.obs, spot_centres(section).round(2)
    table = pd.DataFrame({_ROWS[0]: 1}, index=pd.Index(section.obs_names.astype(str), name="barcode"))
    for name, key in zip(_ROWS[1:3], (Key.obs.array_row, Key.obs.array_col), strict=True):
        table[name] = obs[key].to_numpy() if key in obs else None
    table[_ROWS[3]], table[_ROWS[4]] = centres[:, 1], centres[:, 0]
    table.to_csv(path, quoting=csv.QUOTE_MINIMAL)


def _write_images(found: Library, folder: Path) -> dict[str, float]:
    """Write the small image in two sizes, and give their scale factors; none where there is no image."""
    if found.hires is None or found.hires_scale is None:
        return {}
    pixels = np.asarray(found.hires)
    if pixels.dtype != np.uint8:  # as matplotlib draws them: whole numbers up to 255, others up to 1
        most = 255 if pixels.dtype.kind in "iu" else 1
        pixels = (np.clip(pixels, 0, most) * (255 / most)).round().astype(np.uint8)
    image = Image.fromarray(pixels[..., :3] if pixels.ndim == 3 else pixels).convert("RGB")
    image.save(folder / "tissue_hires_image.png")
    smaller = image.copy()
    smaller.thumbnail((_LOWRES, _LOWRES))
    smaller.save(folder / "tissue_lowres_image.png")
    return {
        "tissue_hires_scalef": found.hires_scale,
        "tissue_lowres_scalef": found.hires_scale * smaller.width / image.width,
    }


def _write_factors(found: Library, diameter: float, factors: dict[str, float], path: Path) -> None:
    fiducial = found.scalefactors.get("fiducial_diameter_fullres", _FIDUCIAL * diameter)
    values = {Key.library.spot_diameter: diameter, "fiducial_diameter_fullres": float(fiducial), **factors}
    if found.microns_per_pixel is not None:
        values[Key.library.microns_per_pixel] = found.microns_per_pixel
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _readme(section: AnnData, some: AnnData, name: str) -> str:
    shown = next(iter(best_reliable(some.var, 1)), some.var_names[0])
    missing = [str(gene) for gene in section.var_names if gene not in some.var_names]
    return f"""\
Predicted expression of section {section_name(section)}: {some.n_obs} spots, {some.n_vars} genes.
Written by nh2st_graph {__version__}.

THE VALUES ARE NOT COUNTS. They are log expression as a model predicts it from the image ({unit(section)}).
They may be below 0, and are shrunken towards the mean. Do not normalise them or take their logarithm again.
genes.csv says which genes are reliable for this slide; spots.csv says how familiar each spot is to the model.

Not written: {", ".join(missing) or "no gene"}{" (not asked for, or not predicted)" if missing else ""}.

Seurat 5 (in version 4: CreateAssayObject(data = values)):

  library(Seurat)
  values <- Read10X("{name}")
  object <- CreateSeuratObject(CreateAssay5Object(data = values), assay = "Spatial")
  object <- AddMetaData(object, read.csv("{name}/spots.csv", row.names = 1))
  image <- Read10X_Image("{name}/spatial")
  DefaultAssay(image) <- "Spatial"
  object[["slice1"]] <- image[colnames(object)]
  SpatialFeaturePlot(object, "{shown}")

Bioconductor:

  library(SpatialExperiment)
  sce <- DropletUtils::read10xCounts("{name}", col.names = TRUE)
  at <- read.csv("{name}/spatial/tissue_positions.csv", row.names = "barcode")[colnames(sce), ]
  spe <- SpatialExperiment(assays = list(logcounts = SummarizedExperiment::assay(sce)),
    rowData = SummarizedExperiment::rowData(sce),
    spatialCoords = as.matrix(at[, c("pxl_col_in_fullres", "pxl_row_in_fullres")]))

Python:

  import scanpy as sc
  adata = sc.read_10x_mtx("{name}")
"""
