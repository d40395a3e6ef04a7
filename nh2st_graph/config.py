"""The typed configuration: every key, its default, and what it may be.

A configuration is read from YAML, changed by ``--set key=value``, checked as a whole and written back
complete into the run folder. An unknown key or a wrong value is a :class:`~nh2st_graph.ConfigError` that
names the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from nh2st_graph._errors import ConfigError, nearest

__all__ = [
    "TARGET_SUM",
    "Config",
    "DataConfig",
    "FeaturesConfig",
    "GraphConfig",
    "ModelConfig",
    "SyntheticConfig",
    "TrainConfig",
    "builtin_config",
    "load_config",
]

#: Counts that a spot is scaled to before log1p (scanpy's convention), for targets and count likelihoods alike.
TARGET_SUM = 1e4

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    """A part of the configuration: unknown keys refused, values fixed after checking."""

    # YAML reads section names such as 1 and precisions such as 32 as numbers: both are names here.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class SyntheticConfig(_Section):
    """The synthetic tissue (``data.format: synthetic``); see :func:`nh2st_graph.datasets.synthetic_tissue`."""

    n_sections: Positive = 4
    n_rows: Annotated[int, Field(ge=6)] = 16
    n_cols: Annotated[int, Field(ge=6)] = 16
    n_own: Positive = 20
    n_neighbour: Positive = 20
    n_noise: Positive = 10
    seed: int = 0


class DataConfig(_Section):
    """Which sections, which genes, and what a target is.

    Attributes
    ----------
    format
        Layout of the files under ``root``.
    root
        Folder of the sections.
    train, test
        Names of sections. Without ``train``, all that are not tested are trained on.
    panel
        A file of gene symbols, one a line, or ``hvg:N``: the N genes that vary most over the training sections.
    missing_genes
        Whether a panel gene that a section lacks is an error, or dropped from the panel.
    normalize
        ``total``: library size over all genes to 1e4, log1p; ``panel``: over the panel's genes; ``residuals``: analytic
        Pearson residuals.
    smooth
        ``3x3`` averages a target with its up to eight array neighbours, in the test section too (NH2ST, TRIPLEX).
    synthetic
        The synthetic tissue, where ``format`` asks for it.
    """

    format: Literal["her2st", "visium", "h5ad", "synthetic"] = "h5ad"
    root: Path | None = None
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    panel: str = "hvg:250"
    missing_genes: Literal["fail", "drop"] = "fail"
    normalize: Literal["total", "panel", "residuals"] = "total"
    smooth: Literal["none", "3x3"] = "none"
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise ValueError(f"data.train and data.test share {', '.join(both)}; a test section is never trained on")
        return self


class FeaturesConfig(_Section):
    """How the image of a spot becomes numbers.

    Attributes
    ----------
    encoder
        Encoder names joined by commas; see :func:`nh2st_graph.im.features`.
    patch_um
        Side of a patch on the tissue, in um.
    standardize
        Features are scaled by each section's own statistics, or by those of the training sections.
    batch_size
        Patches encoded at a time.
    cache
        Folder of the feature cache; the user's cache folder where None.
    """

    encoder: str = "squidpy:summary+texture+histogram"
    patch_um: Annotated[float, Field(gt=0)] = 112.0
    standardize: Literal["section", "train"] = "section"
    batch_size: Positive = 64
    cache: Path | None = None


class GraphConfig(_Section):
    """The spatial graph; see :func:`nh2st_graph.gr.spatial_graph`."""

    mode: Literal["grid", "knn", "radius", "delaunay"] = "grid"
    n_rings: Positive = 1
    n_neighs: Positive | None = None
    radius_um: Annotated[float, Field(gt=0)] | None = None


class ModelConfig(_Section):
    """NH2ST-Graph and its switches; see :class:`nh2st_graph.models.NH2STGraph`.

    Attributes
    ----------
    width
        Size of embeddings.
    rank
        Number of principal components of the training expression that are predicted.
    query, neighbours
        Whether the decoder reads the spot's own embedding, and that of its neighbourhood.
    hops, heads
        Rounds of message passing, and attention heads in each.
    edge_features
        What attention sees of an edge; ``direction`` is distance and direction.
    cross_attention
        Attention of each modality over the other's embeddings of the neighbouring spots, in training.
    contrast
        Scales at which image and genes are contrasted, in training; ``both`` leaves out a branch that is off.
    contrast_on
        ``independent``: embeddings that have not seen each other; ``attended``: after cross-attention, as published.
    temperature
        Of the contrast.
    weight_spot, weight_neighbourhood, weight_cross
        Weights of the losses beside the regression's 1.
    regression
        ``mse``, or ``nb``: a negative binomial with the library size as offset.
    dropout
        Of features, hidden units and attention weights.
    """

    width: Positive = 64
    rank: Positive = 32
    query: bool = True
    neighbours: bool = True
    hops: Annotated[int, Field(ge=1, le=3)] = 1
    heads: Positive = 4
    edge_features: Literal["none", "distance", "direction"] = "direction"
    cross_attention: Literal["none", "neighbourhood"] = "neighbourhood"
    contrast: Literal["none", "spot", "neighbourhood", "both"] = "both"
    contrast_on: Literal["independent", "attended"] = "independent"
    temperature: Annotated[float, Field(gt=0)] = 0.1
    weight_spot: Annotated[float, Field(ge=0)] = 0.1
    weight_neighbourhood: Annotated[float, Field(ge=0)] = 0.1
    weight_cross: Annotated[float, Field(ge=0)] = 0.1
    regression: Literal["mse", "nb"] = "mse"
    dropout: Share = 0.2

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"model.heads ({self.heads}) does not divide model.width ({self.width})")
        if not (self.query or self.neighbours):
            raise ValueError("model.query and model.neighbours are both false; the decoder needs one of them")
        for scale, key, on in (("spot", "query", self.query), ("neighbourhood", "neighbours", self.neighbours)):
            if self.contrast == scale and not on:
                raise ValueError(f"model.contrast = {scale!r} contrasts a branch that is off: model.{key} is false")
        return self


class TrainConfig(_Section):
    """The training loop; see :func:`nh2st_graph.tl.fit`.

    Attributes
    ----------
    max_epochs, patience
        Most epochs of a fold, and for how many the held-out error may fail to improve before it stops.
    learning_rate, weight_decay
        Of AdamW.
    batch_spots
        Spots of a step, all of one section.
    average
        Decay of the weights' moving average, which is what is kept.
    validation, folds
        What is held out of the training data (sections, or bands of each) and in how many turns.
    refit
        Learn from all training sections once the number of epochs is chosen; otherwise keep the first fold's model.
    device, precision
        Where and how to compute; ``auto`` takes a GPU, with mixed precision, where there is one.
    progress
        Show progress bars.
    """

    max_epochs: Positive = 60
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    batch_spots: Positive = 64
    patience: Positive = 15
    average: Share = 0.98
    validation: Literal["section", "blocks"] = "section"
    folds: Annotated[int, Field(ge=2)] = 3
    refit: bool = True
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)] = "auto"
    progress: bool = True


class Config(_Section):
    """Everything that a run depends on. See the parts for the meaning of each key."""

    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    graph: GraphConfig = GraphConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.model.regression == "nb" and (self.data.normalize == "residuals" or self.data.smooth != "none"):
            raise ValueError(
                "model.regression = 'nb' needs counts: data.normalize must be total or panel "
                f"(is {self.data.normalize!r}) and data.smooth none (is {self.data.smooth!r})"
            )
        return self

    def to_yaml(self) -> str:
        """Write the whole configuration as YAML, in the order of the keys above."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "configuration") -> Config:
        """Check nested values against the schema.

        Parameters
        ----------
        values
            As read from YAML or JSON.
        source
            What to call the source in an error: a file name.

        Raises
        ------
        ConfigError
            Naming the key, the value and what is allowed, or the nearest known key.
        """
        try:
            # JSON's rules for types: a YAML list is a tuple, a string is a path.
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explain(error.errors()[0])}") from None

    def override(self, assignments: Iterable[str]) -> Config:
        """Return a copy with keys changed, each given as ``"part.key=value"`` (the value in YAML).

        Raises
        ------
        ConfigError
            If an assignment has no ``=``, names an unknown key, or gives a wrong value.
        """
        values = self.model_dump(mode="json")
        for assignment in assignments:
            _assign(values, assignment)
        return Config.parse(values, "--set")


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply overrides.

    Parameters
    ----------
    path
        A YAML file; keys that it leaves out take their defaults.
    overrides
        Assignments such as ``"data.test=[C6]"``.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML, or does not fit the schema.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"configuration {path} cannot be read: {reason}") from None
    return _from_text(text, str(path)).override(overrides)


def builtin_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration that ships with the package, such as ``"demo"``."""
    package = files("nh2st_graph")
    for folder in (package.joinpath("configs"), Path(str(package)).parent / "configs"):
        file = folder.joinpath(f"{name}.yaml")
        if file.is_file():
            return _from_text(file.read_text(encoding="utf-8"), f"{name}.yaml").override(overrides)
    raise ConfigError(f"no configuration named {name!r} ships with this package")


def _from_text(text: str, source: str) -> Config:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected keys and values at the top, found {type(values).__name__}")
    return Config.parse(values, source)


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as data.test=[C6]")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from None
    *parents, last = key.strip().split(".")
    place = values
    for i, part in enumerate(parents):
        if not isinstance(place.get(part), dict):
            inside = part in place  # a value, which has no keys of its own
            raise ConfigError(f"--set: {_unknown(key.strip() if inside else '.'.join(parents[: i + 1]))}")
        place = place[part]
    place[last] = value


#: In YAML's words, what pydantic says in Python's.
_EXPECTED = {
    "tuple_type": "a list, such as [C3, C4]",
    "model_type": "keys and values",
    "path_type": "a path",
}


def _known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _known_keys(kind, f"{prefix}{name}.")
        keys.append(f"{prefix}{name}")
    return keys


def _unknown(key: str) -> str:
    """Name an unknown key's nearest: by the whole path, or by the last word where it stands elsewhere."""
    known = _known_keys()
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    hint = "did you mean " + " or ".join(repr(k) for k in same) + "?" if same else nearest(key, known)
    return f"unknown key {key!r}; {hint}"


def _explain(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in _EXPECTED:
        return f"{key} = {error['input']!r}; expected {_EXPECTED[error['type']]}"
    message = error["msg"].replace("Input should be", "allowed:").replace("allowed: a valid", "expected a valid")
    return f"{key} = {error['input']!r}; {message}"
