"""EGGN: message passing over spots and their most similar training spots."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import scatter

from nh2st_graph._errors import setting
from nh2st_graph._settings import Positive, SettingError
from nh2st_graph.models._exemplars import ExemplarConfig, ExemplarGuided, nearest_others
from nh2st_graph.models._registry import register_method
from nh2st_graph.nn import PatchEncoder

__all__ = ["EGGN", "EGGNConfig", "ExemplarConv"]

#: Slope of every leaky ReLU below zero.
_SLOPE = 0.2

#: Scale of the scores of the final attention over exemplars, and its initial weight.
_POOL_SHARPNESS, _POOL_WEIGHT = 0.1, 0.1


class EGGNConfig(ExemplarConfig):
    """EGGN's settings, as in the authors' code; see :class:`nh2st_graph.models.EGGN`.

    Attributes
    ----------
    name
        The method.
    k
        Number of exemplars of a spot.
    similarity, weight_correlation
        See :class:`nh2st_graph.models.ExemplarGuided`.
    n_close
        Number of exemplars that each exemplar reads: the nearest by features and scaled expression together.
    width, depth
        Size of embeddings, and rounds of message passing.
    width_gate
        Number of gates of a message in each direction; divides three times ``width``.
    exemplar_values
        Values that exemplars send in addition to their embedding. ``hidden``, as published: as many last units of their
        first embedding as there are genes; ``expression``: their expression, as the name in the code says.
    """

    name: Literal["eggn"] = "eggn"
    k: Positive = 6
    n_close: Positive = 3
    width: Positive = 512
    depth: Positive = 4
    width_gate: Positive = 128
    exemplar_values: Literal["hidden", "expression"] = "hidden"

    @model_validator(mode="after")
    def _check(self) -> EGGNConfig:
        if 3 * self.width % self.width_gate:
            raise SettingError(
                f"{setting('model.width_gate', self.width_gate)} does not divide three times "
                f"{setting('model.width', self.width)}"
            )
        return self


@register_method
class EGGN(ExemplarGuided):
    r"""EGGN (Yang et al., Pattern Recognition 2024, 145:109966), as in the authors' code (``Yan98/EGN``, ``v2``).

    The nodes of a section are its spots, joined by the spatial graph, and all of their exemplars. An exemplar reads its
    ``n_close`` nearest exemplars, and has edges with its spots. Spots start as :math:`\phi(W x_i)`, and exemplars as
    :math:`\phi(W' [x_j, y_j])` of features and scaled expression. In every round

    .. math::
        h_i \leftarrow \operatorname{LReLU}\big(\tfrac12 \operatorname{SAGE}(h, E)_i + \tfrac12 u_i\big), \qquad
        r_j \leftarrow \operatorname{LReLU}\big(\tfrac12 \operatorname{SAGE}'(r, E')_j + \tfrac12 w_j\big)

    where :math:`u` and :math:`w` are messages between spots and exemplars (:class:`ExemplarConv`). At the end,
    attention adds the embeddings of its exemplars to each spot's, and the prediction is linear. Loss and scaling of the
    targets are those of :class:`ExemplarGuided`. All nodes of a section influence each other, so that a step is a
    section: set ``train.batch_spots`` to its number of spots at least.

    The authors train 300 epochs by AdamW at a learning rate of 5e-4 and a weight decay of 1e-4, and keep the weights
    with the best score on the test sections. Their features are those of ResNet-18. Sizes, constants and the order of
    operations follow the code.

    Oddities of the published form, with the switch for each:

    - The code cuts the exemplars' expression from a variable that holds their embedding by then, and applies the
      activation to it once more in each round: ``exemplar_values``.
    - Exemplars are found by L1 distance; here by ``similarity``, which does not include it.
    - Spots are neighbours if their pixel positions, divided by 256 and rounded down, are adjacent, and at most the five
      neighbours with the lowest indices are kept. Here ``graph.*`` defines the graph.
    - A message is the mean of three gated parts of equal size; consecutive biases are one bias here.
    - In the final attention, the term of the spot cancels in the softmax, which depends on the exemplars alone. No
      switch.
    - A gene that is constant in a batch has a correlation of 0 in the authors' loss; here it is left out.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[EGGNConfig]] = EGGNConfig
    config: EGGNConfig

    def __init__(
        self, settings: EGGNConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        width = settings.width
        self.spot = nn.Linear(n_features, width, bias=False)
        self.exemplar = nn.Linear(n_features + n_genes, width, bias=False)
        self.shared = nn.Linear(width, width, bias=False)
        n_values = n_genes if settings.exemplar_values == "expression" else min(n_genes, width)
        self.values = nn.Linear(n_values, width, bias=False)
        self.near = nn.ModuleList(SAGEConv(width, width) for _ in range(settings.depth))
        self.close = nn.ModuleList(SAGEConv(width, width) for _ in range(settings.depth))
        self.refer = nn.ModuleList(ExemplarConv(width, settings.width_gate) for _ in range(settings.depth))
        self.score = nn.Linear(width, width)
        self.pool_weight = nn.Parameter(torch.tensor(_POOL_WEIGHT))
        self.head = nn.Linear(width, n_genes)

    def estimate(self, data: Data, exemplars: Tensor, spots: Tensor) -> Tensor:
        """Estimate the scaled expression of all spots together; see :class:`ExemplarGuided`."""
        numbers, place = exemplars.unique(return_inverse=True)
        nodes = torch.cat(self.bank(numbers), dim=1)
        senders = nearest_others(nodes, self.config.n_close)
        receivers = torch.arange(len(nodes), device=nodes.device).repeat_interleave(senders.shape[1])
        estimated: Tensor = self(
            self.features(data).to(nodes),
            nodes,
            place.to(nodes.device),
            data.edge_index,
            torch.stack([senders.flatten(), receivers]),
        )
        return estimated[spots]

    def forward(self, x: Tensor, nodes: Tensor, place: Tensor, edge_index: Tensor, close: Tensor) -> Tensor:
        """Estimate the scaled expression of all spots of a section.

        Parameters
        ----------
        x
            Image features of the spots, ``(n_spots, n_features)``.
        nodes
            Image features and scaled expression of the exemplars, ``(n_exemplars, n_features + n_genes)``.
        place
            Indices of a spot's exemplars, ``(n_spots, k)``.
        edge_index, close
            Edges between spots and between exemplars, ``(2, n_edges)``, sender and receiver.

        Returns
        -------
        ``(n_spots, n_genes)``.
        """
        hidden = self.config.exemplar_values == "hidden"
        h, r = self._embedded(self.spot(x)), self._embedded(self.exemplar(nodes))
        values = self.values((r if hidden else nodes)[:, -self.values.in_features :])
        for near, close_by, refer in zip(self.near, self.close, self.refer, strict=True):
            told, told_back = refer(h, r, values, place)
            h, r = (near(h, edge_index) + told) / 2, (close_by(r, close) + told_back) / 2
            h, r = F.leaky_relu(h, _SLOPE), F.leaky_relu(r, _SLOPE)
            values = F.leaky_relu(values, _SLOPE) if hidden else values
        read = r[place]
        attended = (read * (_POOL_SHARPNESS * read).softmax(dim=1)).sum(dim=1)
        estimated: Tensor = self.head(self.score(h) + self.pool_weight * attended)
        return estimated

    def _embedded(self, h: Tensor) -> Tensor:
        return F.leaky_relu(self.shared(F.leaky_relu(h, _SLOPE)), _SLOPE)


class ExemplarConv(nn.Module):
    r"""The exemplar block: gated messages between exemplars and their spots.

    For spots' embeddings :math:`a_i = \operatorname{LReLU}(A h_i)`, exemplars' :math:`b_j = \operatorname{LReLU}(B
    r_j)` and values :math:`c_j = C v_j`, with exemplars :math:`N(i)` of spot :math:`i`,

    .. math::
        [\alpha_{ij}, \beta_{ij}] &= \sigma\big(S \operatorname{LReLU}(D b_j - D a_i)\big) \\
        u_i &= U \operatorname{mean}_{j \in N(i)} \alpha_{ij} * [b_j, c_j, a_i], \qquad
        w_j = W \operatorname{mean}_{i: j \in N(i)} \beta_{ij} * [a_i, b_j, c_j]

    where :math:`*` scales consecutive parts of equal size of the joined vectors by the gates, and averages the three
    vectors.

    Parameters
    ----------
    width
        Size of embeddings.
    width_gate
        Number of gates; divides three times ``width``.

    Shapes
    ------
    - **input:** spots ``(n, width)``, exemplars and values ``(m, width)``, place ``(n, k)``
    - **output:** ``(n, width)`` for spots and ``(m, width)`` for exemplars
    """

    def __init__(self, width: int, width_gate: int) -> None:
        super().__init__()
        self.repeats = 3 * width // width_gate
        self.spot = nn.Linear(width, width, bias=False)
        self.exemplar = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.compare = nn.Linear(width, width_gate, bias=False)
        self.gate = nn.Linear(width_gate, 2 * width_gate)
        self.to_spot = nn.Linear(width, width)
        self.to_exemplar = nn.Linear(width, width)
        for linear in self.children():
            assert isinstance(linear, nn.Linear)
            nn.init.trunc_normal_(linear.weight, std=0.02)
        for linear in (self.to_spot, self.to_exemplar):
            nn.init.zeros_(linear.bias)

    def forward(self, spots: Tensor, exemplars: Tensor, values: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Send messages in both directions. See the class for shapes."""
        a, b = F.leaky_relu(self.spot(spots), _SLOPE), F.leaky_relu(self.exemplar(exemplars), _SLOPE)
        difference = self.compare(b)[place] - self.compare(a).unsqueeze(1)
        to_spot, to_exemplar = self.gate(F.leaky_relu(difference, _SLOPE)).sigmoid().chunk(2, dim=-1)
        of_spot = a.unsqueeze(1).expand(-1, place.shape[1], -1)
        of_exemplar = torch.cat([b, self.value(values)], dim=-1)[place]
        told = self._gated(to_spot, torch.cat([of_exemplar, of_spot], dim=-1)).mean(dim=1)
        back = self._gated(to_exemplar, torch.cat([of_spot, of_exemplar], dim=-1))
        told_back = scatter(back.flatten(end_dim=1), place.flatten(), dim_size=len(exemplars), reduce="mean")
        return self.to_spot(told), self.to_exemplar(told_back)

    def _gated(self, gates: Tensor, joined: Tensor) -> Tensor:
        return (gates.repeat_interleave(self.repeats, dim=-1) * joined).unflatten(-1, (3, -1)).mean(dim=-2)
