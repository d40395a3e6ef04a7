"""Say which genes can be read from images, before training: of files, or of the sections of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nh2st_graph._errors import ConfigError, DataError, RunError, setting
from nh2st_graph._progress import phase
from nh2st_graph.cli._options import LibraryKey, Overrides, Table
from nh2st_graph.cli._output import AsJson, Quiet, conclude
from nh2st_graph.cli._working import working

if TYPE_CHECKING:
    from anndata import AnnData

    from nh2st_graph.config import Config

__all__ = ["predictability"]

_YAML = {".yaml", ".yml"}


def predictability(
    sections: Annotated[
        list[Path],
        typer.Argument(
            metavar="SECTION.h5ad|STORE.zarr|FOLDER|CONFIG",
            help="Measured sections: h5ad files, folders of them (as 'prepare' writes), SpatialData stores. Or one "
            "configuration file (YAML), of which the training sections are read.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the table, the figure and readable.txt, a panel.")
    ],
    library_key: LibraryKey = None,
    table: Table = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find out before training which genes can be read from these images. Takes about a minute for a thousand spots.

    Patients, sections or bands of the tissue are held out in turn and predicted by ridge regressions. A gene can be
    read if the interval of its r given depth lies above what misplaced predictions reach. Beside it stands the noise
    ceiling: what a perfect predictor would score. A gene with neither is noise: leave it out of the panel.

    The genes that can be read are written as readable.txt, for --set data.panel=FILE of 'train'.

    The panel is the 250 most variable genes; --set data.panel=FILE or hvg:N takes another, --set features.encoder=NAME
    another encoder. Features are cached for 'train'. Of a section of 50,000 spots or more, 1,500 are encoded and read.

    Example: nh2st-graph predictability sections/*.h5ad --out readable

    Example: nh2st-graph predictability configs/her2st_mini.yaml --set data.root=DIR --set data.panel=FILE
    --out readable
    """
    phase("checking the arguments", brief=True)
    from nh2st_graph._files import check_place, owned_new
    from nh2st_graph.cli._facts import predictability_facts
    from nh2st_graph.cli._tables import print_paths

    check_place(out)
    for name in ("predictability.csv", "predictability.png", "readable.txt"):
        if (out / name).exists():
            raise RunError(f"{out / name} exists already; give another folder as {setting('out')}, or remove it")
    of_config = _is_config(sections)
    for option, value in (("--library-key", library_key), ("--table", table)):
        if of_config and value is not None:
            raise ConfigError(f"{option} goes with files; with a configuration give --set data.options.KEY=VALUE")
    config = _config(sections, overrides or [])
    with working():
        from nh2st_graph import tl

        with owned_new(out, "folder"):
            read = _of_config(config, out) if of_config else _of_files(sections, library_key, table)
            found = tl.predictability(read, config)
            phase("drawing")
            written = found.save(out)

    def words() -> None:
        typer.echo(found)
        print_paths(written)

    conclude(words, lambda: predictability_facts(found, written))


def _is_config(paths: list[Path]) -> bool:
    return any(path.suffix in _YAML for path in paths)


def _config(paths: list[Path], overrides: list[str]) -> Config:
    """Read and check the configuration: the given file, or the defaults for sections that are given as files."""
    from nh2st_graph import tl
    from nh2st_graph.config import Config, load_config

    if _is_config(paths):
        if len(paths) > 1:
            raise ConfigError(
                f"{len(paths)} paths, and one is a configuration, which names its sections: give it alone"
            )
        config = load_config(paths[0], overrides)
        tl.check_root(config)
    else:
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise DataError(f"{missing[0]} does not exist; give h5ad files, stores, folders, or a configuration")
        config = Config().override(overrides)
        of_files = {"root": config.data.root, "train": config.data.train, "test": config.data.test}
        for key, value in of_files.items():
            if value:
                raise ConfigError(f"the sections are given as files; leave out {setting(f'data.{key}')}")
    tl.check_named(config)
    return config


def _of_config(config: Config, out: Path) -> dict[str, AnnData]:
    """Read the training sections of a configuration. Those to test on stay unseen."""
    from nh2st_graph import tl

    data = config.data
    wanted = config.change({"data.test": []}) if data.train else config
    read = tl.load_sections(wanted, out / "tissue")
    return {name: section for name, section in read.items() if name not in data.test}


def _of_files(paths: list[Path], library_key: str | None, table: str | None) -> list[AnnData]:
    """Read h5ad files, folders of them, and stores."""
    from nh2st_graph import read

    found: list[AnnData] = []
    for path in paths:
        phase(f"reading {path.name}")
        if read.is_store(path):
            found += read.sections("spatialdata", path, table=table).values()
        elif path.is_file() and library_key is None:
            found.append(read.h5ad_section(path))
        else:
            found += read.sections("h5ad", path, library_key=library_key).values()
    return found
