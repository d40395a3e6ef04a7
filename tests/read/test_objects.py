"""Several sections in one object, and SpatialData: what is written is what each section alone would get."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from scipy import sparse

import nh2st_graph as ng
from nh2st_graph import DataError
from nh2st_graph.read import given_sections, one_section, sections_by_name, to_spatialdata
from nh2st_graph.tl import Run

CONNECTIVITIES = "spatial_connectivities"


@pytest.fixture(scope="module")
def sections(tiny_sections: dict[str, AnnData]) -> dict[str, AnnData]:
    """Two small sections of 64 spots or so."""
    return {name: tiny_sections[name] for name in ("S2", "S3")}


@pytest.fixture
def joined(sections: dict[str, AnnData]) -> AnnData:
    """Both in one, as squidpy's users hold them, their spots in no order."""
    both = ad.concat(sections, label="library", index_unique="-", uns_merge="unique", pairwise=True)
    del both.obs["section"]
    both.obs["library"] = both.obs["library"].astype("category")
    return both[np.random.default_rng(0).permutation(both.n_obs)].copy()


def alone(joined: AnnData, sections: dict[str, AnnData], name: str) -> AnnData:
    """The section by itself, its spots named and ordered as in the object."""
    section = sections[name].copy()
    section.obs_names = [f"{spot}-{name}" for spot in section.obs_names]
    return section[joined.obs_names[(joined.obs["library"] == name).to_numpy()]].copy()


@pytest.fixture(scope="module")
def model(tiny_run: Run) -> ng.FittedModel:
    return ng.load(tiny_run.folder)


class TestSeveralInOne:
    def test_the_graph_is_that_of_each_section(self, joined: AnnData, sections: dict[str, AnnData]) -> None:
        assert ng.gr.spatial_graph(joined, library_key="library") is None
        graph = joined.obsp[CONNECTIVITIES]
        libraries = joined.obs["library"].to_numpy()
        rows, columns = graph.nonzero()
        assert (libraries[rows] == libraries[columns]).all()
        for name in sections:
            own = ng.gr.spatial_graph(alone(joined, sections, name), copy=True)
            part = np.flatnonzero(libraries == name)
            assert_array_equal(graph[part][:, part].toarray(), own.obsp[CONNECTIVITIES].toarray())
        assert joined.uns["spatial_neighbors"]["connectivities_key"] == CONNECTIVITIES

    def test_squidpy_takes_the_graph(self, joined: AnnData) -> None:
        import squidpy as sq

        ng.gr.spatial_graph(joined, library_key="library", key_added="mine")
        joined.X = joined.X.astype(np.float64)
        sq.gr.spatial_autocorr(
            joined, mode="moran", connectivity_key="mine_connectivities", n_perms=None, show_progress_bar=False
        )
        assert len(joined.uns["moranI"]) == joined.n_vars

    def test_features_are_those_of_each_section(self, joined: AnnData, sections: dict[str, AnnData]) -> None:
        ng.im.features(joined, "squidpy:summary", library_key="library", key_added="X_mine")
        for name in sections:
            own = ng.im.features(alone(joined, sections, name), "squidpy:summary", copy=True)
            part = (joined.obs["library"] == name).to_numpy()
            assert_array_equal(joined.obsm["X_mine"][part], own.obsm["X_image"])
        assert set(joined.uns["X_mine"]["sections"]) == set(sections)

    def test_what_a_model_writes_is_that_of_each_section(
        self, model: ng.FittedModel, joined: AnnData, sections: dict[str, AnnData]
    ) -> None:
        ng.gr.spatial_graph(joined, library_key="library")
        ng.im.features(joined, "squidpy:summary", library_key="library")
        predicted = ng.tl.predict(joined, model, library_key="library")
        ng.tl.embed(joined, model, library_key="library")
        ng.tl.explain(joined, model, library_key="library")
        assert predicted.obs_names.equals(joined.obs_names)
        assert set(predicted.uns["spatial"]) == set(sections)
        assert predicted.obs["section"].dtype.name == "category"
        for name in sections:
            own, part = alone(joined, sections, name), (joined.obs["library"] == name).to_numpy()
            expected = ng.tl.predict(own, model)
            assert_array_equal(predicted.X[part], expected.X)
            assert_array_equal(predicted.layers["observed"][part], expected.layers["observed"])
            assert_array_equal(predicted.obsm["spatial"][part], expected.obsm["spatial"])
            ng.tl.embed(own, model)
            ng.tl.explain(own, model)
            for key in ("X_nh2st_image", "X_nh2st_gene"):
                assert_array_equal(joined.obsm[key][part], own.obsm[key])
            assert_array_equal(joined.obs["nh2st_neighbour_share"][part], own.obs["nh2st_neighbour_share"])
            attention = joined.obsp["nh2st_attention"][part][:, part]
            assert_array_equal(attention.toarray(), own.obsp["nh2st_attention"].toarray())
            pd.testing.assert_frame_equal(
                joined.uns["nh2st_explain"]["sections"][name]["gene_gain"], own.uns["nh2st_explain"]["gene_gain"]
            )

    def test_is_kept_by_a_file(self, model: ng.FittedModel, joined: AnnData, tmp_path) -> None:
        ng.gr.spatial_graph(joined, library_key="library")
        ng.im.features(joined, "squidpy:summary", library_key="library")
        joined.write_h5ad(tmp_path / "both.h5ad")
        again = ad.read_h5ad(tmp_path / "both.h5ad")
        for before, after in zip(
            given_sections(joined, library_key="library"), given_sections(again, library_key="library"), strict=True
        ):
            assert ng.gr.has_graph(before)
            assert ng.gr.has_graph(after)
            assert before.uns["X_image"]["encoder"] == after.uns["X_image"]["encoder"] == "squidpy:summary"
        predicted = ng.tl.predict(again, model, library_key="library")
        assert_array_equal(predicted.X, ng.tl.predict(joined, model, library_key="library").X)
        predicted.write_h5ad(tmp_path / "predicted.h5ad")

    def test_trains_as_a_list_of_sections_does(self, tiny_sections: dict[str, AnnData], tiny_config: ng.Config) -> None:
        config = tiny_config.override(["train.max_epochs=1", "train.refit=false", "evaluate.baselines=false"])
        parts = {name: tiny_sections[name] for name in ("S1", "S2")}
        both = ad.concat(parts, index_unique="-", uns_merge="unique")
        test = {"S3": tiny_sections["S3"]}
        model = ng.tl.fit(both, config, library_key="section")
        split = sections_by_name(both, library_key="section")
        again = ng.tl.fit(split, config)
        assert model.train_sections == ["S1", "S2"]
        assert_array_equal(ng.tl.predict(test["S3"], model).X, ng.tl.predict(test["S3"], again).X)
        scores = ng.tl.evaluate(test["S3"], model, both, library_key="section").metrics
        assert scores["sections"] == ng.tl.evaluate(test, again, split).metrics["sections"]

    def test_patches_are_of_the_named_section(self, joined: AnnData, sections: dict[str, AnnData]) -> None:
        ng.im.check_placement(joined, library_key="library")
        cut = ng.im.patches(joined, size_px=16, indices=[0, 5], library_key="library", library_id="S3")
        expected = ng.im.patches(alone(joined, sections, "S3"), size_px=16, indices=[0, 5])
        for mine, own in zip(cut, expected, strict=True):
            assert_array_equal(mine, own)

    def test_copy_leaves_the_object_as_it_is(self, joined: AnnData) -> None:
        keys = set(joined.obsp), set(joined.uns)
        done = ng.gr.spatial_graph(joined, library_key="library", copy=True)
        assert (set(joined.obsp), set(joined.uns)) == keys
        assert CONNECTIVITIES in done.obsp

    def test_an_error_in_one_section_leaves_nothing(self, joined: AnnData) -> None:
        joined.obsm["spatial"][(joined.obs["library"] == "S3").to_numpy()] = np.nan
        with pytest.raises(DataError, match=r"section 'S3': .* coordinates that are not numbers"):
            ng.gr.spatial_graph(joined, library_key="library", key_added="new")
        assert "new_connectivities" not in joined.obsp
        assert "new_neighbors" not in joined.uns

    def test_one_of_them_is_drawn(self, joined: AnnData) -> None:
        ax = ng.pl.section(joined, library_key="library", library_id="S3")
        assert ax.get_title() == f"section S3: {(joined.obs['library'] == 'S3').sum()} spots"
        with pytest.raises(DataError, match=r"2 sections \(S2, S3\); name one: library_id="):
            ng.pl.section(joined, library_key="library")
        with pytest.raises(DataError, match="no section 'S4'"):
            ng.pl.section(joined, library_key="library", library_id="S4")


class TestNames:
    def test_sections_go_by_their_own(self) -> None:
        def named(name: str) -> AnnData:
            obs = pd.DataFrame({"section": pd.Categorical([name])}, index=["spot"])
            return AnnData(obs=obs)

        b, a = named("B"), named("A")
        assert sections_by_name({"first": b, "second": a}) == {"A": a, "B": b}
        assert list(sections_by_name([b, a])) == ["A", "B"]
        assert sections_by_name(a) == {"A": a}
        with pytest.raises(DataError, match="two of 2 sections have the same name"):
            sections_by_name([a, named("A")])


class TestArguments:
    def test_a_section_without_a_name_takes_that_of_its_library(self, sections: dict[str, AnnData]) -> None:
        plain = sections["S2"].copy()
        expected = ng.gr.spatial_graph(plain, copy=True)
        del plain.obs["section"], plain.obs["patient"]
        (library,) = plain.uns["spatial"]
        assert one_section(plain).obs["section"].unique().tolist() == [library]
        ng.gr.spatial_graph(plain)
        assert_array_equal(plain.obsp[CONNECTIVITIES].toarray(), expected.obsp[CONNECTIVITIES].toarray())
        assert "section" not in plain.obs

    def test_several_sections_need_a_key(self, joined: AnnData) -> None:
        joined.obs["section"] = joined.obs["library"]
        with pytest.raises(DataError, match=r"it holds 2 .*library_key='section'"):
            ng.gr.spatial_graph(joined)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"library_key": "librari"}, r"obs has no column library_key='librari'.*'library'"),
            ({"table_key": "table"}, "table_key='table' is for SpatialData"),
        ],
    )
    def test_that_do_not_fit(self, joined: AnnData, arguments: dict[str, str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            ng.gr.spatial_graph(joined, **arguments)

    @pytest.mark.parametrize("column", ["section", "patient", "value"])
    def test_a_column_that_is_there_twice(self, sections: dict[str, AnnData], column: str) -> None:
        section = sections["S2"].copy()
        values = section.obs.assign(value=1.0)[column]
        section.obs = pd.concat([section.obs.drop(columns=column, errors="ignore"), values, values], axis=1)
        for take in (ng.pl.section, ng.gr.spatial_graph):
            with pytest.raises(DataError, match=f"obs has several columns '{column}'"):
                take(section)

    def test_spots_of_no_section(self, joined: AnnData) -> None:
        joined.obs["library"] = joined.obs["library"].cat.remove_categories("S3")
        with pytest.raises(DataError, match=r"\d+ spots have no section in obs\['library'\] \(first: '.*-S3'\)"):
            ng.gr.spatial_graph(joined, library_key="library")

    def test_what_is_no_object(self) -> None:
        with pytest.raises(DataError, match="DataFrame is neither AnnData nor SpatialData"):
            ng.gr.spatial_graph(pd.DataFrame())
        for nothing in (None, 3):
            with pytest.raises(DataError, match="is no section, list or mapping of them"):
                sections_by_name(nothing)

    def test_several_sections_by_name(self, tiny_sections: dict[str, AnnData]) -> None:
        with pytest.raises(DataError, match=r"dict of 'S1', 'S2', 'S3'.* is not one section; .* sections\['S1'\]"):
            ng.gr.spatial_graph(tiny_sections)
        with pytest.raises(DataError, match=r"dict of nothing is not one section$"):
            ng.gr.spatial_graph({})


class TestAGraphOfTheUsers:
    def test_is_what_the_model_reads(self, tiny_sections: dict[str, AnnData], tiny_config: ng.Config) -> None:
        import squidpy as sq

        once = tiny_config.override(["train.max_epochs=1", "train.refit=false"])
        given = once.override(["graph.mode=given", "graph.neighbors_key=mine_neighbors"])
        ours = once.override(["graph.mode=knn", "graph.n_neighs=4"])
        sections = {name: section.copy() for name, section in tiny_sections.items()}
        for section in sections.values():
            sq.gr.spatial_neighbors_knn(section, n_neighs=4, key_added="mine")
        test = sections.pop("S3")
        model = ng.tl.fit(sections, given)
        predicted = ng.tl.predict(test, model)
        assert_array_equal(predicted.X, ng.tl.predict(test, ng.tl.fit(sections, ours)).X)
        assert_array_equal(predicted.obsp[CONNECTIVITIES].toarray(), test.obsp["mine_connectivities"].toarray())
        del test.obsp["mine_connectivities"]
        with pytest.raises(DataError, match=r"section 'S3': no obsp\['mine_connectivities'\].*key_added='mine'"):
            ng.tl.predict(test, model)

    def test_is_none_of_expression(self, tiny_sections: dict[str, AnnData], tiny_config: ng.Config) -> None:
        """Over its edges genes would reach a prediction from the image."""
        import scanpy as sc

        config = tiny_config.override(["graph.mode=given", "graph.neighbors_key=neighbors"])
        sections = {name: tiny_sections[name].copy() for name in ("S1", "S2")}
        for section in sections.values():
            sc.pp.neighbors(section, use_rep="X", method="gauss")  # UMAP would be compiled first
        with pytest.raises(DataError, match=r"section 'S1': uns\['neighbors'\] is a graph of features, as scanpy"):
            ng.tl.fit(sections, config)

    def test_its_names_are_read_from_uns(self, sections: dict[str, AnnData]) -> None:
        section = ng.gr.spatial_graph(sections["S2"], copy=True)
        expected = ng.gr.spatial_edges(section)
        section.obsp["odd"] = section.obsp.pop(CONNECTIVITIES)
        section.obsp["distant"] = section.obsp.pop("spatial_distances")
        section.uns["graph"] = {"connectivities_key": "odd", "distances_key": "distant"}
        for mine, theirs in zip(ng.gr.spatial_edges(section, neighbors_key="graph"), expected, strict=True):
            assert_array_equal(mine, theirs)
        assert sparse.issparse(section.obsp["odd"])


class TestSpatialData:
    """Two regions of one table, each with its shapes and its image."""

    @pytest.fixture
    def sdata(self, sections: dict[str, AnnData]):
        import spatialdata as sd

        stores = [to_spatialdata(section) for section in sections.values()]
        return sd.concatenate(stores, concatenate_tables=True, obs_names_make_unique=False)

    def part(self, table: AnnData, name: str) -> np.ndarray:
        return (table.obs["section"] == name).to_numpy()

    def test_gets_what_each_section_alone_gets(self, model: ng.FittedModel, sdata, sections) -> None:
        ng.gr.spatial_graph(sdata)
        ng.im.features(sdata, "squidpy:summary", table_key="table")
        ng.tl.embed(sdata, model)
        ng.tl.explain(sdata, model)
        predicted = ng.tl.predict(sdata, model, key_added="predicted")
        assert sdata.tables["predicted"] is predicted
        table = sdata.tables["table"]
        for name, section in sections.items():
            part, own = self.part(table, name), section.copy()
            ng.tl.embed(own, model)
            ng.tl.explain(own, model)
            ng.gr.spatial_graph(own)
            assert_array_equal(table.obsp[CONNECTIVITIES][part][:, part].toarray(), own.obsp[CONNECTIVITIES].toarray())
            assert_array_equal(table.obsm["X_nh2st_gene"][part], own.obsm["X_nh2st_gene"])
            assert_array_equal(table.obs["nh2st_neighbour_share"][part], own.obs["nh2st_neighbour_share"])
            assert_array_equal(predicted.X[self.part(predicted, name)], ng.tl.predict(section, model).X)

    def test_keeps_what_was_written(self, model: ng.FittedModel, sdata, tmp_path) -> None:
        import spatialdata as sd

        ng.gr.spatial_graph(sdata)
        predicted = ng.tl.predict(sdata, model, key_added="predicted")
        sdata.write(tmp_path / "store.zarr")
        again = sd.read_zarr(tmp_path / "store.zarr")
        assert_array_equal(again.tables["predicted"].X, predicted.X)
        # The prediction annotates the same shapes.
        elements, joined = sd.join_spatialelement_table(
            sdata=again, spatial_element_names=list(again.shapes), table_name="predicted", how="inner"
        )
        assert len(joined) == predicted.n_obs == sum(map(len, elements.values()))
        assert_array_equal(ng.tl.predict(again, model, table_key="table").X, predicted.X)

    def test_one_region_is_drawn(self, model: ng.FittedModel, sdata) -> None:
        ng.tl.predict(sdata, model, key_added="predicted")
        figure = ng.pl.gene_maps(sdata, table_key="predicted", library_id="S3")
        assert figure.get_suptitle().startswith("section S3")
        with pytest.raises(DataError, match="2 candidates for the table"):
            ng.pl.gene_maps(sdata, library_id="S3")

    def test_a_table_without_shapes_is_an_anndata(self, sdata) -> None:
        table = sdata.tables["table"].copy()
        del table.uns["spatialdata_attrs"]
        sdata.tables["plain"] = table
        ng.gr.spatial_graph(sdata, table_key="plain", library_key="section")
        ng.gr.spatial_graph(sdata, table_key="table")
        both = (sdata.tables[name].obsp[CONNECTIVITIES].toarray() for name in ("plain", "table"))
        assert_array_equal(*both)

    @pytest.mark.parametrize("compute", [ng.gr.spatial_graph, lambda sdata: ng.im.features(sdata, "squidpy:summary")])
    def test_two_regions_of_one_name_are_not_taken_for_one(self, sdata, compute) -> None:
        sdata.tables["table"].obs["section"] = pd.Categorical(["S2"] * sdata.tables["table"].n_obs)
        with pytest.raises(DataError, match="two regions of table 'table' belong to section 'S2'"):
            compute(sdata)

    def test_arguments_that_do_not_fit(self, sdata) -> None:
        with pytest.raises(DataError, match=r"no table 'tabel'.*'table'"):
            ng.gr.spatial_graph(sdata, table_key="tabel")
        with pytest.raises(DataError, match=r"library_key='patient' does not apply.*region"):
            ng.gr.spatial_graph(sdata, library_key="patient")
        del sdata.images["S2_image"]
        with pytest.raises(DataError, match="S2"):
            ng.im.features(sdata, "squidpy:summary")
        assert "X_image" not in sdata.tables["table"].obsm
