"""Learn, of what folds held out, how genes that were measured correct a prediction from the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nh2st_graph._settings import TARGET_SUM
from nh2st_graph.confidence import HeldOut, joined
from nh2st_graph.config import DataConfig
from nh2st_graph.nn import MaskedGenes, MeasuredSpots, fit_masked_genes
from nh2st_graph.train._batches import pieces
from nh2st_graph.train._threads import one_thread

__all__ = ["Imputation", "imputation_state", "learn_imputation", "read_imputation"]

#: Prefix of the names of tensors in a model's file.
_PREFIX = "imputation."
#: Most spots of a block that is filled in at a time, most spots of all blocks, and most sections.
_BLOCK, _MOST, _SECTIONS = 300, 1500, 15


@dataclass(frozen=True, eq=False)
class Imputation:
    """How measured genes correct the image, for slides of training patients and for those of new ones.

    Attributes
    ----------
    new, known
        What held-out sections taught that were predicted as of a new patient, and as of a training patient. ``known``
        is None where no patient was known.
    shares
        Share of each gene in the counts that targets are relative to, ``(n_genes,)``; zeros for targets that are no
        logarithm. It says the depth of a spot of which some genes were measured.
    """

    new: MaskedGenes
    known: MaskedGenes | None
    shares: Tensor

    def of(self, *, known: bool) -> MaskedGenes:
        """Take what was learned for slides of training patients, or of new ones."""
        return self.known if known and self.known is not None else self.new

    def memory(self) -> dict[str, Tensor]:
        """Give tensors for :meth:`restore`."""
        parts = {"new": self.new, "known": self.known}
        found = {f"{name}.{key}": x for name, of in parts.items() if of for key, x in of.memory().items()}
        return {**found, "shares": self.shares.clone()}

    @classmethod
    def restore(cls, memory: Mapping[str, Tensor]) -> Imputation:
        """Restore what gave ``memory``.

        Raises
        ------
        KeyError
            If a tensor is missing.
        """
        parts = {
            name: {key.partition(".")[2]: x for key, x in memory.items() if key.startswith(f"{name}.")}
            for name in ("new", "known")
        }
        known = MaskedGenes.restore(parts["known"]) if parts["known"] else None
        return cls(MaskedGenes.restore(parts["new"]), known, memory["shares"].double())


def imputation_state(imputation: Imputation | None) -> dict[str, Tensor]:
    """Give what a model's file holds of it; nothing of None."""
    return {} if imputation is None else {f"{_PREFIX}{name}": x for name, x in imputation.memory().items()}


def read_imputation(tensors: Mapping[str, Tensor]) -> Imputation | None:
    """Read it from a model's file; None if there is none.

    Raises
    ------
    KeyError
        If a part of it is missing.
    """
    own = {name.removeprefix(_PREFIX): x for name, x in tensors.items() if name.startswith(_PREFIX)}
    return Imputation.restore(own) if own else None


def learn_imputation(new: Sequence[HeldOut], known: Sequence[HeldOut], data: DataConfig) -> Imputation | None:
    """Learn from held-out tissue, with masked genes, how those that were measured correct the image.

    Parameters
    ----------
    new, known
        Held-out parts, predicted as of a new patient, and as of a training patient where they are.
    data
        Settings of the targets.

    Returns
    -------
    What was learned; None if held-out tissue has too few spots with counts.
    """
    with one_thread():
        fitted, of_known = fit_masked_genes(_blocks(new)), fit_masked_genes(_blocks(known))
    if fitted is None:
        return None
    observed = np.concatenate([each.observed[each.depth > 0] for each in new]).astype(np.float64)
    shares = np.zeros(observed.shape[1])
    if data.normalize != "residuals":
        shares = np.expm1(observed if data.log_base == "e" else observed * np.log(10.0)).mean(axis=0) / TARGET_SUM
    return Imputation(fitted, of_known, torch.from_numpy(shares).float().double())


def _blocks(parts: Sequence[HeldOut]) -> list[MeasuredSpots]:
    """Cut sections into compact blocks, of which many are left out evenly, and so are many sections."""
    sections, found = joined(parts), []
    sections = sections[:: -(-len(sections) // _SECTIONS) or 1]
    of_each = _MOST // max(len(sections), 1)
    for each in sections:
        cut = pieces(torch.from_numpy(each.pos), -(-len(each.pos) // min(_BLOCK, of_each)))
        every = -(-len(cut) // max(1, of_each // _BLOCK))
        for spots in (part.numpy() for part in cut[every // 2 :: every]):
            error = each.observed[spots].astype(np.float64) - each.predicted[spots]
            found.append(MeasuredSpots(*map(torch.from_numpy, (each.pos[spots], error, each.depth[spots]))))
    return found
