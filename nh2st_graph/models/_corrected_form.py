"""A network that corrects a regression in closed form, by as much as held-out sections allow."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.models._closed_form import PATIENTS, ClosedForm, correction_factor, correction_gain
from nh2st_graph.models._network import OF_TRAINING, Memory, Network
from nh2st_graph.nn import PatchEncoder

__all__ = ["CorrectedForm"]

logger = logging.getLogger("nh2st_graph")

#: Tensor of the memory with the factors of the correction, for training patients and for new ones.
_SIZE = "correction"


class CorrectedForm(Network):
    """A network whose prediction is that of a closed form, and a share of its own output.

    Without a closed form in its :attr:`memory`, its output is the prediction.
    """

    def __init__(self, settings: Any, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self._form: tuple[Memory, ClosedForm] | None = None

    @abstractmethod
    def decoded(self, data: Data, around: bool = True) -> Tensor:
        """Decode the expression of a section, ``(n_spots, n_genes)``; without neighbours if not ``around``."""

    @abstractmethod
    def correction(self, decoded: Tensor) -> Tensor:
        """Take off what was decoded what the closed form has too."""

    @abstractmethod
    def positive(self, expression: Tensor) -> Tensor:
        """Keep expression in its range."""

    def held_out_graphs(self, sections: Sequence[Data]) -> Sequence[Data]:
        """Add ``form``: what the closed form predicts of each spot from the image, ``(n_spots, n_genes)``."""
        form = self.closed_form
        if form is None:
            return sections
        graphs = [copy.copy(section) for section in sections]
        for graph in graphs:
            graph.form = form(graph)
        return graphs

    def prediction_hops(self, data: Data) -> int | None:
        """Reach of a spot's prediction by network and closed form, in edges; see :class:`Network`."""
        form, hops = self.closed_form, self.receptive_hops
        return hops if form is None or hops is None else max(hops, form.reach(data))

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image; see :class:`Network`."""
        return self._predict(data, around=True)

    def predict_alone(self, data: Data) -> Tensor:
        """Predict a whole section as if no spot had neighbours, ``(n_spots, n_genes)``."""
        return self._predict(data, around=False)

    def _predict(self, data: Data, around: bool) -> Tensor:
        form, size = self.closed_form, self._size(data)
        base = None
        if form is not None:
            base = (data.form if "form" in data else form(data)) if around else form.own(data)
            if not size:
                return self.positive(base)
        decoded = self.decoded(data, around)
        return self.positive(decoded if base is None else base + size * self.correction(decoded))

    @property
    def closed_form(self) -> ClosedForm | None:
        """The closed form that the network corrects; None without one."""
        if PATIENTS not in self.memory:
            return None
        if self._form is None or self._form[0] is not self.memory:
            self._form = self.memory, ClosedForm.restore(self.memory)
        return self._form[1]

    def recall(self, memory: Memory) -> None:
        """Take the closed form and the factors of its correction from a saved model; see :class:`Network`."""
        super().recall(memory)
        if self.config.closed_form:
            ClosedForm.restore(memory), memory[_SIZE]

    @torch.no_grad()
    def settle(self, folds: Sequence[tuple[Network, Sequence[Data]]]) -> None:
        """Choose how much of the network's correction is added, for training patients and for new ones.

        It is the factor, of 0 to 1, with the smallest squared error over the held-out sections, in units of each gene's
        variance; and 0 unless the error falls on more of them than by chance (one-sided, 95 %). Where only one kind of
        patient was held out, new patients get the factor of new ones, or 0; training patients get that of either.
        """
        if not self.config.closed_form:
            return
        gains: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for network, sections in folds:
            assert isinstance(network, CorrectedForm)
            for section in sections:
                gains[network.knows(section)].append(network._gain(section))
        known, new = correction_factor(gains[True] or gains[False]), correction_factor(gains[False])
        for network in (self, *(network for network, _ in folds)):
            network.memory[_SIZE] = torch.tensor([known, new])
        self.chosen |= {"correction": {"known": known, "new": new}}
        logger.info(
            "held-out sections add %s of the network's correction for training patients, and %s for others",
            *(f"{factor:.0%}" if factor else "nothing" for factor in (known, new)),
        )

    def knows(self, section: Data) -> bool:
        """Whether a section is of a training patient, so that it gets the regression for these."""
        form = self.closed_form
        return form is not None and form.knows(section)

    def _gain(self, section: Data) -> tuple[float, float]:
        form = self.closed_form
        assert form is not None
        image = Data(**{key: value for key, value in section.to_dict().items() if key not in OF_TRAINING})
        found = self.correction(self.decoded(image)), section.y - form(image), section.y
        # Of a sample of a large section, the spots that are scored.
        return correction_gain(*(each[section.seeds] if "seeds" in section else each for each in found))

    def _size(self, data: Data) -> float:
        """Give the factor of the correction; 1 until it is settled."""
        if _SIZE not in self.memory:
            return 1.0
        return float(self.memory[_SIZE][0 if self.knows(data) else 1])
