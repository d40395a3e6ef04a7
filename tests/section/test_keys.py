"""Keys that others rely on, and squidpy's where squidpy has one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from squidpy._constants._pkg_constants import Key as SquidpyKey

from nh2st_graph.section import Key


def slots() -> Iterator[tuple[str, dict[str, str]]]:
    for name, slot in vars(Key).items():
        if isinstance(slot, type):
            yield name, {key: value for key, value in vars(slot).items() if not key.startswith("_")}


@pytest.mark.parametrize(("slot", "keys"), slots())
def test_keys_are_strings_and_each_stands_once_in_its_slot(slot, keys):
    assert keys, slot
    assert all(isinstance(value, str) and value for value in keys.values())
    assert len({value.casefold() for value in keys.values()}) == len(keys), "keys must differ by more than case"


def test_squidpy_finds_what_is_written():
    assert SquidpyKey.obsm.spatial == Key.obsm.spatial
    assert SquidpyKey.uns.spatial == Key.uns.spatial
    assert SquidpyKey.uns.image_key == Key.library.images
    assert SquidpyKey.uns.scalefactor_key == Key.library.scalefactors
    assert SquidpyKey.uns.size_key == Key.library.spot_diameter
    assert SquidpyKey.obsp.spatial_conn() == Key.obsp.connectivities
    assert SquidpyKey.obsp.spatial_dist() == Key.obsp.distances
    assert SquidpyKey.uns.spatial_neighs() == Key.uns.neighbors


def test_names_of_the_section_contract():
    assert (Key.obs.section, Key.obs.patient) == ("section", "patient")
    assert (Key.obs.array_row, Key.obs.array_col) == ("array_row", "array_col")
    assert (Key.obsm.image, Key.uns.image) == ("X_image", "X_image")
    assert (Key.obsm.embed_image, Key.obsm.embed_gene) == ("X_nh2st_image", "X_nh2st_gene")
    assert (Key.library.metadata, Key.library.source_image) == ("metadata", "source_image_path")
    assert Key.library.microns_per_pixel == "microns_per_pixel"
    assert Key.library.hires_scale == "tissue_hires_scalef"
    assert Key.layers.observed == "observed"
