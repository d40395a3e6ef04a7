from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.section import check_pitch, library_entry, report_pitch

IMAGE = (np.zeros((4, 4, 3), np.uint8), 1.0)


def section(factor=1.0, *, hexagonal=True, scale=0.5, turned=0.0, pitch=None, keep=slice(None), **factors) -> AnnData:
    """A Visium array of 100 um, or a square one of 200 um, with positions scaled by a factor."""
    rows, cols = np.array([(r, c) for r in range(8) for c in range(16) if not hexagonal or (r + c) % 2 == 0]).T
    um = np.column_stack([cols * 50.0, rows * 50 * 3**0.5] if hexagonal else [cols * 200.0, rows * 200.0])
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    obs = pd.DataFrame(
        {"section": "A1", "array_row": rows, "array_col": cols}, index=[f"s{i}" for i in range(len(rows))]
    )
    entry = library_entry("image.png", scale, 65 / scale, IMAGE)
    entry["scalefactors"] = {**entry["scalefactors"], **factors}
    if pitch is not None:
        entry["metadata"]["array_pitch_um"] = pitch
    adata = AnnData(obs=obs, obsm={"spatial": (um @ turn + 400) / scale * factor}, uns={"spatial": {"A1": entry}})
    return adata[keep].copy()


@given(st.floats(0.1, 10), st.floats(0, 6.3), st.floats(0.05, 20))
def test_any_factor_is_seen_whatever_the_turn_and_the_resolution(factor, turned, scale):
    adata = section(factor, turned=turned, scale=scale)
    if 0.8 < factor < 1.25:
        check_pitch(adata)
    elif not 0.79 < factor < 1.26:
        with pytest.raises(DataError, match="100 um apart on the array"):
            check_pitch(adata)


def test_the_error_names_the_factor_and_the_cure():
    with pytest.raises(DataError, match=r"'A1'.* a factor of 0\.3; .*multiply obsm\['spatial'\] by 3\.333") as error:
        check_pitch(section(0.3), (10_000, 10_000))
    assert "microns_per_pixel=1.667" in str(error.value)
    assert "\n" not in str(error.value)
    assert "--option microns_per_pixel=1.667" in error.value.at("flag", {"option"})


def test_if_positions_would_leave_the_image_its_resolution_is_the_cure():
    with pytest.raises(DataError, match=r"give um per pixel of .*microns_per_pixel=1\.667; or, if it is right"):
        check_pitch(section(0.3), (800, 800))
    with pytest.raises(DataError, match=r"give um per pixel of the image .*microns_per_pixel=0\.125"):
        check_pitch(section(4.0), (9_000, 9_000))


def test_a_scale_factor_of_the_section_is_named():
    for factor in (0.3, 0.85):
        with pytest.raises(DataError, match="tissue_hires_scalef"):
            check_pitch(section(factor, tissue_hires_scalef=factor))
    with pytest.raises(DataError, match="tissue_lowres_scalef"):
        check_pitch(section(0.1), factors={"tissue_lowres_scalef": 0.1})
    with pytest.raises(DataError, match=r"200 um apart .*tissue_hires_scalef"):
        check_pitch(section(0.15, hexagonal=False, tissue_hires_scalef=0.15))


def test_arrays_of_another_pitch():
    check_pitch(section(2.0, pitch=200.0))
    check_pitch(section(0.08, hexagonal=False))  # 16 um, as Visium HD: many square arrays are possible
    check_pitch(section(0.08, hexagonal=False, pitch=16.0))
    with pytest.raises(DataError, match="16 um apart on the array, but 200 um"):
        check_pitch(section(hexagonal=False, pitch=16.0))


def test_what_cannot_be_compared_is_not():
    line = section(0.3, keep=slice(0, 8))  # one row
    check_pitch(line)
    without = section(0.3)
    del without.obs["array_row"]
    check_pitch(without)
    without = section(0.3)
    without.uns.clear()
    check_pitch(without)


def test_part_of_an_array_is_enough():
    with pytest.raises(DataError, match=r"a factor of 0\.3"):
        check_pitch(section(0.3, keep=[0, 1, 8, 9]))


def test_spots_that_would_overlap_are_said(caplog):
    report_pitch(section(hexagonal=False))
    assert not caplog.records
    report_pitch(section(0.2, hexagonal=False))
    assert "spots are 130 px wide and 80 px apart on the array" in caplog.text


def test_without_an_array_overlap_is_said_too(caplog):
    shrunk = section(0.2, hexagonal=False, tissue_hires_scalef=0.2)
    del shrunk.obs["array_row"]
    check_pitch(shrunk)
    report_pitch(shrunk)
    assert "spots are 130 px wide and 80 px apart;" in caplog.text


def test_overlap_that_a_scale_factor_explains_is_refused():
    bins = section(0.325, hexagonal=False, scale=2.0, tissue_hires_scalef=0.5)  # touch, as those of Visium HD
    check_pitch(bins)
    shrunk = section(0.06, hexagonal=False, scale=2.0, tissue_hires_scalef=0.12)  # from a pitch of 100 um
    with pytest.raises(
        DataError, match=r"'A1'.*32\.5 px wide and 6 px apart .*0\.12 \(tissue_hires_scalef\).* by 8\.333"
    ):
        check_pitch(shrunk)
    del shrunk.uns["spatial"]["A1"]["scalefactors"]["tissue_hires_scalef"]
    check_pitch(shrunk)


def test_small_differences_are_said(caplog):
    report_pitch(section(1.03))
    assert not caplog.records
    report_pitch(section(0.85), by="the spot diameter")
    assert "0.500 um per pixel by the spot diameter, 0.588 by the array's pitch of 100 um" in caplog.text
