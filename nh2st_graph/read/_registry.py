"""Readers by the name of their format, as the configuration's ``data.format`` gives it."""

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

__all__ = ["check_options", "known_formats", "register_format", "section_names", "sections"]

#: Takes a file or folder, the names of the wanted sections (``None``: all), and the format's options, which are its
#: keyword-only parameters; gives the sections by name.
Reader = Callable[..., dict[str, AnnData]]
#: Takes a file or folder, and those of the format's options that it has a parameter for; names the sections there.
Listing = Callable[..., Iterable[str]]
R = TypeVar("R", bound=Reader)

_READERS: dict[str, Reader] = {}
_LISTINGS: dict[str, Listing] = {}

#: Names such as 1 are read as numbers by YAML.
_NAMES_MAY_BE_NUMBERS = ConfigDict(coerce_numbers_to_str=True)


def register_format(name: str, names: Listing | None = None) -> Callable[[R], R]:
    """Register a reader under a format's name, as a decorator.

    Parameters
    ----------
    name
        What :func:`sections` knows the format by. A name that is taken is overwritten, with a warning.
    names
        Names the sections of a file or folder without reading them. Without it, :func:`section_names` reads them.

    Returns
    -------
    The decorator. The reader takes a path and the wanted section names (``None`` for all) and returns
    sections by name; it ends with :func:`~nh2st_graph.section.check_section`. Its keyword-only parameters are the
    format's options; a value is checked against the parameter's annotation.
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
    """Names of the formats that :func:`sections` reads."""
    return sorted(_READERS)


def check_options(format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against those that a format's reader takes.

    Parameters
    ----------
    format
        As for :func:`sections`.
    options
        By name, with values as YAML gives them.

    Returns
    -------
    The options, each value of the kind that the reader wants.

    Raises
    ------
    ConfigError
        If an option is unknown (the closest names are given) or has a value of the wrong kind.
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
    """Name the sections of a file or folder, in order, without reading them where the format can tell.

    Parameters
    ----------
    format, root, **options
        As for :func:`sections`.

    Raises
    ------
    ConfigError, DataError
        As :func:`sections`.
    """
    options = check_options(format, options)
    if format not in _LISTINGS:
        return list(sections(format, root, **options))
    root, listing = Path(root), _LISTINGS[format]
    check_exists(root)
    takes = inspect.signature(listing).parameters
    return wanted_names(None, listing(root, **{name: options[name] for name in options if name in takes}), root)


def sections(format: str, root: str | Path, names: Sequence[str] | None = None, **options: Any) -> dict[str, AnnData]:
    """Read sections of any known format.

    Parameters
    ----------
    format
        ``"her2st"`` (the public repository's layout), ``"visium"`` (one Space Ranger folder, or a folder of
        them, each named by its section), ``"visium_hd"`` (the same, bins of 16 um, or one folder of other bins),
        ``"spatialdata"`` (one zarr store, each region that its table annotates a section; or a folder of
        ``{section}.zarr``), ``"anndata"`` (one h5ad file with positions and an image beside it, or a folder of
        them), ``"h5ad"`` (sections saved by this package: one file, or a folder of ``{section}.h5ad``), ``"hest"``
        (HEST-1k), ``"stimage"`` (STimage-1K4M), ``"skin"`` (GSE144240), ``"stnet"`` (He et al. 2020) or
        ``"triplex"`` (folders that TRIPLEX prepared).
    root
        The file or folder.
    names
        The wanted sections, in the wanted order; ``None`` reads all.
    **options
        What else the format's reader takes. ``visium``: ``source_image``, ``spot_diameter_um``, ``counts_file``;
        ``visium_hd``: ``bin_um``, ``source_image``, ``counts_file``; ``spatialdata``: ``table``, ``image``,
        ``coordinate_system``, ``region``, ``microns_per_pixel``; ``anndata``: ``image``, ``microns_per_pixel``,
        ``layer``: as the functions of those names do, an image's path being from the section's folder; ``hest``:
        ``with_patch_only``. These formats but ``hest``, and ``h5ad``: ``patients``, the table that names patients, from
        the folder that holds the sections; ``ids.csv`` by default.

    Returns
    -------
    Sections by name. Their patients are those that the table ``ids.csv`` (``sample_id,patient``) in the folder of the
    sections names, where there is one, else those that the data name (metadata, names of files, ``obs["patient"]``).
    Where neither does, a section has a patient of its own, ``unknown (NAME)``, and a warning says so.

    Raises
    ------
    ConfigError
        If an option is unknown (the closest names are given) or has a value of the wrong kind.
    DataError
        If the format or a section is unknown (the closest names are given), or a file cannot be used.
    """
    reader = _reader(format)
    return reader(Path(root), names, **check_options(format, options))


def _reader(format: str) -> Reader:
    if format not in _READERS:
        raise DataError(f"unknown format {format!r}; {nearest(format, _READERS)}")
    return _READERS[format]
