"""A fitted model: all that prediction needs, saved such that loading it runs no code and opens nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nh2st_graph._errors import ConfigError, ModelError, reason, setting
from nh2st_graph._files import make_folder, stamp, written_aside
from nh2st_graph._settings import MODEL_FILE
from nh2st_graph.confidence import Confidence, Familiarity
from nh2st_graph.config import Config
from nh2st_graph.im import Lattice
from nh2st_graph.im._made_from import public
from nh2st_graph.im._stain import as_reference, stain_digest, stain_values
from nh2st_graph.models import Estimator, Network, NH2STGraph, check_method, find_method
from nh2st_graph.nn import PatchEncoder
from nh2st_graph.train._archive import (
    EVIDENCE,
    FOLDS,
    LOG,
    MODEL_FORMAT,
    WEIGHTS,
    holds,
    read_description,
    read_log,
    read_tensors,
)
from nh2st_graph.train._complete import Sources
from nh2st_graph.train._encoder import named_elsewhere, patch_encoder
from nh2st_graph.train._familiar import familiarity_state, read_familiarity
from nh2st_graph.train._imputation import Imputation, imputation_state, read_imputation
from nh2st_graph.train._lazyslide import as_lazyslide
from nh2st_graph.train._prepare import Preparation
from nh2st_graph.train._share import find_model
from nh2st_graph.train._share import push_to_hub as upload
from nh2st_graph.train._standardize import Standardizer

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = ["FittedModel", "check_method", "load", "new_network", "weights_digest"]

logger = logging.getLogger("nh2st_graph")

#: Prefixes of the names of tensors in the file.
_MODULE, _MEMORY = "module.", "memory."


@dataclass(repr=False)
class FittedModel:
    """A trained model with everything that prediction needs.

    Attributes
    ----------
    module
        The network, or the estimator.
    config
        The configuration of its training.
    genes
        The panel: names of the predicted genes, in order.
    standardize
        Standardisation of the image features.
    n_features
        Number of image features of a spot.
    heg50
        The 50 genes with the highest mean in training.
    hpg50
        The 50 genes best predicted on held-out training data.
    train_sections
        Names of the training sections.
    selected_epochs
        Number of training epochs, chosen on held-out training data.
    log
        The training log, one row an epoch.
    lattice
        Lattice of spots on the training sections, for slides without spots; None if it is unknown.
    origin
        What the model rests on: ``torch``, its release; ``encoders``, their fingerprints; ``train`` and ``tests``,
        digests of the sections. Empty for a model of an earlier version.
    sources
        Where encoders and cached features may come from; of a loaded model, what :func:`load` was told.
    stain
        squidpy's stain reference, fitted on the training sections, that the colours of patches are brought to; None
        without ``features.stain``.
    confidence
        What held-out training data say of predictions; None for a model of an earlier version.
    folds
        The models of the folds, whose predictions spread where the training data leave room; none with
        ``train.keep_folds: false``.
    familiarity
        How near the features of training sections are to each other, which those of other sections are compared with;
        None for a model of an earlier version.
    imputation
        How measured genes correct predictions (:func:`nh2st_graph.tl.impute`); None for a model of an earlier version.

    Raises
    ------
    ModelError
        If the module has weights of its authors, which predict logarithms of another base than ``data.log_base``.
    """

    module: Network | Estimator
    config: Config
    genes: list[str]
    standardize: Standardizer
    n_features: int
    heg50: list[str]
    hpg50: list[str]
    train_sections: list[str]
    selected_epochs: int
    log: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    lattice: Lattice | None = None
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sources: Sources = field(default_factory=Sources, repr=False)
    stain: StainReference | None = None
    confidence: Confidence | None = field(default=None, repr=False)
    folds: Sequence[Network | Estimator] = field(default=(), repr=False)
    familiarity: Familiarity | None = field(default=None, repr=False)
    imputation: Imputation | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        on = f", adapted on {[*self.origin['adapted']['sections']]}" if "adapted" in self.origin else ""
        return f"FittedModel({self.config.model.name!r}, {len(self.genes)} genes, trained on {self.train_sections}{on})"

    def __post_init__(self) -> None:
        base = getattr(self.module, "log_base", None)
        if base is not None and base != self.config.data.log_base:
            raise ModelError(
                f"the weights of the authors of {self.config.model.name!r} predict logarithms of base {base}, and "
                f"{setting('data.log_base', self.config.data.log_base)}; give {setting('data.log_base', base)}"
            )

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``model.json`` and, if they are there, ``folds.safetensors`` and ``log.csv``.

        :func:`load` reads them; without ``folds.safetensors``, the model only does not say how its folds spread.

        Warn if the method cannot be saved.

        Parameters
        ----------
        folder
            Is made if it does not exist. A model in it is replaced, with its log. A full disk is a RunError.
        """
        folder = Path(folder)
        make_folder(folder)
        tensors = self._tensors()
        if tensors is None:
            for name in (WEIGHTS, MODEL_FILE, FOLDS, LOG):
                (folder / name).unlink(missing_ok=True)
            logger.warning("method %r cannot be saved; only its predictions and scores can", self.config.model.name)
            return
        if self.standardize.mean is not None and self.standardize.std is not None:
            tensors["features.mean"] = torch.from_numpy(self.standardize.mean)
            tensors["features.std"] = torch.from_numpy(self.standardize.std)
        facts: dict[str, Any] = {}
        if self.confidence is not None:
            arrays, facts = self.confidence.state()
            tensors |= {f"{EVIDENCE}{name}": torch.from_numpy(array) for name, array in arrays.items()}
        familiar, entry = familiarity_state(self.familiarity)
        tensors |= familiar
        tensors |= imputation_state(self.imputation)
        description = {
            **stamp(MODEL_FORMAT),
            "n_features": self.n_features,
            "genes": self.genes,
            "heg50": self.heg50,
            "hpg50": self.hpg50,
            "train_sections": self.train_sections,
            "selected_epochs": self.selected_epochs,
            "chosen": self.module.chosen,
            "lattice": asdict(self.lattice) if self.lattice else None,
            **({"stain": _as_json(self.stain)} if self.stain is not None else {}),
            **({"origin": dict(self.origin)} if self.origin else {}),
            **({"confidence": facts} if facts else {}),
            **({"folds": [each.chosen for each in self.folds]} if self.folds else {}),
            **entry,
            "config": self.config.model_dump(mode="json"),
        }
        with written_aside(folder / MODEL_FILE) as described, written_aside(folder / WEIGHTS) as weights:
            save_file(tensors, weights)
            described.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        self._save_folds(folder / FOLDS)
        self._save_log(folder / LOG)

    as_lazyslide = as_lazyslide
    push_to_hub = upload

    def _save_folds(self, path: Path) -> None:
        if not self.folds:
            path.unlink(missing_ok=True)
            return
        tensors: dict[str, torch.Tensor] = {}
        for number, module in enumerate(self.folds):
            tensors |= {f"{number}.{name}": value for name, value in (_tensors_of(module) or {}).items()}
        with written_aside(path) as aside:
            save_file(tensors, aside)

    def _save_log(self, path: Path) -> None:
        if self.log.empty:
            path.unlink(missing_ok=True)
            return
        with written_aside(path) as aside:
            # In the format of training, so that the log of a run does not change.
            self.log.to_csv(aside, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")

    def _tensors(self) -> dict[str, torch.Tensor] | None:
        """Collect all that prediction reads; None if the method cannot be saved."""
        return _tensors_of(self.module)

    @property
    def digest(self) -> str:
        """Digest of all that a prediction reads: weights, memory, panel and the statistics of features."""
        tensors = self._tensors() or {}
        scale = {name: getattr(self.standardize, name) for name in ("mean", "std")}
        tensors |= {f"features.{name}": torch.from_numpy(value) for name, value in scale.items() if value is not None}
        facts = [*self.genes, *([stain_digest(self.stain)] if self.stain is not None else [])]
        return weights_digest({**tensors, "\n".join(facts): torch.zeros(0)})

    @property
    def preparation(self) -> Preparation:
        """A new preparation of sections for this model; it makes its encoders when it needs them."""
        encoders = self.origin.get("encoders")
        return Preparation.of(self.config, self.genes, self.standardize, self.sources, encoders, self.stain)

    @property
    def nh2st_graph(self) -> NH2STGraph:
        """The network of an NH2ST-Graph model.

        Raises
        ------
        ModelError
            If the model has another method.
        """
        if not isinstance(self.module, NH2STGraph):
            raise ModelError(
                f"the model's method is {self.config.model.name!r}, and only NH2ST-Graph can be asked this; "
                f"train with {setting('model.name', 'nh2st_graph')}"
            )
        return self.module


def _tensors_of(module: Network | Estimator) -> dict[str, torch.Tensor] | None:
    """Collect weights and memory of a network or an estimator; None if it cannot be saved."""
    if isinstance(module, Estimator):
        weights, memory = {}, module.memory()
        if memory is None:
            return None
    else:
        weights, memory = module.state_dict(), module.memory
    named = {f"{_MODULE}{name}": value for name, value in weights.items()}
    named |= {f"{_MEMORY}{name}": value for name, value in memory.items()}
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Compute a digest of tensors by name, of 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy has no bfloat16
        digest.update(name.encode())
        digest.update(bits.numpy().data)
    return digest.hexdigest()[:16]


def new_network(config: Config, n_features: int, n_genes: int, encoder: PatchEncoder | None) -> Network:
    """Make the network of a configuration, untrained."""
    method = find_method(config.model.name)
    assert issubclass(method, Network)
    return method(config.model, n_features, n_genes, encoder)


def load(
    folder: str | Path,
    *,
    trust: bool = False,
    encoder: str | None = None,
    cache: str | Path | Literal[False] | None = None,
    embeddings: str | Path | None = None,
) -> FittedModel:
    """Load a model that :meth:`FittedModel.save` or ``nh2st-graph train`` wrote.

    Loading runs no code of the folder and opens nothing outside of it. The method is one of this package, one that was
    registered, or an entry point of an installed package. Files, folders and hubs that the model names (its encoder and
    its feature cache) are facts about its training: they are not used, now or in a prediction, unless you say so.

    Parameters
    ----------
    folder
        Folder of a run or of a saved model, with ``model.safetensors``, ``model.json`` and perhaps
        ``folds.safetensors`` and ``log.csv``; a ``.zip`` of :func:`save`; or ``hf-hub:ORG/NAME`` or
        ``hf-hub:ORG/NAME@REVISION``, a model of the Hugging Face hub, of which these files alone are downloaded.
    trust
        Do what the model names: import its method (``module:Class``), open its encoder's file, folder or hub, and read
        and write its feature cache. Only for models whose origin you know.
    encoder
        Name of the encoder with the weights of training, where it is now; see :func:`nh2st_graph.im.features`.
    cache
        Folder of cached features; the user's cache folder if None, and no cache if False.
    embeddings
        Where the embeddings of sections are, for a model that was trained on such: a folder, a pattern, the file of one
        section, or ``obsm:KEY``; see :func:`nh2st_graph.im.embeddings`. Without it, sections bring them in ``obsm``.

    Returns
    -------
    The model, ready to predict.

    Raises
    ------
    ModelError
        If there is no model, one of another format, or a damaged one; if the hub does not give it, or an archive holds
        something else; or if the model names a method or an encoder that needs your word.
    """
    folder = find_model(folder)
    description = read_description(folder, whole=True)
    folder_of_cache = Path(cache).expanduser() if isinstance(cache, str | Path) else cache
    sources = Sources(trust, encoder, folder_of_cache, None if embeddings is None else str(embeddings), folder)
    try:
        check_method(description["config"], f"model {folder}", trust)
        _check_description(description)
        if description["config"]["model"]["name"] == "nh2st_graph":
            # Models of before have no closed form, and do not say so.
            description["config"]["model"].setdefault("closed_form", False)
        config = Config.parse(description["config"], str(folder / MODEL_FILE))
        tensors = read_tensors(folder, WEIGHTS)
        module = _restored(config, description, tensors, sources, description["chosen"])
        confidence = _confidence(description, tensors)
        folds = _read_folds(folder, config, description, sources)
        imputation = read_imputation(tensors)
        fields = {name: description[name] for name in _FIELDS}
        # The first models do not have it.
        lattice = Lattice(**description["lattice"]) if description.get("lattice") else None
        origin = dict(description.get("origin") or {})
        stain = _stain(config, description)
        familiarity = read_familiarity(tensors, description)
    except ConfigError as error:
        raise ModelError(
            f"model {folder}: {error.args[0]}; train again, or install the version that wrote it"
        ) from None
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"model {folder}: {WEIGHTS} or {MODEL_FILE} is damaged or incomplete ({reason(error)}); "
            "copy the folder again"
        ) from error
    _say_origin(folder, origin)
    return FittedModel(
        module=module,
        config=config,
        standardize=Standardizer(_array(tensors, "features.mean"), _array(tensors, "features.std")),
        log=read_log(folder),
        lattice=lattice,
        origin=origin,
        sources=sources,
        stain=stain,
        confidence=confidence,
        folds=folds,
        familiarity=familiarity,
        imputation=imputation,
        **fields,
    )


def _stain(config: Config, description: Mapping[str, Any]) -> StainReference | None:
    """Read the stain reference of a model whose features need one.

    Raises
    ------
    KeyError, ConfigError
        If it is missing or damaged.
    """
    if config.features.stain == "none":
        return None
    reference = as_reference(description["stain"])
    if reference.method != config.features.stain:
        raise ValueError(f"its stain reference is of {reference.method}, not of {config.features.stain}")
    return reference


def _as_json(reference: StainReference) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in stain_values(reference).items()}


def _say_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Say what cannot be checked, or is of another release."""
    if not origin:
        logger.info(
            "model %s is of an earlier version, and says nothing of the data and encoders that it was trained on; "
            "they cannot be checked",
            folder,
        )
    elif origin.get("torch") != public(torch.__version__):
        logger.info("model %s was trained with torch %s; this is %s", folder, origin.get("torch"), torch.__version__)


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _confidence(description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Confidence | None:
    """Restore what held-out data say, of a model that has it."""
    facts = description.get("confidence")
    if facts is None:
        return None
    arrays = {name: value.numpy() for name, value in _part(tensors, EVIDENCE).items()}
    return Confidence.restore(description["genes"], arrays, facts)


def _read_folds(
    folder: Path, config: Config, description: Mapping[str, Any], sources: Sources
) -> list[Network | Estimator]:
    """Restore the models of the folds, if they are there."""
    if not holds(folder, FOLDS):
        return []
    found = []
    try:
        tensors = read_tensors(folder, FOLDS)
        for number, chosen in enumerate(description.get("folds", [])):
            found.append(_restored(config, description, _part(tensors, f"{number}."), sources, chosen))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"model {folder}: {FOLDS} is damaged or incomplete ({reason(error)}); copy it again, or do without it"
        ) from error
    return found


def _restored(
    config: Config,
    description: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    sources: Sources,
    chosen: Mapping[str, Any],
) -> Network | Estimator:
    weights, memory = _part(tensors, _MODULE), _part(tensors, _MEMORY)
    method = find_method(config.model.name)
    if issubclass(method, Estimator):
        estimator = method(config.model, config.seed)
        estimator.chosen = dict(chosen)
        estimator.restore(memory)
        return estimator
    known = (description.get("origin") or {}).get("encoders") or [{}]
    name, size = _patch_encoder_name(config, sources), known[0].get("input_size")
    encoder = patch_encoder(config.features, trained=False, name=name, size=size)
    network = new_network(config, description["n_features"], len(description["genes"]), encoder)
    network.load_state_dict(weights)
    network.recall(memory)
    network.chosen = dict(chosen)
    return network.eval()


def _patch_encoder_name(config: Config, sources: Sources) -> str:
    """Choose the name of a fine-tuned encoder, of which the architecture alone is needed: no file of weights."""
    features = config.features
    needed = features.finetune and named_elsewhere(features.encoder)
    return sources.encoder_of(features) if needed else sources.encoder or features.encoder


#: Parts of a configuration that every saved model has.
_PARTS = ("data", "features", "graph", "model", "train")
_FIELDS: Sequence[str] = ("n_features", "genes", "heg50", "hpg50", "train_sections", "selected_epochs")


def _check_description(description: Mapping[str, Any]) -> None:
    """Refuse a description that lost a part whose defaults would stand in for it, or that has a gene twice.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is damaged.
    """
    config, genes = description["config"], description["genes"]
    for part in _PARTS:
        if not isinstance(config[part], Mapping):
            raise TypeError(f"config.{part} holds no keys")
    for what in ("genes", "heg50", "hpg50", "train_sections"):
        names = description[what]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{what} are no list of names")
        if len({*names}) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{what}: {twice!r} occurs twice")
        if what.endswith("50") and not {*names} <= {*genes}:
            raise ValueError(f"{what} are not among the genes")
    config["model"]["name"], config["features"]["encoder"]


def _array(tensors: dict[str, torch.Tensor], name: str) -> np.ndarray | None:
    return tensors[name].numpy() if name in tensors else None
