"""Predict files with the model of a run: sections, stores and slides."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import ModelError, RunError, listed, setting
from nh2st_graph._files import on_disk, one_at_a_time
from nh2st_graph._progress import phase
from nh2st_graph.section import Key, Need, changed_entry, check_section, library, section_name
from nh2st_graph.slide import chosen_scale
from nh2st_graph.tl._believe import refuse_genes
from nh2st_graph.tl._encode import encode_all
from nh2st_graph.tl._export import write_output
from nh2st_graph.tl._folder import check_one_file, check_prediction
from nh2st_graph.tl._found import kind_of, kinds_in, readable
from nh2st_graph.tl._outputs import Outputs, chosen_exports, refuse_existing
from nh2st_graph.tl._predict import finished, predict_prepared, prediction_origin, with_genes
from nh2st_graph.tl._regions import annotated, check_regions, excluded, in_roi
from nh2st_graph.tl._signatures import GeneSets, gene_sets_of, score_signatures
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
    patient: str | None = None,
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
    export: str | Sequence[str] = (),
    report: bool = False,
    gene_sets: GeneSets | None = None,
    roi: str | Path | None = None,
    exclude: str | Path | None = None,
    tell: Callable[[str], object] | None = None,
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
    pitch_um, spot_um, min_tissue, patient
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
    export
        Formats to write beside each h5ad: ``qupath`` (``{section}.geojson``), ``seurat`` (the folder
        ``{section}_10x``), ``loupe`` (``{section}_loupe.csv``: annotations, familiarity, and the calls of the best
        reliable genes) and ``csv`` (``{section}.csv``); names, or one text with commas between. See
        :mod:`nh2st_graph.write`.
    report
        Write a page for each section, ``{section}.html``, which opens offline: maps of the genes, those of ``genes`` if
        they are named and the best reliable ones otherwise, what is reliable, familiarity, and signatures.
    gene_sets
        Gene sets to score; see :func:`score_signatures`. The scores are in ``obs`` of each prediction.
    roi
        GeoJSON of regions, as QuPath exports annotations: only spots in them are written, with the name of their
        region in ``obs["annotation"]``. All of the tissue is predicted, so that numbers do not depend on how a region
        was drawn. Several inputs need ``{section}`` in the path, which stands for the name of each.
    exclude
        The same of regions that are left out before anything is predicted, such as folds and ink.
    tell
        Called with each sentence on what was found, which is logged in any case.

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
        patient=patient,
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
        export=export,
        report=report,
        gene_sets=gene_sets,
        roi=roi,
        exclude=exclude,
    )
    how = {"trust": trust, "encoder": encoder, "cache": cache, "embeddings": embeddings}
    on_slides = {"pitch_um": pitch_um, "spot_um": spot_um, "min_tissue": min_tissue, "patient": patient}
    reading = _Reading(microns_per_pixel, library_key, table, on_slides, exclude)
    if scheduler is not None:
        tasks = [(folder.absolute(), path.absolute(), how, reading) for path in files]
        encode_all(scheduler, _encode_input, tasks, [path.name for path in files])
    model = load_to_predict(folder, progress, **how)
    if gene_sets is not None and model.confidence is None:
        raise ModelError(
            f"{setting('gene_sets')} are scored on reliable genes, and the model in {folder} is of an earlier version, "
            "which does not say which these are; train again"
        )
    sections: dict[str, AnnData] = {}
    for path in files:
        phase(f"reading {path.name}")
        for section in _input_sections(model, path, reading):
            name = section_name(section)
            if name in sections:
                raise RunError(f"{path}: a section named {name!r} was given already; each needs its own obs['section']")
            sections[name] = model.preparation.kept(section if roi is None else annotated(section, roi))
    for section in sections.values():
        refuse_genes(model, [section], genes)
    check_one_file(out, len(sections))
    check_regions(len(sections), roi=roi, exclude=exclude)
    outputs = Outputs(out, spatialdata, chosen_exports(export), report)
    sets = None if gene_sets is None else gene_sets_of(gene_sets)
    kept = genes if genes is None or isinstance(genes, str) else list(genes)
    asked = {"choice of genes": kept, "list of gene sets": sets, "choice of intervals": intervals}
    origins = {name: _origin(section, model, roi is not None, asked) for name, section in sections.items()}
    with on_disk(out), ExitStack() as locks:
        for name in sorted(sections) if resume else ():  # in one order, so that no two wait for each other
            locks.enter_context(_claimed(out, name))
        missing = {name: _missing_outputs(outputs, name, origins[name], resume) for name in sections}
        predicted = {
            name: _predicted(model, section, origins[name], intervals, genes, sets, roi is not None)
            for name, section in sections.items()
            if missing[name]
        }
        phase("writing")
        for name, (prediction, signatures) in predicted.items():
            for kind, path in missing[name].items():
                if kind == "report":
                    from nh2st_graph.tl._slide_page import write_slide_page

                    write_slide_page(model, prediction, path, genes=genes, signatures=signatures)
                else:
                    write_output(kind, prediction, path)
    for level, sentence in _findings(model, {name: prediction for name, (prediction, _) in predicted.items()}):
        logger.log(level, "%s", sentence)
        if tell is not None:
            tell(sentence)
    return [path for paths_left in missing.values() for path in paths_left.values()]


@dataclass(frozen=True)
class _Reading:
    """How inputs are read."""

    microns_per_pixel: float | None
    library_key: str | None
    table: str | None
    on_slides: Mapping[str, Any]
    exclude: str | Path | None


def _predicted(
    model: FittedModel,
    section: AnnData,
    origin: Mapping[str, str],
    intervals: bool | None,
    genes: str | Sequence[str] | None,
    gene_sets: Mapping[str, Sequence[str]] | None,
    by_region: bool,
) -> tuple[AnnData, pd.DataFrame | None]:
    """Predict a section whole, score its signatures, and keep the spots of its regions and the genes asked for."""
    phase(f"predicting {section_name(section)}")
    prepared = model.preparation.prepare(section)
    done = finished(predict_prepared(model, prepared, intervals=intervals), model, prepared)
    done.uns[Key.uns.prediction][Key.prediction.origin] = dict(origin)
    signatures = None if gene_sets is None else score_signatures(done, gene_sets)
    if by_region:
        done = in_roi(done)
    return with_genes(done, model, genes), signatures


def _claimed(out: Path, section: str) -> AbstractContextManager[None]:
    """Wait until no other process predicts a section into a folder, and let others wait while the block runs."""
    file = out if out.suffix == ".h5ad" else out / f"{section}.h5ad"
    return one_at_a_time(
        file.with_name(f".{file.name}.lock"),
        lambda: logger.info("section %r: another process predicts it; waiting for its file", section),
    )


def _findings(model: FittedModel, predicted: Mapping[str, AnnData]) -> Iterator[tuple[int, str]]:
    """Say which genes can be read from the sections that were predicted, and of which sections that may not hold.

    Sentences come without a full stop, with their level in the log.
    """
    for kind in kinds_in(model, predicted.values()):
        names = [name for name, prediction in predicted.items() if kind_of(prediction) == kind]
        kept = predicted[names[0]].var
        if len(kept) == len(model.genes):
            found = readable(model, kind)
        else:
            doubtful = list(kept.index[~kept[Key.var.reliable].astype(bool)])
            said = f"; not reliable: {listed(doubtful)}" if doubtful else ""
            n_reliable = int(kept[Key.var.reliable].sum())
            verb = "is" if n_reliable == 1 else "are"
            found = f"{n_reliable} of the {len(kept)} genes kept {verb} reliable{said}"
        yield logging.INFO, f"{listed(names)}: {found}"
    for name, prediction in predicted.items():
        about = prediction.uns[Key.uns.prediction].get(Key.prediction.familiarity, {})
        if bool(about.get("unlike", False)):
            yield (
                logging.WARNING,
                f"section {name!r} is unlike the training sections, so that none of this may hold for it",
            )


def _encode_input(folder: Path, path: Path, how: Mapping[str, Any], reading: _Reading) -> None:
    """Fill the cache with the features of the sections of one input."""
    model = load_to_predict(folder, False, **how)
    for section in _input_sections(model, path, reading):
        model.preparation.prepare(model.preparation.kept(section))


def load_to_predict(folder: str | Path, progress: bool, **how: Any) -> FittedModel:
    """Load a model as :func:`nh2st_graph.load` does, and set whether it shows progress bars."""
    phase("loading the model")
    model = load(folder, **how)
    train = model.config.train.model_copy(update={"progress": progress})
    return replace(model, config=model.config.model_copy(update={"train": train}))


def _input_sections(model: FittedModel, path: Path, how: _Reading) -> list[AnnData]:
    """Read one input: a SpatialData store, one or several sections, or a slide; without what is excluded."""
    return [excluded(section, how.exclude) for section in _whole_sections(model, path, how)]


def _whole_sections(model: FittedModel, path: Path, how: _Reading) -> list[AnnData]:
    scale = how.microns_per_pixel
    if path.is_dir():
        return list(read.sections("spatialdata", path, table=how.table, microns_per_pixel=scale).values())
    if path.suffix == ".h5ad":
        need: tuple[Need, ...] = () if model.sources.without_encoders(model.config.features) else ("image",)
        if how.library_key is None:
            return [_with_scale(read.h5ad_section(path), scale, need)]
        sections = read.sections("h5ad", path, library_key=how.library_key)
        return [_with_scale(section, scale, need) for section in sections.values()]
    return [slide_section(path, model, microns_per_pixel=scale, **how.on_slides)]


def _with_scale(section: AnnData, microns_per_pixel: float | None, need: Sequence[Need]) -> AnnData:
    found, name = library(section), section_name(section)
    scale = chosen_scale(f"section {name!r}", found.microns_per_pixel, microns_per_pixel)
    section.uns[Key.uns.spatial] = {name: changed_entry(found.entry, microns_per_pixel=scale)}
    return check_section(section, need=need)


def _origin(section: AnnData, model: FittedModel, by_region: bool, asked: Mapping[str, object]) -> dict[str, str]:
    """Describe what a prediction rests on, which spots of it are written, and what was asked for beside it."""
    origin = prediction_origin(section, model)
    for what, given in asked.items():
        if given is not None:
            origin[what] = hashlib.sha256(repr(given).encode()).hexdigest()[:16]
    if by_region:
        names = [str(name) for name in section.obs[Key.obs.annotation]]  # NaN, too, with any pandas
        origin["region"] = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return origin


def _missing_outputs(outputs: Outputs, section: str, origin: Mapping[str, str], resume: bool) -> dict[str, Path]:
    """List the files to write for a section. Files that exist are left out with ``resume``, and refused without."""
    files = outputs.of(section)
    there = [path for path in files.values() if path.exists()]
    if not resume:
        refuse_existing(there)
    if files["h5ad"].exists():
        _check_kept(files["h5ad"], origin)
    if there:
        logger.info("kept, since it exists: %s", ", ".join(map(str, there)))
    return {kind: path for kind, path in files.items() if path not in there}


def _check_kept(path: Path, now: Mapping[str, str]) -> None:
    """Refuse to keep a prediction of another model, of a section whose spots were elsewhere, or of other regions."""
    kept = read.h5ad_section(path)
    about = kept.uns.get(Key.uns.prediction, {})
    origin = about.get(Key.prediction.origin)
    if origin is None:
        logger.warning("%s is of an earlier version; whether this model predicted it cannot be checked", path)
        return
    other = [name for name in dict.fromkeys([*now, *origin]) if str(origin.get(name)) != str(now.get(name))]
    if other:
        raise RunError(
            f"{path} holds the prediction of another {' and another '.join(other)}, and would be kept under this name; "
            f"give another folder as {setting('out')}, or remove it"
        )
