"""Predict what folds hold out, for all that says how far a prediction can be believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.confidence import FEW_SPOTS, Confidence, HeldOut
from nh2st_graph.metrics import noise_ceiling_interval
from nh2st_graph.models import CorrectedForm, Network, patient_digest
from nh2st_graph.nn import blocks_of
from nh2st_graph.section import split_half_normalizer
from nh2st_graph.train._batches import pieces
from nh2st_graph.train._large import scored
from nh2st_graph.train._prepare import Learned, PreparedSection, image_only
from nh2st_graph.train._threads import one_thread

__all__ = [
    "Tested",
    "held_out",
    "known_parts",
    "named_in",
    "say_rarely_detected",
    "section_ceiling",
    "tested_networks",
    "weigh",
]

logger = logging.getLogger("nh2st_graph")

#: Most spots of a section that its noise ceiling is measured on.
_MOST_SPOTS = 5000

#: Blocks of tissue of a held-out section, by which the error of its scores is estimated.
_BLOCKS = 16


@torch.no_grad()
def held_out(predict: Callable[[Data], Tensor], sections: Sequence[Data], part: str) -> list[HeldOut]:
    """Predict a fold's held-out sections from their images.

    Parameters
    ----------
    predict
        Gives ``(n_spots, n_genes)`` of a graph without genes.
    sections
        Held-out graphs with their targets; of a sample of a large section, the spots that are scored are taken.
    part
        Name of the fold.
    """
    found = []
    for section in sections:
        predicted, pos = scored(section, predict(image_only(section))), scored(section, section.pos)
        blocks = np.empty(len(pos), dtype=np.int64)
        for number, block in enumerate(pieces(pos, min(_BLOCKS, len(pos)))):
            blocks[block] = number
        observed, depth = scored(section, section.y), scored(section, section.library)[:, 0]
        found.append(
            HeldOut(
                section=str(section.section),
                patient=str(section.patient) if "patient" in section else "",
                part=part,
                predicted=predicted.numpy(),
                observed=observed.numpy(),
                depth=depth.numpy(),
                blocks=blocks,
                pos=pos.numpy(),
            )
        )
    return found


class Tested(NamedTuple):
    """What was held out of each fold, and predicted from its image.

    Attributes
    ----------
    new
        All of it, predicted as sections of new patients are.
    known
        Sections of patients that are in the fold's training, predicted as such; those of ``new`` where a method
        predicts all patients alike.
    alike
        Whether it does.
    """

    new: list[HeldOut]
    known: list[HeldOut]
    alike: bool


def named_in(sections: Sequence[Data]) -> frozenset[str]:
    """Name the patients of sections; of those that say theirs."""
    return frozenset(str(section.patient) for section in sections if "patient" in section)


def known_parts(parts: Sequence[HeldOut], patients: Collection[str]) -> list[HeldOut]:
    """Take the parts of some patients."""
    return [part for part in parts if part.patient in patients]


def tested_networks(
    folds: Sequence[tuple[Network, Sequence[Data]]], names: Sequence[str], patients: Sequence[Collection[str]]
) -> Tested:
    """Predict each fold's held-out sections by its network.

    A section of a patient whom the network tells from others is predicted twice: as what it is, and as if it were of a
    new patient.

    Parameters
    ----------
    folds
        Networks, and the sections that were held out of their training.
    names
        Names of the folds.
    patients
        Names of the patients in the training of each.
    """
    new: list[HeldOut] = []
    known: list[HeldOut] = []
    tell = [isinstance(network, CorrectedForm) and network.closed_form is not None for network, _ in folds]
    for (network, sections), name, trained, tells in zip(folds, names, patients, tell, strict=True):
        parts = held_out(partial(_predict_as_new, network), sections, name)
        new += parts
        if tells:
            assert isinstance(network, CorrectedForm)
            known += held_out(network.predict, [section for section in sections if network.knows(section)], name)
        else:
            known += known_parts(parts, trained)
    return Tested(new, known, not any(tell))


def _predict_as_new(network: Network, section: Data) -> Tensor:
    """Predict a section that does not say whose it is."""
    return network.predict(Data(**{key: value for key, value in section.to_dict().items() if key != "patient"}))


def weigh(prepared: Learned, graphs: Sequence[Data], tested: Tested) -> Confidence:
    """Weigh what was held out against what was measured there; see :class:`nh2st_graph.confidence.Confidence`."""
    config = prepared.preparation.config
    # A smoothed target is a mean over spots that would not be drawn.
    smooth = config.data.smooth != "none"
    with one_thread():
        ceilings = {
            each.name: section_ceiling(each, _MOST_SPOTS)
            for each in prepared.train
            if not smooth or each.section.n_obs <= _MOST_SPOTS
        }
        return Confidence.fit(
            prepared.preparation.genes,
            tested.new,
            tested.known,
            detected_spots(graphs),
            ceilings=ceilings,
            patients=map(patient_digest, named_in(graphs)),
            least=None if config.data.normalize == "residuals" else 0.0,
            seed=config.seed,
        )


def detected_spots(graphs: Sequence[Data]) -> NDArray[np.int64]:
    """Count the training spots in which each gene was detected, ``(n_genes,)``."""
    parts = ((rows > 0).sum(dim=0) for graph in graphs for rows in blocks_of(graph.counts))
    found: NDArray[np.int64] = sum(parts, start=torch.zeros(graphs[0].counts.shape[1], dtype=torch.int64)).numpy()
    return found


def say_rarely_detected(genes: Sequence[str], graphs: Sequence[Data], panel: str) -> None:
    """Warn before training of genes that will not be predicted, and say what to give in their place."""
    few = detected_spots(graphs) < FEW_SPOTS
    if not few.any():
        return
    why = f": {panel} takes the genes that vary most, however rare they are" if panel.startswith("hvg:") else ""
    logger.warning(
        "%d of %d genes of the panel are detected in fewer than %d training spots, and will not be predicted (NaN)%s; "
        "to choose others, give a file of genes or a published panel as 'panel'",
        int(few.sum()),
        len(genes),
        FEW_SPOTS,
        why,
    )


def section_ceiling(prepared: PreparedSection, most_spots: int) -> pd.DataFrame:
    """Measure the noise ceiling of a section; if there are more spots than ``most_spots``, of so many, evenly drawn."""
    config, section = prepared.preparation.config, prepared.section
    if section.n_obs > most_spots:
        section = section[np.linspace(0, section.n_obs - 1, most_spots).astype(int)].copy()
    halves = split_half_normalizer(section, prepared.preparation.genes, **config.data.target)
    return noise_ceiling_interval(*halves, seed=config.seed)
