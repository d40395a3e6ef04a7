"""Prepare each section once, with features, graph and targets."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph.config import Config
from nh2st_graph.gr._pyg import as_data
from nh2st_graph.im._made_from import Fingerprint, other_encoders, stored_encoders
from nh2st_graph.models import OF_TRAINING
from nh2st_graph.nn import LARGE, Rows
from nh2st_graph.section import (
    Key,
    Need,
    as_dense,
    check_parts,
    check_section,
    counts_mistake,
    find_genes,
    library_size,
    named_patients,
    panel_counts,
    panel_matrix,
    section_digest,
    section_name,
    target_matrix,
    targets,
)
from nh2st_graph.train._complete import Completed, Completer, Sources
from nh2st_graph.train._encoder import section_patches
from nh2st_graph.train._panel import choose_panel
from nh2st_graph.train._quality import good_spots, with_quality
from nh2st_graph.train._stain import learned_stain
from nh2st_graph.train._standardize import Standardizer

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = ["Learned", "Preparation", "PreparedSection", "image_only"]

logger = logging.getLogger("nh2st_graph")

#: Below this many spots, a section's own mean and standard deviation say little about its stain.
_FEW_SPOTS = 20


def image_only(graph: Data) -> Data:
    """Return a graph without its genes: a prediction may read nothing else. Nor does it see other stains."""
    return Data(**{key: value for key, value in graph.to_dict().items() if key not in OF_TRAINING})


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
    _completer: Completer = field(repr=False)

    @classmethod
    def of(
        cls,
        config: Config,
        genes: Sequence[str],
        standardize: Standardizer,
        sources: Sources | None = None,
        encoders: Sequence[Fingerprint] | None = None,
        stain: StainReference | None = None,
    ) -> Preparation:
        """Make the preparation of a fitted model; see :class:`Completer` for the last three."""
        return cls(config, list(genes), standardize, Completer(config, sources, encoders, stain))

    @property
    def stain(self) -> StainReference | None:
        """Reference that the colours of patches are brought to."""
        return self._completer.stain

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
        checked: bool = False,
    ) -> Learned:
        """Learn a preparation from training sections, and prepare these and the test sections.

        Parameters
        ----------
        config
            The configuration.
        train
            Sections to learn from, by name. The panel, the stain reference and the statistics of features come from
            them.
        tests
            Sections to predict later. Only the names of their genes are read.
        genes
            The panel; None chooses it as ``config`` says.
        need, test_need
            What training and test sections must bring, beside what is computed here.
        checked
            The sections come from a reader, which has checked them.

        Raises
        ------
        DataError, ImageError
            If a section breaks the contract.
        ConfigError
            If the panel cannot be chosen, or an encoder cannot be made.
        """
        check = check_parts if checked else check_section
        for sections, needs in ((train, {"genes", *need}), (tests, set(test_need))):
            for section in sections.values():
                check(section, need=needs - {"image"})
        completer, with_views = Completer(config), config.features.stain_views > 0
        if config.data.bad_spots == "drop" or config.features.stain != "none" or with_views:
            completer.make_encoders([*train.values(), *tests.values()], for_views=with_views)
        if config.data.bad_spots == "drop":
            train = {name: good_spots(section) for name, section in train.items()}
            tests = {name: with_quality(section) for name, section in tests.items()}
        panel = list(genes) if genes is not None else choose_panel(train, tests, config.data)
        if not panel:
            raise DataError(f"{setting('genes')} is empty; name genes to predict, or leave it out")
        completer.stain = learned_stain(config.features.stain, train)
        config = completer.config
        train, tests = ({name: completer.kept(each) for name, each in part.items()} for part in (train, tests))
        with ExitStack() as stack:
            # Open all images before the first is encoded: encoding may take hours, and a missing image shows at once.
            opened = [
                stack.enter_context(completer.opened(train[name], "image" in need, for_views=with_views))
                for name in sorted(train)
            ]
            opened_tests = [
                stack.enter_context(completer.opened(section, "image" in test_need)) for section in tests.values()
            ]
            done = [completer.complete(each, with_views=with_views) for each in opened]
            done_tests = [completer.complete(each) for each in opened_tests]
        _check_same_encoders([each.section for each in (*done, *done_tests)])
        features = (each.section.obsm[Key.obsm.image] for each in done)
        standardize = Standardizer.fit(features, config.features.standardize)
        self = cls(config, panel, standardize, completer)
        return Learned(
            self,
            [PreparedSection.of(each, train, self) for each in done],
            [PreparedSection.of(each, tests, self) for each in done_tests],
        )

    def kept(self, section: AnnData) -> AnnData:
        """Leave out the spots without features, if the configuration says so."""
        check_section(section)
        return self._completer.kept(section)

    def prepare(self, section: AnnData, need: Iterable[Need] = (), *, training: bool = False) -> PreparedSection:
        """Check a section, and compute its features and its graph if it lacks them.

        The given section does not change.

        Parameters
        ----------
        section
            One tissue section.
        need
            What it must bring, beside what is computed here.
        training
            Prepare it as for training: with ``data.bad_spots: drop``, bad spots are left out. Otherwise they are marked
            in ``obs``.

        Raises
        ------
        DataError, ImageError
            If the section breaks the contract.
        ConfigError
            If an encoder cannot be made.
        """
        needs = set(need)
        check_section(section, need=needs - {"image"})
        if self.config.data.bad_spots == "drop":
            self._completer.make_encoders([section])
            section = good_spots(section) if training else with_quality(section)
        with self._completer.opened(section, "image" in needs) as opened:
            return PreparedSection(self._completer.complete(opened).section, section.obs_names, self)

    def with_features(
        self, section: AnnData, features: NDArray[Any], entry: Mapping[str, Any] | None = None
    ) -> PreparedSection:
        """Prepare a section with features that its caller has: those of the model's encoder, whatever made them.

        No image is opened. The given section does not change.

        Parameters
        ----------
        section
            One tissue section; its genes are not read.
        features
            ``(n_spots, n_features)``, in the order of the section.
        entry
            What is known of them, as ``uns["X_image"]`` describes features.

        Raises
        ------
        DataError
            If the section breaks the contract, the features are not numbers, or the model's are others in number.
        """
        check_section(section)
        return PreparedSection(self._completer.taken(section, features, entry or {}), section.obs_names, self)


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
    views
        Features of a training section in other stains, ``(n_spots, n_views, n_features)``, if they are wanted.
    """

    section: AnnData
    spots: pd.Index
    preparation: Preparation
    views: NDArray[np.float32 | np.uint8] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, done: Completed, given: Mapping[str, AnnData], preparation: Preparation) -> PreparedSection:
        """Take a completed section, which was one of the given."""
        return cls(done.section, given[section_name(done.section)].obs_names, preparation, done.views)

    @property
    def name(self) -> str:
        """Name of the section."""
        return section_name(self.section)

    @property
    def is_large(self) -> bool:
        """Whether the graph reads its values where a batch asks for them (:class:`~nh2st_graph.nn.Rows`)."""
        return self.section.n_obs >= LARGE

    @cached_property
    def graph(self) -> Data:
        """The graph that a model reads: the image side, as from :func:`nh2st_graph.gr.to_pyg`, with ``patient``.

        A section whose patient is unknown has no ``patient``: two sections of the same name may be of two patients.
        If the encoder is fine-tuned, the graph also has ``patches``, ``(n_spots, size, size, 3)`` uint8. With views in
        other stains, a training section has ``x_views``, ``(n_spots, n_views, n_features)``, each view standardised
        like the section.

        Raises
        ------
        DataError
            If the number of features is not that of the model, or the section is a single spot that cannot be
            standardised.
        """
        config, standardize = self.preparation.config, self.preparation.standardize
        if standardize.mean is None:
            self._refuse_one_spot()
        features = np.asanyarray(self.section.obsm[Key.obsm.image])
        if features.dtype != np.uint8 and not self.is_large:
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
        if self.views is not None:
            values["x_views"] = np.stack([standardize(view) for view in self.views.swapaxes(0, 1)], axis=1)
        x = standardize.rows(features) if self.is_large else standardize(features)
        graph = as_data(self.section, x, neighbors_key=Key.uns.neighbors, **values)
        patient = named_patients(self.section)
        if patient is not None:
            graph.patient = patient
        graph.x_groups, names = _groups(self.section.uns[Key.uns.image], features.shape[1])
        if names:
            # As text: PyG takes a list of as many names as there are spots for values of spots.
            graph.encoders = "\n".join(names)
        return graph

    @cached_property
    def digest(self) -> dict[str, str]:
        """Digests of the section's content; see :func:`nh2st_graph.section.section_digest`."""
        return section_digest(self.section)

    @cached_property
    def lacks(self) -> str | None:
        """Why the genes of the panel cannot all be read; None if they can."""
        mistake = counts_mistake(self.section)
        if mistake is not None:
            return str(DataError(mistake))
        genes = self.preparation.genes
        positions = find_genes(self.section, genes).positions
        absent = [gene for gene, place in zip(genes, positions, strict=True) if place < 0]
        return f"it lacks {len(absent)} of {len(genes)} genes of the panel ({listed(absent)})" if absent else None

    @cached_property
    def has_panel(self) -> bool:
        """Whether all genes of the panel were measured, and ``X`` holds their counts; a warning says why not."""
        if self.lacks is None:
            find_genes(self.section, self.preparation.genes).log(self.name)
        elif self.section.n_vars and Key.uns.prediction not in self.section.uns:
            logger.warning("section %r: its genes are not used, for %s", self.name, self.lacks)
        return self.lacks is None

    @cached_property
    def target(self) -> sparse.csr_matrix | NDArray[np.float32]:
        """Targets of a large section, as :func:`~nh2st_graph.section.target_matrix` gives them."""
        return target_matrix(self.section, self.preparation.genes, **self.preparation.config.data.target)

    @cached_property
    def observed(self) -> pd.DataFrame:
        """Targets, spots x genes of the panel; float64, and float32 of a large section.

        Raises
        ------
        DataError
            If a gene of the panel was not measured, or targets cannot be smoothed.
        """
        genes = self.preparation.genes
        _ = self.library  # it warns
        if self.is_large:
            return pd.DataFrame(as_dense(self.target), self.section.obs_names, list(genes))
        return targets(self.section, genes, **self.preparation.config.data.target)

    @cached_property
    def library(self) -> NDArray[np.floating[Any]]:
        """Library size that targets are relative to, of all genes or of the panel, ``(n_spots,)``.

        A warning counts the spots without counts.
        """
        by_panel = self.preparation.config.data.normalize == "panel"
        if by_panel:
            library = np.asarray(panel_matrix(self.section, self.preparation.genes).sum(axis=1)).ravel()
        else:
            library = library_size(self.section)
        n = int((library == 0).sum())
        if n:
            logger.warning(
                "section %r: %d of %d spots have no counts%s, and count as measured zeros of all genes where genes are "
                "read; leave out those where nothing was measured",
                self.name,
                n,
                self.section.n_obs,
                " of the panel" if by_panel else "",
            )
        return library

    def observed_of(self, genes: slice) -> NDArray[np.floating[Any]]:
        """Targets of some genes of the panel, ``(n_spots, n)``; of a large section, the others stay sparse."""
        return as_dense(self.target[:, genes]) if self.is_large else self.observed.to_numpy()[:, genes]

    @cached_property
    def measured(self) -> Data:
        """The graph with the measured genes.

        It also holds ``y`` (targets) and ``counts``, both ``(n_spots, n_genes)``, and ``library``, ``(n_spots, 1)``,
        the library size that targets are relative to. Values of a large section (:attr:`is_large`) are sparse.

        Raises
        ------
        DataError
            As :attr:`graph` and :attr:`observed`, and for a single spot, which shows no relation to other spots.
        """
        self._refuse_one_spot()
        graph = Data(**self.graph.to_dict())
        if self.is_large:
            graph.y, graph.counts = Rows(self.target), Rows(panel_matrix(self.section, self.preparation.genes))
        else:
            counts = panel_counts(self.section, self.preparation.genes).to_numpy()
            graph.y, graph.counts = _float_tensor(self.observed.to_numpy()), _float_tensor(counts)
        # Over the genes that targets are relative to, so that library size and targets give expected counts.
        graph.library = _float_tensor(self.library[:, None])
        return graph

    def _refuse_one_spot(self) -> None:
        if self.section.n_obs == 1:
            raise DataError(
                f"section {self.name!r}: one spot alone cannot be trained on, scored, or, with "
                f"{setting('features.standardize', 'section')}, predicted; leave it out, or give the whole section"
            )


def _check_same_encoders(sections: Sequence[AnnData]) -> None:
    """Refuse stored features of encoders that have the same name and other weights."""
    known = [(section, stored_encoders(section.uns[Key.uns.image])) for section in sections]
    there = [(section, each) for section, each in known if each is not None]
    for section, now in there[1:]:
        first, before = there[0]
        other = other_encoders(before, now)
        if other:
            raise DataError(
                f"sections {section_name(first)!r} and {section_name(section)!r}: their image features are of other "
                f"encoders ({', '.join(other)}); compute them again with one: ng.im.features(adata)"
            )


def _groups(entry: Mapping[str, Any], n_features: int) -> tuple[Tensor, list[str]]:
    """Number each feature by its encoder, whatever its scale, ``(1, n_features)``, and name the encoders."""
    names = [str(name) for name in np.atleast_1d(entry.get(Key.features.encoders, ()))]
    sizes = [int(size) for size in np.atleast_1d(entry.get(Key.features.n_features, ()))]
    if len(names) != len(sizes) or sum(sizes) != n_features:
        return torch.zeros(1, n_features, dtype=torch.int64), []
    order = list(dict.fromkeys(names))
    return torch.tensor([order.index(name) for name in names]).repeat_interleave(torch.tensor(sizes))[None], order


def _float_tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
