"""The readers, by the name of their format."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anndata import AnnData
from pydantic import ConfigDict, TypeAdapter, ValidationError

from nh2st_graph._errors import ConfigError, DataError, nearest, setting
from nh2st_graph.read._common import check_exists, wanted_names

__all__ = ["check_names", "check_options", "known_formats", "register_format", "section_names", "sections"]

#: A function of a file or folder, the names of the wanted sections (None: all), and the options of the format, which
#: are its keyword-only parameters. It returns sections by name.
Reader = Callable[..., dict[str, AnnData]]
#: A function of a file or folder, and of the format's options that it has a parameter for. It names the sections there.
Listing = Callable[..., Iterable[str]]
R = TypeVar("R", bound=Reader)

_READERS: dict[str, Reader] = {}
_LISTINGS: dict[str, Listing] = {}

#: YAML reads a name such as 1 as a number.
_NAMES_MAY_BE_NUMBERS = ConfigDict(coerce_numbers_to_str=True)


def register_format(name: str, names: Listing | None = None) -> Callable[[R], R]:
    """Register a reader for a format, as a decorator.

    Parameters
    ----------
    name
        Name of the format for :func:`sections`. A name that exists is replaced, with a warning.
    names
        Function that names the sections of a file or folder without reading them. Without it, :func:`section_names`
        reads the sections.

    Returns
    -------
    The decorator. The reader takes a path and the names of the wanted sections (None for all), returns sections by
    name, and checks each with :func:`~nh2st_graph.section.check_section`. Its keyword-only parameters are the options
    of the format; values are checked against their annotations.
    """

    def add(reader: R) -> R:
        if name in _READERS:
            warnings.warn(f"the reader of format {name!r} is replaced", stacklevel=2)
        _READERS[name] = reader
        _LISTINGS.pop(name, None)
        if names is not None:
            _LISTINGS[name] = names
        return reader

    return add


def known_formats() -> list[str]:
    """List the formats that :func:`sections` reads."""
    return sorted(_READERS)


def check_options(format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options for the reader of a format.

    Parameters
    ----------
    format
        As for :func:`sections`.
    options
        Options by name, with values as YAML gives them.

    Returns
    -------
    The options, with values of the types that the reader takes.

    Raises
    ------
    ConfigError
        If the reader has no such option, or the value has the wrong type.
    DataError
        If the format is unknown.
    """
    reader = _reader(format)
    parameters = inspect.signature(reader, eval_str=True).parameters.values() if options else ()
    kinds = {each.name: each.annotation for each in parameters if each.kind is each.KEYWORD_ONLY}
    checked = {}
    for name, value in options.items():
        if name not in kinds:
            hint = nearest(name, kinds) if kinds else "it has no options"
            raise ConfigError(f"format {format!r} takes no {setting(f'data.options.{name}')}; {hint}")
        kind = Any if kinds[name] is inspect.Parameter.empty else kinds[name]
        try:
            checked[name] = TypeAdapter(kind, config=_NAMES_MAY_BE_NUMBERS).validate_python(value)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            given = setting(f"data.options.{name}", value)
            raise ConfigError(f"format {format!r} cannot take {given}; expected {expected}") from None
    return checked


def section_names(format: str, root: str | Path, **options: Any) -> list[str]:
    """List the names of the sections in a file or folder, without reading the sections if the format allows it.

    Parameters
    ----------
    format, root, **options
        As for :func:`sections`.

    Raises
    ------
    ConfigError, DataError
        As for :func:`sections`.
    """
    options = check_options(format, options)
    if format not in _LISTINGS:
        return list(sections(format, root, **options))
    root, listing = Path(root), _LISTINGS[format]
    check_exists(root)
    takes = inspect.signature(listing).parameters
    return wanted_names(None, listing(root, **{name: options[name] for name in options if name in takes}), root)


def check_names(format: str, root: str | Path, names: Sequence[str], **options: Any) -> None:
    """Refuse names of sections that a file or folder lacks, if the format lists them without reading sections.

    Parameters
    ----------
    format, root, names, **options
        As for :func:`sections`.

    Raises
    ------
    ConfigError, DataError
        As for :func:`sections`.
    """
    root = Path(root)
    several = "library_key" in options or (root.is_dir() and not (root / "zarr.json").is_file())
    if format in _LISTINGS and several:
        wanted_names(names, section_names(format, root, **options), root)


def sections(format: str, root: str | Path, names: Sequence[str] | None = None, **options: Any) -> dict[str, AnnData]:
    """Read sections of any format.

    Parameters
    ----------
    format
        ``"her2st"`` (the layout of the public repository), ``"visium"`` (one Space Ranger folder, or a folder of them
        that are named after their sections), ``"visium_hd"`` (the same, bins of 16 um, or one folder of other bins),
        ``"spatialdata"`` (one zarr store, in which each region of the table is a section, or a folder of
        ``{section}.zarr``), ``"anndata"`` (one h5ad file with positions and an image beside it, or a folder of them),
        ``"h5ad"`` (sections saved by this package: one file, or a folder of ``{section}.h5ad``), ``"hest"`` (HEST-1k),
        ``"hest_bench"`` (a task of HEST-Benchmark), ``"stimage"`` (STimage-1K4M), ``"skin"`` (GSE144240), ``"stnet"``
        (He et al. 2020) or ``"triplex"`` (folders that TRIPLEX prepared).
    root
        The file or folder.
    names
        The sections to read, in this order; None reads all.
    **options
        Options of the format. ``visium``: ``source_image``, ``spot_diameter_um``, ``counts_file``;
        ``visium_hd``: ``bin_um``, ``source_image``, ``counts_file``; ``spatialdata``: ``table``, ``image``,
        ``coordinate_system``, ``region``, ``microns_per_pixel``; ``anndata``: ``image``, ``microns_per_pixel``,
        ``layer``, ``genes``. These are as in :func:`visium_section` and so on, with image paths relative to the
        section's folder. ``anndata`` and ``h5ad``: ``library_key``, the column of ``obs`` that names the sections of
        files that hold several. ``hest``: ``with_patch_only``. All of these but ``hest``: ``patients``, the path of the
        table of patients, relative to the folder of the sections; ``ids.csv`` by default.

    Returns
    -------
    Sections by name. Their patients come from the table ``ids.csv`` (``sample_id,patient``) in the folder of the
    sections, if there is one, else from the data (metadata, file names, ``obs["patient"]``). A section without a known
    patient gets one of its own, ``unknown (NAME)``, and a warning says so.

    Raises
    ------
    ConfigError
        If the reader has no such option, or the value has the wrong type.
    DataError
        If the format or a section is unknown, or a file cannot be used.
    """
    reader = _reader(format)
    return reader(Path(root), names, **check_options(format, options))


def _reader(format: str) -> Reader:
    if format not in _READERS:
        raise DataError(f"unknown format {format!r}; {nearest(format, _READERS)}")
    return _READERS[format]
