"""The command line: ``nh2st-graph`` with demo, prepare, predictability, train and others."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from nh2st_graph import __version__
from nh2st_graph._errors import NO_SET, NH2STGraphError, RenamedWarning
from nh2st_graph._progress import phase
from nh2st_graph.cli._cache import cache as feature_cache
from nh2st_graph.cli._doctor import doctor
from nh2st_graph.cli._help import Command, Group
from nh2st_graph.cli._options import (
    Bars,
    Cache,
    ConfigFile,
    Described,
    Embeddings,
    Encoder,
    EncodingScheduler,
    Jobs,
    Only,
    Overrides,
    Resume,
    RunFolder,
    Scheduler,
    Seeds,
    StudyFolder,
    Trust,
)
from nh2st_graph.cli._output import AsJson, Quiet, conclude, one_command
from nh2st_graph.cli._predict import predict
from nh2st_graph.cli._predictability import predictability
from nh2st_graph.cli._working import shown_messages, silent, working
from nh2st_graph.tl._cluster import check_scheduler

__all__ = ["app", "main"]

app = typer.Typer(
    name="nh2st-graph",
    cls=Group,
    help="Predict spatial gene expression from H&E histology with a graph neural network.\n\n"
    "Start with 'nh2st-graph demo'. Then train on your own sections, and predict new slides.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"nh2st-graph {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere in the command.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command(cls=Command)
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder for all output of the demo; must not exist.")
    ] = Path("demo_run"),
    overrides: Overrides = None,
) -> None:
    """Train on synthetic tissue with known truth, with and without the neighbour branch. Takes under 3 minutes.

    Some genes follow the spot's own image, some follow the mean of the neighbours' images or one of them, and some
    follow nothing. The table at the end shows which model finds which genes.
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph.cli._demo import run_demo

    run_demo(out, overrides or [])


@app.command(cls=Command)
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT|CONFIG",
            help="Format of the files: visium, visium_hd, hest, hest_bench, her2st, stimage, skin, stnet, triplex, "
            "spatialdata, anndata or h5ad. Or a configuration file (YAML), without ROOT.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for {section}.h5ad.")],
    root: Annotated[
        Path | None, typer.Argument(metavar="ROOT", help="File or folder of the sections; needed with FORMAT.")
    ] = None,
    sections: Annotated[
        list[str] | None,
        typer.Option("--section", metavar="NAME", help="Read only this section. May be given several times."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="Option of the format's reader, such as bin_um=8 (visium_hd), image=NAME (spatialdata) or "
            "microns_per_pixel=0.5 (anndata). May be given several times.",
        ),
    ] = None,
    check_placement: Annotated[
        bool,
        typer.Option(
            "--check-placement/--no-check-placement",
            help="For H&E: refuse spots off the tissue, if swapped or scaled coordinates put them on it.",
        ),
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Keep sections that exist in the folder.")] = False,
    scheduler: EncodingScheduler = None,
    overrides: Overrides = None,
) -> None:
    """Read sections of any format, show what is in them, and write them as h5ad.

    With a configuration, image features and graph are computed too, so that training starts at once. If one of several
    sections of a format cannot be read, the others are written, and the exit code is 1.

    Example: nh2st-graph prepare visium sections --out prepared

    Example: nh2st-graph prepare configs/her2st_mini.yaml --set data.root=DIR --out prepared
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph.cli._prepare import Options, run_prepare

    given = Options(sections or [], options or [], check_placement, resume, overrides or [], scheduler)
    run_prepare(source, root, out, given)


app.command(cls=Command)(predictability)


@app.command(cls=Command)
def train(
    config: ConfigFile,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="The run folder; must not exist, unless --resume.")
    ],
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same configuration.")
    ] = False,
    scheduler: EncodingScheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train on sections, score on others, and write model, predictions, figures and a report.

    Example: nh2st-graph train configs/her2st_mini.yaml --set data.root=DIR --set data.train=[C3,C4,C5]
    --set data.test=[C6] --out RUN
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph import tl
    from nh2st_graph.cli._facts import run_facts
    from nh2st_graph.cli._tables import print_run
    from nh2st_graph.config import load_config

    if tl.is_first():
        tl.check_folder(out, resume=resume)
    loaded = load_config(config, overrides or [])
    if not tl.is_first(loaded.train):  # the first process checks, writes and tells
        with silent():
            tl.train_run(loaded, out, resume=resume)
        return
    check_scheduler(scheduler)
    tl.check_run(loaded, out, resume=resume)
    with working():
        run = tl.train_run(loaded, out, resume=resume, scheduler=scheduler)
    conclude(lambda: print_run(run), lambda: run_facts("train", run))


app.command(cls=Command)(predict)
app.command(cls=Command)(doctor)


@app.command(cls=Command)
def evaluate(
    run: RunFolder,
    trust: Trust = False,
    encoder: Encoder = None,
    cache: Cache = None,
    embeddings: Embeddings = None,
    progress: Bars = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score the test sections of a run again, and rewrite its scores, predictions, figures and report."""
    phase("checking the arguments", brief=True)
    from nh2st_graph import tl
    from nh2st_graph.cli._facts import run_facts
    from nh2st_graph.cli._tables import print_run

    tl.check_evaluation(run, trust=trust, encoder=encoder, cache=cache)
    with working():
        done = tl.evaluate_run(run, trust=trust, encoder=encoder, cache=cache, embeddings=embeddings, progress=progress)
    conclude(lambda: print_run(done), lambda: run_facts("evaluate", done))


@app.command(cls=Command)
def info(path: Described) -> None:
    """Show what a run, model, section or slide is, in one screen. Nothing is computed, and nothing is written.

    Of a section, this shows spots, genes, patient, resolution, image, features, and what is missing; of a slide, its
    levels, resolution and scenes; of a model, its method, genes, training sections, settings and encoder; of a run,
    also its scores.

    Example: nh2st-graph info RUN

    Example: nh2st-graph info slide.svs
    """
    phase("looking", brief=True)
    from nh2st_graph.cli._info import run_info

    run_info(path)


@app.command(cls=Command)
def encoders(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Encoder to describe, such as uni2-h; all of them if left out.")
    ] = None,
) -> None:
    """List known image encoders, or say what one is and how to get it. Nothing is downloaded.

    The list shows size, resolution, licence, gate, and whether the weights are on this machine. With NAME, this shows
    the steps to get its weights, on machines without a network too, and the lines for the configuration.

    Example: nh2st-graph encoders

    Example: nh2st-graph encoders uni2-h
    """
    phase("looking", brief=True)
    from nh2st_graph.cli._encoders import run_encoders

    run_encoders(name)


app.command("cache", cls=Command)(feature_cache)


@app.command(cls=Command)
def ablate(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML); see configs/ablations/.")],
    out: StudyFolder,
    overrides: Overrides = None,
    seeds: Seeds = None,
    only: Only = None,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    resume: Resume = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train variants of a configuration over folds and seeds, and compare each with the base.

    Every run is a run folder as 'train' writes it. The closing table is also written as table.md, table.csv and
    forest.png. --set changes the base, and so every variant. With --only the base runs too. The exit code is 1 if a run
    failed.

    Example: nh2st-graph ablate configs/ablations/components.yaml --out studies/components
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph.cli._runs import run_many
    from nh2st_graph.study import read_study

    how = {"only": only or [], "jobs": jobs, "scheduler": scheduler, "resume": resume}
    run_many(read_study, study, out, overrides or [], seeds, **how)


@app.command(cls=Command)
def benchmark(
    benchmark: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Benchmark file (YAML); see configs/benchmarks/.")
    ],
    out: StudyFolder,
    overrides: Overrides = None,
    seeds: Seeds = None,
    only: Only = None,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    resume: Resume = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train methods over splits and seeds under one protocol, and rank them beside the baselines.

    Every run is a run folder as 'train' writes it, without its figures. The leaderboard is also written as
    leaderboard.md and .csv, and report.html holds everything in one file that opens offline. --set changes what all
    methods share. The exit code is 1 if a run failed.

    Example: nh2st-graph benchmark configs/benchmarks/her2st_mini.yaml --set data.root=DIR --out benchmark

    Example: nh2st-graph benchmark configs/benchmarks/hest.yaml --set data.root=bench_data/IDC --out hest_idc
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph.cli._runs import run_many
    from nh2st_graph.study import read_benchmark

    how = {"only": only or [], "jobs": jobs, "scheduler": scheduler, "resume": resume}
    run_many(read_benchmark, benchmark, out, overrides or [], seeds, **how)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of the package or of a file is shown in one line, with exit code 2.

    Parameters
    ----------
    arguments
        Words of the command; those of the process if None.
    """
    given = [str(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        with shown_messages(debug, as_process=arguments is None), one_command(), warnings.catch_warnings():
            if not debug:
                # Libraries' warnings to developers do not concern the user's data.
                warnings.simplefilter("ignore")
                warnings.simplefilter("default", RenamedWarning)
                warnings.showwarning = _show_warning
            _group()(args=given, prog_name="nh2st-graph")
    except (NH2STGraphError, OSError) as error:
        if debug:
            traceback.print_exc()
        message = error.at("flag", _flags(given)) if isinstance(error, NH2STGraphError) else str(error)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


@cache
def _group() -> TyperGroup:
    """Build the commands from their functions, which takes typer 10 ms, once."""
    return typer.main.get_group(app)


def _flags(given: Sequence[str]) -> set[str]:
    """Give the names of the options of a command."""
    commands = _group().commands
    command = next((commands[word] for word in given if word in commands), None)
    options = command.params if command is not None else []
    names = {
        opt.removeprefix("--").replace("-", "_") for option in options for opt in option.opts if opt.startswith("--")
    }
    return names if "set" in names else names | {NO_SET}


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    logging.getLogger("nh2st_graph").warning("warning: %s", message)
