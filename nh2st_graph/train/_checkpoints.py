"""Write checkpoints whole, and read them without running code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from nh2st_graph._errors import RunError, reason
from nh2st_graph._files import check_format, written_aside

__all__ = [
    "CHECKPOINT_FORMAT",
    "LAST",
    "ORIGIN",
    "WRITTEN",
    "Kept",
    "WholeCheckpoints",
    "averaged_weights",
    "own_names",
    "read_kept",
    "set_aside",
]

logger = logging.getLogger("nh2st_graph")

#: Name of the file, and the key of what its weights rest on (JSON, so that reading it runs no code).
LAST, ORIGIN = "last.ckpt", "nh2st_origin"

#: Key of the format and version (JSON), and the format.
WRITTEN, CHECKPOINT_FORMAT = "nh2st_format", 1

#: What a checkpoint must hold, so that training can go on from it.
_PARTS = {"callbacks", "epoch", "global_step", "loops", "optimizer_states", "state_dict"}

_AVERAGING, _LOG = "Averaging", "EpochLog"


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it: Lightning writes into the temporary folder and moves it.

    On another disk that is a copy, of which an interruption or a full disk leaves a part.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the one before stays until this one is complete.

        Raises
        ------
        RunError
            If the disk is full or read-only.
        """
        del storage_options
        path, content = Path(path), BytesIO()
        torch.save(checkpoint, content)
        with written_aside(path) as aside:
            # Not its buffer: Python before 3.12.2 may crash after an error here. This copies nothing either.
            aside.write_bytes(content.getvalue())


@dataclass(frozen=True)
class Kept:
    """What a checkpoint says beside its weights.

    Attributes
    ----------
    origin
        What its weights rest on; empty in a checkpoint of an earlier version.
    rows
        The log of its stage, one row an epoch; empty in a checkpoint of an earlier version.
    """

    origin: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def read_kept(path: Path) -> Kept:
    """Read a checkpoint, and check that training can go on from it.

    Raises
    ------
    ValueError
        If it is damaged, incomplete, or no checkpoint.
    RunError
        If a later version wrote it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_format(f"checkpoint {path}", json.loads(content.get(WRITTEN, "{}")), CHECKPOINT_FORMAT, RunError)
        missing = _PARTS - content.keys()
        if missing or "best" not in content["callbacks"][_AVERAGING]:
            raise ValueError(f"it lacks {min(missing, default='the averaged weights')!r}")
        return Kept(json.loads(content.get(ORIGIN, "{}")), list(content["callbacks"].get(_LOG, {}).get("rows", [])))
    except RunError:
        raise
    except Exception as error:  # torch raises anything on damaged files
        raise ValueError(reason(error)) from error


def set_aside(path: Path, why: str) -> None:
    """Rename a checkpoint that cannot be used, and say so."""
    aside = path.with_name(f"{path.name}.unreadable")
    path.replace(aside)
    logger.warning("checkpoint %s cannot be read (%s); it is now %s, and its stage begins anew", path, why, aside.name)


def averaged_weights(checkpoint: Path, best: bool = False) -> dict[str, Tensor]:
    """Read the averaged weights of a checkpoint, the latest or the best, by the model's own names."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # Lightning saves the average as the model's own weights.
    return own_names(content["callbacks"][_AVERAGING]["best"] if best else content["state_dict"])


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights of a training module by the model's own names."""
    return {name.removeprefix("model."): value for name, value in state.items()}
