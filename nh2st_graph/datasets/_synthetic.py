"""Synthetic tissue: H&E-like images, and counts whose dependence on the images is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_matrix

from nh2st_graph._errors import ConfigError, ImageError, RunError, setting
from nh2st_graph._files import written_aside
from nh2st_graph.datasets._stain import draw_stain, render, scan
from nh2st_graph.datasets._tissue import DOMAINS, FIRST_SPOT_UM, LATTICE_UM, PITCH_UM, Tissue, grow_tissue
from nh2st_graph.datasets._truth import (
    KINDS,
    MORPHOLOGY,
    Genes,
    draw_counts,
    draw_depth,
    draw_genes,
    expected_counts,
    measure_morphology,
    patch_means,
    selected_neighbour,
    surroundings,
)
from nh2st_graph.section import Key, check_section, library_entry
from nh2st_graph.slide import thumbnail

__all__ = ["synthetic_tissue"]

_SPOT_UM = 100.0
_HIRES_PX = 1000
_ON_TISSUE = 0.98  # smallest share of tissue in a spot's patch

# With fewer than 6 rows or columns, the 18 terms of a patch would explain the surroundings of so few spots.
_LEAST = {"n_sections": 1, "seed": 0, "scanner": 0, "n_rows": 6, "n_cols": 6, **{f"n_{kind}": 0 for kind in KINDS}}

#: Where the variables of each kind of gene are kept.
_TRUTHS = {
    Key.obsm.truth_morphology: "own",
    Key.obsm.truth_neighbourhood: "neighbour",
    Key.obsm.truth_interaction: "interaction",
}

_BOUNDS = {
    "microns_per_pixel": (0.1, 8.0),
    "depth": (1.0, 1e6),
    "dispersion": (0.0, 10.0),
    "strength": (0.0, 5.0),
    "stain_shift": (0.0, 1.0),
    "depth_shift": (0.0, 2.0),
}


def synthetic_tissue(
    n_sections: int = 4,
    seed: int = 0,
    *,
    folder: str | Path,
    n_rows: int = 16,
    n_cols: int = 16,
    n_own: int = 20,
    n_neighbour: int = 20,
    n_interaction: int = 0,
    n_noise: int = 10,
    microns_per_pixel: float = 2.0,
    depth: float = 5000.0,
    dispersion: float = 0.2,
    strength: float = 0.6,
    stain_shift: float = 0.15,
    depth_shift: float = 0.3,
    scanner: int = 0,
) -> dict[str, AnnData]:
    r"""Make sections of synthetic tissue: images, counts, and the ground truth that links them.

    Each section is a square array of spots (pitch 200 um, diameter 100 um) on an image in haematoxylin
    and eosin. Let :math:`Z` be the morphology of a spot's own 112 um patch (nuclear density, nuclear size,
    eosin, lumen), standardised within the section, and :math:`N` the mean morphology of its up to eight
    array neighbours, less what a quadratic function of :math:`Z` and the domains of the patch explain of it,
    standardised. Let :math:`A` be the morphology of the neighbour with the most nuclei (a mean by the weights
    :math:`\exp(2 d_j - c_j)`, with the neighbour's standardised density :math:`d_j`, and :math:`c_j = 1` across the
    corner), less the same and what the neighbours' mean explains of it, standardised. Then

    .. math::

        y_{ig} \sim \mathrm{NB}(d_i \mu_{ig}, \phi), \qquad
        \mu_{ig} = m_{k} \frac{e^{b_g + \eta_{ig}}}{\sum_{h \in k} e^{b_h + \eta_{ih}}}

    where :math:`k` is the gene's kind, and :math:`\eta_{ig}` is :math:`w_g \cdot Z_i` for ``own`` genes,
    :math:`w_g \cdot N_i` for ``neighbour`` genes, :math:`w_g \cdot A_i` for ``interaction`` genes and 0 for
    ``noise`` genes. A mean over neighbours cannot express :math:`A`, attention can. A kind holds a constant share
    :math:`m_k` of the library, so that library-size normalisation carries no signal from one kind to
    another; the depth :math:`d_i` is log-normal and independent of the image; the variance of a count of
    mean :math:`m` is :math:`m + \phi m^2`.

    Parameters
    ----------
    n_sections
        Number of sections, named ``S1``, ``S2``, ... Each patient has two: ``S1`` and ``S2`` come from ``P1``, ``S3``
        and ``S4`` from ``P2``. A section does not depend on the number of sections.
    seed
        Seed of everything random.
    folder
        Folder for the images, ``{section}.jpg``. A file with the same content is not written again.
    n_rows, n_cols
        Size of the spot array, at least 6 each. Spots outside the tissue's outline are left out.
    n_own, n_neighbour, n_interaction, n_noise
        Number of genes of each kind: ``OWN01``, ..., ``NBR01``, ..., ``INT01``, ..., ``NOISE01``, ... There are none or
        at least two of each kind but noise: a single gene would have its kind's constant share of the library.
    microns_per_pixel
        Resolution of the images; the tissue is the same at every resolution.
    depth
        Median number of counts of a spot.
    dispersion
        :math:`\phi`; 0 gives Poisson counts.
    strength
        Length of each :math:`w_g`: about the standard deviation of a gene's log mean over spots.
    stain_shift
        Standard deviation of the log strength of each dye over sections.
    depth_shift
        Standard deviation of the log depth over sections.
    scanner
        Number of the scanner. 0 shows the light as it is; any other number has a white balance, gamma and response to
        red, green and blue of its own. Tissue, stains and counts are the same under every scanner.

    Returns
    -------
    Sections by name. Beyond the section contract, each has ``obs["domain"]`` (the main tissue of the
    patch), ``var["kind"]``, ``varm["truth_loadings"]`` (:math:`w`, genes x 4), ``obsm["truth_morphology"]``,
    ``obsm["truth_neighbourhood"]`` and ``obsm["truth_interaction"]`` (:math:`Z`, :math:`N` and :math:`A`, spots x 4),
    ``layers["truth_mean"]`` (:math:`d_i \mu_{ig}`, spots x genes) and ``uns["nh2st_truth"]`` (the arguments).

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    ImageError
        If an image cannot be written.
    """
    study = _Study(
        n_sections=n_sections,
        seed=seed,
        n_rows=n_rows,
        n_cols=n_cols,
        n_own=n_own,
        n_neighbour=n_neighbour,
        n_interaction=n_interaction,
        n_noise=n_noise,
        microns_per_pixel=microns_per_pixel,
        depth=depth,
        dispersion=dispersion,
        strength=strength,
        stain_shift=stain_shift,
        depth_shift=depth_shift,
        scanner=scanner,
    )
    genes = draw_genes(_generator(seed, 0), study.numbers, strength)
    folder = Path(folder).resolve()
    return {f"S{k}": _make_section(k, study, genes, folder) for k in range(1, n_sections + 1)}


@dataclass(frozen=True)
class _Study:
    """Checked arguments of :func:`synthetic_tissue`."""

    n_sections: int
    seed: int
    n_rows: int
    n_cols: int
    n_own: int
    n_neighbour: int
    n_interaction: int
    n_noise: int
    microns_per_pixel: float
    depth: float
    dispersion: float
    strength: float
    stain_shift: float
    depth_shift: float
    scanner: int

    @property
    def numbers(self) -> dict[str, int]:
        """Number of genes of each kind."""
        return {kind: getattr(self, f"n_{kind}") for kind in KINDS}

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ConfigError(f"{setting(name, value)}; allowed: integers from {least}")
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or not low <= float(value) <= high:
                raise ConfigError(f"{setting(name, value)}; allowed: {low:g} to {high:g}")
        for kind in ("own", "neighbour", "interaction"):
            if self.numbers[kind] == 1:
                raise ConfigError(
                    f"{setting(f'n_{kind}', 1)}; allowed: 0, or 2 and more (a single gene would have its kind's "
                    "constant share of the library)"
                )
        if not any(self.numbers.values()):
            raise ConfigError("n_own, n_neighbour, n_interaction and n_noise are all 0; ask for some genes")


def _make_section(number: int, study: _Study, genes: Genes, folder: Path) -> AnnData:
    """Draw one section: its tissue, image, morphology and counts."""
    rng, count_rng = _generator(study.seed, number, 0), _generator(study.seed, number, 1)
    tissue = grow_tissue(rng, study.n_rows, study.n_cols)
    image = render(tissue, draw_stain(rng, study.stain_shift), study.microns_per_pixel, rng)
    path = folder / f"S{number}.jpg"
    _write_image(scan(image.rgb, study.scanner), path)

    array, centres = _spots(tissue, study.n_rows, study.n_cols)
    domains = patch_means(tissue.domains, centres, LATTICE_UM)
    own = measure_morphology(tissue, image, centres, study.microns_per_pixel)
    variables = {
        "own": own,
        "neighbour": surroundings(own, domains, array),
        "interaction": selected_neighbour(own, domains, array),
    }
    depth = draw_depth(count_rng, len(own), study.depth, study.depth_shift)
    mean = expected_counts(genes, variables, depth)

    adata = _name_counts(number, genes, array, draw_counts(count_rng, mean, study.dispersion))
    names = np.array(list(DOMAINS))
    adata.obs[Key.obs.domain] = pd.Categorical(names[domains.argmax(axis=1)], categories=names)
    adata.layers[Key.layers.truth_mean] = mean
    for key, kind in _TRUTHS.items():
        adata.obsm[key] = _frame(variables[kind], adata.obs_names)
    adata.uns[Key.uns.truth] = asdict(study)
    _attach_image(adata, centres, path, study.microns_per_pixel)
    return check_section(adata, need=("genes", "image"))


def _generator(seed: int, *place: int) -> np.random.Generator:
    """Make a random stream for a part of the study, so that no part changes another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def _spots(tissue: Tissue, n_rows: int, n_cols: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Give array positions (row, column) and centres (x, y in um) of the spots that lie on tissue."""
    array = np.argwhere(np.ones((n_rows, n_cols), dtype=bool))
    centres = (FIRST_SPOT_UM + PITCH_UM * array[:, ::-1]).astype(np.float64)
    covered = patch_means(tissue.cover, centres, LATTICE_UM) >= _ON_TISSUE
    return array[covered], centres[covered]


def _name_counts(number: int, genes: Genes, array: NDArray[np.intp], counts: NDArray[np.int64]) -> AnnData:
    """Make a section of counts with the names of spots and genes."""
    name = f"S{number}"
    obs = pd.DataFrame(
        {
            Key.obs.section: pd.Categorical([name] * len(array)),
            Key.obs.patient: pd.Categorical([f"P{(number + 1) // 2}"] * len(array)),
            Key.obs.array_row: array[:, 0],
            Key.obs.array_col: array[:, 1],
        },
        index=[f"{name}_{row}x{col}" for row, col in array],
    )
    var = pd.DataFrame({Key.var.kind: pd.Categorical(genes.kind, categories=list(KINDS))}, index=genes.names)
    adata = AnnData(X=csr_matrix(counts.astype(np.int32)), obs=obs, var=var)
    adata.varm[Key.varm.truth_loadings] = _frame(genes.loadings, adata.var_names)
    return adata


def _frame(values: NDArray[np.float64], index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, index=index, columns=list(MORPHOLOGY))


def _attach_image(adata: AnnData, centres: NDArray[np.float64], path: Path, microns_per_pixel: float) -> None:
    """Fill in ``obsm["spatial"]`` and ``uns["spatial"]``."""
    adata.obsm[Key.obsm.spatial] = centres / microns_per_pixel
    entry = library_entry(path, microns_per_pixel, _SPOT_UM / microns_per_pixel, thumbnail(path, _HIRES_PX))
    adata.uns[Key.uns.spatial] = {path.stem: entry}


def _write_image(rgb: NDArray[np.uint8], path: Path) -> None:
    """Write an image, unless the file has the same content already, so that caches stay valid."""
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=92, subsampling=0)
    try:
        if path.is_file() and path.read_bytes() == buffer.getvalue():
            return
        with written_aside(path) as aside:
            aside.write_bytes(buffer.getvalue())
    except OSError as error:
        raise ImageError(f"image {path} cannot be written: {error.strerror or error}; give another folder") from None
    except RunError as error:
        if path.parent.is_dir():  # the disk is full or read-only
            raise
        raise ImageError(f"image {error.args[0]}") from None
