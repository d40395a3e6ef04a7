"""Files predicted with the model of a run: sections, stores and slides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import RunError
from nh2st_graph._validate import check_section, section_name
from nh2st_graph.tl._model import FittedModel, load
from nh2st_graph.tl._predict import predict
from nh2st_graph.tl._slides import slide_section

__all__ = ["predict_run"]


def predict_run(
    folder: str | Path,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    microns_per_pixel: float | None = None,
    pitch_um: float | None = None,
    min_tissue: float = 0.5,
    spatialdata: bool = False,
) -> list[Path]:
    """Predict sections and slides from files with the model of a run.

    Parameters
    ----------
    folder
        The run, or any folder with a model.
    paths
        Sections as h5ad or SpatialData stores (folders, a section for each region), whose genes may be absent; or
        slides, any other file, on whose tissue virtual spots are laid.
    out
        Folder for ``{section}.h5ad``; or, for one input, a file that ends in ``.h5ad``. A file that is there already is
        an error.
    microns_per_pixel, pitch_um, min_tissue
        Of slides; see :func:`nh2st_graph.tl.slide_section`.
    spatialdata
        Also write a SpatialData store beside each h5ad, under the same name with ``.zarr``. Its picture is the small
        one: the slide itself stays where it is.

    Returns
    -------
    The files written.

    Raises
    ------
    RunError
        If an output exists, or two inputs have the same section name.
    ConfigError, DataError, ImageError
        If an input cannot be used, a slide has no scale or no tissue, or no installed reader opens it.
    """
    model, files, out = load(folder), [Path(path) for path in paths], Path(out)
    _check_one_file(out, len(files))
    sections: dict[str, AnnData] = {}
    for path in files:
        for section in _input_sections(model, path, microns_per_pixel, pitch_um, min_tissue):
            name = section_name(section)
            if name in sections:
                raise RunError(f"{path}: a section named {name!r} was given already; each needs its own obs['section']")
            for file in (_file(out, name), _store(out, name)) if spatialdata else (_file(out, name),):
                _check_free(file)
            sections[name] = section
    _check_one_file(out, len(sections))
    predicted = {name: predict(model, section) for name, section in sections.items()}
    written = _write_sections(predicted, out)
    if spatialdata:
        for name, prediction in predicted.items():
            read.write_spatialdata(prediction, _store(out, name), image="hires")
            written.append(_store(out, name))
    return written


def _input_sections(
    model: FittedModel, path: Path, microns_per_pixel: float | None, pitch_um: float | None, min_tissue: float
) -> list[AnnData]:
    """Read what is to be predicted: a SpatialData store, a section, or a slide."""
    if path.is_dir():
        return list(read.sections("spatialdata", path).values())
    if path.suffix == ".h5ad":
        return [check_section(read.h5ad(path), need=("image",))]
    return [slide_section(model, path, microns_per_pixel=microns_per_pixel, pitch_um=pitch_um, min_tissue=min_tissue)]


def _check_one_file(out: Path, n_sections: int) -> None:
    if out.suffix == ".h5ad" and n_sections != 1:
        raise RunError(f"--out {out} is one file for {n_sections} sections; give a folder")


def _file(out: Path, name: str) -> Path:
    """Give the file of a section in a folder, or the one file that was named."""
    return out if out.suffix == ".h5ad" else out / f"{name}.h5ad"


def _store(out: Path, name: str) -> Path:
    """Give the SpatialData store beside the file of a section."""
    file = _file(out, name)
    return file.with_name(f"{file.name.removesuffix('.h5ad')}.zarr")


def _check_free(path: Path) -> None:
    if path.exists():
        raise RunError(f"{path} exists already; choose another folder with --out, or remove it")


def _write_sections(sections: Mapping[str, AnnData], out: Path) -> list[Path]:
    """Write sections once all of them are there, so that an error in one leaves no other behind."""
    paths = [_file(out, name) for name in sections]
    for section, path in zip(sections.values(), paths, strict=True):
        read.write_h5ad(section, path)
    return paths
