"""One place builds the entry of ``uns["spatial"]``, and one reads it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError, ImageError
from nh2st_graph.section import Library, changed_entry, full_image, library, library_entry

SMALL = np.zeros((8, 8, 3), np.uint8)
positive = st.floats(1e-3, 1e6)


@given(microns_per_pixel=positive, spot_diameter=positive, hires_scale=positive)
def test_what_is_built_is_read_back(microns_per_pixel, spot_diameter, hires_scale):
    entry = library_entry("/slide.tif", microns_per_pixel, spot_diameter, (SMALL, hires_scale))
    found = Library.of(entry)
    assert found.source == "/slide.tif"
    assert found.hires is SMALL
    numbers = (found.microns_per_pixel, found.spot_diameter, found.hires_scale)
    assert numbers == (microns_per_pixel, spot_diameter, hires_scale)


@given(
    st.one_of(
        *(st.none(), st.text(), st.floats(max_value=0), st.sampled_from([float("nan"), float("inf"), 10**400, True])),
        st.lists(st.floats(1, 2)),
    )
)
def test_what_is_no_number_above_zero_is_absent(value):
    entry = {
        "scalefactors": {"spot_diameter_fullres": value, "tissue_hires_scalef": value},
        "metadata": {"microns_per_pixel": value},
    }
    found = Library.of(entry)
    assert (found.microns_per_pixel, found.spot_diameter, found.hires_scale) == (None, None, None)


def test_all_is_absent_from_an_empty_entry():
    found = Library.of({})
    assert (found.source, found.hires, found.microns_per_pixel) == (None, None, None)
    assert (found.scalefactors, found.metadata) == ({}, {})


@given(
    source=st.none() | st.just("/other.tif"),
    microns_per_pixel=st.none() | positive,
    hires=st.none() | st.tuples(st.just(SMALL[:4]), positive),
)
def test_a_changed_copy_keeps_the_rest_and_leaves_the_entry_alone(source, microns_per_pixel, hires):
    entry = library_entry("/slide.tif", 0.5, 100.0, (SMALL, 0.1))
    entry["scalefactors"]["fiducial_diameter_fullres"], entry["metadata"]["chemistry"] = 144.0, "Visium"
    before, found = (
        copy.deepcopy(entry),
        Library.of(changed_entry(entry, source=source, microns_per_pixel=microns_per_pixel, hires=hires)),
    )
    assert found.source == (source or "/slide.tif")
    assert found.microns_per_pixel == (microns_per_pixel or 0.5)
    assert found.hires_scale == (hires[1] if hires else 0.1)
    assert found.hires is (hires[0] if hires else SMALL)
    assert found.spot_diameter == 100.0
    assert (found.scalefactors["fiducial_diameter_fullres"], found.metadata["chemistry"]) == (144.0, "Visium")
    assert (entry["scalefactors"], entry["metadata"]) == (before["scalefactors"], before["metadata"])


class TestOfASection:
    @pytest.fixture
    def section(self):
        entry = library_entry("/slide.tif", 0.5, 100.0, (SMALL, 0.1))
        adata = AnnData(np.ones((2, 1), np.float32), uns={"spatial": {"C6": entry}})
        adata.obs["section"] = "C6"
        return adata

    def test_its_image(self, section):
        assert library(section).entry is section.uns["spatial"]["C6"]
        assert full_image(section) == ("/slide.tif", 0.5)

    @pytest.mark.parametrize("n", [0, 2])
    def test_has_one_library(self, section, n):
        section.uns["spatial"] = {f"C{i}": {} for i in range(n)}
        with pytest.raises(DataError, match=f"'C6'.* {n} libraries"):
            library(section)

    @pytest.mark.parametrize(("key", "kind"), [("source_image_path", ImageError), ("microns_per_pixel", DataError)])
    def test_without_its_image_or_scale(self, section, key, kind):
        del section.uns["spatial"]["C6"]["metadata"][key]
        with pytest.raises(kind, match=f"'C6'.*{key}"):
            full_image(section)
