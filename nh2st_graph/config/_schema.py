"""The typed configuration: every key, its default and its allowed values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph._settings import Positive, Section, SettingError, Share, explain, known_keys
from nh2st_graph.config._changes import flatten
from nh2st_graph.config._features import FeaturesConfig
from nh2st_graph.config._messages import assign, parse_assignment, settings_of
from nh2st_graph.config._yaml import as_written
from nh2st_graph.models import MethodConfig, ModelConfig

__all__ = [
    "FORMATS",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "FeaturesConfig",
    "GraphConfig",
    "SyntheticConfig",
    "TrainConfig",
    "in_keys",
    "other_keys",
]


#: Formats of this package; those of other packages are looked up.
FORMATS = (
    "anndata",
    "h5ad",
    "her2st",
    "hest",
    "hest_bench",
    "skin",
    "spatialdata",
    "stimage",
    "stnet",
    "synthetic",
    "triplex",
    "visium",
    "visium_hd",
)


def _known_format(name: str) -> str:
    if name not in FORMATS:
        from nh2st_graph.read import known_formats  # here, since it also loads the readers of other packages

        known = [*known_formats(), "synthetic"]
        if name not in known:
            raise ValueError(f"data.format = {name!r} is no known format; {nearest(name, known)}")
    return name


def _base(given: Any) -> Any:
    """Read the base of a logarithm, which YAML gives as a number and a shell as a text."""
    return 10 if str(given) in {"10", "10.0"} else given


def _panel(given: Any) -> Any:
    """Read ``hvg:``, which YAML takes for a key without a value, as the text that it was meant for."""
    return "hvg:" if given == {"hvg": None} else given


def _known_panel(panel: str) -> str:
    number = panel.removeprefix("hvg:")
    if panel.startswith("hvg:") and not (number.isascii() and number.isdecimal() and int(number)):
        raise SettingError(
            f"{setting('data.panel', panel)}: expected a file of gene symbols, or hvg:N with a number N above 0"
        )
    return panel


def _known_devices(given: Any) -> Any:
    if given == "auto" or (isinstance(given, int) and not isinstance(given, bool) and given > 0):
        return given
    raise SettingError(f"{setting('train.devices', given)}: expected a number of processes above 0, or auto")


def _or_auto(given: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Say in one error what may be a whole number or ``auto``."""
    try:
        return check(given)
    except ValidationError:
        name = setting(f"train.{info.field_name}", given)
        raise SettingError(f"{name}: expected a whole number above 0, or auto") from None


_WholeOrAuto = Annotated[Positive | Literal["auto"], WrapValidator(_or_auto)]


class SyntheticConfig(Section):
    """The synthetic tissue (``data.format: synthetic``); see :func:`nh2st_graph.datasets.synthetic_tissue`."""

    n_sections: Positive = 4
    n_rows: Annotated[int, Field(ge=6)] = 16
    n_cols: Annotated[int, Field(ge=6)] = 16
    n_own: Positive = 20
    n_neighbour: Positive = 20
    n_interaction: Annotated[int, Field(ge=0)] = 0
    n_noise: Positive = 10
    seed: int = 0


class DataConfig(Section):
    """Which sections and genes are used, and how counts become targets.

    Attributes
    ----------
    format
        Layout of the files under ``root``: a format of :func:`nh2st_graph.read.sections`, or ``synthetic``.
    root
        Folder of the sections.
    options
        Further arguments of the format's reader, such as ``{bin_um: 8}``.
    train, test
        Names of sections. Without ``train``, every section outside ``test`` is trained on.
    panel
        The genes to predict: a file of gene symbols or Ensembl ids, one a line; ``hvg:N``, the N most variable genes of
        the training sections; or the name of a published panel, such as ``nh2st:stnet``, which is fetched from its
        authors' repository.
    missing_genes
        What happens to a panel gene that a section lacks: ``fail`` raises an error, ``drop`` drops the gene.
    bad_spots
        ``drop`` leaves out training spots whose patches are blank, blurred or folded, and marks such spots of a
        prediction in ``obs["quality"]``, where none is removed; see :func:`nh2st_graph.im.quality`, whose columns are
        used where a section has them. ``keep`` does not look.
    normalize
        ``total`` scales a spot's counts to 1e4 over all genes and takes log1p; ``panel`` scales them over the panel's
        genes; ``residuals`` are analytic Pearson residuals.
    log_base
        Base of that logarithm: ``e``, or 10 as in the code of HisToGene, Hist2ST, HGGEP, mclSTExp, TRIPLEX and NH2ST.
        It changes no correlation; squared errors are 5.3 times smaller, and weigh less against other losses.
    smooth
        ``3x3`` averages a target with those of all adjacent spots of the array (eight; six on a hexagonal array), in
        the test section too, as NH2ST and TRIPLEX do.
    synthetic
        Settings of the synthetic tissue (``format: synthetic``).
    """

    format: Annotated[str, AfterValidator(_known_format)] = "h5ad"
    root: Path | None = None
    options: Annotated[dict[str, Any], BeforeValidator(as_written)] = Field(default_factory=dict)
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    panel: Annotated[str, BeforeValidator(_panel), AfterValidator(_known_panel)] = "hvg:250"
    missing_genes: Literal["fail", "drop"] = "fail"
    bad_spots: Literal["keep", "drop"] = "keep"
    normalize: Literal["total", "panel", "residuals"] = "total"
    log_base: Annotated[Literal["e", 10], BeforeValidator(_base)] = "e"
    smooth: Literal["none", "3x3"] = "none"
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise ValueError(f"data.train and data.test share {', '.join(both)}; a test section is never trained on")
        for key, names in (("data.train", self.train), ("data.test", self.test)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{key} lists {', '.join(twice)} more than once; name each section once")
        if self.log_base != "e" and self.normalize == "residuals":
            raise ValueError(
                f"data.log_base = {self.log_base} and data.normalize = 'residuals': residuals have no logarithm; leave "
                "out data.log_base"
            )
        return self

    @property
    def target(self) -> dict[str, Any]:
        """What a target is: arguments of :func:`nh2st_graph.section.targets`."""
        return {"normalize": self.normalize, "smooth": self.smooth, "log_base": self.log_base}


class GraphConfig(Section):
    """The spatial graph; see :func:`nh2st_graph.gr.spatial_graph`.

    Attributes
    ----------
    mode
        ``grid``, ``knn``, ``radius`` or ``delaunay``; ``random`` (a control: the degrees of the grid, random
        neighbours); ``none`` (a control: no edges); ``given`` (the graph that squidpy built in each section).
    neighbors_key
        Entry of ``uns`` that describes a ``given`` graph, ``{key_added}_neighbors`` in squidpy.
    n_rings, n_neighs, radius_um, seed
        Parameters of the modes that read them.
    """

    mode: Literal["grid", "knn", "radius", "delaunay", "random", "none", "given"] = "grid"
    neighbors_key: str = "spatial_neighbors"
    n_rings: Positive = 1
    n_neighs: Positive | None = None
    radius_um: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class TrainConfig(Section):
    """The training loop; see :func:`nh2st_graph.tl.fit`.

    Attributes
    ----------
    max_epochs, patience
        Maximum number of epochs of a fold; number of epochs without a better held-out error after which it stops.
    learning_rate, weight_decay
        Parameters of AdamW.
    decay_epochs, decay_factor
        Multiply the learning rate by ``decay_factor`` every ``decay_epochs`` epochs (torch's StepLR); never if None.
        Published for NH2ST, Hist2ST and TRIPLEX: 50 and 0.9.
    batch_spots
        Maximum number of spots in a batch; all are of one section. ``auto``: 256, or a 25th of a section of 50,000
        spots or more, between 2,000 and 16,384 in pieces of tissue.
    ema_decay
        Decay of the exponential moving average (EMA) of the weights; the averaged weights are kept.
    validation, folds
        What is held out of the training data in turn (all sections of a ``patient``, one ``section``, or ``blocks`` of
        each section), and the number of turns. With one patient, ``patient`` holds out sections.
    refit
        Train on all training sections for the chosen number of epochs. Otherwise keep the first fold's model.
    keep_folds
        Keep the folds' models too, for the standard deviation between predictions; each is about as large as the model.
    checkpoint_seconds
        Minimum time between the checkpoints that a resumed run continues from; 0 writes one after every epoch.
    device, precision
        Device and precision; ``auto`` uses a GPU with mixed precision if there is one.
    devices, nodes
        Number of processes on each machine, and of machines, that train together; ``auto`` takes one process a GPU, or
        as many as torchrun or SLURM started. Each takes its share of an epoch's batches, and a step is one of the
        joined batch.
    threads
        Threads of the CPU: of encoding, and of training on and predicting sections of 50,000 spots or more; ``auto``
        takes all cores, or fewer if ``OMP_NUM_THREADS`` says so. Another number rounds results otherwise.
    progress
        Show progress bars.
    """

    renamed: ClassVar[Mapping[str, tuple[str, ...]]] = {"average": ("ema_decay",)}

    max_epochs: Positive = 60
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decay_epochs: Positive | None = None
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.9
    batch_spots: _WholeOrAuto = "auto"
    patience: Positive = 15
    ema_decay: Share = 0.95
    validation: Literal["patient", "section", "blocks"] = "patient"
    folds: Annotated[int, Field(ge=2)] = 3
    refit: bool = True
    keep_folds: bool = True
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)] = "auto"
    devices: Annotated[int | Literal["auto"], PlainValidator(_known_devices)] = 1
    nodes: Positive = 1
    threads: _WholeOrAuto = "auto"
    progress: bool = True

    @property
    def n_threads(self) -> int:
        """Number of threads."""
        if self.threads != "auto":
            return self.threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Whoever starts several processes on a machine says here how many threads each may have.
        wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores


class EvaluateConfig(Section):
    """What is scored and drawn beside the model's errors; see :func:`nh2st_graph.tl.evaluate`.

    Attributes
    ----------
    baselines
        Fit and score the baselines beside the model, on the same features.
    downstream
        Also score downstream uses: spatially variable genes, clusters, gene-gene correlation.
    figures
        Draw maps, r by gene, scores beside the baselines, and training curves.
    coverage
        Share of measured values that the intervals of a prediction are to hold.
    """

    renamed: ClassVar[Mapping[str, tuple[str, ...]]] = {"floors": ("baselines",)}

    baselines: bool = True
    downstream: bool = False
    figures: bool = True
    coverage: Annotated[float, Field(ge=0.5, le=0.99)] = 0.9


def _settings(given: Any) -> Any:
    """Check ``model.*`` against the settings of the method that it names."""
    if not isinstance(given, Mapping):
        return given
    return settings_class(given.get("name", _DEFAULT)).model_validate(dict(given))


def settings_class(name: Any) -> type[MethodConfig]:
    """Find the class of a method's settings.

    Raises
    ------
    ConfigError
        If there is no such method.
    """
    if name == _DEFAULT:
        return ModelConfig
    from nh2st_graph.models import find_method  # here, since the settings of other methods stand beside their networks

    return find_method(str(name)).Settings


#: The method of a configuration without ``model.name``.
_DEFAULT = "nh2st_graph"


class Config(Section):
    """Everything that a run depends on. Each part explains its keys."""

    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig = Field(default_factory=DataConfig)  # a factory, since the check loads the readers
    features: FeaturesConfig = FeaturesConfig()
    graph: GraphConfig = GraphConfig()
    model: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_settings)] = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if isinstance(self.model, ModelConfig):
            self._check_nh2st_graph(self.model)
        return self

    def _check_nh2st_graph(self, model: ModelConfig) -> None:
        if model.counts and (self.data.normalize == "residuals" or self.data.smooth != "none"):
            raise ValueError(
                f"model.regression = {model.regression!r} needs counts: data.normalize must be total or panel "
                f"(is {self.data.normalize!r}) and data.smooth none (is {self.data.smooth!r})"
            )
        if model.counts and self.data.log_base != "e":
            raise ValueError(
                f"model.regression = {model.regression!r} reads natural logarithms as counts: data.log_base must be e "
                f"(is {self.data.log_base})"
            )
        if self.graph.mode == "none" and model.neighbours and model.hops > 1:
            raise ValueError(f"model.hops = {model.hops} needs edges: graph.mode is 'none'")

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
        values = settings_of(values, source)
        try:
            # First, since its schema depends on the method and errors name that method's keys.
            if isinstance(values.get("model"), Mapping):
                schema = settings_class(values["model"].get("name", _DEFAULT))
                values["model"] = schema.model_validate(dict(values["model"]))
        except ValidationError as error:
            raise in_keys(f"{source}: {explain(error.errors()[0], schema, cls, 'model.')}") from None
        except ConfigError as error:
            raise in_keys(f"{source}: {error.args[0]}") from None
        try:
            # JSON's rules for types: a YAML list is a tuple, a string is a path.
            return cls.model_validate(values)
        except ValidationError as error:
            raise in_keys(f"{source}: {explain(error.errors()[0], cls)}") from None

    def override(self, assignments: Iterable[str], source: str = "--set") -> Config:
        """Return a copy with keys changed, each given as ``"part.key=value"`` (the value in YAML).

        Parameters
        ----------
        assignments
            Changes, of which a later one of the same key wins. ``model={n_components: 4}`` sets the whole part: its
            other keys take their defaults. The method stays, unless ``name`` is among them.
        source
            What an error calls them.

        Raises
        ------
        ConfigError
            If an assignment has no ``=``, names an unknown key, or gives a wrong value.
        """
        return self._with([parse_assignment(assignment, source) for assignment in assignments], source)

    def change(self, changes: Mapping[str, Any], source: str = "configuration") -> Config:
        """Return a copy with keys changed.

        Parameters
        ----------
        changes
            Values by key, dotted (``{"model.width": 32}``) or nested (``{"model": {"width": 32}}``). Both leave the
            other keys of a part as they are.
        source
            What an error calls the changes.

        Raises
        ------
        ConfigError
            If a key is unknown or given twice, or a value is wrong.
        """
        try:
            flat = flatten(changes)
        except ConfigError as error:
            raise in_keys(f"{source}: {error.args[0]}") from None
        return self._with(flat.items(), source)

    def with_blocks(self, blocks: Sequence[tuple[str, float]]) -> Config:
        """Return a copy with these encoders and sides of patches, in um, in place of ``auto``."""
        before = self.features.blocks
        if before == list(blocks):
            return self
        sizes, same = [size for _, size in blocks], len(before) == len(blocks) and "auto" not in dict(before)
        changes: dict[str, Any] = {"features.patch_um": sizes[0]} if same or self.features.patch_um == "auto" else {}
        if self.features.encoders is not None or len(set(sizes)) > 1 or not same:
            changes["features.encoders"] = [list(block) for block in blocks]
        return self.change(changes)

    def _with(self, changes: Iterable[tuple[str, Any]], source: str) -> Config:
        values, changes = self.model_dump(mode="json"), list(changes)
        if any(key == "features.encoder" and value == "auto" for key, value in changes):  # at its own scales
            values["features"]["patch_um"] = None
        # The method comes first: another method has other settings, with their own defaults.
        method = [self.model.name, *_methods_in(changes)][-1]
        if method != self.model.name:
            values["model"] = {"name": method}
        for key, value in changes:
            if key == "features.encoder":  # takes the place of blocks that were there before
                values["features"]["encoders"] = None
            if key == "model" and isinstance(value, Mapping):
                value = {**(value if value.get("name", method) == method else {}), "name": method}
            if key != "model.name":
                assign(values, key, value, self, source)
        return Config.parse(values, source)


def _methods_in(changes: Iterable[tuple[str, Any]]) -> list[Any]:
    """List the methods that changes name, in their order."""
    blocks = [value if key == "model" else {"name": value} for key, value in changes if key in {"model", "model.name"}]
    return [block["name"] for block in blocks if isinstance(block, Mapping) and "name" in block]


def other_keys() -> list[str]:
    """List the keys that do not depend on the method."""
    return [key for key in known_keys(Config) if not key.startswith("model.")]


def in_keys(message: str) -> ConfigError:
    """Make an error that names settings by their keys: who reads an error about a configuration wrote these."""
    return ConfigError(ConfigError(message).at("key"))
