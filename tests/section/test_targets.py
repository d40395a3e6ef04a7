"""What is predicted: normalisation, smoothing, the panel, and the split that the noise ceiling is measured by."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from nh2st_graph import ConfigError, DataError
from nh2st_graph.config import Config, DataConfig
from nh2st_graph.metrics import noise_ceiling
from nh2st_graph.section import (
    count_blocks,
    library_size,
    normalize_counts,
    panel_counts,
    panel_matrix,
    split_half_normalizer,
    target_matrix,
    targets,
)
from nh2st_graph.train import Preparation, choose_panel

COUNTS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(2, 6)), elements=st.integers(0, 50))


def make_section(
    counts: np.ndarray, name: str = "A", genes: list[str] | None = None, array: np.ndarray | None = None
) -> AnnData:
    """A section that is counts and positions: targets look at nothing else."""
    n_spots, n_genes = counts.shape
    obs = pd.DataFrame(index=[f"{name}{i}" for i in range(n_spots)])
    obs["section"] = pd.Categorical([name] * n_spots)
    obs["patient"] = pd.Categorical(["P"] * n_spots)
    if array is not None:
        obs["array_row"], obs["array_col"] = array.T
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)
    adata.var_names = genes or [f"g{j}" for j in range(n_genes)]
    centres = np.column_stack([np.arange(n_spots), np.zeros(n_spots)]) if array is None else array[:, ::-1]
    adata.obsm["spatial"] = centres.astype(float)
    return adata


def poisson_section(name: str = "A", n_spots: int = 40, n_genes: int = 30, seed: int = 0) -> AnnData:
    """Genes of differing mean, half of them varying between two kinds of spots."""
    rng = np.random.default_rng(seed)
    ratio = np.where((np.arange(n_spots) % 2 == 0)[:, None], 1.0, rng.gamma(2.0, 1.0, n_genes))
    mean = rng.gamma(2.0, 3.0, n_genes) * ratio
    return make_section(rng.poisson(mean), name)


class TestNormalisation:
    @given(COUNTS)
    def test_total_is_what_scanpy_does(self, counts):
        section = make_section(counts)
        expected = AnnData(counts.astype(np.float64))
        sc.pp.normalize_total(expected, target_sum=1e4)
        sc.pp.log1p(expected)
        found = targets(section, section.var_names, normalize="total")
        np.testing.assert_allclose(found.to_numpy(), expected.X, atol=1e-12)

    @given(COUNTS)
    def test_total_counts_genes_outside_the_panel_and_panel_does_not(self, counts):
        section = make_section(counts)
        genes = list(section.var_names[:-1])
        for normalize, sizes in (("total", counts.sum(axis=1)), ("panel", counts[:, :-1].sum(axis=1))):
            found = targets(section, genes, normalize=normalize).to_numpy()
            for i, size in enumerate(sizes):
                expected = [np.log1p(count / size * 1e4) if size else 0.0 for count in counts[i, :-1]]
                np.testing.assert_allclose(found[i], expected, atol=1e-12)

    def test_residuals_are_those_of_lause_berens_and_kobak(self):
        counts = np.random.default_rng(0).poisson(3.0, (30, 8)).astype(float)
        # Their equations 4 and 5: theta = 100, clipped at the root of the number of spots.
        mean = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
        expected = np.clip((counts - mean) / np.sqrt(mean + mean**2 / 100), -np.sqrt(30), np.sqrt(30))
        np.testing.assert_allclose(normalize_counts(counts, counts.sum(axis=1), "residuals"), expected)

    @pytest.mark.parametrize("normalize", ["total", "panel", "residuals"])
    def test_empty_spots_and_genes_are_zero_and_change_no_other(self, normalize):
        rng = np.random.default_rng(1)
        counts = rng.poisson(3.0, (12, 6)).astype(float)
        counts[4], counts[:, 2] = 0, 0
        values = normalize_counts(counts, counts.sum(axis=1), normalize)
        assert not values[4].any()
        assert not values[:, 2].any()
        full = np.ix_(np.arange(12) != 4, np.arange(6) != 2)
        rest = counts[full]
        np.testing.assert_allclose(values[full], normalize_counts(rest, rest.sum(axis=1), normalize))

    @pytest.mark.parametrize("normalize", ["total", "panel", "residuals"])
    def test_a_section_without_any_count_is_zero(self, normalize):
        section = make_section(np.zeros((3, 4)))
        assert not targets(section, ["g0", "g2"], normalize=normalize).to_numpy().any()

    def test_dense_and_sparse_counts_give_the_same(self):
        section = poisson_section()
        dense = section.copy()
        dense.X = section.X.toarray()
        genes = ["g3", "g1"]
        pd.testing.assert_frame_equal(targets(dense, genes), targets(section, genes))
        np.testing.assert_array_equal(library_size(dense), library_size(section))

    def test_columns_are_the_panel_in_its_order(self):
        section = poisson_section()
        found = panel_counts(section, ["g7", "g2"])
        assert list(found.columns) == ["g7", "g2"]
        np.testing.assert_array_equal(found["g7"], section[:, "g7"].X.toarray().ravel())

    def test_an_absent_gene_is_named_with_the_section_and_the_choice(self):
        with pytest.raises(DataError, match=r"section 'A': panel gene NOPE not measured.*missing_genes='drop'.*panel"):
            targets(poisson_section(), ["g1", "NOPE"])


class TestSmoothing:
    @given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20), st.randoms())
    def test_is_the_mean_over_the_spot_and_its_eight_neighbours(self, places, random):
        assume(len(places) < 8 or len({(row + col) % 2 for row, col in places}) == 2)  # no chessboard by chance
        places = list(places)
        random.shuffle(places)
        counts = np.random.default_rng(len(places)).poisson(5.0, (len(places), 3))
        section = make_section(counts, array=np.array(places))
        plain = targets(section, section.var_names).to_numpy()
        smooth = targets(section, section.var_names, smooth="3x3").to_numpy()
        for i, (row, col) in enumerate(places):
            around = [j for j, (r, c) in enumerate(places) if abs(r - row) <= 1 and abs(c - col) <= 1]
            np.testing.assert_allclose(smooth[i], plain[around].mean(axis=0), atol=1e-12)

    @pytest.mark.parametrize(("lattice", "reach"), [("square", 1.5), ("chessboard", 1.5), ("hexagonal", 1.1)])
    def test_on_any_array_it_is_the_mean_over_the_spot_and_all_adjacent_ones(self, lattice, reach):
        """Adjacent by pixels, spot by spot: within 1.5 pitches, or 1.1 on a hexagonal array; a third of it missing."""
        rng = np.random.default_rng(3)
        places = np.array([(row, col) for row in range(9) for col in range(9)])
        places = places if lattice == "square" else places[places.sum(axis=1) % 2 == 0]
        places = rng.permutation(places)[: len(places) * 2 // 3]
        step = (3**0.5, 1) if lattice == "hexagonal" else (1, 1)
        pitch = {"square": 1, "chessboard": 2**0.5, "hexagonal": 2}[lattice]
        section = make_section(rng.poisson(5.0, (len(places), 3)), array=places)
        section.obsm["spatial"] = centres = (places * step)[:, ::-1].astype(float)
        plain = targets(section, section.var_names).to_numpy()
        smooth = targets(section, section.var_names, smooth="3x3").to_numpy()
        for i, centre in enumerate(centres):
            around = [j for j, other in enumerate(centres) if np.linalg.norm(other - centre) < reach * pitch]
            np.testing.assert_allclose(smooth[i], plain[around].mean(axis=0), atol=1e-12)

    def test_places_at_the_end_of_one_row_and_the_start_of_the_next_are_not_adjacent(self):
        section = make_section(np.array([[1, 9], [9, 1]]), array=np.array([[0, 4], [1, 0]]))
        plain, smooth = (targets(section, ["g0"], smooth=smooth) for smooth in ("none", "3x3"))
        pd.testing.assert_frame_equal(smooth, plain)

    def test_needs_an_array(self):
        with pytest.raises(DataError, match=r"section 'A': smooth='3x3' needs array positions"):
            targets(poisson_section(), ["g1"], smooth="3x3")

    def test_refuses_two_spots_on_one_position(self):
        section = make_section(np.ones((2, 2)), array=np.array([[3, 4], [3, 4]]))
        with pytest.raises(DataError, match="two spots share a position"):
            targets(section, ["g1"], smooth="3x3")


class TestMatrices:
    """Without a dense table, the counts and targets are the same, wherever the counts are kept."""

    @pytest.mark.parametrize("normalize", ["total", "panel", "residuals"])
    @pytest.mark.parametrize("smooth", ["none", "3x3"])
    @pytest.mark.parametrize("log_base", ["e", 10])
    def test_are_the_tables(self, normalize, smooth, log_base):
        section = poisson_section(n_spots=36)
        section.obs["array_row"], section.obs["array_col"] = np.divmod(np.arange(36), 6)
        section.X = section.X.multiply((np.arange(36) != 7)[:, None]).tocsr()  # a spot without counts
        genes, asked = ["g5", "g0", "g11"], {"normalize": normalize, "smooth": smooth, "log_base": log_base}
        found, expected = target_matrix(section, genes, **asked), targets(section, genes, **asked).to_numpy()
        assert sparse.issparse(found) == (normalize != "residuals")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.toarray() if sparse.issparse(found) else found, expected, rtol=1e-6)
        counts = panel_matrix(section, genes)
        assert (counts.format, counts.dtype) == ("csr", np.float32)
        np.testing.assert_array_equal(counts.toarray(), panel_counts(section, genes))

    def test_an_absent_gene_is_named(self):
        with pytest.raises(DataError, match=r"section 'A': panel gene NOPE not measured"):
            target_matrix(poisson_section(), ["g1", "NOPE"])

    @pytest.mark.parametrize("kept", ["csr", "csc", "dense"])
    def test_of_counts_on_disk_read_by_blocks(self, kept, tmp_path, monkeypatch):
        monkeypatch.setattr("nh2st_graph.section._counts._VALUES", 300)  # ten spots
        section, genes = poisson_section(), ["g5", "g0"]
        stored = section.copy()
        stored.X = stored.X.toarray() if kept == "dense" else stored.X.asformat(kept)
        stored.write_h5ad(tmp_path / "A.h5ad")
        backed = ad.read_h5ad(tmp_path / "A.h5ad", backed="r")
        sizes = [block.shape for block in count_blocks(backed)]
        assert sizes == ([section.shape] if kept == "csc" else [(10, 30)] * 4)
        np.testing.assert_array_equal(library_size(backed), library_size(section))
        pd.testing.assert_frame_equal(panel_counts(backed, genes), panel_counts(section, genes))
        for normalize in ("total", "panel"):
            found, expected = (target_matrix(each, genes, normalize=normalize) for each in (backed, section))
            np.testing.assert_array_equal(found.toarray(), expected.toarray())


class TestSplitHalf:
    @pytest.mark.parametrize("normalize", ["total", "panel", "residuals"])
    @pytest.mark.parametrize("smooth", ["none", "3x3"])
    def test_of_the_whole_counts_is_the_target(self, normalize, smooth):
        section = poisson_section(n_spots=36)
        section.obs["array_row"], section.obs["array_col"] = np.divmod(np.arange(36), 6)
        genes, data = ["g5", "g0", "g11"], DataConfig(normalize=normalize, smooth=smooth)
        counts, normalise = split_half_normalizer(section, genes, **data.target)
        pd.testing.assert_frame_equal(normalise(counts), targets(section, genes, **data.target))
        np.testing.assert_array_equal(counts.sum(axis=1), library_size(section))

    def test_one_column_for_the_rest_is_exact(self):
        """Halving the sum of the other genes is, in distribution, halving each: the ceilings agree."""
        section = poisson_section(n_spots=300)
        genes = [f"g{j}" for j in range(10)]

        def every_gene(half: pd.DataFrame) -> pd.DataFrame:
            library = half.to_numpy(float).sum(axis=1)
            return pd.DataFrame(normalize_counts(half[genes].to_numpy(float), library, "total"), columns=genes)

        all_counts = pd.DataFrame(section.X.toarray(), columns=section.var_names)
        short = noise_ceiling(*split_half_normalizer(section, genes), n_repeats=20)
        long = noise_ceiling(all_counts, every_gene, n_repeats=20)
        clear = long > 0.4  # the ceiling of a gene that hardly varies is rough in itself
        assert clear.sum() >= 4
        np.testing.assert_allclose(short[clear], long[clear], atol=0.05)


@pytest.fixture
def panel_file(tmp_path: Path) -> Callable[..., str]:
    """Write symbols to a file and give its path as ``data.panel`` has it."""

    def write(*genes: str) -> str:
        path = tmp_path / "panel.txt"
        path.write_text("\n".join(genes), encoding="utf-8")
        return str(path)

    return write


class TestPanelFromAFile:
    def test_keeps_the_files_order(self, panel_file):
        data = DataConfig(panel=panel_file("g9", "g1", "g4"))
        assert choose_panel({"A": poisson_section()}, {}, data) == ["g9", "g1", "g4"]

    @pytest.mark.parametrize("lacking", ["train", "test"])
    def test_a_gene_that_a_section_lacks_fails_or_is_dropped(self, panel_file, caplog, lacking):
        sections = {"train": {"A": poisson_section("A")}, "test": {"B": poisson_section("B")}}
        name, section = next(iter(sections[lacking].items()))
        sections[lacking][name] = section[:, section.var_names != "g1"].copy()
        panel = panel_file("g9", "g1", "g4")
        with pytest.raises(DataError, match=rf"section '{name}': panel gene g1 not measured.*missing_genes='drop'"):
            choose_panel(*sections.values(), DataConfig(panel=panel))
        dropped = choose_panel(*sections.values(), DataConfig(panel=panel, missing_genes="drop"))
        assert dropped == ["g9", "g4"]
        assert "1 of 3 panel genes are absent from a section and dropped: g1" in caplog.text

    def test_none_left_is_an_error(self, panel_file):
        data = DataConfig(panel=panel_file("ERBB2"), missing_genes="drop")
        with pytest.raises(DataError, match="none of its 1 genes is in every section"):
            choose_panel({"A": poisson_section()}, {}, data)

    def test_a_test_section_without_genes_takes_nothing_away(self, panel_file):
        image_only = poisson_section("B")[:, :0].copy()
        assert choose_panel({"A": poisson_section()}, {"B": image_only}, DataConfig(panel=panel_file("g1"))) == ["g1"]

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"gene panel .*none\.txt does not exist"):
            choose_panel({"A": poisson_section()}, {}, DataConfig(panel=str(tmp_path / "none.txt")))


class TestMostVariableGenes:
    train = staticmethod(lambda: {"A": poisson_section("A", seed=1), "B": poisson_section("B", seed=2)})

    def test_are_among_scanpys(self):
        """Which, beside a batch, takes all genes that tie with the last one."""
        section = poisson_section(n_genes=60)
        expected = section.copy()
        sc.pp.normalize_total(expected, target_sum=1e4)
        sc.pp.log1p(expected)
        sc.pp.highly_variable_genes(expected, n_top_genes=10, flavor="seurat")
        found = choose_panel({"A": section}, {}, DataConfig(panel="hvg:10"))
        assert len(found) == 10
        assert set(found) <= set(expected.var_names[expected.var["highly_variable"]])

    @staticmethod
    @cache
    def chosen() -> tuple[dict[str, AnnData], list[str]]:
        """Sections, and the genes that are chosen on them: once for all examples."""
        train = {name: poisson_section(name, n_spots=20, n_genes=20, seed=seed) for name, seed in (("A", 1), ("B", 2))}
        return train, choose_panel(train, {}, DataConfig(panel="hvg:8"))

    @given(st.randoms(use_true_random=False))
    def test_do_not_depend_on_any_order(self, random):
        train, expected = self.chosen()
        assert len(expected) == 8

        def shuffled(names):
            return random.sample(list(names), len(names))

        other = {n: train[n][shuffled(train[n].obs_names), shuffled(train[n].var_names)].copy() for n in ("B", "A")}
        assert choose_panel(other, {}, DataConfig(panel="hvg:8")) == expected

    def test_of_very_many_spots_are_chosen_on_an_even_sample(self, monkeypatch):
        train = {"A": poisson_section("A", n_spots=100, seed=1)}
        sample = {"A": train["A"][sorted(train["A"].obs_names)[::3]].copy()}
        expected = choose_panel(sample, {}, DataConfig(panel="hvg:8"))
        assert choose_panel(train, {}, DataConfig(panel="hvg:8")) != expected
        monkeypatch.setattr("nh2st_graph.train._panel._MOST_SPOTS", 40)
        assert choose_panel(train, {}, DataConfig(panel="hvg:8")) == expected

    def test_read_no_count_of_a_test_section(self):
        train, test = self.train(), poisson_section("C", seed=3)
        expected = choose_panel(train, {"C": test}, DataConfig(panel="hvg:8"))
        test.X = sparse.csr_matrix(np.random.default_rng(0).poisson(100.0, test.shape).astype(np.float32))
        assert choose_panel(train, {"C": test}, DataConfig(panel="hvg:8")) == expected

    def test_are_measured_in_every_section(self):
        train = self.train()
        chosen = choose_panel(train, {}, DataConfig(panel="hvg:8"))
        test = poisson_section("C")[:, [f"g{j}" for j in range(30) if f"g{j}" != chosen[0]]].copy()
        again = choose_panel(train, {"C": test}, DataConfig(panel="hvg:8"))
        assert len(again) == 8
        assert chosen[0] not in again

    def test_more_than_there_are_gives_all_that_have_counts(self):
        section = poisson_section(n_genes=30)
        section.X = sparse.csr_matrix(section.X.toarray() * (np.arange(30) != 7))
        counted = sorted(f"g{j}" for j in range(30) if j != 7)
        assert choose_panel({"A": section}, {}, DataConfig(panel="hvg:250")) == counted

    @pytest.mark.parametrize("panel", ["hvg:", "hvg:0", "hvg:-3", "hvg:many", "hvg:2.5", "hvg:²"])
    def test_a_bad_number_is_refused(self, panel):
        with pytest.raises(ConfigError, match=r"panel=.*hvg:N with a number N above 0"):
            Config.parse({"data": {"panel": panel}})

    def test_sections_without_a_gene_in_common_are_refused(self):
        other = make_section(np.ones((4, 3)), "B", genes=["x", "y", "z"])
        with pytest.raises(DataError, match="no gene is shared by the sections A, B"):
            choose_panel({"A": poisson_section(), "B": other}, {}, DataConfig(panel="hvg:5"))

    def test_training_sections_need_counts(self):
        with pytest.raises(DataError, match="section 'A': no genes"):
            Preparation.learn(Config(), {"A": poisson_section()[:, :0].copy()}, {})
        with pytest.raises(DataError, match="no gene has counts in the training sections A"):
            choose_panel({"A": make_section(np.zeros((4, 3)))}, {}, DataConfig(panel="hvg:5"))


SYMBOLS = [f"GENE{j}" for j in range(30)]
IDS = [f"ENSG{j:011d}" for j in range(30)]


def named(section: AnnData, genes: list[str], **columns: list[str]) -> AnnData:
    """The section with other names of its genes."""
    other = section.copy()
    other.var_names = genes
    for column, values in columns.items():
        other.var[column] = values
    return other


class TestNamesOfGenes:
    """Symbols and Ensembl ids: mapped where ``var`` has both, and said where it has not."""

    @pytest.fixture
    def by_symbol(self) -> AnnData:
        return named(poisson_section("A"), SYMBOLS)

    def test_a_panel_of_ids_over_symbols(self, by_symbol, panel_file, caplog):
        section = named(by_symbol, SYMBOLS, gene_ids=[f"{each}.2" for each in IDS])
        panel = [IDS[9], IDS[1]]
        with caplog.at_level("INFO"):
            genes = choose_panel({"A": section}, {}, DataConfig(panel=panel_file(*panel)))
        assert genes == panel
        assert caplog.messages == ["section 'A': 2 of 2 panel genes found, by var['gene_ids']"]
        expected = targets(by_symbol, ["GENE9", "GENE1"])
        pd.testing.assert_frame_equal(targets(section, genes), expected.set_axis(panel, axis=1))

    def test_a_panel_of_symbols_over_ids(self, by_symbol, panel_file):
        section = named(by_symbol, IDS, feature_name=SYMBOLS)
        panel = ["GENE9", "GENE1"]
        assert choose_panel({"A": section}, {"B": by_symbol}, DataConfig(panel=panel_file(*panel))) == panel
        for normalize in ("total", "panel"):
            data = DataConfig(normalize=normalize)
            pd.testing.assert_frame_equal(
                targets(section, panel, **data.target), targets(by_symbol, panel, **data.target)
            )

    @pytest.mark.parametrize("missing", ["fail", "drop"])
    def test_without_the_other_names_it_is_said(self, by_symbol, panel_file, missing):
        by_id = named(by_symbol, IDS)
        path = panel_file(*IDS[:5])
        data = DataConfig(panel=path, missing_genes=missing)
        with pytest.raises(DataError, match=rf"panel {path} has Ensembl ids, section 'A' has symbols \(GENE0, "):
            choose_panel({"A": by_symbol}, {}, data)
        with pytest.raises(DataError, match="the panel has symbols, section 'A' has Ensembl ids"):
            targets(by_id, SYMBOLS[:5], **data.target)

    @pytest.mark.parametrize("missing", ["fail", "drop"])
    def test_another_species_is_said(self, by_symbol, panel_file, missing):
        """Also where a gene or two have one name in both, which are not to be left alone in the panel."""
        mouse = named(by_symbol, [*(f"Gene{j}" for j in range(29)), "H19"])
        data = DataConfig(panel=panel_file("GENE1", "GENE2", "GENE3", "H19"), missing_genes=missing)
        with pytest.raises(DataError, match=r"looks like human genes \(GENE1, .*section 'A' like mouse ones \(Gene0, "):
            choose_panel({"A": mouse}, {}, data)
        with pytest.raises(DataError, match=r"no gene is shared by .* \(A looks human, B looks mouse\); check"):
            choose_panel({"A": by_symbol}, {"B": mouse[:, :29].copy()}, DataConfig(panel="hvg:5"))

    def test_the_most_variable_of_sections_that_disagree(self, by_symbol, caplog):
        train = {"A": by_symbol, "B": named(poisson_section("B", seed=1), SYMBOLS)}
        expected = choose_panel(train, {}, DataConfig(panel="hvg:8"))
        train["B"] = named(train["B"], IDS, gene_name=SYMBOLS)
        with caplog.at_level("INFO"):
            assert choose_panel(train, {}, DataConfig(panel="hvg:8")) == expected
        assert "symbols are taken, from var['gene_name'] of section 'B'" in caplog.text
        train["B"] = named(train["B"][:, :], IDS)
        del train["B"].var["gene_name"]
        with pytest.raises(DataError, match="section 'A' names genes by symbols, section 'B' by Ensembl ids"):
            choose_panel(train, {}, DataConfig(panel="hvg:8"))


def test_half_precision_counts_give_the_same_targets():
    whole = make_section(np.random.default_rng(0).poisson(3.0, (12, 6)))
    half = whole.copy()
    half.X = half.X.toarray().astype(np.float16)
    np.testing.assert_array_equal(library_size(half), library_size(whole))
    pd.testing.assert_frame_equal(panel_counts(half, ["g4", "g1"]), panel_counts(whole, ["g4", "g1"]))
