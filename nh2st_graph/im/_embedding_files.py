"""Read image features that another package computed: which spot or patch each row is of, and what the file says of it.

The layouts, as their own code writes them:

- TRIDENT (mahmoodlab/TRIDENT a91fa84, ``trident/wsi_objects/WSI.py`` and ``trident/IO.py``): HDF5 with ``features``
  (attribute ``encoder``, the text ``None`` where unknown) and ``coords``, upper left corners in pixels of level 0
  (attributes ``patch_size_level0``, ``level0_magnification``, ``level0_width``, ``level0_height``). A magnification is
  a class of resolutions: 20 is 0.3 to 0.6 um per px.
- HEST (mahmoodlab/HEST afd42c3, ``src/hest/bench/benchmark.py``): HDF5 with ``embeddings``, ``barcodes`` ``(n, 1)`` and
  ``coords``, which are those of the patches: upper left corners, x then y, or centres, y then x.
- slide2vec (clemsgrs/slide2vec 7cfa6bf, ``slide2vec/artifacts.py`` and ``docs/output-layout.rst``): no HDF5, but
  ``tile_embeddings/NAME.pt`` or ``.npz`` beside ``NAME.meta.json``, with rows in the order of
  ``tiles/NAME.coordinates.npz``, whose ``x`` and ``y`` are upper left corners in pixels of level 0.
- LazySlide (0.13, ``lazyslide/tools/_features.py``; wsidata 0.12, ``wsidata/io/_elems.py``): SpatialData with a table
  ``ENCODER_TILES`` that annotates the shapes ``TILES``, boxes in pixels of level 0; ``attrs`` has ``tile_spec`` and
  ``slide_properties``. ``wsi.fetch.features_anndata`` gives an AnnData of these, with upper left corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, listed, reason, setting
from nh2st_graph._files import parse_json
from nh2st_graph.read import is_spatialdata, open_packed
from nh2st_graph.read._common import whole_anndata
from nh2st_graph.read._hdf5 import check_declared
from nh2st_graph.read._spatialdata import ATTRS
from nh2st_graph.section import Key, as_name, content_digest

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["ENDINGS", "EmbeddingFile", "read_embeddings"]

_VALUES = ("features", "embeddings")
_NAMES = ("barcodes", "barcode", "names")
_TEXT = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_NAME_COLUMNS = {"", "barcode", "barcodes", "id", "index", "name", "spot", "spot_id", "spot_name", "unnamed: 0"}
#: Numbers that tables have beside features.
_NO_FEATURES = {"array_col", "array_row", "in_tissue", "pxl_col_in_fullres", "pxl_row_in_fullres"}

#: Endings of the files that are read.
ENDINGS = (".h5", ".hdf5", ".pt", ".npz", ".zarr", ".h5ad", ".parquet", *_TEXT, *(f"{each}.gz" for each in _TEXT))


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """Features of one section or slide, as a file has them; what it does not say is None.

    Attributes
    ----------
    place
        The file, for messages.
    layout
        Whose layout it has.
    values
        ``(n_rows, n_features)``, float32.
    names
        Names of spots, one a row.
    coords
        ``(n_rows, 2)``, x then y, in pixels of the slide's level 0.
    corners
        Whether ``coords`` are upper left corners of patches; otherwise they are centres.
    encoder
        Name of the encoder.
    patch_px, patch_um
        Side of a patch, in pixels of level 0 and in um.
    um_per_px, magnification
        Resolution of level 0, in um per px, and the class of resolutions that it is in.
    size
        Width and height of level 0, in pixels.
    columns
        Names of the features.
    """

    place: str
    layout: str
    values: NDArray[np.float32] = field(repr=False)
    names: pd.Index | None = field(default=None, repr=False)
    coords: NDArray[np.float64] | None = field(default=None, repr=False)
    corners: bool = False
    encoder: str | None = None
    patch_px: float | None = None
    patch_um: float | None = None
    um_per_px: float | None = None
    magnification: float | None = None
    size: tuple[int, int] | None = None
    columns: Sequence[str] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Digest of names, coordinates and features."""
        arrays: list[NDArray[Any]] = [self.values] if self.coords is None else [self.values, self.coords]
        return content_digest([] if self.names is None else map(str, self.names), arrays)


def read_embeddings(source: str | Path | SpatialData, encoder: str | None = None) -> EmbeddingFile:
    """Read features that another package computed.

    Parameters
    ----------
    source
        A file, or a WSIData of LazySlide.
    encoder
        Name of the encoder, which chooses among several tables of a WSIData.

    Raises
    ------
    DataError
        If there is no such file, it has another layout, or it carries neither names nor positions of its rows.
    """
    if is_spatialdata(source):
        return _checked(_of_spatialdata(source, "the WSIData", encoder))
    if not isinstance(source, str | Path):
        raise DataError(f"{type(source).__name__} holds no embeddings; give a file, or a WSIData of LazySlide")
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; give the file of the embeddings")
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    try:
        read = _read(path, ending.lower(), encoder)
    except DataError:
        raise
    except Exception as error:  # each library raises nearly any class on a damaged file
        raise DataError(f"{path} cannot be read as embeddings ({reason(error)}); write it again") from error
    return _checked(read)


def _read(path: Path, ending: str, encoder: str | None) -> EmbeddingFile:
    if ending == ".zarr" or path.is_dir():
        import spatialdata

        return _of_spatialdata(spatialdata.read_zarr(path, selection=("shapes", "tables")), str(path), encoder)
    if ending in {".h5", ".hdf5"}:
        return _of_hdf5(path)
    if ending in {".pt", ".npz"}:
        return _of_arrays(path)
    if ending == ".h5ad":
        return _of_anndata(whole_anndata(path), str(path))
    if ending in ENDINGS:
        return _of_table(path, ending)
    if ending == ".npy":
        raise DataError(f"{path} has no names of spots, and rows are not joined by number; {_carry()}")
    raise DataError(f"{path} is no file of embeddings that is known; give one of {', '.join(ENDINGS)}")


def _carry() -> str:
    return "write a table with a column of barcodes, or HDF5 with barcodes or coords"


def _checked(file: EmbeddingFile) -> EmbeddingFile:
    """Refuse a file whose parts do not belong together, or that names a row twice."""
    if file.values.ndim != 2 or not file.values.size:
        raise DataError(
            f"{file.place} has features of shape {file.values.shape}, expected (n_spots, n_features); "
            "give features of patches, not of a slide"
        )
    if file.names is None and file.coords is None:
        raise DataError(
            f"{file.place} has neither names nor positions of spots, and rows are not joined by number; {_carry()}"
        )
    for words, rows in (("names", file.names), ("coordinates", file.coords)):
        n_rows = 0 if rows is None or not rows.ndim else len(rows)
        if rows is not None and n_rows != len(file.values):
            raise DataError(
                f"{file.place} has {len(file.values):,} rows of features and {n_rows:,} {words}; write it again"
            )
    if file.coords is not None and file.coords.shape[1:] != (2,):
        raise DataError(f"{file.place} has coordinates of shape {file.coords.shape}, expected (n, 2); write it again")
    if file.names is not None and file.names.has_duplicates:
        twice = file.names[file.names.duplicated()].unique()
        raise DataError(f"{file.place} has {len(twice)} names more than once ({listed(twice)}); keep one row of each")
    if file.coords is not None:
        if not np.isfinite(file.coords).all():
            raise DataError(f"{file.place} has coordinates that are not numbers; correct or remove these rows")
        if file.names is None:
            each, counts = np.unique(file.coords, axis=0, return_counts=True)
            if counts.max() > 1:
                places = [f"({x:g}, {y:g})" for x, y in each[counts > 1]]
                raise DataError(
                    f"{file.place} has {len(places)} positions more than once ({listed(places)}); keep one row of each"
                )
    return file


def _of_hdf5(path: Path) -> EmbeddingFile:
    check_declared(path)
    with h5py.File(path) as stored:
        values = next((key for key in _VALUES if key in stored), None)
        if values is None:
            raise DataError(
                f"{path} has neither {' nor '.join(_VALUES)} (there: {listed(stored)}); give the file of "
                "TRIDENT's features or HEST's embeddings"
            )
        names = next((key for key in _NAMES if key in stored), None)
        coords = stored.get("coords")
        found = EmbeddingFile(
            str(path),
            "TRIDENT" if names is None else "HEST",
            _float32(stored[values][()]),
            names=None if names is None else _index(stored[names][()]),
            coords=None if coords is None else np.asarray(coords[()], np.float64),
            corners=True,
            encoder=_text(stored[values].attrs.get("encoder")),
        )
        about = {} if coords is None else dict(coords.attrs)
    number = {key: value for key, each in about.items() if (value := _number(each)) is not None}
    patch = number.get("patch_size_level0")
    power = number.get("level0_magnification")
    if patch is None and power is not None and {"patch_size", "target_magnification"} <= number.keys():
        patch = number["patch_size"] * power // number["target_magnification"]
    size = [number.get(f"level0_{side}") for side in ("width", "height")]
    return replace(
        found,
        patch_px=patch,
        magnification=power,
        size=None if None in size else (int(size[0] or 0), int(size[1] or 0)),
    )


def _of_arrays(path: Path) -> EmbeddingFile:
    """Read arrays of torch or NumPy: slide2vec's tiles, or features with names."""
    stored = _load(path)
    beside = path.with_suffix(".meta.json")
    if beside.is_file():
        return _of_slide2vec(path, stored, parse_json(beside.read_bytes()))
    parts = stored if isinstance(stored, Mapping) else {}
    values, names = (next((key for key in keys if key in parts), None) for keys in (_VALUES, _NAMES))
    if values is None or names is None:
        there = f" (there: {listed(parts)})" if parts else ""
        raise DataError(
            f"{path} has no names of spots{there}, and rows are not joined by number; of slide2vec, keep "
            f"{beside.name} and tiles/{path.stem}.coordinates.npz beside it; else {_carry()}"
        )
    return EmbeddingFile(str(path), "arrays", _float32(parts[values]), names=_index(parts[names]))


def _load(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _of_slide2vec(path: Path, stored: Any, about: Mapping[str, Any]) -> EmbeddingFile:
    if about.get("artifact_type") != "tile_embeddings":
        raise DataError(f"{path} is of slide2vec's {about.get('artifact_type')}; give the file in tile_embeddings")
    # Where it was written; or, after copying, in the same folders.
    folders = [part if part != "tile_embeddings" else "tiles" for part in path.parent.parts]
    places = [Path(about.get("coordinates_npz_path") or "."), Path(*folders) / f"{path.stem}.coordinates.npz"]
    tiles = next((each for each in places if each.is_file()), None)
    if tiles is None:
        raise DataError(f"{path}: the positions of its tiles are missing; copy {places[-1]} too")
    at = _load(tiles)
    beside = tiles.with_suffix(".meta.json")
    slide = parse_json(beside.read_bytes()).get("slide", {}) if beside.is_file() else {}
    requested = [_number(about.get(key)) for key in ("requested_tile_size_px", "requested_spacing_um")]
    return EmbeddingFile(
        str(path),
        "slide2vec",
        _float32(stored["features"] if isinstance(stored, Mapping) else stored),
        coords=np.stack([at["x"], at["y"]], axis=1).astype(np.float64),
        corners=True,
        encoder=_text(about.get("encoder_name")),
        patch_px=_number(about.get("tile_size_lv0")),
        patch_um=None if None in requested else float(np.prod([each or 0 for each in requested])),
        um_per_px=_number(slide.get("base_spacing_um")),
        size=(int(slide["dimensions"][0]), int(slide["dimensions"][1])) if "dimensions" in slide else None,
    )


def _of_spatialdata(sdata: SpatialData, place: str, encoder: str | None) -> EmbeddingFile:
    specs = sdata.attrs.get("tile_spec", {})
    tables = {}
    for key, table in sdata.tables.items():
        region = table.uns.get(ATTRS, {}).get("region")
        if isinstance(region, str) and region in specs and key != f"{region}_graph":
            tables[key] = region
    named = {key: region for key, region in tables.items() if encoder in {key, key.removesuffix(f"_{region}")}}
    wanted = named if encoder is not None and len(tables) > 1 else tables
    if len(wanted) != 1:
        what = f"features of {len(wanted)} encoders" if wanted else "no such features of tiles"
        raise DataError(
            f"{place} has {what} (there: {listed(tables) or 'none'}); give the file that zs.tl.feature_extraction "
            f"wrote into, and name one of several: {setting('encoder', argument='encoder')}"
        )
    ((key, region),) = wanted.items()
    table, boxes = sdata.tables[key], sdata.shapes[region]
    tiles = boxes["tile_id"].to_numpy() if "tile_id" in boxes else np.arange(len(boxes))
    rows = pd.Index(tiles).get_indexer(table.obs[table.uns[ATTRS]["instance_key"]])
    if (rows < 0).any():
        raise DataError(f"{place}: {int((rows < 0).sum())} rows of {key} have no tile in {region}; extract them again")
    bounds = boxes.geometry.bounds.to_numpy()[rows]
    spec = specs[region]
    return replace(
        _of_tiles(table.X, spec, sdata.attrs.get("slide_properties", {}), place),
        coords=(bounds[:, :2] + bounds[:, 2:]) / 2,
        corners=False,
        encoder=key.removesuffix(f"_{region}"),
        patch_px=float(np.median(bounds[:, 2] - bounds[:, 0])),
    )


def _of_anndata(table: AnnData, place: str) -> EmbeddingFile:
    """Read an AnnData that ``wsi.fetch.features_anndata`` gave."""
    spec = table.uns.get("tile_spec")
    if spec is None or Key.obsm.spatial not in table.obsm:
        raise DataError(
            f"{place} is no AnnData of LazySlide's features (uns['tile_spec'] is missing); write it from "
            "wsi.fetch.features_anndata, or name the key of obsm that has yours"
        )
    found = _of_tiles(table.X, spec, table.uns.get("slide_properties", {}), place)
    return replace(found, coords=np.asarray(table.obsm[Key.obsm.spatial], np.float64))


def _of_tiles(values: Any, spec: Mapping[str, Any], slide: Mapping[str, Any], place: str) -> EmbeddingFile:
    um, width, factor = (_number(spec.get(key)) for key in ("mpp", "width", "base_downsample"))
    shape = slide.get("shape")
    return EmbeddingFile(
        place,
        "LazySlide",
        _float32(values),
        corners=True,
        patch_px=None if width is None or factor is None else float(int(width * factor)),
        patch_um=None if um is None or width is None else um * width,
        um_per_px=_number(slide.get("mpp")),
        size=None if shape is None else (int(shape[1]), int(shape[0])),
    )


def _of_table(path: Path, ending: str) -> EmbeddingFile:
    """Read a table with one row a spot, named or with ``x`` and ``y`` of its centre."""
    table = pd.read_parquet(path) if ending == ".parquet" else _read_text(path, _TEXT[ending.removesuffix(".gz")])
    if not isinstance(table.index, pd.RangeIndex):
        table = table.rename_axis(index="index").reset_index()
    table.columns = table.columns.map(str)
    header = list(map(str, table.columns))
    names = next((column for column in header if column.lower() in _NAME_COLUMNS), None)
    first = header[0] if header else None
    if names is None and first is not None and not pd.api.types.is_numeric_dtype(table[first]):
        names = first if isinstance(table[first].iloc[0], str) else None
    index = None if names is None else _index(table.pop(names))
    coords = None
    if {"x", "y"} <= set(table.columns):
        coords = np.stack([pd.to_numeric(table.pop(axis), errors="coerce") for axis in "xy"], axis=1).astype(float)
    values, columns = _features(table, path)
    return EmbeddingFile(str(path), "table", values, names=index, coords=coords, columns=columns)


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    with open_packed(path) as file:
        header = pd.read_csv(file, sep=separator, nrows=0).columns
    named = {column: str for column in header if column.lower() in _NAME_COLUMNS}
    with open_packed(path) as file:
        return pd.read_csv(file, sep=separator, converters=named)  # text as it is: 007, NA


def _features(table: pd.DataFrame, path: Path) -> tuple[NDArray[np.float32], list[str] | None]:
    lists = [column for column in table if len(table) and isinstance(table[column].iloc[0], list | np.ndarray)]
    if len(lists) == 1 and len(table.columns) == 1:
        return _float32(np.stack(table[lists[0]].to_list())), None
    text = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    text += [column for column in map(str, table) if column.lower() in _NO_FEATURES and column not in text]
    if text:
        raise DataError(f"{path}: columns {listed(text)} hold no features; leave only the names of spots and features")
    return _float32(table.to_numpy()), list(table.columns)


def _float32(values: Any) -> NDArray[np.float32]:
    if hasattr(values, "toarray"):
        values = values.toarray()
    elif hasattr(values, "detach"):
        values = values.detach().to("cpu").float().numpy()  # bfloat16, which NumPy does not know, too
    with np.errstate(over="ignore"):  # infinite values are refused where they are joined
        return np.ascontiguousarray(values, dtype=np.float32)


def _index(names: Any) -> pd.Index:
    return pd.Index([as_name(name) or "" for name in np.ravel(np.asarray(names, dtype=object))], dtype=object)


def _text(value: Any) -> str | None:
    text = as_name(value)
    return None if text is None or text.strip() in {"", "None"} else text.strip()


def _number(value: Any) -> float | None:
    """Read a number above 0, as a scalar or an array of one."""
    try:
        number = float(np.ravel(value)[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if 0 < number < np.inf else None
