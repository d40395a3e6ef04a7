"""From a section to the graph that a model reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from torch_geometric.data import Data

from nh2st_graph import gr, im
from nh2st_graph._errors import DataError
from nh2st_graph.config import Config, FeaturesConfig, GraphConfig
from nh2st_graph.section import Key, check_section, library_size, panel_counts, section_name, targets
from nh2st_graph.train._encoder import section_patches

__all__ = ["Standardizer", "complete_section", "image_only", "section_graph"]

logger = logging.getLogger("nh2st_graph")

#: What a graph holds of the genes.
_OF_THE_GENES = {"y", "counts", "library"}

#: Below this many spots, a section's own mean and deviation say little about its stain.
_FEW_SPOTS = 20


@dataclass(frozen=True)
class Standardizer:
    """Brings image features to mean 0 and deviation 1.

    By each section's own statistics (``features.standardize: section``), which takes out differences of stain and
    scanner between sections and needs no gene; by those of the training sections (``train``); or not at all (``none``:
    a mean of 0 and a deviation of 1, which leave the features what they are, and bytes bytes).

    Attributes
    ----------
    mean, std
        Statistics of the training sections, ``(n_features,)``; None where each section has its own.
    """

    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None

    @classmethod
    def fit(cls, features: Iterable[NDArray[np.float32 | np.uint8]], mode: str) -> Standardizer:
        """Take the statistics of training sections' features."""
        if mode == "section":
            return cls()
        if mode == "none":
            n_features = next(iter(features)).shape[1]
            return cls(np.zeros(n_features, np.float32), np.ones(n_features, np.float32))
        joined = np.vstack(list(features)).astype(np.float64)
        return cls(joined.mean(axis=0).astype(np.float32), joined.std(axis=0).astype(np.float32))

    def __call__(self, features: NDArray[np.float32 | np.uint8]) -> NDArray[np.float32 | np.uint8]:
        """Standardise one section's features, ``(n_spots, n_features)``. A constant feature becomes zero."""
        if self.mean is not None and self.std is not None and not self.mean.any() and (self.std == 1).all():
            return features
        values = features.astype(np.float64)
        if self.mean is None or self.std is None:
            mean, std = values.mean(axis=0), values.std(axis=0)
        else:
            mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        # Rounding leaves a constant column a deviation of about its size times the machine's precision.
        varies = std > 1e-7 * np.maximum(np.abs(mean), 1.0)
        scaled = np.divide(values - mean, std, out=np.zeros_like(values), where=varies)
        return scaled.astype(np.float32)


def complete_section(adata: AnnData, config: Config) -> AnnData:
    """Return the section with the features and the graph that ``config`` asks for, spots in order of their names.

    The section given stays as it is. Features, under whatever key, and a graph that it has already are used if they are
    what ``config`` asks for, and computed (features: read from the cache) if not. The order is one that no file
    decides, so that nothing that is learned or predicted depends on the order of the spots.

    Raises
    ------
    DataError, ImageError
        If the section breaks the contract.
    """
    check_section(adata)
    done = adata[np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")].copy()
    wanted = config.features
    key = _features_key(done, wanted)
    if key is not None:
        done.obsm[Key.obsm.image], done.uns[Key.uns.image] = done.obsm[key], done.uns[key]
    else:
        im.features(
            done,
            encoder=wanted.encoder,
            patch_um=wanted.patch_um,
            batch_size=wanted.batch_size,
            cache=wanted.cache,
            device=config.train.device,
            progress=config.train.progress,
            check_placement=wanted.check_placement,
        )
    _add_graph(done, config.graph)
    return check_section(done, need=("features", "graph"))


def _features_key(section: AnnData, wanted: FeaturesConfig) -> str | None:
    """Find the key of the features that are wanted: the usual one, or another that the user gave them."""
    for key in (Key.obsm.image, *section.obsm):
        # What predicted an entry is noted likewise, but no patch size.
        known = section.uns.get(key)
        if (
            isinstance(known, Mapping)
            and key in section.obsm
            and known.get("encoder") == wanted.encoder
            and np.isclose(float(known.get("patch_um", np.nan)), wanted.patch_um)
        ):
            return key
    return None


def _add_graph(section: AnnData, config: GraphConfig) -> None:
    """Build the graph, or take the one that the user built; under squidpy's default keys."""
    if config.mode == "given":
        connectivities, distances = gr.graph_keys(section, config.neighbors_key)
        if "metric" in section.uns.get(config.neighbors_key, {}).get("params", {}):
            # Over such edges genes would reach a prediction that is to come from the image alone.
            raise DataError(
                f"section {section_name(section)!r}: uns['{config.neighbors_key}'] is a graph of features, as scanpy "
                "builds it of expression, and not of positions; build one with sq.gr.spatial_neighbors_..., and name "
                "it in graph.neighbors_key"
            )
        section.obsp[Key.obsp.connectivities] = section.obsp[connectivities]
        section.obsp[Key.obsp.distances] = section.obsp[distances]
        section.uns[Key.uns.neighbors] = section.uns.get(config.neighbors_key, {}) | {
            "connectivities_key": Key.obsp.connectivities,
            "distances_key": Key.obsp.distances,
        }
        return
    settings = config.model_dump(exclude={"neighbors_key"})
    if not gr.has_graph(section, **settings):
        gr.spatial_graph(section, **settings)


def image_only(graph: Data) -> Data:
    """Return a graph without anything of the genes: all that a prediction may be made from."""
    return Data(**{key: value for key, value in graph.to_dict().items() if key not in _OF_THE_GENES})


def section_graph(
    adata: AnnData, config: Config, standardize: Standardizer, genes: Sequence[str] | None = None
) -> Data:
    """Turn a completed section into the graph that a model reads.

    Parameters
    ----------
    adata
        From :func:`complete_section`.
    config
        What targets are.
    standardize
        Brings features to the model's scale.
    genes
        The panel; None for a section that is only predicted, whose counts are not looked at.

    Returns
    -------
    ``Data`` as from :func:`nh2st_graph.gr.to_pyg`, and its ``patient``; with genes also ``y`` (targets) and
    ``counts``, both ``(n_spots, n_genes)``, and ``library`` ``(n_spots, 1)``, the counts that targets are relative to;
    and where the encoder is trained, ``patches`` ``(n_spots, size, size, 3)`` uint8.

    Raises
    ------
    DataError
        If the section has one spot, which has no relation to others to learn or to scale by, or features of another
        length than the model's.
    """
    name = section_name(adata)
    if adata.n_obs == 1 and (genes is not None or standardize.mean is None):
        raise DataError(
            f"section {name!r}: one spot alone cannot be trained on, scored, or (features.standardize = 'section') "
            "predicted; leave it out, or give the whole section"
        )
    features = np.asarray(adata.obsm[Key.obsm.image])
    if features.dtype != np.uint8:
        features = features.astype(np.float32, copy=False)
    if standardize.mean is not None and features.shape[1] != len(standardize.mean):
        raise DataError(
            f"section {name!r}: {features.shape[1]} image features, the model was trained on "
            f"{len(standardize.mean)}; compute them with the same encoder"
        )
    if standardize.mean is None and adata.n_obs < _FEW_SPOTS:
        logger.warning(
            "section %r has %d spots, too few for statistics of its own: predictions stay close to the training mean",
            name,
            adata.n_obs,
        )
    values: dict[str, NDArray[Any]] = {}
    if genes is not None:
        counts = panel_counts(adata, genes).to_numpy()
        values["y"] = targets(adata, genes, **config.data.target).to_numpy()
        values["counts"] = counts
        # Of the genes that targets are relative to, so that the two together give expected counts.
        library = counts.sum(axis=1) if config.data.normalize == "panel" else library_size(adata)
        values["library"] = library[:, None]
    if config.features.finetune:
        values["patches"] = section_patches(adata, config.features)
    graph = gr.to_pyg(adata, standardize(features), neighbors_key=Key.uns.neighbors, **values)
    graph.patient = str(adata.obs[Key.obs.patient].iloc[0])
    return graph
