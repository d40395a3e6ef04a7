"""Every configuration and study that ships: it is valid, builds its model, and learns from one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nh2st_graph import gr, study
from nh2st_graph._keys import Key
from nh2st_graph.config import load_config
from nh2st_graph.datasets import synthetic_tissue
from nh2st_graph.models import NH2STGraph
from nh2st_graph.tl._batches import cut_out
from nh2st_graph.tl._encoder import patch_encoder
from nh2st_graph.tl._inputs import Standardizer, section_graph

FOLDER = Path(__file__).parents[1] / "configs"
STUDIES = sorted((FOLDER / "ablations").glob("*.yaml"))
N_FEATURES, N_GENES = 12, 15


def configurations():
    """Each configuration of the folder, and each variant of each study, by a name to call it."""
    for path in sorted(FOLDER.glob("*.yaml")):
        yield pytest.param(load_config(path), id=path.stem)
    for path in STUDIES:
        for variant in study.read_study(path).variants:
            yield pytest.param(variant.config, id=f"{path.stem}: {variant.name}")


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    """Synthetic tissue with features that are drawn: no encoder is run for them."""
    folder = tmp_path_factory.mktemp("tissue")
    adata = synthetic_tissue(n_sections=1, folder=folder, n_rows=8, n_cols=8, n_own=5, n_neighbour=5, n_noise=5)["S1"]
    adata.obsm[Key.obsm.image] = np.random.default_rng(0).normal(size=(adata.n_obs, N_FEATURES)).astype(np.float32)
    return adata


def some_spots(config, adata, seeds):
    """The model of a configuration, and a batch as it would be trained on; its encoder without its weights."""
    encoder = patch_encoder(config.features, trained=False)
    n_features = N_FEATURES
    if encoder is not None:
        n_features = len(encoder.feature_mean)
        (known,) = [m.pretrained_cfg for m in encoder.modules() if hasattr(m, "pretrained_cfg")]
        size, interpolation = known["input_size"][-1], known["interpolation"]
        adata.uns[Key.uns.image] = {"input_size": [size], "normalisation": {"0": {"interpolation": interpolation}}}
    gr.spatial_graph(adata, **config.graph.model_dump())
    standardize = Standardizer.fit([adata.obsm[Key.obsm.image]], config.features.standardize)
    graph = section_graph(adata, config, standardize, list(adata.var_names))
    torch.manual_seed(config.seed)
    model = NH2STGraph(config.model, n_features, N_GENES, encoder)
    model.set_targets(graph.y)
    return model, cut_out(graph, seeds, model.receptive_hops)


@pytest.mark.parametrize("config", configurations())
def test_it_builds_and_runs_one_step(config, section):
    # At a corner and beside it, so that few patches are encoded.
    seeds = torch.tensor([0, 1]) if config.features.finetune else torch.arange(section.n_obs)
    model, batch = some_spots(config, section.copy(), seeds)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(
        model.train().parameters(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay
    )
    losses = model.losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses["loss"].backward()
    optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.partition(".")[0] for name in before} == {name.partition(".")[0] for name in moved}
    expression = model.eval()(model.image_input(batch), batch.edge_index, batch.edge_attr).expression
    assert expression.shape == (batch.num_nodes, N_GENES)
    assert torch.isfinite(expression).all()


def test_the_studies_are_there():
    assert {"components", "operators", "graphs", "losses", "encoders"} <= {path.stem for path in STUDIES}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_variants_of_a_study_differ_from_its_base_and_from_each_other(path):
    variants = study.read_study(path).variants
    written = [variant.config.to_yaml() for variant in variants]
    assert len(set(written)) == len(written) > 5
