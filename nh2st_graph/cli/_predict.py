"""Predict sections and slides from the shell: the command and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nh2st_graph._progress import phase
from nh2st_graph.cli._options import (
    Bars,
    Cache,
    Embeddings,
    Encoder,
    EncodingScheduler,
    Genes,
    Intervals,
    LibraryKey,
    Model,
    Table,
    Trust,
    genes_named,
)
from nh2st_graph.cli._output import AsJson, Quiet, conclude
from nh2st_graph.cli._working import working
from nh2st_graph.tl._cluster import check_scheduler

__all__ = ["predict"]


def predict(
    run: Model,
    sections: Annotated[
        list[Path],
        typer.Argument(
            metavar="SECTION.h5ad|STORE.zarr|SLIDE",
            help="Sections as h5ad or SpatialData; genes may be absent. Or slides: JPEG, PNG, TIFF, .svs, and with the "
            "extra 'wsi' .ndpi, .mrxs and others.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Folder for {section}.h5ad; or FILE.h5ad for a single section."),
    ],
    microns_per_pixel: Annotated[
        float | None,
        typer.Option(
            "--microns-per-pixel", metavar="UM", help="Resolution of the images, if files have none or a wrong one."
        ),
    ] = None,
    library_key: LibraryKey = None,
    table: Table = None,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient",
            metavar="NAME",
            help="Whose the slides are, as training names patients; without it, they are of new patients.",
        ),
    ] = None,
    pitch_um: Annotated[
        float | None,
        typer.Option(
            "--pitch-um", metavar="UM", help="Distance between spots on a slide; the default is that of training."
        ),
    ] = None,
    spot_um: Annotated[
        float | None,
        typer.Option("--spot-um", metavar="UM", help="Diameter of spots on a slide; the default is that of training."),
    ] = None,
    min_tissue: Annotated[
        float,
        typer.Option(
            "--min-tissue",
            metavar="SHARE",
            help="Share of a spot's patch on a slide that must be tissue; 0 takes all spots.",
        ),
    ] = 0.5,
    spatialdata: Annotated[
        bool, typer.Option("--spatialdata", help="Also write a SpatialData store (zarr) beside each h5ad.")
    ] = False,
    genes: Genes = None,
    intervals: Intervals = None,
    export: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="qupath,seurat,loupe,csv",
            help="Also write {section}.geojson for QuPath, {section}_10x for Seurat, {section}_loupe.csv, "
            "{section}.csv.",
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write a page for each section, {section}.html, which opens offline.")
    ] = False,
    gene_sets: Annotated[
        str | None,
        typer.Option(
            "--gene-sets", metavar="FILE.gmt[:NAME,NAME]", help="Score these gene sets on their reliable genes."
        ),
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            "--roi",
            metavar="FILE.geojson",
            help="Write only spots in these regions, as QuPath exports annotations; '{section}' in the path stands for "
            "the name of each section.",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(
            "--exclude", metavar="FILE.geojson", help="Leave out these regions (folds, ink) before predicting."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep outputs that exist in the folder.")] = False,
    scheduler: EncodingScheduler = None,
    trust: Trust = False,
    encoder: Encoder = None,
    cache: Cache = None,
    embeddings: Embeddings = None,
    progress: Bars = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict sections and whole slides from their images with a trained model.

    On a slide, spots are laid over the tissue on the lattice of the training sections. After an interruption, the same
    command with --resume goes on: it keeps written outputs, and the cache keeps encoded patches.

    Example: nh2st-graph predict RUN new_section.h5ad slide.svs --out predicted

    Example: nh2st-graph predict hf-hub:ORG/NAME slide.svs --out predicted

    Example: nh2st-graph predict RUN slide.svs --out predicted --report --export qupath --roi tumour.geojson
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph import tl
    from nh2st_graph.cli._facts import prediction_facts
    from nh2st_graph.cli._tables import print_paths

    check_scheduler(scheduler)
    findings: list[str] = []
    wanted, run = genes_named(genes), tl.find_model(run)
    how: dict[str, Any] = {
        "microns_per_pixel": microns_per_pixel,
        "library_key": library_key,
        "table": table,
        "patient": patient,
        "pitch_um": pitch_um,
        "spot_um": spot_um,
        "min_tissue": min_tissue,
        "spatialdata": spatialdata,
        "genes": wanted,
        "resume": resume,
        "trust": trust,
        "encoder": encoder,
        "cache": cache,
        "embeddings": embeddings,
        "export": export or (),
        "report": report,
        "gene_sets": gene_sets,
        "roi": roi,
        "exclude": exclude,
    }
    tl.check_prediction(run, sections, out, **how)
    told: dict[str, Any] = {
        "intervals": intervals,
        "progress": progress,
        "scheduler": scheduler,
        "tell": findings.append,
    }
    with working():
        written = tl.predict_run(run, sections, out, **how, **told)
    conclude(lambda: print_paths(written), lambda: prediction_facts(written, findings))
