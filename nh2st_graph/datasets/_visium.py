"""Public Visium sections of 10x Genomics, with their full-resolution images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import DataError, nearest
from nh2st_graph.datasets._download import data_folder, fetch_file, file_list
from nh2st_graph.datasets._unpack import unpack
from nh2st_graph.section import Key

__all__ = ["visium"]

_HOST = "https://exampledata.scverse.org/squidpy/10x_genomics"
_COUNTS, _SPATIAL, _IMAGE = "filtered_feature_bc_matrix.h5", "spatial.tar.gz", "image.tif"
_INSTEAD = "with Space Ranger's output on this machine: ng.datasets.visium(NAME, folder=DIR), DIR holding NAME/"


def visium(name: str, *, folder: str | Path | None = None, progress: bool = True) -> AnnData:
    """Read a public Visium section from the cache, or fetch it from the scverse project's copy.

    Parameters
    ----------
    name
        10x Genomics' name of the section, such as ``"V1_Breast_Cancer_Block_A_Section_1"``. Some sections are stained
        by immunofluorescence and not by H&E, as 10x's pages say.
    folder
        A local folder to read instead of fetching, with Space Ranger's output in ``{name}/`` (or this output itself)
        and the image beside ``spatial/``. The name is then free.
    progress
        Show a progress bar for each file that is fetched; images have hundreds of MB. Interrupted downloads are
        continued.

    Returns
    -------
    The section with its full-resolution image, as from :func:`nh2st_graph.read.visium_section`. Sections of one
    block, and two runs of one section, have the same patient.

    Raises
    ------
    DataError
        If the name is unknown; a file cannot be fetched, or differs from the published one; or an archive holds what it
        should not.
    """
    known = file_list("visium")
    if folder is not None:
        adata = read.sections("visium", folder, [name])[name]
    elif name in known:
        root = data_folder("visium") / name
        for file, digest in zip((_COUNTS, _SPATIAL, _IMAGE), known[name][1:], strict=True):
            url = f"{_HOST}/{name}/{name}_{file}"
            fetch_file(url, root / file, f"sha256:{digest}", instead=_INSTEAD, progress=progress)
        unpack(root / _SPATIAL, root / "spatial", known[name][2])
        adata = read.visium_section(root, section=name, source_image=root / _IMAGE)
    else:
        raise DataError(f"no public Visium section {name!r}; {nearest(name, known)}")
    if name in known:  # that of another section is what the reader found, which may be nobody
        adata.obs[Key.obs.patient] = pd.Categorical([known[name][0]] * adata.n_obs)
    return adata
