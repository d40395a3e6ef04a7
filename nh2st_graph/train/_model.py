"""A fitted model: what is needed to predict, saved so that loading executes no code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nh2st_graph._atomic import written_aside
from nh2st_graph._errors import ConfigError, ModelError
from nh2st_graph._version import MODEL_FORMAT, __version__
from nh2st_graph.config import Config
from nh2st_graph.im import Lattice
from nh2st_graph.models import Estimator, Network, NH2STGraph, find_method
from nh2st_graph.nn import PatchEncoder
from nh2st_graph.train._encoder import patch_encoder
from nh2st_graph.train._prepare import Preparation
from nh2st_graph.train._standardize import Standardizer

__all__ = ["FittedModel", "load", "new_network"]

logger = logging.getLogger("nh2st_graph")

_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"
_LOG = "log.csv"
#: What tensors of the file belong to, by the beginning of their names.
_MODULE, _MEMORY = "module.", "memory."


@dataclass
class FittedModel:
    """A trained model with everything that prediction needs.

    Attributes
    ----------
    module
        The network; or the estimator, where the method is one.
    config
        The configuration that it was trained with.
    genes
        The panel: names of the predicted genes, in order.
    standardize
        How image features are scaled.
    n_features
        Size of a spot's image features.
    heg50
        The 50 genes with the highest mean in training.
    hpg50
        The 50 genes best predicted on held-out training data.
    train_sections
        Names of the sections that it learned from.
    selected_epochs
        How long it trained, chosen on held-out training data.
    log
        The training log, one row an epoch.
    lattice
        How spots lie on the training sections, for slides that have none; None where that is not known.
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

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``model.json`` and, where there is one, ``log.csv``, for :func:`load`.

        A method that cannot be saved is told by a warning.

        Parameters
        ----------
        folder
            Made where it is not there. A model that it holds is replaced, with its log.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self._tensors()
        if tensors is None:
            for name in (_WEIGHTS, _DESCRIPTION, _LOG):
                (folder / name).unlink(missing_ok=True)
            logger.warning("method %r cannot be saved; its predictions and scores are", self.config.model.name)
            return
        if self.standardize.mean is not None and self.standardize.std is not None:
            tensors["features.mean"] = torch.from_numpy(self.standardize.mean)
            tensors["features.std"] = torch.from_numpy(self.standardize.std)
        description = {
            "format": MODEL_FORMAT,
            "version": __version__,
            "n_features": self.n_features,
            "genes": self.genes,
            "heg50": self.heg50,
            "hpg50": self.hpg50,
            "train_sections": self.train_sections,
            "selected_epochs": self.selected_epochs,
            "chosen": self.module.chosen if isinstance(self.module, Estimator) else {},
            "lattice": asdict(self.lattice) if self.lattice else None,
            "config": self.config.model_dump(mode="json"),
        }
        with written_aside(folder / _DESCRIPTION) as described, written_aside(folder / _WEIGHTS) as weights:
            save_file(tensors, weights)
            described.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        self._save_log(folder / _LOG)

    def _save_log(self, path: Path) -> None:
        if self.log.empty:
            path.unlink(missing_ok=True)
            return
        with written_aside(path) as aside:
            # As training writes it, so that the log of a run stays what it was.
            self.log.to_csv(aside, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")

    def _tensors(self) -> dict[str, torch.Tensor] | None:
        """All that prediction reads; None where the method cannot be saved."""
        if isinstance(self.module, Estimator):
            weights, memory = {}, self.module.memory()
            if memory is None:
                return None
        else:
            weights, memory = self.module.state_dict(), self.module.memory
        named = {f"{_MODULE}{name}": value for name, value in weights.items()}
        named |= {f"{_MEMORY}{name}": value for name, value in memory.items()}
        return {name: value.detach().cpu().contiguous() for name, value in named.items()}

    @property
    def preparation(self) -> Preparation:
        """How sections are prepared for this model; a new one, whose encoders are made when they are needed."""
        return Preparation.of(self.config, self.genes, self.standardize)

    @property
    def nh2st_graph(self) -> NH2STGraph:
        """The network, where it is NH2ST-Graph.

        Raises
        ------
        ModelError
            If the model is of another method.
        """
        if not isinstance(self.module, NH2STGraph):
            raise ModelError(
                f"the model is of method {self.config.model.name!r}, and only NH2ST-Graph can be asked this; "
                "train with model.name = nh2st_graph"
            )
        return self.module


def new_network(config: Config, n_features: int, n_genes: int, encoder: PatchEncoder | None) -> Network:
    """Make the network of a configuration, untrained."""
    method = find_method(config.model.name)
    assert issubclass(method, Network)
    return method(config.model, n_features, n_genes, encoder)


def load(folder: str | Path) -> FittedModel:
    """Load a model that :meth:`FittedModel.save` or ``nh2st-graph train`` wrote; no code of the folder is run.

    Parameters
    ----------
    folder
        With ``model.safetensors`` and ``model.json``, and maybe ``log.csv``: a run, or where a model was saved.

    Returns
    -------
    The model, ready to predict.

    Raises
    ------
    ModelError
        If the folder holds no model, one of another format, or a damaged one.
    """
    folder = Path(folder)
    description = _read_description(folder)
    if description.get("format") != MODEL_FORMAT:
        raise ModelError(
            f"model {folder}: written in format {description.get('format')!r} by nh2st-graph "
            f"{description.get('version', 'of an unknown version')}, this is {__version__} (format {MODEL_FORMAT}); "
            "train again, or install the version that wrote it"
        )
    try:
        config = Config.parse(description["config"], str(folder / _DESCRIPTION))
        tensors = load_file(folder / _WEIGHTS)
        module = _restored(config, description, tensors)
        fields = {name: description[name] for name in _FIELDS}
        # Models of before slides were predicted do not have it.
        lattice = Lattice(**description["lattice"]) if description.get("lattice") else None
    except ConfigError as error:
        raise ModelError(f"model {folder}: {error}; train again, or install the version that wrote it") from None
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"model {folder}: {_WEIGHTS} or {_DESCRIPTION} is damaged or incomplete: {reason}") from error
    return FittedModel(
        module=module,
        config=config,
        standardize=Standardizer(_array(tensors, "features.mean"), _array(tensors, "features.std")),
        log=_read_log(folder),
        lattice=lattice,
        **fields,
    )


def _restored(
    config: Config, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Network | Estimator:
    weights, memory = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in (_MODULE, _MEMORY)
    )
    method = find_method(config.model.name)
    if issubclass(method, Estimator):
        estimator = method(config.model, config.seed)
        estimator.chosen = dict(description["chosen"])
        estimator.restore(memory)
        return estimator
    encoder = patch_encoder(config.features, trained=False)
    network = new_network(config, description["n_features"], len(description["genes"]), encoder)
    network.load_state_dict(weights)
    network.memory = memory
    return network.eval()


_FIELDS: Sequence[str] = ("n_features", "genes", "heg50", "hpg50", "train_sections", "selected_epochs")


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise ModelError(f"model {folder}: no {_DESCRIPTION} there; give the folder of a finished run")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError(f"model {folder}: {_DESCRIPTION} is not valid JSON; copy the folder again") from None
    if not isinstance(description, dict):
        raise ModelError(f"model {folder}: {_DESCRIPTION} does not describe a model")
    return description


def _array(tensors: dict[str, torch.Tensor], name: str) -> np.ndarray | None:
    return tensors[name].numpy() if name in tensors else None


def _read_log(folder: Path) -> pd.DataFrame:
    path = folder / _LOG
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()
