"""Find the sections in AnnData or SpatialData, and write results back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, is_about, listed, nearest, setting
from nh2st_graph.read._common import open_h5ad, section_in_obs
from nh2st_graph.read._spatialdata import ATTRS, region_key, spatialdata_section, table_name
from nh2st_graph.section import (
    Key,
    as_name,
    layers_of,
    libraries,
    library_id,
    on_disk,
    refuse_backed,
    section_name,
    unknown_patient,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = [
    "Given",
    "Sections",
    "SpatialObject",
    "annotate",
    "given_sections",
    "is_spatialdata",
    "one_section",
    "sections_by_name",
    "sections_in",
]

#: Objects that public functions take, as in squidpy.
SpatialObject: TypeAlias = "AnnData | SpatialData"
Sections: TypeAlias = "Mapping[str, SpatialObject] | Sequence[SpatialObject] | SpatialObject"


@dataclass(frozen=True)
class Given:
    """The sections of an object, and the table for results.

    Iterate to get the sections, each under the section contract, and write into them; :meth:`write` then copies the
    results to the table. If the table is itself the one section, there is nothing to copy.

    Attributes
    ----------
    table
        The user's AnnData, the table of SpatialData, or a copy.
    sections
        By name.
    rows
        For each section the rows of its spots in the table, ``(n_spots,)``, in the order of the section.
    """

    table: AnnData
    sections: dict[str, AnnData]
    rows: dict[str, NDArray[np.intp]]

    def __iter__(self) -> Iterator[AnnData]:
        return iter(self.sections.values())

    def write(
        self,
        *,
        obs: Iterable[str] = (),
        obsm: Iterable[str] = (),
        obsp: Iterable[str] = (),
        uns: Iterable[str] = (),
        var: Iterable[str] = (),
    ) -> None:
        """Copy entries of the sections to the table; an entry that no section has is removed from the table.

        Rows of the table that are in no section get NaN (bytes: 0) and no edge. With several sections, ``uns[key]`` has
        the values of the first, which squidpy reads, and ``uns[key]["sections"]`` has those of each. Columns of ``var``
        are means over the sections.
        """
        if any(section is self.table for section in self):
            return
        for name in obs:
            _put(self.table.obs, name, self._stacked(name, lambda section: section.obs))
        for name in obsm:
            _put(self.table.obsm, name, self._stacked(name, lambda section: section.obsm))
        for name in obsp:
            _put(self.table.obsp, name, self._blocks(name))
        for name in uns:
            _put(self.table.uns, name, self._entries(name))
        for name in var:
            columns = [section.var[name] for section in self if name in section.var]
            _put(self.table.var, name, pd.concat(columns, axis=1).mean(axis=1) if columns else None)

    def joined(self, parts: Mapping[str, AnnData]) -> AnnData:
        """Join the results of the sections into one AnnData, in the order of the table's rows.

        Parameters
        ----------
        parts
            Results by section, with the rows of the section and the same ``var``.

        Returns
        -------
        The joined result, without rows of the table that are in no section.
        """
        each = [parts[name] for name in self.sections]
        if len(each) == 1 and each[0].n_obs == self.table.n_obs:
            return each[0]
        first, rows = each[0], np.concatenate(list(self.rows.values()))
        table = AnnData(obs=_joined_obs([part.obs for part in each]).iloc[np.argsort(rows)], var=first.var.copy())
        place = pd.Index(np.sort(rows))
        result = Given(table, dict(parts), {name: place.get_indexer(self.rows[name]) for name in self.sections})
        table.varm.update(first.varm)
        table.X = result._stacked("X", lambda part: {"X": part.X})
        for layer in layers_of(first):
            if all(layer in part.layers for part in each):
                table.layers[layer] = result._stacked(layer, lambda part: part.layers)
        result.write(obsm=first.obsm, obsp=first.obsp, uns=[name for name in first.uns if name != Key.uns.spatial])
        table.uns[Key.uns.spatial] = {name: entry for part in each for name, entry in libraries(part).items()}
        return table

    def _stacked(self, name: str, slot: Callable[[AnnData], Mapping[str, Any]]) -> NDArray[Any] | None:
        parts = {section: np.asarray(slot(each)[name]) for section, each in self.sections.items() if name in slot(each)}
        if not parts:
            return None
        self._same([part.shape[1:] for part in parts.values()], name)
        first = next(iter(parts.values()))
        missing: Any = np.nan if first.dtype.kind == "f" else 0
        stacked = np.full((self.table.n_obs, *first.shape[1:]), missing, dtype=first.dtype)
        for section, part in parts.items():
            stacked[self.rows[section]] = part
        return stacked

    def _blocks(self, name: str) -> sparse.csr_matrix | None:
        """Build a block-diagonal matrix: no edge leaves a section."""
        parts = {
            section: sparse.coo_matrix(each.obsp[name]) for section, each in self.sections.items() if name in each.obsp
        }
        if not parts:
            return None
        rows, columns = (
            np.concatenate([self.rows[section][getattr(part, axis)] for section, part in parts.items()])
            for axis in ("row", "col")
        )
        data = np.concatenate([part.data for part in parts.values()])
        return sparse.csr_matrix((data, (rows, columns)), shape=(self.table.n_obs, self.table.n_obs))

    def _entries(self, name: str) -> dict[str, Any] | None:
        entries = {section: each.uns[name] for section, each in self.sections.items() if name in each.uns}
        if not entries:
            return None
        return {**next(iter(entries.values())), Key.several.sections: entries}

    def _same(self, shapes: Sequence[tuple[int, ...]], name: str) -> None:
        if len(set(shapes)) > 1:
            raise DataError(f"sections {', '.join(self.sections)} have {name!r} of different sizes; compute it again")


def given_sections(
    adata: SpatialObject,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
    image: bool = True,
) -> Given:
    """Find the sections in an object.

    Parameters
    ----------
    adata
        One section, several sections in one AnnData, or SpatialData, where each region that the table annotates is a
        section.
    library_key
        Column of ``obs`` with the section of each spot, as in squidpy. Required if one AnnData holds several sections.
        The section's entry of ``uns["spatial"]`` is the one of that name.
    table_key
        Table of SpatialData; not needed if it has one.
    copy
        Write into a copy of the AnnData or table.
    image
        Whether the images of SpatialData are needed. If not, positions come from the table, if it has any.

    Raises
    ------
    DataError
        If an argument does not fit the object, a column of ``obs`` is there twice, or a spot has no section.
    """
    if is_spatialdata(adata):
        return _of_spatialdata(adata, library_key, table_key, copy, image)
    if not isinstance(adata, AnnData):
        if isinstance(adata, Mapping):
            kind, names = type(adata).__name__, listed(map(repr, adata))
            way = f"; give its sections one by one, such as sections[{next(iter(adata))!r}]" if adata else ""
            raise DataError(f"{kind} of {names or 'nothing'} is not one section{way}")
        raise DataError(f"{type(adata).__name__} is neither AnnData nor SpatialData; read the files with ng.read")
    if table_key is not None:
        raise DataError(f"table_key={table_key!r} is for SpatialData, and this is AnnData; leave it out")
    repeated = adata.obs.columns[adata.obs.columns.duplicated()]
    if len(repeated):
        raise DataError(f"obs has several columns {repeated[0]!r}; rename or drop all but one")
    if copy:
        refuse_backed(adata)
    table = adata.copy() if copy else adata
    if library_key is None:
        section = _named(on_disk(table))
        return Given(table, {section_name(section): section}, {section_name(section): np.arange(table.n_obs)})
    rows = _rows_by(table, library_key)
    return Given(table, {name: _part(table, each, name, rows) for name, each in rows.items()}, rows)


def one_section(
    adata: SpatialObject,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    image: bool = True,
) -> AnnData:
    """Return the only section of an object, or the one that ``library_id`` names.

    Raises
    ------
    DataError
        As for :func:`given_sections`; or if there are several sections and none is named, or none has that name.
    """
    sections = given_sections(adata, library_key=library_key, table_key=table_key, image=image).sections
    if library_id is None and len(sections) > 1:
        raise DataError(f"{len(sections)} sections ({', '.join(sections)}); name one: {setting('library_id', 'NAME')}")
    if library_id is not None and library_id not in sections:
        raise DataError(f"there is no section {library_id!r}; {nearest(library_id, sections)}")
    return sections[library_id] if library_id is not None else next(iter(sections.values()))


def sections_by_name(
    sections: Sections,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    image: bool = True,
    shared: bool = False,
) -> dict[str, AnnData]:
    """Collect sections by name, in order of name.

    Parameters
    ----------
    sections
        One object, or a list or mapping of objects, which may be of several kinds.
    library_key, table_key, image
        As for :func:`given_sections`. A key applies to the objects that it fits: ``library_key`` to AnnData with such a
        column, ``table_key`` to SpatialData.
    shared
        Whether the keys are also for other objects, so that they may fit none of these.

    Raises
    ------
    DataError
        As for :func:`given_sections`; or if a key fits none of the objects, or two sections have the same name.
    """
    if isinstance(sections, AnnData) or is_spatialdata(sections):
        sections = [sections]
    if not isinstance(sections, Iterable):
        raise DataError(f"{type(sections).__name__} is no section, list or mapping of them; read files with ng.read")
    given = list(sections.values()) if isinstance(sections, Mapping) else list(sections)
    keys = [_fitting(each, library_key, table_key) for each in given]
    unfit = [key for i, key in enumerate((library_key, table_key)) if all(fitting[i] != key for fitting in keys)]
    if unfit and not shared:
        # Let one of the objects raise the error.
        keys = [(library_key, table_key)] * len(given)
    found = [
        section
        for each, (library, table) in zip(given, keys, strict=True)
        for section in given_sections(each, library_key=library, table_key=table, image=image)
    ]
    named = {section_name(section): section for section in found}
    if len(named) != len(found):
        raise DataError(f"two of {len(found)} sections have the same name; give each its own obs['{Key.obs.section}']")
    return dict(sorted(named.items()))


def sections_in(
    files: Mapping[str, Path], library_key: str | None
) -> dict[str, tuple[Path, Callable[[], AnnData] | None]]:
    """Find the sections of h5ad files: one a file, or those that a column of ``obs`` names.

    Returns
    -------
    By section, the file, and a function that cuts the section out of a file of several.

    Raises
    ------
    DataError
        If a file cannot be read or lacks the column, or two files hold one section.
    """
    if library_key is None:
        return {name: (path, None) for name, path in files.items()}
    found: dict[str, tuple[Path, Callable[[], AnnData] | None]] = {}
    for path in files.values():
        with open_h5ad(path) as table:
            rows_by = _rows_by(table, library_key)
        for name, rows in rows_by.items():
            if name in found:
                raise DataError(f"section {name!r} is in {found[name][0]} and in {path}; give each section once")
            found[name] = path, partial(_part_of_file, path, rows, name, rows_by)
    return found


def _part_of_file(path: Path, rows: NDArray[np.intp], name: str, all_names: Collection[str]) -> AnnData:
    with open_h5ad(path) as table:
        return _part(table, rows, name, all_names)


def is_spatialdata(data: Any) -> TypeGuard[SpatialData]:
    """Say whether an object is SpatialData, without importing that library."""
    return hasattr(data, "tables") and hasattr(data, "coordinate_systems")


def annotate(result: AnnData, table: AnnData) -> None:
    """Make a result a table of the same regions and instances; its ``obs`` has the table's columns."""
    attrs = dict(table.uns[ATTRS])
    result.uns[ATTRS] = {**attrs, "region": sorted(result.obs[attrs["region_key"]].astype(str).unique())}


def _fitting(adata: SpatialObject, library_key: str | None, table_key: str | None) -> tuple[str | None, str | None]:
    """Choose the keys that apply to an object, of keys for several objects."""
    if is_spatialdata(adata):
        table = adata.tables[table_name(adata, table_key)]
        return (None if ATTRS in table.uns else library_key), table_key
    return (library_key if isinstance(adata, AnnData) and library_key in adata.obs else None), None


def _of_spatialdata(
    sdata: SpatialData, library_key: str | None, table_key: str | None, copy: bool, image: bool
) -> Given:
    name = table_name(sdata, table_key)
    table = sdata.tables[name].copy() if copy else sdata.tables[name]
    if not image and ATTRS not in table.uns:
        return given_sections(table, library_key=library_key)
    region_column = region_key(table)
    if library_key not in (None, region_column):
        raise DataError(
            f"{setting('library_key', library_key)} does not apply: in SpatialData a section is a region of the table "
            f"(obs[{region_column!r}]); leave it out"
        )
    given = Given(table, {}, {})
    rows_by = _rows_by(table, region_column)
    for region, rows in rows_by.items():
        if image or Key.obsm.spatial not in table.obsm:
            section = _read_region(sdata, name, region)
            rows = rows[table.obs_names[rows].get_indexer(section.obs_names)]
        else:
            section = _part(table, rows, section_in_obs(table[rows].copy(), None, region), rows_by)
        own = section_name(section)
        if own in given.sections:
            raise DataError(
                f"two regions of table {name!r} belong to section {own!r}; give each its own obs['{Key.obs.section}']"
            )
        _own_entries(section, own)
        given.sections[own], given.rows[own] = section, rows
    return given


def _read_region(sdata: SpatialData, name: str, region: str) -> AnnData:
    """Read one region; where the reader needs an argument that its caller does not have, say who takes it."""
    try:
        return spatialdata_section(sdata, name, region=region)
    except (DataError, ImageError) as error:
        if not is_about(error, "data.options"):
            raise
        raise type(error)(
            f"{error.args[0]}; such arguments are of ng.read.spatialdata_section: give the section that it returns"
        ) from None


def _rows_by(table: AnnData, library_key: str) -> dict[str, NDArray[np.intp]]:
    """Find the rows of each section, in order of name."""
    if library_key not in table.obs:
        raise DataError(
            f"obs has no column {setting('library_key', library_key)}; {nearest(library_key, table.obs.columns)}"
        )
    names = table.obs[library_key]
    if names.isna().any():
        raise DataError(
            f"{int(names.isna().sum())} spots have no section in obs[{library_key!r}] (first: "
            f"{table.obs_names[names.isna().to_numpy()][0]!r}); name it, or leave them out"
        )
    names = np.array([as_name(name) for name in names], dtype=str)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _part(table: AnnData, rows: NDArray[np.intp], name: str, all_names: Collection[str]) -> AnnData:
    """Cut a section out of a table of several: its rows, its library, and its own entries of ``uns``."""
    part = table[rows].to_memory() if table.isbacked else table[rows].copy()
    entries = part.uns.get(Key.uns.spatial)
    if isinstance(entries, Mapping):
        # A library that has the name of another section is that section's, even if this one has none.
        part.uns[Key.uns.spatial] = {
            key: entry for key, entry in entries.items() if key == name or key not in all_names
        }
    own = library_id(part, name)
    if own is not None:
        part.uns[Key.uns.spatial] = {own: libraries(part)[own]}
    _own_entries(part, name)
    return _named(part, name)


def _own_entries(part: AnnData, name: str) -> None:
    for key, entry in list(part.uns.items()):
        if isinstance(entry, Mapping) and Key.several.sections in entry:
            own = entry[Key.several.sections].get(name)
            if own is None:
                del part.uns[key]
            else:
                part.uns[key] = dict(own)


def _named(section: AnnData, name: str | None = None) -> AnnData:
    """Give a section a name and a patient; return the object itself if it has both."""
    if name is None and Key.obs.section not in section.obs:
        name = library_id(section)
    has_patient = Key.obs.patient in section.obs and section.obs[Key.obs.patient].dtype.name == "category"
    if name is None or (Key.obs.section in section.obs and has_patient and section_name(section) == name):
        return section
    obs = section.obs.copy()
    obs[Key.obs.section] = pd.Categorical([name] * len(obs))
    if Key.obs.patient not in obs or obs[Key.obs.patient].isna().all():
        obs[Key.obs.patient] = unknown_patient(name)
    obs[Key.obs.patient] = obs[Key.obs.patient].astype("category").cat.remove_unused_categories()
    return AnnData(
        X=section.X,
        obs=obs,
        var=section.var,
        obsm=dict(section.obsm),
        obsp=dict(section.obsp),
        layers=layers_of(section),
        uns=dict(section.uns),
    )


def _joined_obs(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate rows; columns of categories stay categorical."""
    joined = pd.concat(parts)
    categories = {
        name: "category"
        for name in joined
        if all(part[name].dtype.name == "category" for part in parts if name in part)
    }
    return joined.astype(categories)


def _put(slot: Any, name: str, value: Any) -> None:
    if value is None:
        if name in slot:
            del slot[name]
    else:
        slot[name] = value
