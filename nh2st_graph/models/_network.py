"""What the harness asks of a method: a network that its loop trains, or an estimator that fits itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import PatchEncoder

__all__ = ["EMBEDDINGS", "Estimator", "Memory", "Network"]

#: What :meth:`Network.embeddings` calls the embeddings of an image and of its genes, at each scale.
EMBEDDINGS = {"spot": ("image", "gene"), "neighbourhood": ("image_neighbourhood", "gene_neighbourhood")}

#: What a method keeps of the training sections to predict with, by name.
Memory = dict[str, Tensor]


class Network(nn.Module, ABC):
    """A method that is a network, trained by the harness's loop.

    A section is a :class:`torch_geometric.data.Data` with ``x``, image features ``(n_spots, n_features)``; ``pos``,
    positions in array pitches ``(n_spots, 2)``; ``array``, array positions ``(n_spots, 2)`` int64, x then y, where the
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
        Makes the image features from ``patches``, and is trained with the rest; None where features are given.

    Attributes
    ----------
    Settings
        Class of the settings, a subclass of :class:`~nh2st_graph.models.MethodConfig`; the default of its ``name`` is
        the method's. A method without settings of its own leaves this out.
    needs
        What a section must have: any of ``"array"``.
    loss_parts
        What :meth:`losses` may return beside ``loss``: columns of ``log.csv``, in this order. Parts that are not named
        here get their columns when they first occur.
    alignment_parts
        What :meth:`alignment` may return. Their columns begin with ``val_``.
    n_features, n_genes
        As given.
    memory
        What prediction reads of the training sections, such as a bank to retrieve from; saved beside the weights.
    """

    Settings: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    loss_parts: ClassVar[tuple[str, ...]] = ()
    alignment_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Any, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None) -> None:
        super().__init__()
        self.config = settings
        self.n_features, self.n_genes = n_features, n_genes
        self.patch_encoder = patch_encoder
        self.memory: Memory = {}

    @property
    def receptive_hops(self) -> int | None:
        """How many edges away a spot's loss reaches; 0 for spots by themselves, None for all of the section."""
        return None

    def image_input(self, data: Data) -> Tensor:
        """What is read of a section's image: its patches where they are encoded here, else its features."""
        return data.x if self.patch_encoder is None else data.patches

    def features(self, data: Data) -> Tensor:
        """Image features of a section's spots, ``(n_spots, n_features)`` float."""
        given = self.image_input(data)
        encoded: Tensor = given.float() if self.patch_encoder is None else self.patch_encoder(given)
        return encoded

    def prepare(self, sections: Sequence[Data]) -> None:
        """Take from the training sections what is fixed before training, such as the scale of the targets."""

    def check(self, data: Data) -> None:
        """Raise a DataError where a section, with its genes or without, cannot be read; called before training."""

    @abstractmethod
    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the losses of a training step.

        Parameters
        ----------
        data
            Spots of one section with targets, and ``seeds``, ``(n_seeds,)``: the places of the spots on which losses
            are taken; the others are their surroundings (:attr:`receptive_hops`).

        Returns
        -------
        ``loss``, what is minimised, and its parts by name.
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
        ``(n_spots, n_genes)``, on the scale of the targets.
        """

    def remember(self, sections: Sequence[Data]) -> None:
        """Fill :attr:`memory` from the training sections; called before every validation and after training."""

    def alignment(self, data: Data) -> dict[str, float]:
        """How well a held-out section's genes are found from its image (``retrieval_spot``); nothing by default."""
        del data
        return {}

    def embeddings(self, data: Data) -> dict[str, Tensor]:
        """Embed a section's spots.

        Returns
        -------
        ``image``, ``(n_spots, width)``; ``gene`` where ``data`` has targets; and ``image_neighbourhood`` and
        ``gene_neighbourhood`` of a method that embeds neighbourhoods. Empty by default.
        """
        del data
        return {}


class Estimator(ABC):
    """A method that fits itself: of scikit-learn, or of any other library.

    Parameters
    ----------
    settings
        The method's own settings: ``model.*`` of the configuration.
    seed
        Of whatever is random.

    Attributes
    ----------
    Settings, needs
        As of :class:`Network`.
    random
        Whether what is fitted depends on the seed.
    chosen
        Hyper-parameters chosen in fitting, for the record.
    """

    Settings: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    random: ClassVar[bool] = False

    def __init__(self, settings: Any, seed: int = 0) -> None:
        self.config, self.seed = settings, seed
        self.chosen: dict[str, Any] = {}

    @abstractmethod
    def fit(self, sections: Sequence[Data]) -> None:
        """Learn from training sections, as described in :class:`Network`. Whatever is chosen is chosen on these."""

    @abstractmethod
    def predict(self, section: Data) -> NDArray[Any]:
        """Predict a section that has no targets, ``(n_spots, n_genes)``."""

    def memory(self) -> Memory | None:
        """Tensors from which :meth:`restore` makes the fitted estimator again; None where it cannot be saved."""
        return None

    def restore(self, memory: Memory) -> None:
        """Become the estimator that gave ``memory``. A class that has one of the two has both."""
        raise ModelError(f"{type(self).__name__} has memory() and no restore(); it needs both, to be loaded")
