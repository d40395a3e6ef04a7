"""Files predicted with the model of a run: sections, stores and slides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import RunError
from nh2st_graph.im._virtual import chosen_scale
from nh2st_graph.section import Key, changed_entry, check_section, library, section_name
from nh2st_graph.tl._predict import in_given_order, predict_prepared
from nh2st_graph.tl._slides import slide_section
from nh2st_graph.train import FittedModel, load

__all__ = ["load_to_predict", "predict_run"]

logger = logging.getLogger("nh2st_graph")


def predict_run(
    folder: str | Path,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    microns_per_pixel: float | None = None,
    table: str | None = None,
    pitch_um: float | None = None,
    spot_um: float | None = None,
    min_tissue: float = 0.5,
    spatialdata: bool = False,
    resume: bool = False,
    progress: bool = True,
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
        an error, unless ``resume``.
    microns_per_pixel
        Scale of the images; that of the files by default, which this overrides.
    table
        Table of SpatialData stores that have several.
    pitch_um, spot_um, min_tissue
        Of slides; see :func:`nh2st_graph.tl.slide_section`.
    spatialdata
        Also write a SpatialData store beside each h5ad, under the same name with ``.zarr``. Its image is the small
        one: the slide itself stays where it is.
    resume
        Go on where an interruption stopped: what is there is complete, and stays as it is. Patches that were encoded
        are in the cache of features in any case.
    progress
        Show a progress bar, on a terminal, whatever the run was trained with.

    Returns
    -------
    The files written now. They are written when all inputs are predicted, so that an error in one leaves none of the
    others, and each appears under its name when it is complete.

    Raises
    ------
    RunError
        If an output exists, or two inputs have the same section name.
    ConfigError, DataError, ImageError
        If an input cannot be used, has no scale, a slide has no tissue, or no installed reader opens it.
    """
    model, files, out = load_to_predict(folder, progress), [Path(path) for path in paths], Path(out)
    on_slides = {"pitch_um": pitch_um, "spot_um": spot_um, "min_tissue": min_tissue}
    _check_one_file(out, len(files))
    sections: dict[str, AnnData] = {}
    for path in files:
        for section in _input_sections(model, path, microns_per_pixel, table, on_slides):
            name = section_name(section)
            if name in sections:
                raise RunError(f"{path}: a section named {name!r} was given already; each needs its own obs['section']")
            sections[name] = section
    _check_one_file(out, len(sections))
    missing = {name: _missing_outputs(out, name, spatialdata, resume) for name in sections}
    preparation, predicted = model.preparation, {}
    for name, section in sections.items():
        if missing[name]:
            prepared = preparation.prepare(section)
            predicted[name] = in_given_order(predict_prepared(model, prepared), prepared)
    for name, prediction in predicted.items():
        for path in missing[name]:
            _write(prediction, path)
    return [path for paths_left in missing.values() for path in paths_left]


def load_to_predict(folder: str | Path, progress: bool) -> FittedModel:
    """Load a model; whether it shows bars when it is used is not for the run that trained it to say."""
    model = load(folder)
    train = model.config.train.model_copy(update={"progress": progress})
    return replace(model, config=model.config.model_copy(update={"train": train}))


def _input_sections(
    model: FittedModel, path: Path, microns_per_pixel: float | None, table: str | None, on_slides: Mapping[str, Any]
) -> list[AnnData]:
    """Read what is to be predicted: a SpatialData store, a section, or a slide."""
    if path.is_dir():
        stores = read.sections("spatialdata", path, table=table, microns_per_pixel=microns_per_pixel)
        return list(stores.values())
    if path.suffix == ".h5ad":
        return [_saved_section(path, microns_per_pixel)]
    return [slide_section(path, model, microns_per_pixel=microns_per_pixel, **on_slides)]


def _saved_section(path: Path, microns_per_pixel: float | None) -> AnnData:
    section = read.h5ad_section(path)
    found, name = library(section), section_name(section)
    scale = chosen_scale(f"section {name!r}", found.microns_per_pixel, microns_per_pixel)
    section.uns[Key.uns.spatial] = {name: changed_entry(found.entry, microns_per_pixel=scale)}
    return check_section(section, need=("image",))


def _check_one_file(out: Path, n_sections: int) -> None:
    if out.suffix == ".h5ad" and n_sections != 1:
        raise RunError(f"--out {out} is one file for {n_sections} sections; give a folder")


def _missing_outputs(out: Path, name: str, spatialdata: bool, resume: bool) -> list[Path]:
    """Files that are to be written for a section, less those that are there; which only ``resume`` allows."""
    file = out if out.suffix == ".h5ad" else out / f"{name}.h5ad"
    outputs = [file, file.with_suffix(".zarr")] if spatialdata else [file]
    there = [path for path in outputs if path.exists()]
    if there and not resume:
        raise RunError(
            f"{there[0]} exists already; keep what is there with --resume, choose another folder with --out, or "
            "remove it"
        )
    if there:
        logger.info("there already, and left as it is: %s", ", ".join(map(str, there)))
    return [path for path in outputs if path not in there]


def _write(prediction: AnnData, path: Path) -> None:
    if path.suffix == ".zarr":
        read.write_spatialdata(prediction, path, image="hires")
    else:
        read.write_h5ad(prediction, path)
