"""Interface of methods: a network that the training loop trains, or an estimator that fits itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import PatchEncoder

__all__ = ["EMBEDDINGS", "OF_TRAINING", "Estimator", "Memory", "Network"]

#: Names of the embeddings of image and genes in :meth:`Network.embeddings`, at each scale.
EMBEDDINGS = {"spot": ("image", "gene"), "neighbourhood": ("image_neighbourhood", "gene_neighbourhood")}

#: Attributes of a graph that only training has: measured genes, what was made of them, and other views of the image.
OF_TRAINING = frozenset({"y", "counts", "library", "scores", "base", "x_views", "same_depth"})

#: Tensors that a method keeps of the training sections for prediction, by name.
Memory = dict[str, Tensor]


class Network(nn.Module, ABC):
    """A method that is a network, which the training loop trains.

    A section is a :class:`torch_geometric.data.Data` with ``x``, image features ``(n_spots, n_features)``; ``pos``,
    positions in array pitches ``(n_spots, 2)``; ``array``, array positions ``(n_spots, 2)`` int64, x then y, if the
    assay has an array; ``edge_index`` and ``edge_attr``, the spatial graph; ``section``, its name. In training it also
    has ``y``, targets ``(n_spots, n_genes)``, and ``counts`` and ``library`` for likelihoods of counts.

    Parameters
    ----------
    settings
        The method's own settings: ``model.*`` of the configuration.
    n_features
        Size of a spot's image features.
    n_genes
        Size of the panel.
    patch_encoder
        Computes image features from ``patches``, and is trained with the rest; None if features are given.

    Attributes
    ----------
    Settings
        Class of the settings, a subclass of :class:`~nh2st_graph.models.MethodConfig`, whose default ``name`` is that
        of the method. A method without settings leaves this out.
    needs
        Requirements of a section; ``"array"`` is known.
    reads_rows
        Whether it trains on sections whose values are :class:`~nh2st_graph.nn.Rows`; others get tensors.
    threaded
        Whether :meth:`losses` may run on several threads at a time: all it draws is from
        :func:`nh2st_graph.nn.own_generator`.
    loss_parts
        Names of what :meth:`losses` may return besides ``loss``: columns of ``log.csv``, in this order. Other parts get
        columns when they first occur.
    alignment_parts
        Names of what :meth:`alignment` may return: columns of ``log.csv`` that start with ``val_``.
    published
        Keys of the configuration, beside the method's own settings, that the authors' code has otherwise than the
        defaults of this package: the logarithm of targets, the centres of patches, the decay of the learning rate.
    log_base
        Base of the logarithm that the weights of its authors predict (``from_original``); None for weights that were
        trained here, which predict that of ``data.log_base``.
    n_features, n_genes
        As given.
    memory
        Tensors of the training sections that prediction reads, such as a bank for retrieval; saved with the weights.
    chosen
        Hyper-parameters that the method chose on training sections, for the record.
    threads
        Threads of the CPU that :meth:`prepare` may use; no number depends on it.
    compared
        Spots of each training graph that the losses of every batch read, set by :meth:`training_graphs`; empty if none.
    """

    Settings: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    loss_parts: ClassVar[tuple[str, ...]] = ()
    alignment_parts: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[Mapping[str, Any]] = {}
    log_base: Any = None
    reads_rows: ClassVar[bool] = False
    threaded: bool = False
    threads: int = 1

    def __init__(self, settings: Any, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None) -> None:
        super().__init__()
        self.config = settings
        self.n_features, self.n_genes = n_features, n_genes
        self.patch_encoder = patch_encoder
        self.memory: Memory = {}
        self.chosen: dict[str, Any] = {}
        self.compared: Sequence[Tensor] = ()

    @property
    def receptive_hops(self) -> int | None:
        """Reach of a spot's loss in edges; 0 for the spot itself, None for the whole section."""
        return None

    def prediction_hops(self, data: Data) -> int | None:
        """Reach of a spot's prediction in a section, in edges; None for the whole section."""
        del data
        return self.receptive_hops

    def image_input(self, data: Data) -> Tensor:
        """Give the input of a section's image: patches if they are encoded here, else features."""
        if self.patch_encoder is None:
            return data.x
        return data.encoded if "encoded" in data else data.patches

    def features(self, data: Data) -> Tensor:
        """Compute image features of a section's spots, ``(n_spots, n_features)`` float."""
        given = self.image_input(data)
        encoded: Tensor = given.float() if self.patch_encoder is None else self.patch_encoder(given)
        return encoded

    def encoded(self, data: Data) -> Data:
        """Give a section with what several calls would encode again; by default as it is."""
        return data

    def prepare(self, sections: Sequence[Data]) -> None:
        """Compute what is fixed before training from the training sections, such as the scale of the targets."""

    def training_graphs(self, sections: Sequence[Data]) -> Sequence[Data]:
        """Give the training sections with what the losses read beside; called after :meth:`prepare` on the same ones.

        What is added must be named in :data:`OF_TRAINING`, so that no prediction sees it.
        """
        return sections

    def compare_with(self, sections: Sequence[Data]) -> None:
        """Take what the losses of every batch read of other sections; called before training, and with none after.

        Parameters
        ----------
        sections
            The training graphs, each cut to ``seeds``, its spots in :attr:`compared`, and their surroundings.
        """

    def held_out_graphs(self, sections: Sequence[Data]) -> Sequence[Data]:
        """Give held-out sections with what does not change while the network learns, to compute it once."""
        return sections

    def settle(self, folds: Sequence[tuple[Network, Sequence[Data]]]) -> None:
        """Set what held-out sections decide after training; by default nothing.

        Parameters
        ----------
        folds
            The trained network of each fold, and the sections that it did not see, with targets. It sets what it sets
            here on these networks too.
        """

    def check(self, data: Data) -> None:
        """Raise a DataError if the method cannot read a section, with genes or without; called before training."""

    @abstractmethod
    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the losses of a training step.

        Parameters
        ----------
        data
            Spots of one section with targets, and ``seeds``, ``(n_seeds,)``: indices of the spots of the losses. Other
            spots are their surroundings (:attr:`receptive_hops`).

        Returns
        -------
        ``loss``, which is minimised, and its parts by name.
        """

    @abstractmethod
    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image.

        Parameters
        ----------
        data
            A section **without** ``y``, ``counts`` and ``library``.

        Returns
        -------
        ``(n_spots, n_genes)``, in units of the targets.
        """

    def remember(self, sections: Sequence[Data]) -> None:
        """Fill :attr:`memory` from the training sections; called before every validation and after training."""

    def recall(self, memory: Memory) -> None:
        """Take :attr:`memory` from a saved model.

        Raises
        ------
        KeyError
            If it lacks a tensor that prediction needs.
        """
        self.memory = memory

    def alignment(self, data: Data) -> dict[str, float]:
        """Score how well a held-out section's genes are found from its image (``retrieval_spot``); empty by default."""
        del data
        return {}

    def embeddings(self, data: Data) -> dict[str, Tensor]:
        """Embed a section's spots.

        Returns
        -------
        ``image``, ``(n_spots, width)``; ``gene`` if ``data`` has targets; and ``image_neighbourhood`` and
        ``gene_neighbourhood`` of a method that embeds neighbourhoods. Empty by default.
        """
        del data
        return {}


class Estimator(ABC):
    """A method that fits itself, by scikit-learn or any other library.

    Parameters
    ----------
    settings
        The method's own settings: ``model.*`` of the configuration.
    seed
        Seed of the method.

    Attributes
    ----------
    Settings, needs, reads_rows
        As in :class:`Network`.
    random
        Whether the fit depends on the seed.
    baseline
        Whether a benchmark counts the method among the baselines that others are compared with.
    chosen
        Hyper-parameters that the fit chose, for the record.
    """

    Settings: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    reads_rows: ClassVar[bool] = False
    random: ClassVar[bool] = False
    baseline: ClassVar[bool] = False

    def __init__(self, settings: Any, seed: int = 0) -> None:
        self.config, self.seed = settings, seed
        self.chosen: dict[str, Any] = {}

    @abstractmethod
    def fit(self, sections: Sequence[Data]) -> None:
        """Fit on training sections, as described in :class:`Network`; choose hyper-parameters on these alone."""

    @abstractmethod
    def predict(self, section: Data) -> NDArray[Any]:
        """Predict a section without targets, ``(n_spots, n_genes)``."""

    def memory(self) -> Memory | None:
        """Give tensors for :meth:`restore`; None if the estimator cannot be saved."""
        return None

    def restore(self, memory: Memory) -> None:
        """Restore the estimator that gave ``memory``. A class has both methods or none."""
        raise ModelError(f"{type(self).__name__} has memory() and no restore(); define both, or it cannot be loaded")
