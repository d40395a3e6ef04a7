"""Write sections of a format, or of a configuration, as h5ad."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import typer
import yaml
from anndata import AnnData
from rich.console import Console

from nh2st_graph import read
from nh2st_graph._errors import ConfigError, DataError, NH2STGraphError, RunError, listed, setting
from nh2st_graph._files import check_place, owned_new
from nh2st_graph._progress import bars, console, phase
from nh2st_graph.cli._working import working
from nh2st_graph.config import parse_yaml
from nh2st_graph.read import PATIENTS, wanted_names
from nh2st_graph.section import (
    Key,
    Library,
    counts_mistake,
    libraries,
    library,
    patients_in,
    section_name,
    spot_pitch,
    unknown_patient,
)
from nh2st_graph.tl._cluster import check_scheduler

__all__ = ["Options", "run_prepare", "summary"]

logger = logging.getLogger("nh2st_graph")

_YAML = {".yaml", ".yml"}


class Options(NamedTuple):
    """Options of the command: first those for a format, then those for a configuration."""

    sections: list[str]
    options: list[str]
    check_placement: bool
    resume: bool
    overrides: list[str]
    scheduler: str | None = None


def run_prepare(source: str, root: Path | None, out: Path, given: Options) -> None:
    """Write sections as h5ad: those of a format as they are, those of a configuration with features and graph.

    Raises
    ------
    ConfigError, DataError, RunError
        If the arguments do not go together, nothing can be read, or files exist already.
    typer.Exit
        With code 1 if one of several sections could not be read.
    """
    if root is not None:
        with _said_by_place():
            _from_format(source, root, out, given)
    elif source in read.known_formats():
        raise ConfigError(
            f"prepare {source}: give the file or folder of the sections: nh2st-graph prepare {source} ROOT --out {out}"
        )
    else:
        _from_config(source, out, given)


@contextmanager
def _said_by_place() -> Iterator[None]:
    """Call the settings of a reader in errors as the arguments that the command takes in their place."""
    try:
        yield
    except NH2STGraphError as error:
        text = error.args[0].replace(setting("data.root"), "ROOT").replace(setting("data.format"), "FORMAT")
        raise type(error)(text) from error


def _from_config(source: str, out: Path, given: Options) -> None:
    from nh2st_graph import tl
    from nh2st_graph.cli._tables import print_paths
    from nh2st_graph.config import load_config

    path = Path(source)
    if path.suffix not in _YAML and not path.is_file():
        read.check_options(source, {})  # raises an error that names the formats
    for option, value, key in (
        ("--section", given.sections, "--set data.train=[NAME]"),
        ("--option", given.options, "--set data.options.KEY=VALUE"),
        ("--no-check-placement", not given.check_placement, "--set features.check_placement=false"),
    ):
        if value:
            raise ConfigError(f"{option} goes with FORMAT ROOT; with a configuration give {key}")
    config = load_config(path, given.overrides)
    try:
        check_scheduler(given.scheduler)
        tl.check_preparation(config, out, resume=given.resume)
        with working():
            written = tl.prepare_sections(config, out, resume=given.resume, scheduler=given.scheduler)
    except NH2STGraphError as error:
        # The flags of FORMAT ROOT do not go with a configuration.
        raise type(error)(error.at("flag", {"out"})) from None
    print_paths(written)


def _from_format(format: str, root: Path, out: Path, given: Options) -> None:
    if Path(format).suffix in _YAML:
        raise ConfigError(f"{format} is a configuration, which names its sections itself; give --set data.root={root}")
    if given.scheduler is not None:
        raise ConfigError("--scheduler computes image features, which goes with a configuration; leave it out")
    if given.overrides:
        raise ConfigError("--set changes a configuration; with FORMAT ROOT give --option KEY=VALUE")
    check_place(out)
    options = read.check_options(format, _parsed(given.options))
    names = read.section_names(format, root, **options)
    wanted = wanted_names(given.sections or None, names, root)
    there = [name for name in wanted if (out / f"{name}.h5ad").exists()]
    if there and not given.resume:
        raise RunError(
            f"{out / there[0]}.h5ad exists already"
            + (f" (and {len(there) - 1} more)" if len(there) > 1 else "")
            + "; keep what is there with --resume, give another folder as --out, or remove it"
        )
    left = [name for name in wanted if name not in there]
    phase("reading sections")
    with owned_new(out, "folder"), _said_once():
        done, failed = _written(format, root, out, left, options, given.check_placement)
    phase()
    if failed and len(wanted) == 1:
        raise failed[wanted[0]]
    _print(format, out, there, done, failed)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _said_once() -> Iterator[None]:
    """Leave out log messages that were written before: sections are read one by one, each with the same table."""
    said: set[str] = set()

    def first(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in said
        said.add(message)
        return new

    logger.addFilter(first)
    try:
        yield
    finally:
        logger.removeFilter(first)


def _parsed(assignments: Sequence[str]) -> dict[str, Any]:
    options = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        expected = f"--option {assignment}: expected KEY=VALUE with the value in YAML, such as bin_um=8"
        if not equals:
            raise ConfigError(expected)
        try:
            options[key.strip()] = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{expected} ({' '.join(str(error).split())})") from None
    return options


def _written(
    format: str, root: Path, out: Path, names: Sequence[str], options: Mapping[str, Any], check_placement: bool
) -> tuple[dict[str, dict[str, str]], dict[str, Exception]]:
    """Read, describe and write sections one by one; return the descriptions, and the errors of unreadable sections."""
    done: dict[str, dict[str, str]] = {}
    failed: dict[str, Exception] = {}
    shown = console()
    with bars() as progress:
        task = progress.add_task("", total=len(names))
        for i, name in enumerate(names, start=1):
            progress.update(task, description=name)
            try:
                section = read.sections(format, root, [name], **options)[name]
                if check_placement:
                    _check_placement(section)
                _report_genes(section)
                about = summary(section)
            except (DataError, OSError) as error:
                failed[name] = error
            else:
                read.write_h5ad(section, out / f"{name}.h5ad")
                done[name] = about
            progress.advance(task)
            if not shown.is_terminal and len(names) > 1:
                said = f"[{i}/{len(names)}] {'failed' if name in failed else 'done'}: {name}"
                shown.print(said, markup=False, highlight=False, soft_wrap=True)
    return done, failed


def _check_placement(section: AnnData) -> None:
    """Refuse misplaced spots, as training does, if the section has an image and its resolution."""
    from nh2st_graph.im import check_placement

    found = library(section) if libraries(section) else None
    if found is None or found.source is None or found.microns_per_pixel is None:
        return
    check_placement(section)


def _report_genes(section: AnnData) -> None:
    """Warn of genes that are no raw counts: predictions do not read them, but training does."""
    mistake = counts_mistake(section) if section.n_vars and Key.uns.prediction not in section.uns else None
    if mistake is not None:
        logger.warning("section %r can be predicted, but not trained on: %s", section_name(section), DataError(mistake))


def summary(section: AnnData) -> dict[str, str]:
    """Describe a section, so that a user sees whether it was read correctly; ``-`` stands for unknown."""
    found = library(section) if libraries(section) else Library.of({})
    scale, on_tissue = found.microns_per_pixel, _share_on_tissue(section, found)
    dropped = section.uns.get(Key.uns.dropped)
    return {
        "patient": " + ".join(patients_in(section)),
        "spots": f"{section.n_obs:,}",
        "genes": f"{section.n_vars:,}",
        "um per pixel": "-" if scale is None else f"{scale:.4g}",
        "pitch in um": "-" if scale is None or section.n_obs < 2 else f"{spot_pitch(section) * scale:.4g}",
        "on tissue": "-" if on_tissue is None else f"{on_tissue:.0%}",
        "dropped": "-" if dropped is None else f"{sum(dropped.values()):,}",
    }


def _share_on_tissue(section: AnnData, found: Library) -> float | None:
    """Compute the share of spots that lie on tissue by half or more, on the section's small copy of the image."""
    from nh2st_graph.im import TissueMask, tissue_mask

    image, shrink, diameter, scale = found.hires, found.hires_scale, found.spot_diameter, found.microns_per_pixel
    if image is None or image.dtype != np.uint8 or shrink is None or diameter is None or scale is None:
        return None
    tissue = TissueMask(tissue_mask(image[..., :3], scale / shrink), shrink)
    centres = np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64)
    return float((tissue.fraction(centres, diameter) >= 0.5).mean())


def _print(
    format: str,
    out: Path,
    there: Sequence[str],
    done: Mapping[str, Mapping[str, str]],
    failed: Mapping[str, Exception],
) -> None:
    from nh2st_graph.cli._tables import print_cells, print_paths

    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=style == "red")

    if done:
        table = pd.DataFrame.from_dict(dict(done), orient="index")
        print_cells(console, table, [""] * len(table), f"Sections read as {format}")
        say(
            "The pitch is the distance to the next spots on the array. A spot is on tissue if half of it is, by the "
            "colour of the image. If few are, positions and image may not belong together.",
            "dim",
        )
    own = [name for name, about in done.items() if about["patient"] == unknown_patient(name)]
    if own and len(done) > 1:
        say(
            f"The patients of {_shown(own)} are unknown: each section counts as a patient. If a patient has several, "
            f"name patients in a table {PATIENTS} (sample_id,patient) beside the sections, or splits by patient will "
            "separate them."
        )
    if there:
        say(f"Kept, since they exist: {_shown(there)}.")
    for name, error in failed.items():
        said = error.at("flag", {"check_placement", "option"}) if isinstance(error, NH2STGraphError) else str(error)
        say(f"failed: {name}: {' '.join(said.split())}", "red")
    if failed:
        say(f"{len(failed)} could not be read; mend them, and repeat the command with --resume.")
    if done:
        print_paths(out / f"{name}.h5ad" for name in done)


def _shown(names: Sequence[str]) -> str:
    return f"{len(names)} sections ({listed(names)})"
