"""Every configuration, study and benchmark that ships: it is valid, builds its model, and learns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from anndata import AnnData
from numpy.typing import NDArray
from torch_geometric.data import Data

from nh2st_graph import gr, read, study
from nh2st_graph.config import Config, load_config
from nh2st_graph.datasets import synthetic_tissue
from nh2st_graph.models import Estimator, NH2STGraph, find_method, known_methods
from nh2st_graph.nn import PatchEncoder
from nh2st_graph.section import Key
from nh2st_graph.train import (
    Preparation,
    PreparedSection,
    Standardizer,
    cut_out,
    image_only,
    new_network,
    patch_encoder,
)

FOLDER = Path(__file__).parents[2] / "configs"
STUDIES = sorted((FOLDER / "ablations").glob("*.yaml"))
BENCHMARKS = [path for path in sorted((FOLDER / "benchmarks").glob("*.yaml")) if "splits" in path.read_text()]
N_FEATURES, N_GENES = 12, 15
#: Spots of the section that methods predict; and those of the section that encoders learn from, one with its eight
#: neighbours, or methods that read pixels, one with its nine exemplars: each is a patch that passes through a network.
N_PREDICTED, N_ENCODED, N_READ = 4, 9, 10
#: Pixels of a patch that a network of any input size is given: a map of it has a place for each 32 of a side.
N_PIXELS, N_PIXELS_OF_MAP, N_PIXELS_AS_PUBLISHED = 32, 64, 224


def configurations() -> Iterator[Any]:
    """Each configuration of the folder, and each variant of each study, by a name to call it.

    Features are drawn here, so that variants are the same whose encoders are frozen: of these it is the first.
    """
    found = {path.stem: load_config(path) for path in sorted(FOLDER.glob("*.yaml"))}
    for path in STUDIES:
        found |= {f"{path.stem}: {variant.name}": variant.config for variant in study.read_study(path).variants}
    seen = set()
    for name, config in found.items():
        read = f"{graph_key(config)} {config.model.model_dump_json()} {config.seed}"
        if read not in seen:
            seen.add(read)
            yield pytest.param(config, id=name)


def graph_key(config: Config) -> str:
    """What the graph of a section depends on where its features are drawn."""
    features = config.features
    kinds = [name if name.startswith("pixels:") else "numbers" for name in features.encoder.split(",")]
    tuned = features.model_dump_json() if features.finetune else ""
    return f"{config.graph} {config.data.target} {config.data.normalize} {kinds} {features.standardize} {tuned}"


def methods(*files: str) -> dict[str, Config]:
    """Configurations of the methods of some files, by name."""
    values = {
        "base": str(FOLDER / "her2st_mini.yaml"),
        "methods": [str(FOLDER / "benchmarks" / file) for file in files],
        "splits": {"one": {"test": ["S1"]}},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "all.yaml"
        path.write_text(yaml.safe_dump(values))
        return {variant.name: variant.config for variant in study.read_benchmark(path).variants}


PUBLISHED, CUT = methods("methods.yaml"), methods("methods.yaml", "two_cores.yaml")


def benchmarked() -> Iterator[Any]:
    """Each method as published, and as two cores cut it, by a name to call it."""
    for name, config in PUBLISHED.items():
        yield pytest.param(config, id=f"{name}, as published", marks=pytest.mark.slow)
    for name, config in CUT.items():
        if config != PUBLISHED.get(name):
            yield pytest.param(config, id=f"{name}, on two cores")


@pytest.fixture(scope="module")
def section(tmp_path_factory) -> AnnData:
    """Synthetic tissue."""
    folder = tmp_path_factory.mktemp("tissue")
    return synthetic_tissue(n_sections=1, folder=folder, n_rows=6, n_cols=6, n_own=5, n_neighbour=5, n_noise=5)["S1"]


def drawn_features(config: Config, n_spots: int, encoder: PatchEncoder | None) -> NDArray[Any]:
    """Features of the kind that a configuration's encoders give: bytes for pixels, and numbers. No encoder is run."""
    rng = np.random.default_rng(0)
    if encoder is not None:
        return rng.normal(size=(n_spots, len(encoder.feature_mean))).astype(np.float32)
    parts: list[NDArray[Any]] = []
    for name in config.features.encoder.split(","):
        kind, _, side = name.partition(":")
        if kind == "pixels":
            parts.append(rng.integers(0, 256, (n_spots, 3 * int(side) ** 2), dtype=np.uint8))
        else:
            parts.append(rng.normal(size=(n_spots, N_FEATURES)).astype(np.float32))
    return parts[0] if len(parts) == 1 else np.hstack(parts).astype(np.float32)


@cache
def made_encoder(name: str, standardize: str) -> PatchEncoder:
    """Make an encoder to fine-tune; that of maps takes few pixels, the others any number."""
    features = Config().change({"features": {"encoder": name, "finetune": True, "standardize": standardize}}).features
    encoder = patch_encoder(features, trained=False, size=N_PIXELS_OF_MAP if name.startswith("timm-map:") else None)
    assert encoder is not None
    return encoder


def encoder_of(config: Config) -> PatchEncoder | None:
    """The encoder that is fine-tuned, if any; several methods have the same."""
    features = config.features
    return deepcopy(made_encoder(features.encoder, features.standardize)) if features.finetune else None


def graph_of(config: Config, adata: AnnData, encoder: PatchEncoder | None) -> Data:
    """A section as a model would read it; ``adata`` is changed."""
    adata.obsm[Key.obsm.image] = drawn_features(config, adata.n_obs, encoder)
    adata.uns[Key.uns.image] = {}
    if encoder is not None:
        (known,) = [m.pretrained_cfg for m in encoder.modules() if hasattr(m, "pretrained_cfg")]
        size = N_PIXELS_OF_MAP if config.features.encoder.startswith("timm-map:") else N_PIXELS
        interpolation = {"0": {"interpolation": known["interpolation"]}}
        adata.uns[Key.uns.image] = {"input_size": [size], "normalisation": interpolation}
    gr.spatial_graph(adata, **config.graph.model_dump(exclude={"neighbors_key"}))
    standardize = Standardizer.fit([adata.obsm[Key.obsm.image]], config.features.standardize)
    return PreparedSection(adata, adata.obs_names, Preparation.of(config, adata.var_names, standardize)).measured


def part_of(config: Config, section: AnnData) -> AnnData:
    """The section, or a part of it where a network reads pixels."""
    n_spots = N_ENCODED if config.features.finetune else N_READ if "pixels" in config.features.encoder else None
    return section[:n_spots].copy()


@pytest.fixture(scope="module")
def learned_from(section) -> Callable[[Config, PatchEncoder | None], Data]:
    """Give the graph that a configuration learns from. Configurations that differ in the model share one."""
    made: dict[str, Data] = {}

    def graph(config: Config, encoder: PatchEncoder | None) -> Data:
        key = graph_key(config)
        if key not in made:
            made[key] = graph_of(config, part_of(config, section), encoder)
        return copy(made[key])

    return graph


def some_spots(config: Config, graph: Data) -> torch.Tensor:
    """Spots to learn from; at a corner and beside it where patches are encoded, so that these are few."""
    return torch.tensor([0, 1]) if config.features.finetune else torch.arange(graph.num_nodes)


def reached(model: torch.nn.Module, batch: Data) -> set[str]:
    """Compute the gradient of the loss; return the names of the weights that it reaches."""
    losses = model.train().losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses["loss"].backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    return set(gradients)


@pytest.mark.parametrize("config", configurations())
def test_it_builds_and_every_part_learns(config, learned_from):
    encoder = encoder_of(config)
    graph = learned_from(config, encoder)
    torch.manual_seed(config.seed)
    model = NH2STGraph(config.model, graph.x.shape[1], N_GENES, encoder)
    model.set_targets(graph.y)
    batch = cut_out(graph, some_spots(config, graph), model.receptive_hops)
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert parts == {name.partition(".")[0] for name in reached(model, batch)}
    with torch.no_grad():
        expression = model.eval()(model.image_input(batch), batch.edge_index, batch.edge_attr).expression
    assert expression.shape == (batch.num_nodes, N_GENES)
    assert torch.isfinite(expression).all()


def test_the_studies_are_there():
    assert {"blocks", "components", "operators", "graphs", "losses", "encoders"} <= {path.stem for path in STUDIES}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_variants_of_a_study_differ_from_its_base_and_from_each_other(path):
    variants = study.read_study(path).variants
    written = [variant.config.to_yaml() for variant in variants]
    assert len(set(written)) == len(written) > 5


def with_fewer_pixels(config: Config) -> Config:
    """A quarter of a patch's side, where a method reads its pixels or their map: methods take any."""
    if config.features.finetune and hasattr(config.model, "target_tokens"):
        side = Fraction(N_PIXELS_OF_MAP, N_PIXELS_AS_PUBLISHED)
        return config.override([f"model.target_tokens={config.model.target_tokens * side**2}"])
    found = re.search(r"pixels:(\d+)", config.features.encoder)
    if found is None or int(found[1]) <= 32:
        return config
    side = int(found[1]) // 4
    changes = [f"features.encoder={config.features.encoder.replace(found[0], f'pixels:{side}')}"]
    if getattr(config.model, "side", None) == int(found[1]):
        changes.append(f"model.side={side}")
    return config.override(changes)


#: Sizes of the widest methods, a small part of what is published; their depth and every switch stay.
NARROWER = {
    "hggep": ["model.width=64", "model.heads=4", "model.hidden=32"],
    "histogene": ["model.width=64", "model.heads=4"],
    "egn": ["model.width=64", "model.heads=4"],
    "triplex": ["model.width=64"],
    "nh2st_graph": ["model.width=64"],
}


def narrower(config: Config) -> Config:
    return config.override(NARROWER.get(config.model.name, ())) if config in PUBLISHED.values() else config


@pytest.mark.parametrize("config", benchmarked())
def test_a_method_learns_and_predicts_without_genes(config, section, learned_from):
    config = with_fewer_pixels(narrower(config))
    encoder = encoder_of(config)
    graph = learned_from(config, encoder)
    other = graph_of(config, section[:N_PREDICTED].copy(), encoder)
    method = find_method(config.model.name)
    if issubclass(method, Estimator):
        model = method(config.model, config.seed)
        model.fit([graph])
    else:
        torch.manual_seed(config.seed)
        model = new_network(config, graph.x.shape[1], N_GENES, encoder)
        model.prepare([graph])
        assert reached(model, cut_out(graph, some_spots(config, graph), model.receptive_hops))
        with torch.no_grad():
            model.eval().remember([graph])
    assert_no_gene_is_read(model, other)


@torch.no_grad()
def assert_no_gene_is_read(model: Any, graph: Data) -> None:
    """A prediction is the same, bit by bit, whatever genes a section carries."""
    predicted = np.asarray(model.predict(image_only(graph)))
    assert predicted.shape == (graph.num_nodes, N_GENES)
    assert np.isfinite(predicted).all()
    changed = 3 * graph.y.flip(0) + 1
    carrying = copy(graph)
    carrying.y, carrying.counts, carrying.library = changed, changed.round(), 1 + changed.sum(1, keepdim=True)
    np.testing.assert_array_equal(np.asarray(model.predict(carrying)), predicted)


def test_every_method_is_benchmarked():
    ours = {name for name in known_methods() if find_method(name).__module__.startswith("nh2st_graph.")}
    assert {config.model.name for config in PUBLISHED.values()} == ours


def test_what_is_cut_is_of_methods_that_are_there():
    assert list(CUT) == list(PUBLISHED)
    assert {name: config.model.name for name, config in CUT.items()} == {
        name: config.model.name for name, config in PUBLISHED.items()
    }


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Files of nine sections, each of a patient of its own but for the first two."""
    folder = tmp_path_factory.mktemp("patients")
    for i in range(1, 10):
        names = {Key.obs.section: pd.Categorical([f"T{i}"]), Key.obs.patient: pd.Categorical([f"P{max(i, 2)}"])}
        one_spot = AnnData(
            np.ones((1, 1), np.float32), pd.DataFrame(names, ["spot"]), obsm={"spatial": np.zeros((1, 2))}
        )
        read.write_h5ad(one_spot, folder / f"T{i}.h5ad")
    return folder


#: ``hest`` takes its folds from its data; see ``tests/study/test_protocols.py``.
WITH_FOLDS = [path for path in BENCHMARKS if path.stem != "hest"]


@pytest.mark.parametrize("path", WITH_FOLDS, ids=lambda path: path.stem)
def test_a_benchmark_reads_and_keeps_patients_apart(path, patients):
    plan = study.read_benchmark(path, ["data.format=h5ad", f"data.root={patients}"])
    if path.stem == "equal_features":
        features = {variant.config.features.model_dump_json() for variant in plan.variants}
        assert len(features) == 1
    else:
        assert {variant.name for variant in plan.variants} == {*PUBLISHED}
    for name, split in yaml.safe_load(path.read_text())["splits"].items():
        folds = [fold for fold in plan.folds if fold.split == name]
        tested = [section for fold in folds for section in fold.test]
        assert len(set(tested)) == len(tested) > 0
        assert not any({*fold.train} & {*fold.test} for fold in folds)
        declared = split.get("leave_one_patient_out", split.get("patients", "all"))
        if {"leave_one_patient_out", "k_fold_by_patient"} & {*split}:
            of = {f"T{i}": f"P{max(i, 2)}" for i in range(1, 10)}
            if declared != "all":
                of = {section: patient for patient, sections in declared.items() for section in sections}
            assert set(tested) == set(of)
            for fold in folds:
                assert {*fold.train, *fold.test} == set(of)
                assert not {of[section] for section in fold.train} & {of[section] for section in fold.test}


def test_the_benchmarks_are_there():
    assert {"her2st", "her2st_mini"} <= {path.stem for path in BENCHMARKS}
