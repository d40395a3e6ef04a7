"""Held-out parts of the training data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from nh2st_graph import DataError
from nh2st_graph.train import Fold, make_folds


def grid(name: str, n_rows: int, n_cols: int, seed: int = 0, patient: str = "P") -> Data:
    """A grid of spots in shuffled order, joined to the left and right and up and down; ``y`` tells spots apart."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_cols))
    places = places[torch.randperm(len(places), generator=generator)]
    apart = (places[:, None] - places[None]).abs().sum(dim=2)
    receiver, sender = (apart == 1).nonzero().T
    return Data(
        x=torch.rand(len(places), 3, generator=generator),
        y=torch.arange(len(places)).float()[:, None],
        edge_index=torch.stack([sender, receiver]),
        edge_attr=torch.stack([sender, receiver], dim=1).float(),
        pos=places.flip(1).float(),
        section=name,
        patient=patient,
        spots=[f"{name}-{i}" for i in range(len(places))],
        num_nodes=len(places),
    )


def names(parts: list[Data]) -> list[str]:
    return [spot for part in parts for spot in part.spots]


@given(st.integers(1, 4), st.integers(2, 4), st.sampled_from(["patient", "section", "blocks"]), st.integers(3, 6))
def test_every_spot_is_held_out_once_and_is_never_in_both_parts(n_sections, n_folds, kind, n_rows):
    sections = [grid(f"S{i}", n_rows, 4, seed=i, patient=f"P{i % 3}") for i in range(n_sections)]
    folds = make_folds(sections, kind, n_folds)
    everything = sorted(names(sections))
    assert sorted(spot for fold in folds for spot in names(fold.validation)) == everything
    for fold in folds:
        assert sorted(names(fold.train) + names(fold.validation)) == everything
        assert names(fold.train)
        assert names(fold.validation)


def test_whole_sections_are_held_out_in_turn():
    sections = [grid(f"S{i}", 3, 3) for i in range(3)]
    folds = make_folds(sections, "section", 5)
    assert [fold.name for fold in folds] == ["S0", "S1", "S2"]
    for i, fold in enumerate(folds):
        assert fold.validation == [sections[i]]
        assert fold.train == [s for j, s in enumerate(sections) if j != i]


def test_more_sections_than_folds_are_held_out_in_groups():
    folds = make_folds([grid(f"S{i}", 3, 3) for i in range(5)], "section", 2)
    assert [fold.name for fold in folds] == ["S0+S1+S2", "S3+S4"]


@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=9), st.integers(2, 4))
def test_by_section_a_patient_of_several_is_never_held_out_as_a_whole(patients, n_folds):
    sections = [grid(f"S{i}", 4, 3, patient=patient) for i, patient in enumerate(patients)]
    alone = {patient for patient in patients if patients.count(patient) == 1}
    for fold in make_folds(sections, "section", n_folds):
        held = {section.patient for section in fold.validation}
        assert held <= {section.patient for section in fold.train} | alone or len(set(patients)) == 1


def held_out(folds: list[Fold]) -> list[set[str]]:
    return [{section.section for section in fold.validation} for fold in folds]


class TestByPatient:
    @given(st.lists(st.tuples(st.sampled_from("ABCDE"), st.integers(3, 9)), min_size=1, max_size=8), st.randoms())
    def test_a_patient_is_in_one_part_whatever_the_order_of_sections(self, given_, random):
        sections = [grid(f"S{i}", size, 2, patient=patient) for i, (patient, size) in enumerate(given_)]
        folds = make_folds(sections, "patient", 3)
        n_patients = len({section.patient for section in sections})
        if n_patients > 1:
            assert len(folds) == min(3, n_patients)
            for fold in folds:
                assert not {s.patient for s in fold.train} & {s.patient for s in fold.validation}
        shuffled = random.sample(sections, len(sections))
        for fold, again in zip(folds, make_folds(shuffled, "patient", 3), strict=True):
            assert fold.name == again.name
            assert names(fold.train) == names(again.train)
            assert names(fold.validation) == names(again.validation)

    def test_folds_hold_about_as_many_spots(self):
        rows = {"A": 8, "B": 5, "C": 4, "D": 3}
        sections = [grid(f"{patient}{i}", n, 2, patient=patient) for patient, n in rows.items() for i in (1, 2)]
        folds = make_folds(sections, "patient", 2)
        assert held_out(folds) == [{"A1", "A2", "D1", "D2"}, {"B1", "B2", "C1", "C2"}]
        assert sum(section.num_nodes for section in folds[0].validation) == 44
        assert folds[0].name == "A1+A2+D1+D2"

    def test_one_section_a_patient_is_as_by_section(self):
        """In the same order too, so that folds start from the same seeds."""
        sections = [grid(f"S{i}", 3 + i, 3, patient=f"P{i}") for i in range(3)]
        assert held_out(make_folds(sections, "patient", 3)) == held_out(make_folds(sections, "section", 3))

    @pytest.mark.parametrize("n_sections", [1, 2, 5])
    def test_one_patient_is_as_by_section(self, n_sections):
        sections = [grid(f"S{i}", 4 + i, 3) for i in range(n_sections)]
        for fold, other in zip(make_folds(sections, "patient", 3), make_folds(sections, "section", 3), strict=True):
            assert fold.name == other.name
            assert names(fold.train) == names(other.train)
            assert names(fold.validation) == names(other.validation)


def test_a_single_section_falls_back_to_bands_across_its_longer_side():
    folds = make_folds([grid("S", 9, 4)], "section", 3)
    assert [fold.name for fold in folds] == ["band1", "band2", "band3"]
    for k, fold in enumerate(folds):
        rows = fold.validation[0].pos[:, 1]
        assert set(rows.tolist()) == set(range(3 * k, 3 * k + 3)), "three of the nine rows, side by side"


def test_bands_of_all_sections_are_held_out_together():
    sections = [grid("S0", 6, 3), grid("S1", 3, 8)]
    folds = make_folds(sections, "blocks", 3)
    assert len(folds) == 3
    for fold in folds:
        assert [part.section for part in fold.validation] == ["S0", "S1"]
        assert [part.num_nodes for part in fold.validation] == [6, 8]


def test_no_edge_joins_the_parts_and_all_others_stay():
    section = grid("S", 9, 4)
    fold = make_folds([section], "blocks", 3)[1]
    kept = 0
    for part in (fold.train[0], fold.validation[0]):
        sender, receiver = part.edge_index
        assert torch.equal(part.edge_attr[:, 0], part.y[sender, 0]), "ends and features of an edge stay together"
        assert torch.equal(part.edge_attr[:, 1], part.y[receiver, 0])
        kept += part.num_edges
    held_out = set(names(fold.validation))
    crossing = sum((section.spots[i] in held_out) != (section.spots[j] in held_out) for i, j in section.edge_index.T)
    assert crossing > 0
    assert kept == section.num_edges - crossing


def test_spots_keep_their_values_in_a_part():
    section = grid("S", 4, 4)
    row = {spot: i for i, spot in enumerate(section.spots)}
    for part in (make_folds([section], "blocks", 2)[0].train[0], make_folds([section], "blocks", 2)[0].validation[0]):
        rows = [row[spot] for spot in part.spots]
        for name in ("x", "y", "pos"):
            assert torch.equal(part[name], section[name][rows])
        assert part.section == "S"
        assert part.num_nodes == len(rows) == 8


@pytest.mark.parametrize("n_spots", [1, 2, 5])
def test_too_few_spots_for_bands_are_refused(n_spots):
    with pytest.raises(DataError, match=rf"section 'S': {n_spots} spots are too few to hold out 3 bands"):
        make_folds([grid("S", n_spots, 1)], "section", 3)
