"""A fitted model: what is needed to predict, saved so that loading executes no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nh2st_graph._errors import ConfigError, ModelError
from nh2st_graph._version import MODEL_FORMAT, __version__
from nh2st_graph.config import Config
from nh2st_graph.models import NH2STGraph
from nh2st_graph.tl._encoder import patch_encoder
from nh2st_graph.tl._inputs import Standardizer

__all__ = ["FittedModel", "load"]

_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"


@dataclass
class FittedModel:
    """A trained model with everything that prediction needs.

    Attributes
    ----------
    module
        The network.
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
    """

    module: NH2STGraph
    config: Config
    genes: list[str]
    standardize: Standardizer
    n_features: int
    heg50: list[str]
    hpg50: list[str]
    train_sections: list[str]
    selected_epochs: int
    log: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` into a folder, each aside and then renamed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"module.{name}": value.contiguous() for name, value in self.module.state_dict().items()}
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
            "config": self.config.model_dump(mode="json"),
        }
        weights_aside, description_aside = folder / f".{_WEIGHTS}.tmp", folder / f".{_DESCRIPTION}.tmp"
        save_file(tensors, weights_aside)
        description_aside.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        weights_aside.replace(folder / _WEIGHTS)
        description_aside.replace(folder / _DESCRIPTION)


def load(folder: str | Path) -> FittedModel:
    """Load a model that :meth:`FittedModel.save` or ``nh2st-graph train`` wrote.

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
        encoder = patch_encoder(config.features, trained=False)
        module = NH2STGraph(config.model, description["n_features"], len(description["genes"]), encoder)
        module.load_state_dict(
            {name.removeprefix("module."): value for name, value in tensors.items() if name.startswith("module.")}
        )
        fields = {name: description[name] for name in _FIELDS}
    except ConfigError as error:
        raise ModelError(f"model {folder}: {error}; train again, or install the version that wrote it") from None
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"model {folder}: {_WEIGHTS} or {_DESCRIPTION} is damaged or incomplete: {reason}") from error
    return FittedModel(
        module=module.eval(),
        config=config,
        standardize=Standardizer(_array(tensors, "features.mean"), _array(tensors, "features.std")),
        log=_read_log(folder),
        **fields,
    )


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
    path = folder / "log.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()
