from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.section import (
    as_name,
    in_tissue,
    named_patients,
    patient_name,
    patient_of,
    patients_in,
    section_name,
    unknown_patient,
    unknown_patients,
)

NOBODY = [None, np.nan, pd.NA, pd.NaT, "", "  ", "\t", "nan", "NaN", "None", "null", "NA", "n/a", "<NA>", "unknown"]


def section(patients, name="A1") -> AnnData:
    return AnnData(
        obs=pd.DataFrame({"section": name, "patient": patients}, index=[f"s{i}" for i in range(len(patients))])
    )


@pytest.mark.parametrize("value", [*NOBODY, "unknown (B7)"])
def test_values_that_name_nobody(value):
    assert patient_name(value) is None
    adata = section([value] * 3)
    assert patient_of(adata) == unknown_patient("A1")
    assert unknown_patients({"A1": adata}) == ["A1"]
    assert named_patients(adata) is None
    assert named_patients(section([value, "P2", "P1"])) == "P1 + P2"


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1 ", np.int64(1), np.float32(1), b"1", "1.00"])
def test_numbers_are_one_patient_however_they_are_stored(value):
    assert patient_name(value) == "1"
    assert patient_of(section([value] * 2)) == "1"


@pytest.mark.parametrize("value", ["01", "1.5", "P1", "P 1", "Nan Ning", "unknown donor 3", "1e3"])
def test_other_names_stay_what_they_are(value):
    assert patient_name(f" {value} ") == value


@given(st.text(min_size=1, max_size=8))
def test_a_name_is_its_own_name(text):
    name = patient_name(text)
    assert name is None or patient_name(name) == name


def test_spots_without_a_patient_belong_to_the_one_that_is_named():
    assert patient_of(section([np.nan, "P1", ""])) == "P1"


def test_two_patients_are_said():
    adata = section(["P2", "P1", "P2"])
    assert patients_in(adata) == ["P1", "P2"]
    with pytest.raises(DataError, match=r"'A1': .* names 2 patients \(P1, P2\)"):
        patient_of(adata)
    del adata.obs["patient"]
    with pytest.raises(DataError, match=r"obs\['patient'\] is missing"):
        patient_of(adata)


def test_names_are_text_again_where_a_table_made_numbers_of_them():
    assert section_name(section(["P"] * 2, name=151507.0)) == "151507"
    assert section_name(section(["P"] * 2, name="010")) == "010"
    assert [as_name(value) for value in (7, 7.0, "7.0", np.nan)] == ["7", "7", "7.0", None]
    with pytest.raises(DataError, match=r"obs\['section'\] is empty"):
        section_name(section(["P"] * 2, name=np.nan))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, 1], [True, False, True]),
        ([1.0, 0.0, 1.0], [True, False, True]),
        ([True, False, True], [True, False, True]),
        (["1", "0.0", "True"], [True, False, True]),
        (["yes", "False", " T "], [True, False, True]),
        (pd.Categorical(["1", "0", "1"]), [True, False, True]),
        (pd.array([1, 0, 1], dtype="Int64"), [True, False, True]),
    ],
)
def test_spots_in_tissue(values, expected):
    adata = section(["P"] * 3)
    assert in_tissue(adata) is None
    adata.obs["in_tissue"] = values
    assert in_tissue(adata).tolist() == expected


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["tissue", "off", "tissue"], "'s0' has 'tissue'"),
        ([1.0, 0.0, np.nan], "'s2' has no value"),
        ([True, False, None], "'s2' has no value"),
        (pd.array([1, None, 1], dtype="Int64"), "'s1' has no value"),
        (["1", "0", ""], "'s2' has ''"),
        ([0, 1, 2], "'s2' has '2'"),
        ([0, 0.5, 1], "'s1' has '0.5'"),
    ],
)
def test_values_that_do_not_say_whether_a_spot_is_in_tissue(values, shown):
    adata = section(["P"] * 3)
    adata.obs_names = ["s0", "s1", "s2"]
    adata.obs["in_tissue"] = values
    with pytest.raises(DataError, match=r"obs\['in_tissue'\]") as caught:
        in_tissue(adata)
    assert shown in str(caught.value)
    assert str(caught.value).startswith(f"section {section_name(adata)!r}")


def test_a_column_without_any_value_says_nothing_of_the_tissue():
    adata = section(["P"] * 3)
    adata.obs["in_tissue"] = [np.nan] * 3
    assert in_tissue(adata) is None
