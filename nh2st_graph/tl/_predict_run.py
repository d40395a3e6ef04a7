"""Predict files with the model of a run: sections, stores and slides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import RunError, listed, setting
from nh2st_graph._progress import phase
from nh2st_graph.section import Key, Need, changed_entry, check_section, library, section_name
from nh2st_graph.slide import chosen_scale
from nh2st_graph.tl._encode import encode_all
from nh2st_graph.tl._folder import check_one_file, check_prediction, output_files, refuse_existing
from nh2st_graph.tl._found import of_known, readable
from nh2st_graph.tl._predict import finished, predict_prepared, prediction_origin
from nh2st_graph.tl._slides import slide_section
from nh2st_graph.train import FittedModel, find_model, load

__all__ = ["load_to_predict", "predict_run"]

logger = logging.getLogger("nh2st_graph")


def predict_run(
    folder: str | Path,
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    microns_per_pixel: float | None = None,
    library_key: str | None = None,
    table: str | None = None,
    pitch_um: float | None = None,
    spot_um: float | None = None,
    min_tissue: float = 0.5,
    spatialdata: bool = False,
    genes: str | Sequence[str] | None = None,
    intervals: bool | None = None,
    resume: bool = False,
    progress: bool = True,
    trust: bool = False,
    encoder: str | None = None,
    cache: str | Path | Literal[False] | None = None,
    embeddings: str | Path | None = None,
    scheduler: str | None = None,
) -> list[Path]:
    """Predict sections and slides from files with the model of a run.

    Parameters
    ----------
    folder
        The run, or any folder, ``.zip`` or name of the hub (``hf-hub:ORG/NAME``) with a model.
    paths
        Sections as h5ad or SpatialData stores (folders, with a section for each region), whose genes may be absent; or
        slides: on the tissue of any other file, virtual spots are laid.
    out
        Folder for ``{section}.h5ad``; or, for a single section, a file that ends in ``.h5ad``. A file that exists is an
        error, unless ``resume``.
    microns_per_pixel
        Resolution of the images, in um per pixel. The default is that of the files.
    library_key
        Column of ``obs`` that names the sections of h5ad files that hold several.
    table
        Table of SpatialData stores that have several.
    pitch_um, spot_um, min_tissue
        Settings for slides; see :func:`nh2st_graph.tl.slide_section`.
    spatialdata
        Also write a SpatialData store beside each h5ad, under the same name with ``.zarr``. The store holds the small
        image, not the slide.
    genes, intervals
        As for :func:`nh2st_graph.tl.predict`.
    resume
        Go on after an interruption, and keep the files that exist: they are complete. The feature cache keeps encoded
        patches in any case. A file that another model predicted, or of other positions, is an error.
    progress
        Show a progress bar on a terminal, whatever the setting of the run.
    trust, encoder, cache, embeddings
        As for :func:`nh2st_graph.load`.
    scheduler
        Address of a Dask scheduler, or its file: its workers compute the features, a file each, into the cache. They
        must see the same files under the same paths.

    Returns
    -------
    The files that this call wrote. It writes them atomically after it predicted all inputs, so that an error in one
    input leaves no file.

    Raises
    ------
    RunError
        If an output exists, or with ``resume`` is that of another model or section; or if two inputs have the same
        section name.
    ModelError
        If the model cannot be loaded, or needs your word.
    ConfigError, DataError, ImageError
        If an input cannot be used or has no resolution, a slide has no tissue, or no installed reader opens it.
    """
    folder, files, out = find_model(folder), [Path(path) for path in paths], Path(out)
    check_prediction(
        folder,
        files,
        out,
        microns_per_pixel=microns_per_pixel,
        library_key=library_key,
        table=table,
        pitch_um=pitch_um,
        spot_um=spot_um,
        min_tissue=min_tissue,
        spatialdata=spatialdata,
        genes=genes,
        resume=resume,
        trust=trust,
        encoder=encoder,
        cache=cache,
        embeddings=embeddings,
    )
    how = {"trust": trust, "encoder": encoder, "cache": cache, "embeddings": embeddings}
    on_slides = {"pitch_um": pitch_um, "spot_um": spot_um, "min_tissue": min_tissue}
    if scheduler is not None:
        reading = (microns_per_pixel, library_key, table, on_slides)
        tasks = [(folder.absolute(), path.absolute(), how, reading) for path in files]
        encode_all(scheduler, _encode_input, tasks, [path.name for path in files])
    model = load_to_predict(folder, progress, **how)
    preparation, predicted = model.preparation, {}
    sections: dict[str, AnnData] = {}
    for path in files:
        phase(f"reading {path.name}")
        for section in _input_sections(model, path, microns_per_pixel, library_key, table, on_slides):
            name = section_name(section)
            if name in sections:
                raise RunError(f"{path}: a section named {name!r} was given already; each needs its own obs['section']")
            sections[name] = preparation.kept(section)
    check_one_file(out, len(sections))
    missing = {name: _missing_outputs(out, section, model, spatialdata, resume) for name, section in sections.items()}
    for name, section in sections.items():
        if missing[name]:
            phase(f"predicting {name}")
            prepared = preparation.prepare(section)
            predicted[name] = finished(predict_prepared(model, prepared, intervals=intervals), model, prepared, genes)
    phase("writing")
    for name, prediction in predicted.items():
        for path in missing[name]:
            _write(prediction, path)
    _say_findings(model, predicted)
    return [path for paths_left in missing.values() for path in paths_left]


def _say_findings(model: FittedModel, predicted: Mapping[str, AnnData]) -> None:
    """Say which genes can be read from the sections that were predicted, and of which sections that may not hold."""
    for known in (True, False) if model.confidence is not None else ():
        names = [name for name, prediction in predicted.items() if of_known(prediction) == known]
        if not names:
            continue
        kept = predicted[names[0]].var
        if len(kept) == len(model.genes):
            logger.info("%s: %s", listed(names), readable(model, known=known))
        else:
            doubtful = list(kept.index[~kept[Key.var.reliable].astype(bool)])
            said = f"; not reliable: {listed(doubtful)}" if doubtful else ""
            logger.info("%s: %d of the %d genes kept are reliable%s", listed(names), *_counts(kept), said)
    for name, prediction in predicted.items():
        about = prediction.uns[Key.uns.prediction].get(Key.prediction.familiarity, {})
        if bool(about.get("unlike", False)):
            logger.warning("section %r is unlike the training sections, so that none of this may hold for it", name)


def _counts(genes: pd.DataFrame) -> tuple[int, int]:
    return int(genes[Key.var.reliable].sum()), len(genes)


def _encode_input(folder: Path, path: Path, how: Mapping[str, Any], reading: tuple[Any, ...]) -> None:
    """Fill the cache with the features of the sections of one input."""
    model = load_to_predict(folder, False, **how)
    for section in _input_sections(model, path, *reading):
        model.preparation.prepare(model.preparation.kept(section))


def load_to_predict(folder: str | Path, progress: bool, **how: Any) -> FittedModel:
    """Load a model as :func:`nh2st_graph.load` does, and set whether it shows progress bars."""
    phase("loading the model")
    model = load(folder, **how)
    train = model.config.train.model_copy(update={"progress": progress})
    return replace(model, config=model.config.model_copy(update={"train": train}))


def _input_sections(
    model: FittedModel,
    path: Path,
    microns_per_pixel: float | None,
    library_key: str | None,
    table: str | None,
    on_slides: Mapping[str, Any],
) -> list[AnnData]:
    """Read one input: a SpatialData store, one or several sections, or a slide."""
    if path.is_dir():
        stores = read.sections("spatialdata", path, table=table, microns_per_pixel=microns_per_pixel)
        return list(stores.values())
    if path.suffix == ".h5ad":
        need: tuple[Need, ...] = () if model.sources.without_encoders(model.config.features) else ("image",)
        if library_key is None:
            return [_with_scale(read.h5ad_section(path), microns_per_pixel, need)]
        sections = read.sections("h5ad", path, library_key=library_key)
        return [_with_scale(section, microns_per_pixel, need) for section in sections.values()]
    return [slide_section(path, model, microns_per_pixel=microns_per_pixel, **on_slides)]


def _with_scale(section: AnnData, microns_per_pixel: float | None, need: Sequence[Need]) -> AnnData:
    found, name = library(section), section_name(section)
    scale = chosen_scale(f"section {name!r}", found.microns_per_pixel, microns_per_pixel)
    section.uns[Key.uns.spatial] = {name: changed_entry(found.entry, microns_per_pixel=scale)}
    return check_section(section, need=need)


def _missing_outputs(out: Path, section: AnnData, model: FittedModel, spatialdata: bool, resume: bool) -> list[Path]:
    """List the files to write for a section. Files that exist are left out with ``resume``, and refused without."""
    outputs = output_files(out, section_name(section), spatialdata=spatialdata)
    there = [path for path in outputs if path.exists()]
    if not resume:
        refuse_existing(there)
    if outputs[0].exists():
        _check_kept(outputs[0], section, model)
    if there:
        logger.info("kept, since it exists: %s", ", ".join(map(str, there)))
    return [path for path in outputs if path not in there]


def _check_kept(path: Path, section: AnnData, model: FittedModel) -> None:
    """Refuse to keep a prediction of another model, or of a section whose spots were elsewhere."""
    kept = read.h5ad_section(path)
    about = kept.uns.get(Key.uns.prediction, {})
    origin = about.get(Key.prediction.origin)
    if origin is None:
        logger.warning("%s is of an earlier version; whether this model predicted it cannot be checked", path)
        return
    now = prediction_origin(section, model)
    other = [name for name in now if str(origin.get(name)) != now[name]]
    if other:
        raise RunError(
            f"{path} holds the prediction of another {' and another '.join(other)}, and would be kept under this name; "
            f"give another folder as {setting('out')}, or remove it"
        )


def _write(prediction: AnnData, path: Path) -> None:
    if path.suffix == ".zarr":
        read.write_spatialdata(prediction, path, image="hires")
    else:
        read.write_h5ad(prediction, path)
