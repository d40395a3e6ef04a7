"""Prepare each section once, with features, graph and targets."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph import im
from nh2st_graph._errors import DataError, setting
from nh2st_graph.config import Config, FeaturesConfig, GraphConfig
from nh2st_graph.gr import graph_keys, has_graph
from nh2st_graph.gr._build import connect
from nh2st_graph.gr._pyg import as_data
from nh2st_graph.im._features import add_features, feature_bar
from nh2st_graph.section import (
    Key,
    Need,
    check_features,
    check_section,
    counts_mistake,
    find_genes,
    library_size,
    open_image,
    panel_counts,
    patients_in,
    section_name,
    targets,
)
from nh2st_graph.slide import Slide
from nh2st_graph.train._encoder import section_patches
from nh2st_graph.train._panel import choose_panel
from nh2st_graph.train._standardize import Standardizer

__all__ = ["Learned", "Preparation", "PreparedSection", "image_only"]

logger = logging.getLogger("nh2st_graph")

#: Attributes of a graph that hold genes.
_OF_THE_GENES = {"y", "counts", "library"}

#: Below this many spots, a section's own mean and standard deviation say little about its stain.
_FEW_SPOTS = 20


def image_only(graph: Data) -> Data:
    """Return a graph without its genes: a prediction may read nothing else."""
    return Data(**{key: value for key, value in graph.to_dict().items() if key not in _OF_THE_GENES})


@dataclass(frozen=True)
class Preparation:
    """Prepares sections for one model.

    Attributes
    ----------
    config
        The configuration.
    genes
        The panel.
    standardize
        Standardises image features.
    """

    config: Config
    genes: list[str]
    standardize: Standardizer
    _completer: _Completer = field(repr=False)

    @classmethod
    def of(cls, config: Config, genes: Sequence[str], standardize: Standardizer) -> Preparation:
        """Make the preparation of a fitted model."""
        return cls(config, list(genes), standardize, _Completer(config))

    @classmethod
    def learn(
        cls,
        config: Config,
        train: Mapping[str, AnnData],
        tests: Mapping[str, AnnData],
        *,
        genes: Sequence[str] | None = None,
        need: Collection[Need] = (),
        test_need: Collection[Need] = (),
    ) -> Learned:
        """Learn a preparation from training sections, and prepare these and the test sections.

        Parameters
        ----------
        config
            The configuration.
        train
            Sections to learn from, by name. The panel and the statistics of features come from them.
        tests
            Sections to predict later. Only the names of their genes are read.
        genes
            The panel; None chooses it as ``config`` says.
        need, test_need
            What training and test sections must bring, beside what is computed here.

        Raises
        ------
        DataError, ImageError
            If a section breaks the contract.
        ConfigError
            If the panel cannot be chosen, or an encoder cannot be made.
        """
        for sections, needs in ((train, {"genes", *need}), (tests, set(test_need))):
            for section in sections.values():
                check_section(section, need=needs - {"image"})
        panel = list(genes) if genes is not None else choose_panel(train, tests, config.data)
        completer = _Completer(config)
        with ExitStack() as stack:
            # Open all images before the first is encoded: encoding may take hours, and a missing image shows at once.
            opened = [stack.enter_context(completer.opened(train[name], "image" in need)) for name in sorted(train)]
            opened_tests = [
                stack.enter_context(completer.opened(section, "image" in test_need)) for section in tests.values()
            ]
            done, done_tests = ([completer.complete(each) for each in part] for part in (opened, opened_tests))
        standardize = Standardizer.fit((each.obsm[Key.obsm.image] for each in done), config.features.standardize)
        self = cls(config, panel, standardize, completer)
        return Learned(
            self,
            [PreparedSection(each, train[section_name(each)].obs_names, self) for each in done],
            [PreparedSection(each, tests[section_name(each)].obs_names, self) for each in done_tests],
        )

    def prepare(self, section: AnnData, need: Iterable[Need] = ()) -> PreparedSection:
        """Check a section, and compute its features and its graph if it lacks them.

        The given section does not change.

        Parameters
        ----------
        section
            One tissue section.
        need
            What it must bring, beside what is computed here.

        Raises
        ------
        DataError, ImageError
            If the section breaks the contract.
        ConfigError
            If an encoder cannot be made.
        """
        needs = set(need)
        check_section(section, need=needs - {"image"})
        with self._completer.opened(section, "image" in needs) as opened:
            return PreparedSection(self._completer.complete(opened), section.obs_names, self)


class Learned(NamedTuple):
    """A learned preparation and the prepared sections; training sections are in order of their names."""

    preparation: Preparation
    train: list[PreparedSection]
    tests: list[PreparedSection]


@dataclass(frozen=True, eq=False)
class PreparedSection:
    """One section with features and graph; its PyG graph is made once.

    Attributes
    ----------
    section
        The section with ``obsm["X_image"]`` and squidpy's spatial keys. Its spots are in order of their names, so that
        no result depends on the order of spots in a file.
    spots
        Names of the spots in the order given.
    preparation
        The preparation that made it.
    """

    section: AnnData
    spots: pd.Index
    preparation: Preparation

    @property
    def name(self) -> str:
        """Name of the section."""
        return section_name(self.section)

    @cached_property
    def graph(self) -> Data:
        """The graph that a model reads: the image side, as from :func:`nh2st_graph.gr.to_pyg`, with ``patient``.

        If the encoder is fine-tuned, the graph also has ``patches``, ``(n_spots, size, size, 3)`` uint8.

        Raises
        ------
        DataError
            If the number of features is not that of the model, or the section is a single spot that cannot be
            standardised.
        """
        config, standardize = self.preparation.config, self.preparation.standardize
        if standardize.mean is None:
            self._refuse_one_spot()
        features = np.asarray(self.section.obsm[Key.obsm.image])
        if features.dtype != np.uint8:
            features = features.astype(np.float32, copy=False)
        if standardize.mean is not None and features.shape[1] != len(standardize.mean):
            raise DataError(
                f"section {self.name!r} has {features.shape[1]} image features, the model was trained on "
                f"{len(standardize.mean)}; compute them with the same encoder"
            )
        if standardize.mean is None and self.section.n_obs < _FEW_SPOTS:
            logger.warning(
                "section %r has %d spots, too few for statistics of its own: its predictions stay close to the "
                "training mean",
                self.name,
                self.section.n_obs,
            )
        values = {"patches": section_patches(self.section, config.features)} if config.features.finetune else {}
        graph = as_data(self.section, standardize(features), neighbors_key=Key.uns.neighbors, **values)
        graph.patient = " + ".join(patients_in(self.section))
        return graph

    @cached_property
    def has_panel(self) -> bool:
        """Whether all genes of the panel were measured, and ``X`` holds their counts."""
        mistake = counts_mistake(self.section)
        if mistake is not None:
            if self.section.n_vars and Key.uns.prediction not in self.section.uns:
                logger.warning("section %r: its genes are not used, for %s", self.name, DataError(mistake))
            return False
        found = find_genes(self.section, self.preparation.genes)
        if found.all_there:
            found.log(self.name)
        return found.all_there

    @cached_property
    def observed(self) -> pd.DataFrame:
        """Targets, spots x genes of the panel, float64.

        Raises
        ------
        DataError
            If a gene of the panel was not measured, or targets cannot be smoothed.
        """
        return targets(self.section, self.preparation.genes, **self.preparation.config.data.target)

    @cached_property
    def measured(self) -> Data:
        """The graph with the measured genes.

        It also holds ``y`` (targets) and ``counts``, both ``(n_spots, n_genes)``, and ``library``, ``(n_spots, 1)``,
        the library size that targets are relative to.

        Raises
        ------
        DataError
            As :attr:`graph` and :attr:`observed`, and for a single spot, which shows no relation to other spots.
        """
        self._refuse_one_spot()
        counts = panel_counts(self.section, self.preparation.genes).to_numpy()
        # Over the genes that targets are relative to, so that library size and targets give expected counts.
        by_panel = self.preparation.config.data.normalize == "panel"
        library = counts.sum(axis=1) if by_panel else library_size(self.section)
        values: dict[str, NDArray[Any]] = {"y": self.observed.to_numpy(), "counts": counts, "library": library[:, None]}
        graph = Data(**self.graph.to_dict())
        for name, value in values.items():
            graph[name] = _float_tensor(value)
        return graph

    def _refuse_one_spot(self) -> None:
        if self.section.n_obs == 1:
            raise DataError(
                f"section {self.name!r}: one spot alone cannot be trained on, scored, or, with "
                f"{setting('features.standardize', 'section')}, predicted; leave it out, or give the whole section"
            )


class _Completer:
    """Computes features and graph of checked sections; encoders are made once, when they are first needed.

    So all sections get features of the same weights, even if the file of weights changes meanwhile.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def encoders(self) -> list[im.Encoder]:
        return im.make_encoders(self.config.features.encoder, self.config.train.device)

    @contextmanager
    def opened(self, adata: AnnData, need_image: bool) -> Iterator[_Opened]:
        """Copy a section, with spots in order of their names, and open its image if that is needed."""
        section = adata[np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")].copy()
        key = _features_key(section, self.config.features)
        with ExitStack() as stack:
            slide = stack.enter_context(open_image(section)) if need_image or key is None else None
            yield _Opened(section, key, slide, stack)

    def complete(self, opened: _Opened) -> AnnData:
        """Write features and graph into an opened section, and close its image."""
        section, wanted = opened.section, self.config.features
        with opened.stack:
            if opened.key is not None:
                section.obsm[Key.obsm.image] = section.obsm[opened.key]
                section.uns[Key.uns.image] = section.uns[opened.key]
                check_features(section)
            else:
                assert opened.slide is not None
                with feature_bar(self.config.train.progress) as bar:
                    add_features(
                        section,
                        opened.slide,
                        self.encoders,
                        wanted.patch_um,
                        bar=bar,
                        batch_size=wanted.batch_size,
                        cache=wanted.cache,
                        check_placement=wanted.check_placement,
                    )
        _add_graph(section, self.config.graph)
        return section


class _Opened(NamedTuple):
    """A checked section, the key of its features if it has them, and its open image, which the stack closes."""

    section: AnnData
    key: str | None
    slide: Slide | None
    stack: ExitStack


def _features_key(section: AnnData, wanted: FeaturesConfig) -> str | None:
    """Find the key of the wanted features, the usual key or the user's own; None if they are missing."""
    for key in (Key.obsm.image, *section.obsm):
        # A prediction has an entry in uns with an encoder too, but without a patch size.
        known = section.uns.get(key)
        if (
            isinstance(known, Mapping)
            and key in section.obsm
            and _names(str(known.get("encoder"))) == _names(wanted.encoder)
            and np.isclose(float(known.get("patch_um", np.nan)), wanted.patch_um)
        ):
            return key
    return None


def _names(encoders: str) -> list[str]:
    """Split the names of encoders, which are joined by commas."""
    return [name.strip() for name in encoders.split(",")]


def _add_graph(section: AnnData, config: GraphConfig) -> None:
    """Build the graph, or take the user's own, and write it under squidpy's default keys."""
    if config.mode == "given":
        connectivities, distances = graph_keys(section, config.neighbors_key)
        if "metric" in section.uns.get(config.neighbors_key, {}).get("params", {}):
            # Over such edges, genes would reach a prediction that must come from the image alone.
            raise DataError(
                f"section {section_name(section)!r}: uns['{config.neighbors_key}'] is a graph of features, as scanpy "
                "builds it from expression, not of positions; build one with sq.gr.spatial_neighbors_..., and name its "
                f"entry in {setting('graph.neighbors_key')}"
            )
        section.obsp[Key.obsp.connectivities] = section.obsp[connectivities]
        section.obsp[Key.obsp.distances] = section.obsp[distances]
        section.uns[Key.uns.neighbors] = section.uns.get(config.neighbors_key, {}) | {
            "connectivities_key": Key.obsp.connectivities,
            "distances_key": Key.obsp.distances,
        }
        return
    settings = config.model_dump(exclude={"neighbors_key"})
    if not has_graph(section, **settings):
        connect(section, **settings)


def _float_tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
