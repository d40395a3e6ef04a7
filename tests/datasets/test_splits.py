from __future__ import annotations

import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.datasets import (
    Split,
    k_fold_by_patient,
    leave_one_patient_out,
    leave_one_section_out,
    synthetic_tissue,
)
from nh2st_graph.section import unknown_patient

HER2ST = {"B4": "B", "C3": "C", "C4": "C", "C5": "C", "C6": "C"}
patients = st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from("ABC"), min_size=1, max_size=8)


def test_within_a_patient() -> None:
    assert leave_one_section_out(HER2ST) == [
        Split("C3", ("C4", "C5", "C6"), ("C3",)),
        Split("C4", ("C3", "C5", "C6"), ("C4",)),
        Split("C5", ("C3", "C4", "C6"), ("C5",)),
        Split("C6", ("C3", "C4", "C5"), ("C6",)),
    ]


def test_across_all_sections() -> None:
    splits = leave_one_section_out(HER2ST, within_patient=False)
    assert [split.name for split in splits] == list(HER2ST)
    assert splits[0] == Split("B4", ("C3", "C4", "C5", "C6"), ("B4",))


def test_across_patients() -> None:
    assert leave_one_patient_out(HER2ST) == [
        Split("B", ("C3", "C4", "C5", "C6"), ("B4",)),
        Split("C", ("B4",), ("C3", "C4", "C5", "C6")),
    ]


@given(patients)
def test_no_patient_is_on_both_sides(mapping: dict[str, str]) -> None:
    if len(set(mapping.values())) < 2:
        with pytest.raises(DataError, match="give two or more"):
            leave_one_patient_out(mapping)
        return
    splits = leave_one_patient_out(mapping)
    assert sorted(name for split in splits for name in split.test) == sorted(mapping)
    for split in splits:
        assert {mapping[name] for name in split.test} == {split.name}
        assert split.name not in {mapping[name] for name in split.train}
        assert sorted(split.train + split.test) == sorted(mapping)


@given(patients, st.booleans())
def test_no_section_is_on_both_sides(mapping: dict[str, str], within: bool) -> None:
    try:
        splits = leave_one_section_out(mapping, within_patient=within)
    except DataError:
        assert len(mapping) == 1 or (within and len(set(mapping.values())) == len(mapping))
        return
    for split in splits:
        assert split.test == (split.name,)
        assert split.name not in split.train
        if within:
            assert {mapping[name] for name in split.train} == {mapping[split.name]}


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnData]:
    """Four sections of two patients, small: splits read names alone."""
    return synthetic_tissue(4, folder=tmp_path_factory.mktemp("tissue"), n_rows=6, n_cols=6, microns_per_pixel=4.0)


def test_sections_give_the_same_as_their_patients(sections: dict[str, AnnData]) -> None:
    named = {"S1": "P1", "S2": "P1", "S3": "P2", "S4": "P2"}
    assert leave_one_section_out(sections) == leave_one_section_out(named)
    assert leave_one_patient_out(sections) == leave_one_patient_out(named)


def test_a_section_without_one_patient_is_named(small: AnnData) -> None:
    two = small.copy()
    two.obs["patient"] = ["A", "B"] * (two.n_obs // 2) + ["A"] * (two.n_obs % 2)
    with pytest.raises(DataError, match=r"section 'X': obs\['patient'\] names 2 patients"):
        leave_one_section_out({"X": two})
    del two.obs["patient"]
    with pytest.raises(DataError, match=r"section 'X': obs\['patient'\] is missing"):
        leave_one_patient_out({"X": two})


@pytest.mark.parametrize("split", [leave_one_patient_out, lambda sections: k_fold_by_patient(sections, 2)])
def test_patients_that_nothing_tells_are_not_split_unless_the_caller_names_them(sections, split) -> None:
    unknown = dict(sections)
    for name in ("S2", "S4"):
        unknown[name] = sections[name].copy()
        unknown[name].obs["patient"] = unknown_patient(name)
    with pytest.raises(DataError, match=r"patient of S2, S4 .*ids\.csv"):
        split(unknown)
    assert {name for fold in split({name: name for name in sections}) for name in fold.test} == set(sections)
    assert leave_one_section_out(unknown, within_patient=False) == leave_one_section_out(sections, within_patient=False)


def test_nothing_to_split() -> None:
    with pytest.raises(DataError, match="to train on"):
        leave_one_section_out({})
    with pytest.raises(DataError, match="0 patient"):
        leave_one_patient_out({})


@given(patients, st.integers(0, 9), st.integers(0, 3))
def test_patients_are_dealt_out_to_folds(mapping: dict[str, str], n_folds: int, seed: int) -> None:
    n_patients = len(set(mapping.values()))
    if not 2 <= n_folds <= n_patients:
        with pytest.raises(DataError, match="n_folds from 2"):
            k_fold_by_patient(mapping, n_folds, seed)
        return
    splits = k_fold_by_patient(mapping, n_folds, seed)
    assert [split.name for split in splits] == [f"fold{i + 1}" for i in range(n_folds)]
    assert sorted(s for split in splits for s in split.test) == sorted(mapping)  # each is tested once
    for split in splits:
        assert {*split.train} | {*split.test} == {*mapping}
        assert not {mapping[s] for s in split.train} & {mapping[s] for s in split.test}
    assert splits == k_fold_by_patient(mapping, n_folds, seed)


def test_folds_have_about_as_many_sections() -> None:
    mapping = {f"{patient}{i}": patient for patient, n in {"A": 6, "B": 3, "C": 3, "D": 2}.items() for i in range(n)}
    assert sorted(len(split.test) for split in k_fold_by_patient(mapping, 2)) == [6, 8]
