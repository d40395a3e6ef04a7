"""Settings of NH2ST-Graph, and the base of all methods' settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from nh2st_graph._errors import setting
from nh2st_graph._settings import Positive, Section, SettingError, Share

__all__ = ["MethodConfig", "ModelConfig"]


class MethodConfig(Section):
    """Base of methods' settings; a method's class adds its own settings, and fixes the value of ``name``.

    Attributes
    ----------
    name
        The method; see :func:`nh2st_graph.models.known_methods`.
    """

    name: str


class ModelConfig(MethodConfig):
    """Settings of NH2ST-Graph; see :class:`nh2st_graph.models.NH2STGraph`.

    Attributes
    ----------
    name
        The method. Other methods have other settings.
    closed_form
        Predict by ridge regressions into components, in closed form, and let the network learn what is left, as far as
        held-out sections want it; see :class:`nh2st_graph.models.ClosedForm`. Published: no.
    depth_power
        Power of the library size that weights training spots within training patients (``closed_form``).
    width
        Size of embeddings.
    n_components
        Principal components of the training expression that are predicted (``decoder: components``). The closed form
        takes twice as many, and leaves out those that held-out parts do not predict.
    n_hidden
        Hidden units of the other decoders.
    embedding
        ``residual``: a linear path plus a perceptron; ``linear``: the linear path alone, as published.
    query, neighbours
        Whether there are embeddings of the spot and of its neighbourhood, to decode and to contrast.
    operator
        Operator of message passing in the neighbour branch; see :data:`nh2st_graph.nn.OPERATORS`. The published
        ``hypergraph_ego`` has a hypergraph for each neighbourhood, over raw image features.
    hops, heads
        Rounds of message passing, and attention heads of operators with attention.
    edge_features
        Edge features that attention reads; ``direction`` is distance and direction.
    self_loops, residual, activation
        Add each spot to its own senders; add the messages of a round to the state, and do not replace it; apply a ReLU
        after each round.
    jumping
        How rounds are joined (jumping knowledge): ``last``, ``sum``, ``max``, or ``cat``, a linear map of all.
    cross_attention
        Cross-attention between the modalities in training: ``neighbourhood`` attends to the other modality of the
        neighbouring spots; ``single`` to the spot's own embedding in the other modality, as published, which only an
        ``attended`` contrast reads.
    contrast
        Scales of the contrast between image and genes in training; ``both`` leaves out a branch that is off.
    contrast_on
        ``independent``: contrast embeddings that have not seen each other; ``attended``: after cross-attention, as
        published.
    symmetric, projection
        Contrast in both directions, and between projections of the embeddings. Published: neither.
    temperature, learn_temperature
        Temperature of the contrast, and whether it is learned, with a lower bound of 0.01.
    negatives, negative_weight
        Candidates besides a spot's partner: the ``batch`` (of one of 1,024 spots or more a random half, in groups of
        about 256), its whole ``section``, its section without its spatial neighbours (``distant``), or the 32 spots of
        other training sections with the nearest library size (``depth``; a step then embeds other sections too); and
        the factor on their logits (published: 0.1).
    weight_spot, weight_neighbourhood, weight_cross
        Weights of the losses, against a weight of 1 of the regression.
    decoder
        ``components``: principal components of expression; ``linear``: two linear layers, as published; ``mlp``: the
        same with a ReLU between them.
    decoder_input
        ``auto``: the embeddings of all branches that are on; ``gated``: their sum by a learned gate.
    regression
        ``mse``, ``huber``, ``pearson`` (1 - r), ``nb`` or ``zinb``: a (zero-inflated) negative binomial with the
        library size as offset.
    dropout
        Dropout of features, hidden units and attention weights.
    """

    renamed: ClassVar[Mapping[str, tuple[str, ...]]] = {"rank": ("n_components", "n_hidden")}

    name: Literal["nh2st_graph"] = "nh2st_graph"
    closed_form: bool = True
    depth_power: Annotated[float, Field(ge=0, le=1)] = 0.5
    width: Positive = 64
    n_components: Positive = 8
    n_hidden: Positive = 8
    embedding: Literal["residual", "linear"] = "residual"
    query: bool = True
    neighbours: bool = True
    operator: Literal[
        "attention",
        "gatv2",
        "transformer",
        "gcn",
        "sage",
        "hypergraph",
        "hypergraph_similarity",
        "hypergraph_ego",
        "global",
        "none",
    ] = "attention"
    hops: Annotated[int, Field(ge=1, le=3)] = 1
    heads: Positive = 4
    edge_features: Literal["none", "distance", "direction"] = "distance"
    self_loops: bool = False
    residual: bool = True
    activation: bool = False
    jumping: Literal["last", "sum", "max", "cat"] = "sum"
    cross_attention: Literal["none", "single", "neighbourhood"] = "neighbourhood"
    contrast: Literal["none", "spot", "neighbourhood", "both"] = "both"
    contrast_on: Literal["independent", "attended"] = "independent"
    symmetric: bool = True
    projection: bool = True
    temperature: Annotated[float, Field(gt=0)] = 0.1
    learn_temperature: bool = False
    negatives: Literal["batch", "section", "distant", "depth"] = "batch"
    negative_weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_spot: Annotated[float, Field(ge=0)] = 0.1
    weight_neighbourhood: Annotated[float, Field(ge=0)] = 0.1
    weight_cross: Annotated[float, Field(ge=0)] = 0.1
    decoder: Literal["components", "linear", "mlp"] = "components"
    decoder_input: Literal["auto", "query", "neighbourhood", "both", "gated"] = "auto"
    regression: Literal["mse", "huber", "nb", "zinb", "pearson"] = "mse"
    dropout: Share = 0.2

    @property
    def decoded(self) -> tuple[str, ...]:
        """Branches that the decoder reads: ``"query"``, ``"neighbourhood"``, or both."""
        on = {"query": self.query, "neighbourhood": self.neighbours}
        if self.decoder_input == "auto":
            return tuple(branch for branch, there in on.items() if there)
        return (self.decoder_input,) if self.decoder_input in on else tuple(on)

    @property
    def counts(self) -> bool:
        """Whether the regression is a likelihood of counts."""
        return self.regression in {"nb", "zinb"}

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.width % self.heads:
            raise SettingError(
                f"{setting('model.heads', self.heads)} does not divide {setting('model.width', self.width)}"
            )
        self._check_branches()
        self._check_operator()
        if self.contrast != "none" and self.contrast_on == "attended" and self.cross_attention == "none":
            raise SettingError(
                f"{setting('model.contrast_on', 'attended')} needs cross-attention, which "
                f"{setting('model.cross_attention', 'none')} turns off"
            )
        return self

    def _check_branches(self) -> None:
        if not (self.query or self.neighbours):
            raise SettingError(
                f"{setting('model.query', False)} and {setting('model.neighbours', False)}: the decoder needs one"
            )
        for scale, key, on in (("spot", "query", self.query), ("neighbourhood", "neighbours", self.neighbours)):
            if self.contrast == scale and not on:
                raise SettingError(
                    f"{setting('model.contrast', scale)} reads a branch that {setting(f'model.{key}', False)} turns off"
                )
            if not on and {"spot": "query"}.get(scale, scale) in self.decoded:
                raise SettingError(
                    f"{setting('model.decoder_input', self.decoder_input)} reads the branch that "
                    f"{setting(f'model.{key}', False)} turns off"
                )

    def _check_operator(self) -> None:
        if not self.neighbours:
            return
        if self.edge_features != "none" and self.operator not in {"attention", "gatv2", "transformer"}:
            raise SettingError(
                f"{setting('model.operator', self.operator)} does not read "
                f"{setting('model.edge_features', self.edge_features)}; give {setting('model.edge_features', 'none')}"
            )
        if self.operator == "hypergraph_ego" and self.hops != 1:
            raise SettingError(
                f"{setting('model.operator', 'hypergraph_ego')} reads each neighbourhood by itself, and "
                f"{setting('model.hops', self.hops)} is more; give {setting('model.hops', 1)}"
            )
