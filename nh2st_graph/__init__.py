"""NH2ST-Graph: spatial gene expression from histology, as message passing over spots.

The rooms, each a namespace to type and tab in:

==========  ==============================================================
``read``    one reader a format, each returns sections (AnnData)
``datasets``  named data sets, splits, gene panels, the synthetic tissue
``im``      patches at a physical size, encoders, the feature cache
``gr``      the spatial graph, and the one conversion to PyG
``nn``      building blocks: message passing, attention, losses, decoders
``models``  the methods
``tl``      fit, predict, embed, explain, evaluate
``study``   many runs that are compared
``metrics`` every score
``pl``      plots
``write``   predictions for the tools of others
==========  ==============================================================

Rooms load on first use, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import (
    ConfigError,
    DataError,
    ImageError,
    ModelError,
    NH2STGraphError,
    RenamedWarning,
    RunError,
)
from nh2st_graph.train._deferred import defer, defer_rest, load_uncollected

if TYPE_CHECKING:
    from nh2st_graph import config, datasets, gr, im, metrics, models, nn, pl, read, study, tl, write
    from nh2st_graph.config import Config
    from nh2st_graph.tl import FittedModel, load, save
    from nh2st_graph.write import write_csv, write_loupe, write_qupath, write_seurat

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "FittedModel",
    "ImageError",
    "ModelError",
    "NH2STGraphError",
    "RenamedWarning",
    "RunError",
    "__version__",
    "config",
    "datasets",
    "gr",
    "im",
    "load",
    "metrics",
    "models",
    "nn",
    "pl",
    "read",
    "save",
    "study",
    "tl",
    "write",
    "write_csv",
    "write_loupe",
    "write_qupath",
    "write_seurat",
]

try:
    __version__ = version("nh2st-graph")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

# PyTorch Geometric imports them, and with them transformers: two seconds that no prediction needs.
defer("torch._dynamo", "torch_geometric.datasets", "torch_geometric.profile")
# Lightning asks it for two names. It imports all of its metrics, and with them torchvision and transformers.
defer_rest(
    "torchmetrics",
    {"check_forward_full_state_property": "utilities", "Metric": "metric", "MetricCollection": "collections"},
    {"_logger": logging.getLogger("torchmetrics")},
)
# squidpy imports them, and its graphs need none: a third of a second.
defer(*(f"squidpy.{room}" for room in ("datasets", "experimental", "im", "pl", "read", "tl")))
load_uncollected(
    "anndata",
    "lightning",
    "pandas",
    "scanpy",
    "scipy",
    "sklearn",
    "spatialdata",
    "squidpy",
    "timm",
    "torch",
    "torch_geometric",
    "transformers",
    "wsidata",
)

_ROOMS = {"config", "datasets", "gr", "im", "metrics", "models", "nn", "pl", "read", "study", "tl", "write"}
_SHORTCUTS = {"Config": "config", "FittedModel": "tl", "load": "tl", "save": "tl"}
_SHORTCUTS |= {f"write_{kind}": "write" for kind in ("csv", "loupe", "qupath", "seurat")}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _SHORTCUTS:
        return getattr(importlib.import_module(f"{__name__}.{_SHORTCUTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
