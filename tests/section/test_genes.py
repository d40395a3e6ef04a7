"""What genes are called, and finding a panel's genes in sections that call them otherwise."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import DataError
from nh2st_graph.section import find_genes, genes_by_name, mismatch, name_columns, naming, species

HUMAN = ["ACTB", "GAPDH", "ERBB2", "HLA-A", "CD3E", "C1orf112"]
MOUSE = ["Actb", "Gapdh", "Erbb2", "H2-Aa", "Cd3e", "mt-Co1"]
IDS = [f"ENSG00000{i:06d}" for i in (75640, 111640, 141736, 206503, 198851, 860)]


def section(names: list[str], name: str = "A1", **columns: list[object]) -> AnnData:
    """Gene ``j`` has ``j + 1`` counts in each of two spots."""
    counts = np.tile(np.arange(1.0, len(names) + 1), (2, 1))
    obs = pd.DataFrame({"section": pd.Categorical([name] * 2)}, ["a", "b"])
    return AnnData(counts, obs=obs, var=pd.DataFrame(columns, index=names))


@pytest.mark.parametrize(
    ("names", "kind", "whose"),
    [
        (HUMAN, "symbols", "human"),
        (MOUSE, "symbols", "mouse"),
        (IDS, "Ensembl ids", "human"),
        ([f"{i}.{j}" for j, i in enumerate(IDS)], "Ensembl ids", "human"),
        ([i.replace("ENSG", "ENSMUSG") for i in IDS], "Ensembl ids", "mouse"),
        ([i.replace("ENSG", "ENSXETG") for i in IDS], "Ensembl ids", None),
        (["ENSG00000182378.14_PAR_Y"], "Ensembl ids", "human"),
        ([*IDS, "CD3-antibody", "spike-in"], "Ensembl ids", "human"),
        (["g1", "g2", "g3"], "symbols", None),
        ([], "symbols", None),
    ],
)
def test_kind_and_species_of_names(names, kind, whose):
    assert naming(names) == kind
    assert species(names) == whose


@given(
    st.permutations(range(6)),
    st.sets(st.integers(0, 5), min_size=1),
    st.sampled_from(["gene_ids", "gene_id", "ensembl", "feature_id", "gene_ids-1"]),
    st.sampled_from(["gene_name", "gene_symbols", "SYMBOL", "feature_name", "gene_symbols-0"]),
)
def test_either_kind_is_found_in_sections_of_the_other(order, wanted, id_column, symbol_column):
    """Whatever the order of a section's genes: the gene of that name, under any of the columns that people use."""
    symbols, ids = [HUMAN[i] for i in order], [IDS[i] for i in order]
    adata = section(symbols, **{id_column: ids, "feature_types": ["Gene Expression"] * 6})
    assert [symbols[i] for i in find_genes(adata, [IDS[i] for i in wanted]).positions] == [HUMAN[i] for i in wanted]
    adata = section(ids, **{symbol_column: symbols, "genome": ["GRCh38"] * 6})
    found = find_genes(adata, [HUMAN[i] for i in wanted])
    assert [ids[i] for i in found.positions] == [IDS[i] for i in wanted]
    assert found.by == f"var['{symbol_column}']"


def test_versions_of_ids_do_not_matter():
    versioned = [f"{each}.{j}" for j, each in enumerate(IDS)]
    for names, panel in ((versioned, IDS), (IDS, versioned), (versioned, [f"{each}.9" for each in IDS])):
        np.testing.assert_array_equal(find_genes(section(names), panel).positions, range(6))
    np.testing.assert_array_equal(find_genes(section(HUMAN, gene_ids=versioned), IDS).positions, range(6))


def test_names_that_are_there_are_taken_as_they_are(caplog):
    """An id column of another annotation changes nothing."""
    adata = section(HUMAN, gene_ids=IDS[::-1], gene_name=HUMAN[::-1])
    found = find_genes(adata, HUMAN[2:4])
    np.testing.assert_array_equal(found.positions, [2, 3])
    assert find_genes(adata, ["ACTB", "NOPE"]).positions.tolist() == [0, -1]
    with caplog.at_level(logging.INFO):
        found.log("A1")
    assert not caplog.text


def test_of_several_genes_of_one_symbol_the_first_by_id_is_taken_and_that_is_said(caplog):
    names = [HUMAN[0], HUMAN[1], HUMAN[0], None, HUMAN[2], HUMAN[1]]
    for order in (np.arange(6), np.arange(6)[::-1], np.array([3, 5, 1, 0, 4, 2])):
        adata = section([IDS[i] for i in order], gene_name=[names[i] for i in order])
        found = find_genes(adata, [HUMAN[0], HUMAN[1], HUMAN[2], "NOPE"])
        ids = [str(adata.var_names[i]) for i in found.positions[:3]]
        assert ids == [min(IDS[0], IDS[2]), min(IDS[1], IDS[5]), IDS[4]]
        assert found.positions[3] == -1
        assert not found.all_there
    with caplog.at_level(logging.INFO):
        found.log("A1")
    assert caplog.messages == [
        "section 'A1': 3 of 4 panel genes found, by var['gene_name']; 2 are there more than once, and the first is "
        "taken: ACTB, GAPDH"
    ]


def test_two_genes_of_one_name_are_named():
    with pytest.raises(DataError, match=rf"gene {HUMAN[0]!r} occurs more than once; call .*var_names_make_unique"):
        find_genes(section([HUMAN[0], *HUMAN[:-1]]), HUMAN)


def test_of_several_columns_the_fullest_is_taken():
    adata = section(HUMAN, **{"gene_ids-0": [*IDS[:2], *[None] * 4], "gene_ids-1": [*IDS[:5], np.nan]})
    found = find_genes(adata, IDS)
    assert found.by == "var['gene_ids-1']"
    np.testing.assert_array_equal(found.positions, [0, 1, 2, 3, 4, -1])


def test_columns_that_name_genes():
    var = section(HUMAN, gene_ids=IDS, n_cells=[1] * 6, genome=["GRCh38"] * 6, gene_name=pd.Categorical(HUMAN)).var
    assert list(name_columns(var)) == ["gene_ids", "gene_name"]


class TestSectionsThatDisagree:
    def test_meet_on_symbols_where_all_have_some(self):
        sections = {"A1": section(HUMAN), "B1": section(IDS[::-1], "B1", feature_name=HUMAN[::-1])}
        tables, said = genes_by_name(sections)
        assert {name: dict(table) for name, table in tables.items()} == {
            "A1": {each: i for i, each in enumerate(HUMAN)},
            "B1": {each: 5 - i for i, each in enumerate(HUMAN)},
        }
        assert said == ("sections name genes differently; symbols are taken, from var['feature_name'] of section 'B1'")

    def test_else_on_ids(self):
        tables, said = genes_by_name({"A1": section(HUMAN, gene_ids=[f"{i}.3" for i in IDS]), "B1": section(IDS)})
        assert list(tables["A1"].sort_values().index) == list(tables["B1"].sort_values().index) == IDS
        assert "Ensembl ids are taken, from var['gene_ids'] of section 'A1'" in said

    def test_or_not_at_all(self):
        with pytest.raises(DataError, match=r"'A1' names genes by symbols, section 'B1' by Ensembl ids, and no kind"):
            genes_by_name({"B1": section(IDS, "B1"), "A1": section(HUMAN)})

    def test_nothing_is_said_of_those_that_agree(self):
        for names in (HUMAN, IDS):
            tables, said = genes_by_name({"A1": section(names), "B1": section(names)})
            assert said is None
            assert set(tables["A1"].index) == set(names)


@pytest.mark.parametrize(
    ("adata", "panel", "says"),
    [
        (section(HUMAN), IDS, r"panel p has Ensembl ids, section 'A1' has symbols \(ACTB, .*no column of ids in var"),
        (section(IDS), HUMAN, r"panel p has symbols, section 'A1' has Ensembl ids \(ENSG.*no column of symbols"),
        (section(MOUSE), HUMAN, r"looks like human genes \(ACTB, ...\), section 'A1' like mouse ones \(Actb, ...\)"),
        (section(HUMAN), MOUSE, "looks like mouse genes .* like human ones"),
        (section([i.replace("ENSG", "ENSMUSG") for i in IDS]), IDS, "looks like human genes .* like mouse ones"),
        (
            section([i.replace("ENSG", "ENSMUSG") for i in IDS], gene_name=MOUSE),
            HUMAN,
            r"looks like human genes .* like mouse ones \(Actb",
        ),
        (section(HUMAN), ["CD19", "CD4"], None),
    ],
)
def test_why_a_panel_does_not_fit(adata, panel, says):
    why = mismatch(adata, panel, "panel p")
    if says is None:
        assert why is None
    else:
        assert "\n" not in why
        with pytest.raises(DataError, match=says):
            raise DataError(why)
