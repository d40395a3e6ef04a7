from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import her2st, stnet
from nh2st_graph.section import library

S = "BC23209_C1"


def _read(files):
    return stnet(files.root)[S]


def _cell(value):
    def spoil(tables):
        tables.counts = tables.counts.astype(object)
        tables.counts.iloc[3, 1] = value

    return spoil


def _spot(column, value):
    def spoil(tables):
        tables.spots[column] = tables.spots[column].astype(object)
        tables.spots.loc[2, column] = value

    return spoil


def _assign(which, value):
    return lambda tables: setattr(tables, which, value(getattr(tables, which)))


BAD_TABLES = {
    "negative": (_cell(-3), "X has negative counts"),
    "fraction": (_cell(1.5), r"X has counts that are not integers \(for example 1\.5\)"),
    "empty cell": (_cell(None), r"gene 'ERBB2' in spot '6x7' of .*C1\.tsv is not a number"),
    "text": (_cell("many"), r"gene 'ERBB2' in spot '6x7' of .*C1\.tsv is not a number"),
    "no coordinate": (_spot("pixel_x", None), r"pixel_x in line 4 of .*_selection\.tsv is not a number"),
    "text coordinate": (_spot("new_y", "?"), r"new_y in line 4 of .*_selection\.tsv is not a number"),
    "nothing shared": (
        _assign("counts", lambda t: t.set_axis([f"{i + 90}x1" for i in range(len(t))])),
        r"_selection\.tsv and .*C1\.tsv have no spot in common",
    ),
    "outside": (_spot("pixel_y", 261.0), r"1 of 20 spots lie outside the image .*\(300 x 260 px"),
    "spot twice in counts": (
        _assign("counts", lambda t: pd.concat([t, t.iloc[:1]])),
        r"spot '3x7' occurs more than once in .*C1\.tsv",
    ),
    "spot twice in spots": (
        _assign("spots", lambda t: pd.concat([t, t.iloc[:1]])),
        r"spot '3x7' occurs more than once in .*_selection\.tsv",
    ),
    "foreign spot names": (
        _assign("counts", lambda t: t.rename(index={"3x7": "ACGT-1"})),
        r"spot name 'ACGT-1' in .*C1\.tsv is not array x and y",
    ),
    "no columns": (
        _assign("spots", lambda t: t.drop(columns=["x", "pixel_y"])),
        r"_selection\.tsv has no column x, pixel_y \(there: y, new_x",
    ),
    "no spots in counts": (_assign("counts", lambda t: t.iloc[:0]), r"C1\.tsv has no spots"),
    "no spots in spots": (_assign("spots", lambda t: t.iloc[:0]), r"_selection\.tsv has no spots"),
    "none selected": (_assign("spots", lambda t: t.assign(selected=0)), "no spots with counts are selected"),
    "one spot": (_assign("spots", lambda t: t.iloc[:1]), "um per pixel cannot be computed from 1 spots"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_give_one_line(st_tables, write_prepared, case):
    spoil, message = BAD_TABLES[case]
    tables = st_tables()
    spoil(tables)
    files = write_prepared(tables, S, counts="ST-cnts/{section}.tsv")
    with pytest.raises(DataError, match=message) as caught:
        _read(files)
    assert f"section '{S}'" in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGE = [
    (part, damage)
    for part in ("counts", "spots", "image")
    for damage in ("cut off", "foreign", "empty")
    if (part, damage) != ("spots", "cut off")  # a shorter table is a table
]


@pytest.mark.parametrize(("part", "damage"), DAMAGE)
def test_damaged_files_are_named(st_tables, write_prepared, part, damage):
    files = write_prepared(st_tables(), S)
    path = getattr(files, part)
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[:-150], "foreign": bytes(range(255, 0, -1)), "empty": b""}[damage])
    with pytest.raises(DataError) as caught:
        _read(files)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "counts", ["ST-cnts/{section}_sub.parquet", "ST-cnts/{section}_stdata.parquet", "ST-cnts_new/{section}_sub.parquet"]
)
def test_counts_by_any_of_their_names(st_tables, write_prepared, counts):
    tables = st_tables()
    adata = _read(write_prepared(tables, S, counts=counts))
    np.testing.assert_array_equal(adata.X.toarray()[0], tables.counts.loc["3x7"])


def test_counts_whose_names_are_a_column(st_tables, write_prepared):
    tables = st_tables()
    files = write_prepared(tables, S)
    tables.counts.reset_index(names="spot").to_parquet(files.counts)
    adata = _read(files)
    assert list(adata.var_names) == list(tables.counts.columns)
    np.testing.assert_array_equal(adata.X.toarray()[0], tables.counts.loc["3x7"])


def test_the_same_as_the_repository_of_her2st(st_tables, write_prepared, write_her2st):
    tables = st_tables()
    other = her2st(write_her2st(tables).root)["A1"]
    adata = _read(write_prepared(tables, S))
    np.testing.assert_array_equal(adata.X.toarray(), other.X.toarray())
    np.testing.assert_array_equal(adata.obsm["spatial"], other.obsm["spatial"])
    scales = [library(a).microns_per_pixel for a in (adata, other)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_images_of_other_sections_are_not_taken(st_tables, write_prepared):
    write_prepared(st_tables(), "BC23209_C2", image="HE_{section}.tif")
    files = write_prepared(st_tables(), S, image="HE_{section}.tif")
    assert library(_read(files)).source == str(files.image.resolve())
    files.image.rename(files.image.with_name(f"HEx{S}.tif"))
    with pytest.raises(ImageError, match="no image"):
        _read(files)
