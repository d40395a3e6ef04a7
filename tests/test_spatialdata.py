"""Functions that take sections give the same of AnnData and of SpatialData, in place and as a copy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import squidpy as sq
from anndata import AnnData
from numpy.testing import assert_array_equal
from scipy import sparse
from spatialdata.models import PointsModel

import nh2st_graph as ng
from nh2st_graph import DataError
from nh2st_graph.config import Config
from nh2st_graph.read import sections_by_name, to_spatialdata
from nh2st_graph.tl import FittedModel

mpl.use("Agg")

SLOTS = ("obs", "var", "obsm", "obsp", "uns")

#: What notes of a graph or features say of their making, which other files of the same pixels change.
MAKING = {"cache_key", "image", "sections"}


@dataclass
class Held:
    """The same sections (raw, explained, predicted, train) in one kind of object, each made when it is asked for."""

    kind: str
    sections: Mapping[str, AnnData]
    model: FittedModel

    def __getattr__(self, name: str) -> Any:
        if name not in self.sections:
            raise AttributeError(name)
        section = self.sections[name]
        setattr(self, name, section.copy() if self.kind == "anndata" else store(section, self.kind))
        return getattr(self, name)


#: What writes into what it is given.
WRITE: dict[str, Callable[..., AnnData | None]] = {
    "gr.spatial_graph": lambda held, **more: ng.gr.spatial_graph(held.raw, **more),
    "im.features": lambda held, **more: ng.im.features(held.raw, "squidpy:summary", **more),
    "im.embeddings": lambda held, **more: ng.im.embeddings(held.raw, "obsm:mine", **more),
    "im.quality": lambda held, **more: ng.im.quality(held.raw, **more),
    "tl.embed": lambda held, **more: ng.tl.embed(held.raw, held.model, **more),
    "tl.explain": lambda held, **more: ng.tl.explain(held.raw, held.model, **more),
}

#: What returns something, or draws it.
GIVE: dict[str, Callable[[Held], Any]] = {
    "im.patches": lambda held: np.stack(list(ng.im.patches(held.raw, size_px=16))),
    "im.jitter_stain": lambda held: ng.im.jitter_stain(held.raw, ng.im.StainJitter("hed", 0.1, 0), 40).shape,
    "im.stain_reference": lambda held: ng.im.stain_reference(held.raw).stain_matrix,
    "im.check_placement": lambda held: ng.im.check_placement(held.raw),
    "tl.fit": lambda held: weights(ng.tl.fit(held.train, quick(held.model), test_sections=held.raw)),
    "tl.predict": lambda held: parts(ng.tl.predict(held.raw, held.model)),
    "tl.evaluate": lambda held: ng.tl.evaluate(held.raw, held.model, held.train).metrics,
    "tl.impute": lambda held: ng.tl.impute(held.raw, held.model, measured=np.arange(36) % 2 == 0).X,
    "tl.adapt": lambda held: ng.tl.adapt(held.raw, held.model).digest,
    "tl.predictability": lambda held: ng.tl.predictability(held.train, quick(held.model)).genes,
    "tl.retrieve": lambda held: ng.tl.retrieve(held.explained, held.explained, k=3).found,
    "pl.section": lambda held: pixels(ng.pl.section(held.raw).figure),
    "pl.gene_maps": lambda held: pixels(ng.pl.gene_maps(held.predicted, [held.model.genes[0]])),
    "pl.familiarity": lambda held: pixels(ng.pl.familiarity(held.predicted).figure),
    "pl.spot_values": lambda held: pixels(ng.pl.spot_values(held.predicted, "familiarity").figure),
    "pl.attention": lambda held: pixels(ng.pl.attention(held.explained).figure),
    "pl.neighbour_share": lambda held: pixels(ng.pl.neighbour_share(held.explained).figure),
    "pl.neighbour_gain": lambda held: pixels(ng.pl.neighbour_gain(held.explained, n=2).figure),
}


def quick(model: FittedModel) -> Config:
    return model.config.override(["train.max_epochs=1", "train.refit=false"])


def parts(prediction: AnnData) -> dict[str, Any]:
    names = {"spots": prediction.obs_names, "genes": prediction.var_names}
    values = {"X": prediction.X, "observed": prediction.layers["observed"]}
    return names | values | dict(prediction.obsm.items()) | dict(prediction.obsp.items())


def weights(model: FittedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.module.state_dict().items()}


def pixels(figure: Any) -> np.ndarray:
    figure.set_dpi(20)
    figure.canvas.draw()
    drawn = np.array(figure.canvas.buffer_rgba())
    plt.close(figure)
    assert np.ptp(drawn) > 0
    return drawn


def entries(adata: AnnData) -> dict[str, dict[str, Any]]:
    return {slot: dict(getattr(adata, slot).items()) for slot in SLOTS}


def added(adata: AnnData, before: AnnData) -> dict[str, dict[str, Any]]:
    """What an object has that it had not before."""
    earlier = entries(before)
    return {
        slot: {key: value for key, value in now.items() if key not in earlier[slot]}
        for slot, now in entries(adata).items()
    }


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, Mapping):
        keys = (set(each) - MAKING for each in (found, expected))
        assert next(keys) == next(keys), where
        for key in set(expected) - MAKING:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, pd.DataFrame | pd.Series):
        assert_array_equal(found.index, expected.index, err_msg=where)
        assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=where)
    elif sparse.issparse(expected):
        assert_array_equal(found.toarray(), expected.toarray(), err_msg=where)
    else:
        assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=where)


def store(section: AnnData, spots: str) -> sd.SpatialData:
    """SpatialData of one section, whose spots are circles or points."""
    made = to_spatialdata(section)
    if spots == "points":
        (region,) = made.shapes
        circles = made.shapes.pop(region)
        centres = pd.DataFrame({"x": circles.geometry.x, "y": circles.geometry.y}, index=circles.index)
        placed = sd.transformations.get_transformation(circles, get_all=True)
        made.points[region] = PointsModel.parse(centres, coordinates={"x": "x", "y": "y"}, transformations=placed)
    return made


def table(held: Any) -> AnnData:
    return held if isinstance(held, AnnData) else held.tables["table"]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnData]:
    """Three sections of 36 spots. They are shared: copy what you change."""
    folder: Path = tmp_path_factory.mktemp("tissue")
    made = ng.datasets.synthetic_tissue(3, folder=folder, n_rows=6, n_cols=6, n_own=6, n_neighbour=6, n_noise=3)
    for name, section in made.items():
        # Points have no size: they are drawn as spots that touch.
        section.uns["spatial"][name]["scalefactors"]["spot_diameter_fullres"] *= 2
        section.obsm["mine"] = np.random.default_rng(0).random((section.n_obs, 3), dtype=np.float32)
    return made


@pytest.fixture(scope="module")
def config(tiny_config: ng.Config) -> ng.Config:
    few = ["train.max_epochs=1", "train.folds=2", "train.refit=false", "evaluate.baselines=false"]
    return tiny_config.override(few)


@pytest.fixture(scope="module")
def model(tissue: dict[str, AnnData], config: ng.Config) -> FittedModel:
    return ng.tl.fit(tissue["S1"], config)


@pytest.fixture(scope="module")
def explained(model: FittedModel, tissue: dict[str, AnnData]) -> AnnData:
    section = tissue["S3"].copy()
    ng.tl.embed(section, model)
    ng.tl.explain(section, model)
    return section


@pytest.fixture(scope="module")
def prediction(model: FittedModel, tissue: dict[str, AnnData]) -> AnnData:
    return ng.tl.predict(tissue["S3"], model)


@pytest.fixture
def hold(model: FittedModel, tissue, explained: AnnData, prediction: AnnData) -> Callable[[str], Held]:
    """Put fresh copies of the sections into objects of a kind: ``anndata``, or what spots are in SpatialData."""

    sections = {"raw": tissue["S3"], "explained": explained, "predicted": prediction, "train": tissue["S1"]}
    return lambda kind: Held(kind, sections, model)


@pytest.fixture(scope="module")
def held_by_all(model: FittedModel, tissue, explained: AnnData, prediction: AnnData) -> Callable[[str], Held]:
    """As ``hold``, once for all functions that return something and leave what they are given."""
    sections = {"raw": tissue["S3"], "explained": explained, "predicted": prediction, "train": tissue["S1"]}
    return cache(lambda kind: Held(kind, sections, model))


@pytest.fixture(scope="module")
def of_anndata() -> dict[str, Any]:
    """What is returned of AnnData, by the function's name: the same for circles and points."""
    return {}


def test_every_function_that_takes_sections_is_here() -> None:
    rooms = {"gr": ng.gr, "im": ng.im, "tl": ng.tl, "pl": ng.pl}
    public = {f"{room}.{name}": getattr(module, name) for room, module in rooms.items() for name in module.__all__}
    parameters = {name: inspect.signature(each).parameters for name, each in public.items() if inspect.isfunction(each)}
    assert {name for name, given in parameters.items() if "table_key" in given} == {*WRITE, *GIVE}
    assert {name for name, given in parameters.items() if "copy" in given} == set(WRITE)


#: Functions for which spots are points too: the sections that all are given are made in one place.
POINTS = ("gr.spatial_graph", "im.features", "im.patches", "tl.predict", "pl.section")


def by_kind(functions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each function with spots as circles, and some with points."""
    return [*((name, "circles") for name in functions), *((name, "points") for name in functions if name in POINTS)]


class TestSpatialDataGetsWhatAnnDataGets:
    @pytest.mark.parametrize(("name", "kind"), by_kind(WRITE))
    def test_written_into_it(self, hold, name: str, kind: str) -> None:
        inside = []
        for held in (hold("anndata"), hold(kind)):
            before = table(held.raw).copy()
            assert WRITE[name](held) is None
            inside.append(added(table(held.raw), before))
        assert any(inside[0].values())
        assert_same(inside[1], inside[0])

    @pytest.mark.parametrize(("name", "kind"), by_kind(GIVE))
    def test_returned(self, held_by_all: Callable[[str], Held], of_anndata, name: str, kind: str) -> None:
        if name not in of_anndata:
            of_anndata[name] = GIVE[name](held_by_all("anndata"))
        assert_same(GIVE[name](held_by_all(kind)), of_anndata[name])


@pytest.mark.parametrize("kind", ["anndata", "circles"])
@pytest.mark.parametrize("name", WRITE)
def test_a_copy_is_what_would_be_written_and_leaves_the_object_as_it_was(hold, name: str, kind: str) -> None:
    held = hold(kind)
    before = table(held.raw).copy()
    returned = WRITE[name](held, copy=True)
    assert not any(added(table(held.raw), before).values())
    assert_same(entries(table(held.raw)), entries(before))
    WRITE[name](held)
    assert returned is not table(held.raw)
    assert any(added(returned, before).values())
    assert_same(entries(returned), entries(table(held.raw)))


def test_a_graph_that_squidpy_built_in_a_table_is_what_the_model_reads(hold, model: FittedModel) -> None:
    given = replace(model, config=model.config.override(["graph.mode=given", "graph.neighbors_key=mine_neighbors"]))
    section, sdata = hold("anndata").raw, hold("circles").raw
    squidpys = {"n_neighs": 3, "key_added": "mine"}
    sq.gr.spatial_neighbors_knn(section, **squidpys)
    place = dict.fromkeys(sdata.shapes, "global")
    sq.gr.spatial_neighbors_knn(sdata, elements_to_coordinate_systems=place, table_key="table", **squidpys)
    expected, found = ng.tl.predict(section, given), ng.tl.predict(sdata, given)
    assert_array_equal(found.X, expected.X)
    assert_array_equal(found.obsp["spatial_connectivities"].toarray(), section.obsp["mine_connectivities"].toarray())
    assert not np.array_equal(found.X, ng.tl.predict(sdata, model).X)


class TestKeysOfSeveralObjects:
    """A key is for those of the objects that it fits."""

    @pytest.fixture(scope="class")
    def joined(self, tissue: dict[str, AnnData]) -> AnnData:
        parts = {name: tissue[name] for name in ("S1", "S2")}
        both = ad.concat(parts, label="library", index_unique="-", uns_merge="unique")
        del both.obs["section"], both.obs["patient"]
        return both

    def test_of_every_kind_in_one_list(self, joined: AnnData, tissue: dict[str, AnnData]) -> None:
        sdata = store(tissue["S3"], "circles")
        sdata.tables["second"] = sdata.tables["table"].copy()
        single = tissue["S3"].copy()
        single.obs["section"] = pd.Categorical(["S4"] * single.n_obs)
        found = sections_by_name([joined, sdata, single], library_key="library", table_key="second")
        assert list(found) == ["S1", "S2", "S3", "S4"]
        assert list(sections_by_name({"any": single, "other": joined}, library_key="library")) == ["S1", "S2", "S4"]

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"library_key": "librari"}, r"no column library_key='librari'"),
            ({"table_key": "table"}, "table_key='table' is for SpatialData, and this is AnnData"),
        ],
    )
    def test_that_fit_none_are_refused(self, joined, tissue, keys: dict[str, str], message: str) -> None:
        for given in (joined, [joined, tissue["S3"]], {"S3": tissue["S3"]}):
            with pytest.raises(DataError, match=message):
                sections_by_name(given, **keys)
        assert sections_by_name(tissue["S3"], **keys, shared=True) == {"S3": tissue["S3"]}
        assert sections_by_name([], **keys) == {}

    def test_of_training_need_not_fit_what_is_to_be_predicted(self, joined, tissue, config) -> None:
        for test in ({"S3": tissue["S3"]}, store(tissue["S3"], "circles")):
            model = ng.tl.fit(joined, config, test_sections=test, library_key="library")
            assert model.train_sections == ["S1", "S2"]
