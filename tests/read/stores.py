"""SpatialData objects to read: images and spots wherever a test wants them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from nh2st_graph.section import library

SIDE, N = 60, 6  # of the image, and number of spots
ANGLE = np.deg2rad(30)
TURNED = np.array(
    [[0.5 * np.cos(ANGLE), -0.5 * np.sin(ANGLE), 7], [0.5 * np.sin(ANGLE), 0.5 * np.cos(ANGLE), -3], [0, 0, 1]]
)
STRETCHED = np.array([[3.0, 0.5, 2], [0, 2.0, 5], [0, 0, 1]])


def affine(matrix):
    from spatialdata.transformations import Affine

    return Affine(np.asarray(matrix, dtype=float), input_axes=("x", "y"), output_axes=("x", "y"))


def image_element(placed, *, scales=None, pixels=None, **kwargs):
    from spatialdata.models import Image2DModel

    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=placed, scale_factors=scales, **kwargs)


def centres_px():
    return np.random.default_rng(1).uniform(10, SIDE - 10, (N, 2))


def circles(placed, centres, index=None):
    from spatialdata.models import ShapesModel

    index = pd.Index(range(100, 100 + N)) if index is None else index
    return ShapesModel.parse(centres, geometry=0, radius=2.0, index=index, transformations=placed)


def table(region="spots", **kwargs):
    from spatialdata.models import TableModel

    counts = np.random.default_rng(2).poisson(3.0, (N, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {"region": pd.Categorical([region] * N), "id": range(100, 100 + N)}, index=[f"s{i}" for i in range(N)]
    )
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=list("ABCD")), **kwargs)
    return TableModel.parse(adata, region=region, region_key="region", instance_key="id")


def made(*, images=None, shapes=None, tables=None):
    """A SpatialData object: an image at 0.5 um per pixel and circles on it, in pixels."""
    import spatialdata as sd
    from spatialdata.transformations import Identity, Scale

    here = {"global": Identity()}
    with_scale = here | {"microns": Scale([0.5, 0.5], axes=("x", "y"))}
    return sd.SpatialData(
        images={"he": image_element(with_scale)} if images is None else images,
        shapes={"spots": circles(here, centres_px())} if shapes is None else shapes,
        tables={"table": table()} if tables is None else tables,
    )


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def several(regions=("left", "right"), *, where="apart", scale=True, **columns):
    """Sections in one object: a table of N spots a region, and an image each.

    Images and spots lie side by side in ``global`` (``apart``), on one another (``together``), or each in a
    coordinate system of its own, named by the region (``own``). Columns of ``obs`` are given by region.
    """
    import spatialdata as sd
    from spatialdata.models import TableModel
    from spatialdata.transformations import Identity, Scale

    shapes, images, obs = {}, {}, []
    for i, region in enumerate(regions):
        at = affine([[1, 0, 100 * i if where == "apart" else 0], [0, 1, 0], [0, 0, 1]])
        placed = {region if where == "own" else "global": at}
        micrometres = {"microns": Scale([0.5 + i, 0.5 + i], axes=("x", "y"))} if scale else {}
        pixels = np.random.default_rng(i).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
        images[f"slide{i}"] = image_element(placed | micrometres, pixels=pixels)
        shapes[region] = circles(placed if where != "own" else placed | {"um": Identity()}, centres_px() + i)
        rows = pd.DataFrame({"region": region, "id": range(100, 100 + N)}, index=[f"{region}{j}" for j in range(N)])
        obs.append(rows.assign(**{name: values[i] for name, values in columns.items()}))
    table = AnnData(
        np.random.default_rng(2).poisson(3.0, (N * len(regions), 4)).astype(np.float32),
        obs=pd.concat(obs).astype({"region": "category"}),
        var=pd.DataFrame(index=list("ABCD")),
    )
    # In no order that follows the regions'.
    table = table[np.random.default_rng(3).permutation(table.n_obs)].copy()
    table = TableModel.parse(table, region=list(regions), region_key="region", instance_key="id")
    return sd.SpatialData(images=images, shapes=shapes, tables={"table": table})


def image(adata):
    return pixels_of(library(adata).source)


def set_also(element, system, transformation):
    from spatialdata.transformations import set_transformation

    set_transformation(element, transformation, system)
