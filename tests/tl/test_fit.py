"""Fitting: what it depends on, and what not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from PIL import Image, ImageOps
from scipy import sparse
from torch_geometric.data import Data

from nh2st_graph import ConfigError, DataError, ModelError, tl
from nh2st_graph.config import Config
from nh2st_graph.im import SquidpyEncoder
from nh2st_graph.metrics import pearson
from nh2st_graph.models import NH2STGraph
from nh2st_graph.tl import FittedModel
from nh2st_graph.train import averaged_weights, check_precision, choose_panel

from ..prepared import complete_section


def state(model: FittedModel) -> dict[str, torch.Tensor]:
    return model.module.state_dict()


def equal(a: FittedModel, b: FittedModel) -> bool:
    """Whether two models have the same weights, bit by bit."""
    first, second = state(a), state(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def graphs_of(model: FittedModel, sections: dict[str, AnnData]) -> dict[str, Data]:
    """The graphs that a model learned from."""
    return {name: model.preparation.prepare(section).measured for name, section in sections.items()}


@pytest.fixture(scope="module")
def train(tiny_sections) -> dict[str, AnnData]:
    return {name: tiny_sections[name] for name in ("S1", "S2")}


@pytest.fixture(scope="module")
def quick(tiny_config) -> Callable[..., object]:
    """The tiny configuration with two epochs, and changes."""
    return lambda *changes: tiny_config.override(["train.max_epochs=2", *changes])


@pytest.fixture(scope="module")
def reference(tiny_run) -> FittedModel:
    """Fitted to ``train`` as ``quick`` says without changes."""
    return tiny_run.model


class TestDeterminism:
    def test_the_same_seed_gives_the_same_model_bit_by_bit(self, train, quick, reference, tmp_path):
        """Whatever was set in torch, which is left as it was, and where an earlier fit was written."""
        tl.fit([train["S1"][:24].copy()], quick("train.folds=3", "train.max_epochs=1"), out=tmp_path)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        try:
            again = tl.fit(train, quick(), out=tmp_path)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert torch.equal(torch.rand(3), expected)
        assert not torch.are_deterministic_algorithms_enabled()
        assert equal(again, reference)
        assert again.log.equals(reference.log), "no row of the earlier one"
        assert again.hpg50 == reference.hpg50

    def test_another_seed_gives_another(self, train, quick, reference):
        assert not equal(tl.fit(train, quick("seed=1")), reference)

    def test_the_order_of_sections_and_spots_and_the_names_they_are_given_under_change_nothing(
        self, train, quick, reference
    ):
        rng = np.random.default_rng(0)
        names = {"x": "S2", "a": "S1"}
        shuffled = {key: train[name][rng.permutation(train[name].n_obs)].copy() for key, name in names.items()}
        other = tl.fit(shuffled, quick())
        assert equal(other, reference)
        assert other.train_sections == ["S1", "S2"]


class TestWhatIsLearned:
    def test_heg50_and_hpg50_are_of_the_panel(self, tiny_run):
        model = tiny_run.model
        assert sorted(model.heg50) == sorted(model.genes) == sorted(model.hpg50), "12 genes are fewer than 50"

    def test_hpg50_goes_by_r_on_held_out_sections_alone(self, train, reference, tiny_run):
        model, graphs = reference, graphs_of(reference, train)
        scores = []
        for fold, held_out, learned in (("fold1", "S1", "S2"), ("fold2", "S2", "S1")):
            module = copy.deepcopy(model.module)
            module.prepare([graphs[learned]])
            module.memory["correction"] = model.module.memory["correction"]
            module.load_state_dict(averaged_weights(tiny_run.folder / "checkpoints" / fold / "last.ckpt", best=True))
            torch.testing.assert_close(module.decoder.mean, graphs[learned].y.mean(dim=0))
            graph = graphs[held_out]
            predicted = module.predict(graph).detach()
            scores.append(pearson(predicted.numpy(), graph.y.numpy()))
        r = pd.Series(np.mean(scores, axis=0), index=model.genes)
        assert model.hpg50 == list(r.sort_values(ascending=False).index)

    def test_refit_learns_from_all_and_for_as_many_epochs_as_were_chosen(self, reference, train):
        stages = reference.log.groupby("stage")["epoch"].max()
        assert dict(stages) == {"fold1:S1": 2, "fold2:S2": 2, "all": reference.selected_epochs}
        folds = reference.log[reference.log["stage"] != "all"]
        curve = folds.groupby("epoch")["val_loss"].mean()
        assert reference.selected_epochs == curve.idxmin()
        mean = torch.cat([graph.y for graph in graphs_of(reference, train).values()]).mean(dim=0)
        torch.testing.assert_close(reference.module.decoder.mean, mean)

    @pytest.fixture(scope="class")
    def in_batches(self, train, quick) -> FittedModel:
        """Each section in two batches, and no refit."""
        return tl.fit(train, quick("train.refit=false", "train.batch_spots=32"))

    def test_without_refit_the_first_fold_stays(self, train, in_batches):
        model = in_batches
        assert set(model.log["stage"]) == {"fold1:S1", "fold2:S2"}
        first = model.log[model.log["stage"] == "fold1:S1"].set_index("epoch")["val_loss"]
        assert model.selected_epochs == first.idxmin()
        graph, module = graphs_of(model, train)["S1"], copy.deepcopy(model.module)
        del module.memory["correction"]  # it is settled when folds are over
        with torch.no_grad():
            held_out = torch.nn.functional.mse_loss(module.predict(graph), graph.y)
        assert float(held_out) == pytest.approx(first.min(), rel=1e-5), "the weights are those of its best epoch"

    def test_training_stops_when_held_out_error_stops_falling(self, train, quick):
        config = quick("train.max_epochs=40", "train.patience=1", "train.learning_rate=0.5", "train.refit=false")
        model = tl.fit(train, config)
        for _, rows in model.log.groupby("stage"):
            error = rows["val_loss"].to_numpy()
            assert len(error) < 40
            assert error[-1] >= error[:-1].min()

    def test_a_single_section_is_held_out_in_bands(self, train, quick):
        model = tl.fit([train["S1"]], quick("train.max_epochs=1"))
        assert sorted(set(model.log["stage"])) == ["all", "fold1:band1", "fold2:band2", "fold3:band3"]

    def test_losses_are_logged_beside_their_chance_level(self, in_batches):
        log = in_batches.log
        for scale in ("spot", "neighbourhood"):
            chance = log[f"contrast_{scale}_chance"]
            assert chance.between(np.log(28), np.log(32.001)).all(), "batches of about half a section"
            assert log[f"contrast_{scale}"].gt(0).all()
            assert log[f"retrieval_{scale}"].between(0, 1).all()
        assert log[["val_loss", "val_pcc", "val_retrieval_spot"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "changes",
    [
        ["model.neighbours=false"],
        ["model.query=false", "model.contrast=none", "model.cross_attention=none"],
        ["model.contrast_on=attended", "model.hops=2", "data.normalize=residuals", "graph.mode=knn"],
        ["model.regression=nb", "data.normalize=panel", "train.precision=bf16", "model.edge_features=none"],
        ["data.smooth=3x3", "features.standardize=train", "graph.mode=delaunay"],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_every_configuration_trains_and_predicts_finite_numbers(train, quick, tiny_sections, changes):
    model = tl.fit(train, quick("train.max_epochs=1", "train.refit=false", *changes))
    prediction = tl.predict(tiny_sections["S3"], model)
    assert prediction.shape == (tiny_sections["S3"].n_obs, 12)
    assert np.isfinite(prediction.X).all()
    assert (prediction.X.std(axis=0) > 0).any()


def test_what_could_resume_it_is_written_into_a_folder_alone(train, quick, reference, tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    writing = (f"{torch.__name__}.save", "lightning.pytorch.loggers.TensorBoardLogger.log_metrics")
    for writes in writing:
        with monkeypatch.context() as patch:
            patch.setattr(writes, refuse)
            with pytest.raises(ZeroDivisionError):
                tl.fit(train, quick(), out=tmp_path / writes)
    for writes in writing:
        monkeypatch.setattr(writes, refuse)
    assert equal(tl.fit(train, quick()), reference)


class TestTestDataIsNeverRead:
    def test_a_run_learns_the_same_whatever_the_test_section_counts(self, tiny_run, tiny_sections, tiny_config):
        """The whole of what training leaves, for the panel and the gene subsets are chosen on the way."""
        test = tiny_sections["S3"].copy()
        test.X = sparse.csr_matrix(np.random.default_rng(0).poisson(40.0, test.shape).astype(np.float32))
        train = {name: tiny_sections[name] for name in ("S1", "S2")}
        genes = choose_panel(train, {"S3": test}, tiny_config.data)
        assert genes == tiny_run.model.genes
        again = tl.fit(train, tiny_config, genes=genes)
        assert equal(again, tiny_run.model)
        assert (again.heg50, again.hpg50) == (tiny_run.model.heg50, tiny_run.model.hpg50)

    @pytest.mark.parametrize(
        "changes",
        [
            ["features.encoders=[[squidpy:summary, 56], [squidpy:summary, 112]]", "features.views=4"],
            ["data.bad_spots=drop", "features.standardize=train"],
            ["features.embeddings='obsm:X_image'"],
        ],
        ids=" ".join,
    )
    def test_nor_its_image(self, tiny_sections, tiny_config, tmp_path, changes):
        """Nor, with it, the quality and embeddings of the test section."""
        config = tiny_config.override(["model.name=reduced_rank_ridge", *changes])
        some = {name: section[::4].copy() for name, section in tiny_sections.items()}
        done = {name: complete_section(section, tiny_config) for name, section in some.items()}
        other = done["S3"].copy()
        other.obsm["X_image"] = other.obsm["X_image"][::-1].copy()
        if config.features.embeddings is None:
            image = other.uns["spatial"]["S3"]["metadata"]
            ImageOps.solarize(Image.open(image["source_image_path"]), 200).save(
                tmp_path / "other.png", compress_level=1
            )
            image["source_image_path"] = str(tmp_path / "other.png")
        train = [done["S1"], done["S2"]]
        models = [tl.fit(train, config, test_sections=[test]) for test in (done["S3"], other)]
        assert models[0].digest == models[1].digest
        for statistic in ("mean", "std"):
            first, second = (getattr(model.standardize, statistic) for model in models)
            assert (first is None and second is None) or np.array_equal(first, second)


class TestRefusals:
    def test_no_section(self, quick):
        with pytest.raises(DataError, match="no training section given"):
            tl.fit({}, quick())

    def test_two_of_one_name(self, train, quick):
        with pytest.raises(DataError, match="two of 2 sections have the same name"):
            tl.fit([train["S1"], train["S1"]], quick())

    def test_no_genes(self, train, quick):
        image_only = train["S1"][:, :0].copy()
        with pytest.raises(DataError, match="section 'S1': no genes"):
            tl.fit([image_only, train["S2"]], quick())
        with pytest.raises(DataError, match="section 'S1': no genes"):
            tl.fit([image_only, train["S2"]], quick(), genes=["OWN01"])

    def test_no_genes_to_predict(self, train, quick):
        with pytest.raises(DataError, match="genes is empty; name genes to predict, or leave it out"):
            tl.fit([train["S1"], train["S2"]], quick(), genes=[])

    def test_one_spot(self, train, quick):
        with pytest.raises(DataError, match="section 'S1': one spot"):
            tl.fit([train["S1"][:1].copy(), train["S2"]], quick())

    def test_a_loss_that_is_no_number_names_step_and_remedy(self, train, quick):
        with pytest.raises(
            ModelError, match=r"(training loss is .*|prediction is not finite) at step \d+ .*lower learning_rate"
        ):
            tl.fit(train, quick("train.learning_rate=1e30", "train.max_epochs=10"))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    @pytest.mark.parametrize("change", ["train.device=cuda", "train.precision=16"])
    def test_a_device_that_is_not_there_is_told_before_anything_is_read(self, quick, change):
        with pytest.raises(ConfigError, match=change.removeprefix("train.").replace("=", "='")):
            tl.fit({"S1": None}, quick(change))  # type: ignore[dict-item]

    def test_precision_is_full_on_a_cpu(self, quick):
        assert check_precision(quick().train) == "32-true"
        assert check_precision(quick("train.precision=bf16").train) == "bf16-mixed"


@pytest.mark.parametrize("name", ["nh2st_graph", "mean"])
def test_an_encoder_is_made_once_for_all_sections(tiny_sections, train, quick, monkeypatch, name):
    made, initialise = [], SquidpyEncoder.__init__
    monkeypatch.setattr(SquidpyEncoder, "__init__", lambda self, *of: made.append(of) or initialise(self, *of))
    values = quick("train.max_epochs=1", "train.refit=false").model_dump(mode="json")
    config = Config.parse(values | {"model": {"name": name}})
    tl.fit(train, config, test_sections=[tiny_sections["S3"]])
    assert made == [("summary", "cpu")]


def test_the_module_that_comes_back_is_the_average_of_the_weights(reference, tiny_run):
    """And not the last step's: Lightning keeps both."""
    model, kept = reference, torch.load(tiny_run.folder / "checkpoints" / "all" / "last.ckpt", weights_only=True)
    for name, value in state(model).items():
        assert torch.equal(value, kept["state_dict"][f"model.{name}"])
    assert isinstance(model.module, NH2STGraph)
    assert not model.module.training
    moved = [n for n, v in state(model).items() if not torch.equal(v, kept["current_model_state"][f"model.{n}"])]
    assert moved
