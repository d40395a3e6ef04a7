"""Take the tiles and features of a WSIData of LazySlide, add what it lacks, and write tables as LazySlide does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, listed, nearest, setting
from nh2st_graph.im import add_embeddings, embedding_file
from nh2st_graph.im._made_from import SAME_PATCH, other_encoders, stored_encoders
from nh2st_graph.read import is_spatialdata
from nh2st_graph.read._spatialdata import ATTRS
from nh2st_graph.section import Key, changed_entry, spot_pitch, unknown_patient
from nh2st_graph.slide import image_name
from nh2st_graph.tl._slides import slide_section
from nh2st_graph.train import FittedModel, PreparedSection, features_name, lazyslide_encoder, say_other_pitch

if TYPE_CHECKING:
    from wsidata import WSIData

__all__ = ["SlideTiles", "is_wsidata"]

logger = logging.getLogger("nh2st_graph")

#: Longest side of the image for plots, in pixels.
_THUMBNAIL = 2000


def is_wsidata(data: Any) -> TypeGuard[WSIData]:
    """Say whether an object is a WSIData, without importing that library."""
    return is_spatialdata(data) and hasattr(data, "tile_spec")


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of a slide as a section.

    Attributes
    ----------
    wsi
        The slide.
    tile_key
        Name of the tiles in its shapes.
    prepared
        The tiles with features and graph; spots are named after the tiles.
    """

    wsi: WSIData
    tile_key: str
    prepared: PreparedSection

    @classmethod
    def of(cls, wsi: WSIData, model: FittedModel, table_key: str | None) -> SlideTiles:
        """Take the tiles and the features of the model's encoder, and add those that the slide lacks.

        Parameters
        ----------
        wsi
            The slide, which is written into.
        model
            The model.
        table_key
            Name of a table of features, or of tiles; None looks for both.

        Raises
        ------
        DataError
            If there is no table or tiles of this name, several may be meant, or the features are not of the model.
        """
        tile_key, features_key = _named(wsi, table_key)
        if tile_key not in wsi.shapes:
            _lay(wsi, model, tile_key)
        section = _tiles(wsi, tile_key)
        if "array" in model.module.needs and Key.obs.array_row not in section.obs:
            raise DataError(
                f"{_where(wsi)}: the tiles {tile_key!r} have no array positions, which {model.config.model.name} "
                f"reads; let them be laid: remove these tiles, or name others by {setting('table_key')}"
            )
        say_other_pitch(section, model.lattice)
        own = f"{features_name(model)}_{tile_key}"
        key = features_key or _there(wsi, model, tile_key, own)
        if key is not None and (mistake := _other_features(wsi, model, key, tile_key)) is not None:
            raise DataError(f"{_where(wsi)}: {key} has {mistake}; name the table of its encoder, or leave it out")
        if key is not None and not _is_ours(wsi.tables[key]):
            add_embeddings(section, embedding_file(section, wsi, key), fitted=True)
            logger.info("%s: the features are those of %s", _where(wsi), key)
            features, entry = section.obsm[Key.obsm.image], section.uns[Key.uns.image]
            return cls(wsi, tile_key, model.preparation.with_features(section, features, entry))
        if key is not None:
            _join(section, wsi.tables[key], key)
        elif model.config.features.embeddings is not None:
            encoder = features_name(model) or "its encoder"
            raise DataError(
                f"{_where(wsi)} has no table of features of {encoder} for {tile_key!r}, on which the model was "
                f"trained; run zs.tl.feature_extraction, or name the table: {setting('table_key')}"
            )
        else:
            _scale(wsi)
        # Stored features that no longer agree with the slide are computed again.
        prepared = model.preparation.prepare(section)
        _write_features(wsi, prepared, tile_key, own)
        return cls(wsi, tile_key, prepared)

    def written(self, predicted: AnnData, model: FittedModel, key_added: str | None) -> AnnData:
        """Write a prediction, with rows in the order of the tiles, as a table of the slide.

        It has the columns of LazySlide's tables, and the centres and the entry of ``uns`` of OmicVerse's.
        """
        from spatialdata.models import TableModel

        predicted.obs[Key.tables.tile_id] = _tile_ids(self.wsi, self.tile_key)
        predicted.obs[Key.tables.region] = pd.Categorical([self.tile_key] * predicted.n_obs)
        predicted.uns[Key.uns.histo] = {
            "method": model.config.model.name,
            "fm_backbone": features_name(model) or model.config.features.described,
        }
        key = (key_added or Key.tables.prediction).removesuffix(f"_{self.tile_key}") + f"_{self.tile_key}"
        self.wsi.tables[key] = TableModel.parse(
            predicted, region=self.tile_key, region_key=Key.tables.region, instance_key=Key.tables.tile_id
        )
        return predicted


def _named(wsi: WSIData, table_key: str | None) -> tuple[str, str | None]:
    """Find which tiles are meant, and the table of features if one is named."""
    specs = [key for key in wsi.attrs.get(wsi.TILE_SPEC_KEY, {}) if key in wsi.shapes]
    if table_key is None:
        if Key.tables.tiles in wsi.shapes or not specs:
            return Key.tables.tiles, None
        if len(specs) > 1:
            raise DataError(
                f"{_where(wsi)} has several sets of tiles ({listed(specs)}); name one: {setting('table_key')}"
            )
        return specs[0], None
    if table_key in wsi.shapes:
        return table_key, None
    if table_key not in wsi.tables:
        raise DataError(
            f"{_where(wsi)} has no table or tiles {table_key!r}; {nearest(table_key, [*wsi.tables, *specs])}"
        )
    region = wsi.tables[table_key].uns.get(ATTRS, {}).get("region")
    if not isinstance(region, str) or region not in wsi.shapes:
        raise DataError(f"{_where(wsi)}: table {table_key!r} has no tiles; name a table of features of tiles")
    return region, table_key


def _lay(wsi: WSIData, model: FittedModel, tile_key: str) -> None:
    """Lay tiles over the tissue: the patches around the virtual spots of a slide, on the lattice of the model."""
    from wsidata import TileSpec
    from wsidata.io import add_tiles, update_shapes_data

    scale = _scale(wsi)
    section = slide_section(_source(wsi), model, microns_per_pixel=scale)
    side, stride = (round(um / scale) for um in (model.config.features.smallest_patch_um, spot_pitch(section) * scale))
    spec = TileSpec(side, side, stride, stride, mpp=scale)
    corners = np.asarray(section.obsm[Key.obsm.spatial]) - side / 2
    add_tiles(wsi, tile_key, corners, spec, np.zeros(len(corners), dtype=int))
    array = {column: section.obs[column].to_numpy() for column in (Key.obs.array_row, Key.obs.array_col)}
    update_shapes_data(wsi, tile_key, array)


def _scale(wsi: WSIData) -> float:
    """Give the resolution of a slide, in um per pixel.

    Raises
    ------
    DataError
        If it has none.
    """
    scale = wsi.properties.mpp
    if scale is None:
        raise DataError(f"{_where(wsi)} has no resolution, and patches of um cannot be cut; give it: wsi.set_mpp(UM)")
    return float(scale)


def _source(wsi: WSIData) -> Path:
    """Give the file of a slide.

    Raises
    ------
    DataError
        If it has none.
    """
    path = _file(wsi)
    if not path.exists():
        raise DataError(f"{_where(wsi)} is not there as a file, so that no tiles can be laid on it; open the file")
    return path


def _file(wsi: WSIData) -> Path:
    """Give the path of a slide; that of an image in memory is only a name."""
    return Path(str(wsi.reader.file or "slide"))


def _where(wsi: WSIData) -> str:
    """Name a slide in a message."""
    return f"slide {_file(wsi).name}"


def _tile_ids(wsi: WSIData, tile_key: str) -> NDArray[Any]:
    shapes = wsi.shapes[tile_key]
    ids: NDArray[Any] = (
        shapes[Key.tables.tile_id].to_numpy() if Key.tables.tile_id in shapes else np.arange(len(shapes))
    )
    return ids


def _tiles(wsi: WSIData, tile_key: str) -> AnnData:
    """Make a section of tiles, with a spot at the centre of each."""
    shapes, file = wsi.shapes[tile_key], _file(wsi)
    name = image_name(file)
    bounds = shapes.geometry.bounds.to_numpy()
    obs = pd.DataFrame(index=pd.Index(_tile_ids(wsi, tile_key).astype(str)))
    obs[Key.obs.section] = pd.Categorical([name] * len(obs))
    obs[Key.obs.patient] = pd.Categorical([unknown_patient(name)] * len(obs))
    for column in (Key.tables.tissue_id, Key.obs.array_row, Key.obs.array_col):
        if column in shapes:
            obs[column] = shapes[column].to_numpy()
    section = AnnData(obs=obs, obsm={Key.obsm.spatial: (bounds[:, :2] + bounds[:, 2:]) / 2})
    scale, pitch = wsi.properties.mpp, spot_pitch(section)
    # wsidata refuses a thumbnail that is longer than the shorter side of the slide.
    thumbnail = np.asarray(wsi.get_thumbnail(min(_THUMBNAIL, *wsi.properties.shape), as_array=True))[..., :3]
    entry: dict[str, Any] = {
        Key.library.scalefactors: {
            # No wider than the tiles are apart, for plots.
            Key.library.spot_diameter: float(min(np.median(bounds[:, 2] - bounds[:, 0]), pitch))
        }
    }
    entry = changed_entry(
        entry,
        source=file if file.exists() else None,
        microns_per_pixel=scale,
        hires=(thumbnail, thumbnail.shape[1] / wsi.properties.shape[1]),
    )
    if scale is not None and Key.obs.array_row in obs:
        entry = changed_entry(entry, array_pitch_um=float(pitch * scale))
    section.uns[Key.uns.spatial] = {name: entry}
    return section


def _is_ours(table: AnnData) -> bool:
    """Whether this package computed the features of a table, and said from what."""
    entry = table.uns.get(Key.uns.image)
    return isinstance(entry, Mapping) and Key.features.made_from in entry


def _there(wsi: WSIData, model: FittedModel, tile_key: str, own: str) -> str | None:
    """Find the table of features that the model reads: one of ours, or one of LazySlide with patches of its size."""
    keys = [key for key in (own, _renamed(own)) if key in wsi.tables]
    ours = [key for key in keys if _is_ours(wsi.tables[key])]
    if ours:
        return ours[0]
    if own not in wsi.tables or lazyslide_encoder(model) is None:
        return None
    mistake = _other_features(wsi, model, own, tile_key)
    if mistake is not None and model.config.features.embeddings is None:
        logger.warning("%s: %s has %s; encoding the tiles", _where(wsi), own, mistake)
        return None
    return own


def _renamed(key: str) -> str:
    """Name our table of features where LazySlide has one of the same name."""
    return f"{Key.tables.prediction}-{key}"


def _other_features(wsi: WSIData, model: FittedModel, key: str, tile_key: str) -> str | None:
    """Say in which way the features of a table are not those that the model reads; None if they agree."""
    table, spec, features = wsi.tables[key], wsi.tile_spec(tile_key), model.config.features
    if table.n_vars != model.n_features:
        return f"{table.n_vars} features, the model reads {model.n_features} ({features.described})"
    if _is_ours(table):
        before, now = stored_encoders(table.uns[Key.uns.image]), model.origin.get("encoders")
        other = other_encoders(before, now) if before and now else []
        return f"features of other encoders ({', '.join(other)})" if other else None
    if features.embeddings is not None:
        wanted = (model.origin.get("encoders") or [{}])[0].get("patch_um")
    else:
        wanted = features.smallest_patch_um if len(features.blocks) == 1 else None
    if spec is None or spec.mpp is None or wanted is None:
        return None
    side = spec.mpp * spec.width
    if abs(side / wanted - 1) <= SAME_PATCH:
        return None
    return f"features of tiles of {side:.4g} um, the model reads patches of {wanted:.4g} um"


def _join(section: AnnData, table: AnnData, key: str) -> None:
    """Write features that this package computed into the section, joined by tile."""
    rows = pd.Index(table.obs[Key.tables.tile_id].astype(str)).get_indexer(section.obs_names)
    if (rows < 0).any():
        raise DataError(f"{int((rows < 0).sum())} tiles have no row in {key}; remove this table, or name another")
    section.obsm[Key.obsm.image] = np.asarray(table.X)[rows]
    section.uns[Key.uns.image] = table.uns[Key.uns.image]


def _write_features(wsi: WSIData, prepared: PreparedSection, tile_key: str, own: str) -> None:
    """Write the features that a slide did not have, so that they are not encoded again."""
    from wsidata.io import add_features

    section = prepared.section[prepared.spots]
    entry = section.uns[Key.uns.image]
    key = own if own not in wsi.tables or _is_ours(wsi.tables[own]) else _renamed(own)
    add_features(
        wsi,
        key=key,
        tile_key=tile_key,
        features=np.asarray(section.obsm[Key.obsm.image]),
        var=pd.DataFrame(index=pd.Index([str(each) for each in entry[Key.features.names]])),
        uns={Key.uns.image: entry},
    )
