"""Read patches around spots as HEST-1k stores them (``img``, ``coords``, ``barcode``), and assemble them to an image.

Everything downstream cuts its own patches from an image (:mod:`nh2st_graph.im`). If a data set has patches but no
slide, this module puts the patches back to where they came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, ImageError, NH2STGraphError, RunError, reason
from nh2st_graph._files import ENVIRONMENT, cache_root, written_aside
from nh2st_graph.read._counts import refuse_duplicates
from nh2st_graph.read._hdf5 import check_declared
from nh2st_graph.slide import check_windows

__all__ = ["PATCH_UM", "Mosaic", "mosaic", "patch_names", "slide_scale"]

#: Side of a patch on the tissue: 224 pixels of 0.5 um. (HEST-1k first stored patches resampled to 256 pixels.)
PATCH_UM = 112.0

# Part of the name of every assembled image: raise it if the way of assembling changes.
_FORMAT = 1
_TILE = 1024
_WHITE = 255


class Mosaic(NamedTuple):
    """An image assembled from patches.

    Attributes
    ----------
    image
        A TIFF file, white where there is no patch.
    spatial
        ``(n_spots, 2)``, x then y, spot centres in its pixels.
    microns_per_pixel
        Its resolution.
    """

    image: Path
    spatial: NDArray[np.float64]
    microns_per_pixel: float


@contextmanager
def _opened(path: Path, where: str) -> Iterator[h5py.File]:
    """Open a patch file, and say in our words if it is damaged."""
    try:
        check_declared(path)
        with h5py.File(path) as file:
            yield file
    except NH2STGraphError:
        raise
    except Exception as error:  # h5py raises nearly any class on a damaged file
        raise DataError(f"{where}: {path} cannot be read as HDF5 ({reason(error)}); download it again") from error


def patch_names(path: Path, where: str) -> pd.Index:
    """Read the barcodes of the patches in a file.

    Raises
    ------
    DataError
        If the file cannot be read, lacks ``img`` or ``barcode``, has different numbers of them, or has a barcode twice.
    """
    with _opened(path, where) as file:
        missing = [key for key in ("img", "barcode") if key not in file]
        if missing:
            raise DataError(
                f"{where}: {path} has no {', '.join(missing)} (there: {', '.join(file)}); "
                "a patch file has img, coords and barcode: download it again"
            )
        names = [_text(name) for name in np.ravel(file["barcode"][()])]
        shape = file["img"].shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[0] != len(names):
        raise DataError(
            f"{where}: {path} has patches of shape {shape} and {len(names)} barcodes; "
            "expected (n, side, side, 3) and n: download it again"
        )
    index = pd.Index(names, dtype=object)
    refuse_duplicates(index, path, where)
    return index


def slide_scale(path: Path, names: pd.Index, centres: NDArray[np.float64], where: str) -> float:
    """Compute um per pixel of a slide from the patches that were cut from it: each is 112 um wide.

    Parameters
    ----------
    path
        The patch file.
    names, centres
        Barcodes of spots, and their centres in pixels of the slide, ``(n_spots, 2)``, x then y.
    where
        The section, to start an error message with.

    Returns
    -------
    Um per pixel, with an error of half a percent at most, because corners of patches are whole pixels.

    Raises
    ------
    DataError
        If there is no patch file, or its coordinates do not give the resolution.
    """
    if not path.is_file():
        raise DataError(f"{where}: um per pixel cannot be computed; {path} is missing, or metadata/{path.stem}.json is")
    stored = patch_names(path, where)
    rows = stored.get_indexer(names)
    with _opened(path, where) as file:
        coords = np.asarray(file["coords"][()] if "coords" in file else (), dtype=np.float64)
        said = max(float(file[key].attrs.get("patch_size", 0)) for key in ("img", "coords") if key in file)
    if (rows >= 0).any() and coords.shape == (len(stored), 2):
        spots, patches = centres[rows >= 0], coords[rows[rows >= 0]]
        off = spots - patches
        if off.min() >= 1 and np.ptp(off) < 2:
            return float(PATCH_UM / (2 * np.floor(off.min()) + 1))
        if said > 0 and np.abs(spots - patches[:, ::-1]).max() < 2:
            return PATCH_UM / said
    raise DataError(
        f"{where}: um per pixel cannot be computed from coords in {path}: they are not the upper left corners of "
        f"patches around the spots; give metadata/{path.stem}.json with pixel_size_um_estimated"
    )


def mosaic(
    path: Path, barcodes: pd.Index, centres: NDArray[np.float64], microns_per_pixel: float, where: str
) -> Mosaic:
    """Assemble the image that patches were cut from, in the cache folder.

    Parameters
    ----------
    path
        The patch file.
    barcodes, centres
        Barcodes of spots that have a patch, and their centres in pixels of the slide, ``(n_spots, 2)``, x then y. Each
        patch is centred on its spot, so ``coords`` is not read. (It is the upper left corner, x then y, in HEST-1k, and
        the centre, y then x, in HEST-Benchmark.)
    microns_per_pixel
        Resolution of the slide.
    where
        The section, to start an error message with.

    Returns
    -------
    The image in pixels of the patches. A patch of 112 um cut from it is the stored one, unless another overlaps it.
    Spots lie up to half a pixel (0.25 um) off.

    Raises
    ------
    ImageError
        If the image cannot be written.
    """
    stored = patch_names(path, where)
    rows = stored.get_indexer(barcodes)
    with _opened(path, where) as file:
        side = int(file["img"].shape[1])
        scale = microns_per_pixel * side / PATCH_UM
        width, height = np.minimum(np.ptp(centres * scale, axis=0) + side, 2.0**31).astype(int)
        check_windows(path, (int(width), int(height)))
        corners = np.rint(centres * scale - side / 2).astype(int)
        corners -= corners.min(axis=0)
        width, height = corners.max(axis=0) + side
        image = cache_root() / "images" / f"{path.stem}-{_key(path, barcodes, corners)}.tif"
        if not image.is_file():
            order = np.argsort(
                barcodes.to_numpy(dtype=str), kind="stable"
            )  # the order by name decides where patches overlap
            tiles = _tiles(file["img"], rows[order], corners[order], side, (int(height), int(width)))
            _write(image, tiles, (int(height), int(width)), where)
    return Mosaic(image, corners + side / 2, PATCH_UM / side)


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _key(path: Path, barcodes: pd.Index, corners: NDArray[np.int_]) -> str:
    """Hash all that the image depends on; the size and time of the patch file stand for the patches, which is quick."""
    state = path.stat()
    spots = sorted([str(name), int(x), int(y)] for name, (x, y) in zip(barcodes, corners, strict=True))
    content = [_FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, spots]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _tiles(
    images: h5py.Dataset, rows: NDArray[np.int_], corners: NDArray[np.int_], side: int, shape: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the image tile by tile, so that it is never in memory as a whole."""
    for top in range(0, shape[0], _TILE):
        for left in range(0, shape[1], _TILE):
            tile = np.full((_TILE, _TILE, 3), _WHITE, dtype=np.uint8)
            x, y = corners[:, 0] - left, corners[:, 1] - top
            for i in np.flatnonzero((x > -side) & (x < _TILE) & (y > -side) & (y < _TILE)):
                into = tile[max(y[i], 0) : y[i] + side, max(x[i], 0) : x[i] + side]
                patch = images[int(rows[i])][max(-y[i], 0) :, max(-x[i], 0) :]
                into[:] = patch[: into.shape[0], : into.shape[1]]
            yield tile


def _write(path: Path, tiles: Iterator[NDArray[np.uint8]], shape: tuple[int, int], where: str) -> None:
    import tifffile  # only sections without a slide need this

    form: Any = {"dtype": np.uint8, "photometric": "rgb", "tile": (_TILE, _TILE), "compression": "zlib"}
    try:
        with written_aside(path) as aside:
            tifffile.imwrite(aside, tiles, shape=(*shape, 3), **form)
    except (OSError, RunError) as error:
        raise ImageError(
            f"{where}: the image of its patches cannot be written to {path.parent} ({reason(error)}); "
            f"set {ENVIRONMENT} to a folder that can be written to, or add the slide"
        ) from None
