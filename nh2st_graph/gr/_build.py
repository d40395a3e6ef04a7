"""Build the spatial graph of a section with squidpy."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import QhullError

from nh2st_graph._errors import ConfigError, DataError, nearest, setting
from nh2st_graph._files import as_number, is_count
from nh2st_graph.gr._lattice import array_builder, numbered_rings
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import (
    Key,
    check_section,
    fit_array,
    lattice_neighbours,
    library,
    nearest_distances,
    section_name,
    spot_pitch,
)

__all__ = ["GraphMode", "has_graph", "spatial_graph"]

logger = logging.getLogger("nh2st_graph")

GraphMode = Literal["grid", "knn", "radius", "delaunay", "random", "none"]

#: Key of the arguments of :func:`spatial_graph`, beside squidpy's own ``params``.
_ASKED = "nh2st_graph"

#: squidpy leaves out edges of a grid from this many median distances on.
_CUT_OFF = 1.3

#: Spots are a lattice if most of them have their nearest spot this close to the median distance (a share of it).
_REGULAR = 0.2

#: Even the longest edge is shorter than this share of the distance to the next spots of a full array.
_BEFORE_NEXT = 0.97


@documented
def spatial_graph(
    adata: SpatialObject,
    mode: GraphMode = "grid",
    *,
    n_rings: int = 1,
    n_neighs: int | None = None,
    radius_um: float | None = None,
    seed: int = 0,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = "spatial",
    copy: bool = False,
) -> AnnData | None:
    """Build the spatial graph of a section with squidpy.

    Parameters
    ----------
    adata
        One section with spot centres in ``obsm["spatial"]``; an AnnData of several sections, which no edge joins; or
        SpatialData, with a section for each region of its table.
    mode
        ``"grid"``: rings of neighbours on the array; ``"knn"``: the nearest spots; ``"radius"``: all spots within a
        distance; ``"delaunay"``: the Delaunay triangulation. Two modes are controls: in ``"random"``, each spot has as
        many edges as in the grid, to random spots; ``"none"`` has no edges.
    n_rings
        Rings of neighbours (``mode="grid"`` and ``"random"``).
    n_neighs
        Number of neighbours: of the first ring (``"grid"``; default 8 on a square and 6 on a hexagonal array, see
        :func:`lattice_neighbours`), or of nearest spots (``"knn"``; default 6). A section with fewer spots connects
        all of them.
    radius_um
        Largest distance in um (``mode="radius"``; default one and a half array pitches).
    seed
        Seed of ``mode="random"``.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. The result is ``obsp[f"{key_added}_connectivities"]``, ``obsp[f"{key_added}_distances"]`` and
    ``uns[f"{key_added}_neighbors"]``. A spot may have no neighbour.

    Notes
    -----
    squidpy takes the grid's pitch from the median distance to the nearest spots, and joins spots over holes once about
    half of an array's spots are missing. Here the pitch comes from the array (:func:`spot_pitch`), and edges that are
    longer than squidpy's on a full array are left out, with a warning that counts them. Without array positions, the
    pitch is the median distance from a spot to its nearest spot; spots that are not a lattice keep all of their edges.

    Raises
    ------
    ConfigError
        If the mode is unknown, or a number is out of its range.
    DataError
        If positions are missing, a radius is given in um and the resolution is unknown, or spots to triangulate lie on
        one line.
    """
    modes = get_args(GraphMode)
    if mode not in modes:
        raise ConfigError(f"{setting('graph.mode', mode)}; {nearest(mode, modes)}")
    for name, number in (("n_rings", n_rings), ("n_neighs", n_neighs)):
        if number is not None and not is_count(number):
            raise ConfigError(f"{setting(f'graph.{name}', number)}; give a whole number above 0")
    if radius_um is not None and not as_number(radius_um) > 0:
        raise ConfigError(f"{setting('graph.radius_um', radius_um)}; give a distance in um above 0")
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy, image=mode == "radius")
    for section in given:
        connect(check_section(section), mode, n_rings, n_neighs, radius_um, seed, key_added)
    given.write(obsp=[f"{key_added}_connectivities", f"{key_added}_distances"], uns=[f"{key_added}_neighbors"])
    return given.table if copy else None


def connect(
    target: AnnData,
    mode: GraphMode = "grid",
    n_rings: int = 1,
    n_neighs: int | None = None,
    radius_um: float | None = None,
    seed: int = 0,
    key_added: str = "spatial",
) -> None:
    """Write the graph of one checked section; see :func:`spatial_graph`."""
    if mode == "none" or target.n_obs < (3 if mode == "delaunay" else 2):
        _write(target, sparse.csr_matrix((target.n_obs, target.n_obs), dtype=np.float64), mode, key_added)
    else:
        with _quiet():
            _call_squidpy(target, "grid" if mode == "random" else mode, n_rings, n_neighs, radius_um, key_added)
    if mode == "random":
        grid = sparse.csr_matrix(target.obsp[f"{key_added}_connectivities"])
        _write(target, _rewired(grid, seed), mode, key_added)
    target.uns[f"{key_added}_neighbors"][_ASKED] = _asked(target, mode, n_rings, n_neighs, radius_um, seed)


def has_graph(
    adata: AnnData,
    mode: GraphMode = "grid",
    *,
    n_rings: int = 1,
    n_neighs: int | None = None,
    radius_um: float | None = None,
    seed: int = 0,
) -> bool:
    """Whether a section has the graph that :func:`spatial_graph` would build with these arguments."""
    known = adata.uns.get(Key.uns.neighbors, {}).get(_ASKED, {})
    wanted = _asked(adata, mode, n_rings, n_neighs, radius_um, seed)
    return dict(known) == wanted and Key.obsp.connectivities in adata.obsp and Key.obsp.distances in adata.obsp


def _asked(adata: AnnData, *arguments: Any) -> dict[str, Any]:
    """List what a graph depends on: the arguments, the positions in their order, and the radius in pixels."""
    names = ("mode", "n_rings", "n_neighs", "radius_um", "seed")
    spatial = np.ascontiguousarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    given = {name: value for name, value in zip(names, arguments, strict=True) if value is not None}
    if given["mode"] != "random":
        del given["seed"]
    if given["mode"] in ("grid", "random"):
        given["longest_px"] = _longest_px(adata, given.get("n_neighs"))
    if given["mode"] == "radius":
        given["radius_px"] = _radius_px(adata, given.get("radius_um"))
    return {**given, "positions": hashlib.sha256(spatial.tobytes()).hexdigest()[:16]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide squidpy's note on each graph, which says nothing about the user's data; its warnings are shown."""
    own = logging.getLogger("spatialdata._logging")  # squidpy writes there

    def warns(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    own.addFilter(warns)
    try:
        yield
    finally:
        own.removeFilter(warns)


def _call_squidpy(
    adata: AnnData, mode: str, n_rings: int, n_neighs: int | None, radius_um: float | None, key_added: str
) -> None:
    import squidpy as sq

    most = adata.n_obs - 1
    if mode == "grid":
        array = fit_array(adata)
        around = min(n_neighs or lattice_neighbours(adata, array), most)
        builder = None if array is None else array_builder(adata, array, around, n_rings)
        if builder is not None:
            sq.gr.spatial_neighbors_from_builder(adata, builder, key_added=key_added)
            return
        sq.gr.spatial_neighbors_grid(adata, n_neighs=around, n_rings=n_rings, key_added=key_added)
        _cut(adata, _longest_px(adata, n_neighs), n_rings, key_added)
    elif mode == "knn":
        sq.gr.spatial_neighbors_knn(adata, n_neighs=min(n_neighs or 6, most), key_added=key_added)
    elif mode == "radius":
        sq.gr.spatial_neighbors_radius(adata, radius=_radius_px(adata, radius_um), key_added=key_added)
    else:
        try:
            sq.gr.spatial_neighbors_delaunay(adata, key_added=key_added)
        except QhullError:
            raise DataError(
                f"section {section_name(adata)!r}: its {adata.n_obs} spots lie on one line and have no "
                f"triangulation; give {setting('graph.mode', 'knn')}"
            ) from None


def _longest_px(adata: AnnData, n_neighs: int | None) -> float:
    """Length in pixels from which an edge of the first ring jumps over a hole; infinite if spots are not a lattice.

    It is squidpy's cut-off on a full array: its factor times the distance to the last of the neighbours.
    """
    array = fit_array(adata) if adata.n_obs > 1 else None
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], np.float64)
    if adata.n_obs < 2 or (array is None and not _regular(spatial)):
        return float("inf")
    around = lattice_neighbours(adata, array)
    wanted = n_neighs or around
    half = int(wanted**0.5) + 2
    x, y = np.meshgrid(*[np.arange(-half, half + 1, dtype=np.float64)] * 2)
    if around == 6:
        x, y = x + y / 2, y * np.sqrt(3) / 2
    distances = np.sort(np.hypot(x, y), axis=None)  # in pitches; the first is the spot itself
    reach = distances[wanted]
    following = distances[distances > 1.01 * reach][0]
    return float(f"{min(_CUT_OFF * reach, _BEFORE_NEXT * following) * spot_pitch(adata, array):.6g}")


def _regular(centres: NDArray[np.float64]) -> bool:
    """Say whether most spots have their nearest other spot at about the same distance."""
    nearest_spot = nearest_distances(centres)
    pitch = np.median(nearest_spot)
    return bool(pitch > 0 and (np.abs(nearest_spot - pitch) <= _REGULAR * pitch).mean() > 0.5)


def _cut(adata: AnnData, longest_px: float, n_rings: int, key_added: str) -> None:
    """Leave out edges of squidpy's grid that are longer than the first ring, and number the rings anew."""
    keys = f"{key_added}_connectivities", f"{key_added}_distances"
    rings = sparse.coo_matrix(adata.obsp[keys[1]])
    first = rings.data == 1
    row, col = rings.row[first], rings.col[first]
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    kept = np.linalg.norm(centres[row] - centres[col], axis=1) < longest_px
    if kept.all():
        return
    dtype = rings.dtype
    ring = sparse.csr_matrix((np.ones(kept.sum(), dtype=dtype), (row[kept], col[kept])), rings.shape)
    adata.obsp[keys[1]] = numbered_rings(ring, n_rings)
    adata.obsp[keys[0]] = (adata.obsp[keys[1]] > 0).astype(dtype)
    logger.warning(
        "section %r: %d of %d edges between neighbours jumped over missing spots (more than %.4g px) and are left out; "
        "%d of %d spots have no neighbour",
        section_name(adata),
        len(kept) - kept.sum(),
        len(kept),
        longest_px,
        int((np.diff(ring.indptr) == 0).sum()),
        adata.n_obs,
    )


def _radius_px(adata: AnnData, radius_um: float | None) -> float:
    if radius_um is None:
        return 1.5 * spot_pitch(adata)
    scale = library(adata).microns_per_pixel
    if scale is None:
        raise DataError(
            f"section {section_name(adata)!r}: {setting('graph.radius_um', radius_um)} needs "
            f"metadata['{Key.library.microns_per_pixel}']; give the resolution when you read the section"
        )
    return radius_um / scale


def _rewired(graph: sparse.csr_matrix, seed: int) -> sparse.csr_matrix:
    """Swap the ends of random pairs of edges, which keeps the degrees of a graph and nothing else.

    A graph without a possible swap (all spots joined, or fewer than four spots) stays as it is.
    """
    drawn = nx.from_scipy_sparse_array(graph)
    drawn.remove_edges_from(list(nx.selfloop_edges(drawn)))
    swaps = 10 * drawn.number_of_edges()
    # NetworkX raises when it runs out of tries; the swaps until then are made.
    with suppress(nx.NetworkXError, nx.NetworkXAlgorithmError):
        nx.double_edge_swap(drawn, nswap=swaps, max_tries=20 * swaps, seed=seed)
    return nx.to_scipy_sparse_array(drawn, nodelist=range(graph.shape[0]), weight=None, dtype=np.float64, format="csr")


def _write(adata: AnnData, connectivities: sparse.csr_matrix, mode: str, key_added: str) -> None:
    """Write squidpy's keys for a graph that squidpy did not build; distances are in pixels."""
    edges = sparse.coo_matrix(connectivities)
    step = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    length = np.linalg.norm(step[edges.row] - step[edges.col], axis=1)
    adata.obsp[f"{key_added}_connectivities"] = sparse.csr_matrix(connectivities)
    adata.obsp[f"{key_added}_distances"] = sparse.csr_matrix((length, (edges.row, edges.col)), shape=edges.shape)
    adata.uns[f"{key_added}_neighbors"] = {
        "connectivities_key": f"{key_added}_connectivities",
        "distances_key": f"{key_added}_distances",
        "params": {"mode": mode},
    }
