"""HER2ST: 36 Spatial Transcriptomics sections of eight HER2-positive breast tumours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import DataError, nearest
from nh2st_graph.datasets._download import data_folder, fetch_file, file_list

__all__ = ["her2st"]

_HOST = "https://raw.githubusercontent.com"
_REPOSITORY = "almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec"
_INSTEAD = "with a copy of almaan/her2st on this machine: ng.datasets.her2st(folder=DIR)"


def her2st(
    sections: str | Sequence[str] | None = None, *, folder: str | Path | None = None, progress: bool = True
) -> dict[str, AnnData]:
    """Read sections of HER2ST from the cache, and fetch missing ones from the authors' public repository.

    Parameters
    ----------
    sections
        Names of sections, such as ``"A1"``; None reads all 36 (about 200 MB).
    folder
        A local copy of the repository to read instead of fetching.
    progress
        Show a progress bar for each file that is fetched. Interrupted downloads are continued.

    Returns
    -------
    Sections by name, as from :func:`nh2st_graph.read.her2st`. The patient is the first letter.

    Raises
    ------
    DataError
        If a section is unknown, or a file cannot be fetched or differs from the published one.

    References
    ----------
    Andersson et al. 2021, "Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions", Nature Communications 12:6012.
    """
    if folder is not None:
        return read.her2st(folder, sections)
    known = file_list("her2st")
    names = list(known) if sections is None else [sections] if isinstance(sections, str) else list(sections)
    for name in names:
        if name not in known:
            raise DataError(f"no section {name!r} in HER2ST; {nearest(str(name), known)}")
    root = data_folder("her2st")
    for name in names:
        image, *objects = known[name]
        paths = (
            f"data/ST-cnts/{name}.tsv.gz",
            f"data/ST-spotfiles/{name}_selection.tsv",
            f"data/ST-imgs/{name[0]}/{name}/{image}",
        )
        for path, digest in zip(paths, objects, strict=True):
            url = f"{_HOST}/{_REPOSITORY}/{path}"
            fetch_file(url, root / path, f"git:{digest}", instead=_INSTEAD, progress=progress)
    return read.her2st(root, names)
