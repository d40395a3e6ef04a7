"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nh2st_graph._settings import RELIABLE

__all__ = [
    "Bars",
    "Cache",
    "ConfigFile",
    "Described",
    "Embeddings",
    "Encoder",
    "EncodingScheduler",
    "Genes",
    "Intervals",
    "Jobs",
    "LibraryKey",
    "Model",
    "Only",
    "Overrides",
    "Resume",
    "RunFolder",
    "Scheduler",
    "Seeds",
    "StudyFolder",
    "Table",
    "Trust",
    "genes_named",
]

_SET_HELP = "Change a configuration key: [bold]KEY=VALUE[/], the value in YAML. May be given several times."
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML); see configs/.")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N,N", help="Seeds to use instead of those in the file.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Run only this variant or method. May be given several times."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a study that was interrupted.")]
StudyFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder of the study; must not exist, unless --resume.")
]
Jobs = Annotated[int | None, typer.Option("--jobs", metavar="N", help="Number of processes; by default one a core.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="ADDRESS", help="Dask cluster that does the runs: tcp://HOST:PORT, or its .json."
    ),
]
EncodingScheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster that computes image features: tcp://HOST:PORT.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that 'train' wrote.")]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL", help="Folder that 'train' wrote; or a saved model: a folder, a .zip, or hf-hub:ORG/NAME."
    ),
]
Described = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL|FILE",
        help="Folder of a run, a saved model (folder, .zip or hf-hub:ORG/NAME), a section (.h5ad), or a slide (any "
        "image that 'predict' takes).",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Do what the saved model names: import its method, open its encoder's file or hub, use its cache folder. "
        "Only for models whose origin you know.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", metavar="NAME", help="Encoder with the weights of training, where it is now."),
]
Cache = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Folder of cached features; by default the user's.")
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        "--embeddings",
        metavar="PLACE",
        help="Features that another package computed, for a model trained on such: a folder, a pattern such as "
        "'embeddings/{section}.h5', a file, or obsm:KEY.",
    ),
]
Genes = Annotated[
    str | None,
    typer.Option(
        "--genes",
        metavar="reliable|GENE,GENE|FILE",
        help="Genes to keep: the reliable ones, some by name, or those of a file, one a line. The default keeps all.",
    ),
]
Intervals = Annotated[
    bool | None,
    typer.Option(
        "--intervals/--no-intervals",
        help="Write layers lower, upper (evaluate.coverage of measured values lie between) and sd. The default writes "
        "them for sections of fewer than 50,000 spots.",
        show_default=False,
    ),
]
LibraryKey = Annotated[
    str | None,
    typer.Option("--library-key", metavar="COLUMN", help="Column of obs that names the sections of an h5ad."),
]
Table = Annotated[
    str | None, typer.Option("--table", metavar="NAME", help="Table of SpatialData stores that have several.")
]
Bars = Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress bars on a terminal.")]


def genes_named(text: str | None) -> str | list[str] | None:
    """Read the value of ``--genes``: a word, a file, or names with commas between."""
    if text is None or text == RELIABLE:
        return text
    if Path(text).is_file():
        from nh2st_graph.datasets import read_panel

        return read_panel(text)
    return [name.strip() for name in text.split(",") if name.strip()]
