"""Synthetic Visium HD: folders as Space Ranger writes them, of any number of bins, made some rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._files import write_text, written_aside
from nh2st_graph.datasets._stain import Stain, draw_stain, render
from nh2st_graph.datasets._tissue import DOMAINS, LATTICE_UM, Tissue, grow_lattice, smooth_field
from nh2st_graph.datasets._truth import KINDS
from nh2st_graph.read import PATIENTS

__all__ = ["synthetic_hd"]

#: A bin is a site of the tissue's lattice.
_BIN_UM = int(LATTICE_UM)

#: Share of the square capture area that tissue covers.
_COVERED = 0.65

#: Counts of a bin: any whole number from the first to the last.
_DEPTH = (100, 300)

#: Standard deviations of the natural log of a gene's abundance, and of what a domain changes of it.
_ABUNDANCE_SD, _DOMAIN_SD = 1.5, 1.0

#: A gene is drawn from a table of this length, in which it stands as often as it is abundant.
_TABLE = 2**18

#: Bins whose counts are drawn at a time, and numbers in a chunk of the file, as in Space Ranger's.
_BLOCK_BINS, _CHUNK = 16_384, 80_000

#: Side of a tile of the image, and the scale from one level of the image to the next.
_TILE, _STEP = 512, 4

#: Rows of the lattice beyond a strip of the image that reach into it: half of the largest hole.
_HALO = 8

_LOWRES_PX = 600
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LEAST = {"n_bins": 100, "n_sections": 1, "seed": 0, "n_own": 0, "n_noise": 0}


def synthetic_hd(
    n_bins: int = 10_000,
    folder: str | Path = "synthetic_hd",
    *,
    n_sections: int = 1,
    seed: int = 0,
    n_own: int = 500,
    n_noise: int = 2500,
    microns_per_pixel: float = 1.0,
) -> dict[str, Path]:
    r"""Write sections of synthetic tissue as Space Ranger 3 and later write Visium HD, with bins of 8 um.

    The tissue is that of :func:`synthetic_tissue`, in a blob that covers two thirds of a square. A bin has 100 to 300
    counts, whatever the image shows. Each count comes from a domain (tumour, stroma, immune, fat), by the domains'
    shares :math:`s_{id}` in the bin, and from one of this domain's genes:

    .. math::

        y_{i\cdot} \sim \mathrm{Multinomial}\Big(d_i, \sum_d s_{id} \, \mathrm{softmax}(b + w_d)\Big)

    where :math:`w_d` is 0 for ``noise`` genes. Counts and the image are made some rows at a time: a million bins take
    about two minutes and hardly more memory than the tissue's fields.

    Parameters
    ----------
    n_bins
        Number of bins in tissue, at least 100.
    folder
        Folder for the sections. Those that it has already are kept if they were made with the same arguments.
    n_sections
        Number of sections, ``H1``, ``H2``, ..., each of a patient of its own. They share the genes.
    seed
        Seed of everything random. A section does not depend on the number of sections.
    n_own, n_noise
        Number of genes that follow the tissue's domains (``OWN1``, ...), and that do not (``NOISE1``, ...).
    microns_per_pixel
        Resolution of the image: 0.25, 0.5, 1, 2, 4 or 8.

    Returns
    -------
    Space Ranger's output folder of each section, ``{folder}/{section}/outs``, for
    :func:`~nh2st_graph.read.visium_hd_section` (``bin_um=8``), or all of them at once by
    ``read.sections("visium_hd", folder, bin_um=8)``. It holds ``binned_outputs/square_008um`` with the counts, the
    positions of all bins of the square, scale factors and small images; ``feature_slice.h5`` with the metadata alone;
    and, above ``outs``, the full-resolution image ``tissue_image.tif``, a pyramid of tiles.

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    DataError
        If the folder has a section that was made with other arguments, or is something else.
    """
    asked = _Asked(n_bins, seed, n_own, n_noise, float(microns_per_pixel))
    _check_number("n_sections", n_sections)
    folder = Path(folder).resolve()
    genes = _draw_genes(asked)
    names = [f"H{number}" for number in range(1, n_sections + 1)]
    for number, name in enumerate(names, start=1):
        if not _is_made(folder / name, asked):
            with written_aside(folder / name, folder=True) as aside:
                _write_section(aside, name, number, asked, genes)
    patients = pd.DataFrame({"sample_id": names, "patient": [f"P{i + 1}" for i in range(n_sections)]})
    write_text(folder / PATIENTS, patients.to_csv(index=False))
    return {name: folder / name / "outs" for name in names}


@dataclass(frozen=True)
class _Asked:
    """Checked arguments of a section."""

    n_bins: int
    seed: int
    n_own: int
    n_noise: int
    microns_per_pixel: float

    def __post_init__(self) -> None:
        for name in ("n_bins", "seed", "n_own", "n_noise"):
            _check_number(name, getattr(self, name))
        if not self.n_own + self.n_noise:
            raise ConfigError("n_own and n_noise are both 0; ask for some genes")
        if self.microns_per_pixel not in _SCALES:
            shown = ", ".join(f"{each:g}" for each in _SCALES)
            raise ConfigError(f"{setting('microns_per_pixel', self.microns_per_pixel)}; allowed: {shown}")

    def generator(self, *place: int) -> np.random.Generator:
        """Make a random stream for a part, so that no part changes another."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=place))


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < _LEAST[name]:
        raise ConfigError(f"{setting(name, value)}; allowed: integers from {_LEAST[name]}")


class _Genes(NamedTuple):
    """Names of the genes, and for each domain a table in which a gene stands as often as it is abundant."""

    names: list[str]
    tables: NDArray[np.int32]


def _is_made(folder: Path, asked: _Asked) -> bool:
    """Whether a section is there; refuse what was made with other arguments."""
    if not folder.exists():
        return False
    about = folder / "synthetic.json"
    if not about.is_file() or json.loads(about.read_text(encoding="utf-8")) != vars(asked):
        raise DataError(f"{folder} exists, and was not made with these arguments; give another folder, or remove it")
    return True


def _draw_genes(asked: _Asked) -> _Genes:
    rng = asked.generator(0)
    numbers = {"own": asked.n_own, "noise": asked.n_noise}
    names = [f"{KINDS[kind]}{i}" for kind, n in numbers.items() for i in range(1, n + 1)]
    base = _ABUNDANCE_SD * rng.standard_normal(len(names))
    effect = _DOMAIN_SD * rng.standard_normal((len(DOMAINS), len(names)))
    effect[:, asked.n_own :] = 0
    share = np.exp(base + effect)
    # Genes without an effect have the same share in every domain, so that they tell nothing of it.
    own = share[:, : asked.n_own]
    own *= own.mean(axis=0).sum() / own.sum(axis=1, keepdims=True) if asked.n_own else 1
    ends = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
    places = (np.arange(_TABLE) + 0.5) / _TABLE
    last = len(names) - 1
    return _Genes(names, np.stack([np.minimum(np.searchsorted(each, places), last) for each in ends]).astype(np.int32))


def _write_section(folder: Path, name: str, number: int, asked: _Asked, genes: _Genes) -> None:
    tissue, inside = _grow(asked, number)
    outs = folder / "outs"
    bins = outs / "binned_outputs" / f"square_{_BIN_UM:03d}um"
    (bins / "spatial").mkdir(parents=True)
    stain = draw_stain(asked.generator(number, 1), 0.15)
    image = folder / "tissue_image.tif"
    small = _write_image(image, tissue, stain, asked.microns_per_pixel, asked.generator(number, 2))
    factors = _write_small(bins / "spatial", small, asked.microns_per_pixel)
    (bins / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors), encoding="utf-8")
    barcodes = _write_positions(bins / "spatial" / "tissue_positions.parquet", inside, asked.microns_per_pixel)
    shares = tissue.domains[:, inside].T.astype(np.float64)
    counts = _draw_counts(asked.generator(number, 3), shares, genes.tables)
    _write_counts(bins / "filtered_feature_bc_matrix.h5", counts, barcodes[inside.ravel()], genes.names, name)
    _write_slice(outs / "feature_slice.h5", name)
    (folder / "synthetic.json").write_text(json.dumps(vars(asked)), encoding="utf-8")


def _grow(asked: _Asked, number: int) -> tuple[Tissue, NDArray[np.bool_]]:
    """Draw the tissue on a square, in a blob with exactly as many bins as are asked for."""
    side = int(np.ceil(np.sqrt(asked.n_bins / _COVERED)))
    rng = asked.generator(number, 0)
    tissue = grow_lattice(rng, (side, side))
    v, u = np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32)] * 2, indexing="ij")
    shape = (side, side)
    margin = 1 + 0.1 * smooth_field(rng, shape, side * LATTICE_UM / 12) - np.hypot(u, v)
    order = np.argpartition(-margin, asked.n_bins - 1, axis=None)
    inside = np.zeros(side * side, dtype=bool)
    inside[order[: asked.n_bins]] = True
    inside = inside.reshape(shape)
    return replace(tissue, cover=inside.astype(np.float32)), inside


def _draw_counts(
    rng: np.random.Generator, shares: NDArray[np.float64], tables: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]]:
    """Draw the counts of all bins, some at a time: counts, genes, and how many genes each bin has."""
    n_genes = int(tables.max()) + 1
    for start in range(0, len(shares), _BLOCK_BINS):
        part = shares[start : start + _BLOCK_BINS]
        depth = rng.integers(_DEPTH[0], _DEPTH[1] + 1, len(part))
        by_domain = rng.multinomial(depth, part / part.sum(axis=1, keepdims=True))
        bins = np.arange(len(part), dtype=np.int64) * n_genes
        drawn = []
        for table, numbers in zip(tables, by_domain.T, strict=True):
            genes = table[rng.integers(0, _TABLE, numbers.sum(), dtype=np.int32)]
            drawn.append(np.repeat(bins, numbers) + genes)
        keys = np.sort(np.concatenate(drawn))
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(first, append=len(keys)).astype(np.int32)
        row, gene = np.divmod(keys[first], n_genes)
        yield counts, gene, np.bincount(row, minlength=len(part))


def _write_counts(
    path: Path,
    counts: Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]],
    barcodes: NDArray[np.bytes_],
    genes: list[str],
    name: str,
) -> None:
    """Write Space Ranger's HDF5 layout: genes x barcodes, barcode by barcode."""
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with h5py.File(path, "w") as file:
        file.attrs.update(chemistry_description="Visium HD v1", software_version="spaceranger-3.1.0")
        file.attrs.update(filetype="matrix", version=2, library_ids=np.array([name], dtype="S"))
        matrix = file.create_group("matrix")
        matrix.create_dataset("barcodes", data=barcodes, **packed)
        matrix.create_dataset("shape", data=np.array([len(genes), len(barcodes)], dtype=np.int32))
        stored = [
            matrix.create_dataset(key, (0,), kind, chunks=(_CHUNK,), maxshape=(None,), **packed)
            for key, kind in (("data", np.int32), ("indices", np.int64))
        ]
        n_genes = [np.zeros(1, dtype=np.int64)]
        n_stored = 0
        for data, indices, per_bin in counts:
            n_genes.append(per_bin)
            for dataset, part in zip(stored, (data, indices), strict=True):
                dataset.resize((n_stored + len(data),))
                dataset[n_stored:] = part
            n_stored += len(data)
        matrix.create_dataset("indptr", data=np.cumsum(np.concatenate(n_genes)), **packed)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(genes))], dtype="S")
        features["name"] = np.array(genes, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(genes), dtype="S")
        features["genome"] = np.array(["synthetic"] * len(genes), dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def _write_positions(path: Path, inside: NDArray[np.bool_], microns_per_pixel: float) -> NDArray[np.bytes_]:
    """Write the positions of all bins of the square, and return their barcodes."""
    row, col = (each.ravel() for each in np.indices(inside.shape))
    texts = [np.char.zfill(np.arange(n).astype("S5"), 5) for n in inside.shape]
    prefix, middle = f"s_{_BIN_UM:03d}um_".encode(), np.char.add(texts[0], b"_")[row]
    barcodes = np.char.add(np.char.add(np.char.add(prefix, middle), texts[1][col]), b"-1")
    table = {
        "barcode": barcodes.astype(str),
        "in_tissue": inside.ravel().astype(np.int64),
        "array_row": row,
        "array_col": col,
        "pxl_row_in_fullres": (row + 0.5) * _BIN_UM / microns_per_pixel,
        "pxl_col_in_fullres": (col + 0.5) * _BIN_UM / microns_per_pixel,
    }
    pd.DataFrame(table).to_parquet(path, index=False)
    return barcodes


def _strips(
    tissue: Tissue, stain: Stain, microns_per_pixel: float, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Render the image from top to bottom, a row of tiles at a time."""
    site = round(LATTICE_UM / microns_per_pixel)
    n_rows = len(tissue.cover)
    step = _TILE // site
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        above = start - max(0, start - _HALO)
        rendered = render(tissue.rows(start, stop, _HALO), stain, microns_per_pixel, rng).rgb
        yield rendered[above * site : (above + stop - start) * site]


def _write_image(
    path: Path, tissue: Tissue, stain: Stain, microns_per_pixel: float, rng: np.random.Generator
) -> Image.Image:
    """Write the image as a pyramid of tiles; return its copy at the first smaller level."""
    import tifffile

    site, (n_rows, n_cols) = round(LATTICE_UM / microns_per_pixel), tissue.cover.shape
    height, width = n_rows * site, n_cols * site
    reduced: list[NDArray[np.uint8]] = []

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for strip in _strips(tissue, stain, microns_per_pixel, rng):
            reduced.append(np.asarray(Image.fromarray(strip).reduce(_STEP)))
            missing = [(0, -size % _TILE) for size in strip.shape[:2]]
            padded = np.pad(strip, [*missing, (0, 0)], mode="edge")
            yield from (padded[:, left : left + _TILE] for left in range(0, width, _TILE))

    how: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (_TILE, _TILE),
        "compression": "jpeg",
        "compressionargs": {"level": 90},
    }
    per_cm = 1e4 / microns_per_pixel
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            tiles(),
            shape=(height, width, 3),
            dtype=np.uint8,
            subifds=1,
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            **how,
        )
        small = np.concatenate(reduced)
        tiff.write(small, subfiletype=1, resolution=(per_cm / _STEP,) * 2, resolutionunit="CENTIMETER", **how)
    return Image.fromarray(small)


def _write_small(folder: Path, small: Image.Image, microns_per_pixel: float) -> dict[str, float]:
    """Write the small images, and return the scale factors."""
    small.save(folder / "tissue_hires_image.png")
    shrink = min(1.0, _LOWRES_PX / max(small.size))
    size = (max(1, round(small.width * shrink)), max(1, round(small.height * shrink)))
    small.resize(size, Image.Resampling.BOX).save(folder / "tissue_lowres_image.png")
    return {
        "spot_diameter_fullres": _BIN_UM / microns_per_pixel,
        "bin_size_um": float(_BIN_UM),
        "microns_per_pixel": microns_per_pixel,
        "regist_target_img_scalef": 1 / _STEP,
        "tissue_lowres_scalef": shrink / _STEP,
        "fiducial_diameter_fullres": 1200.0 / microns_per_pixel,
        "tissue_hires_scalef": 1 / _STEP,
    }


def _write_slice(path: Path, name: str) -> None:
    """Write the metadata that readers take from this file; the slices of bins of 2 um are left out."""
    layout = {"file_format": "1.0", "slide_name": "synthetic", "transform": np.eye(3).tolist()}
    with h5py.File(path, "w") as file:
        file.attrs["metadata_json"] = json.dumps({"sample_id": name, "hd_layout_json": json.dumps(layout)})
