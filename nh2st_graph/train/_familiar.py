"""Measure how near a section's image features are to those of the training sections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch_geometric.data import Data

from nh2st_graph.confidence import Familiarity, FeatureColumns, HeldOutBy
from nh2st_graph.im import HandcraftedEncoder
from nh2st_graph.models import drawn_spots, patients_of, section_groups
from nh2st_graph.nn import Rows, on_threads
from nh2st_graph.section import Key
from nh2st_graph.train._prepare import PreparedSection
from nh2st_graph.train._threads import one_thread

__all__ = ["add_familiarity", "familiarity_state", "learn_familiarity", "read_familiarity"]

logger = logging.getLogger("nh2st_graph")

#: Spots to learn from and to judge a section by, and the fewest of a training section.
_SPOTS, _OF_A_SECTION = 2000, 50
#: Fewest patients that are held out in turn; of two, the one says too little of the other.
_PATIENTS = 3
#: Spots of a part of a section.
_ROWS = 8192
#: Sides of the patches whose pixels are features: smaller ones are taken as they are, larger ones thinned out.
_SMALLEST, _LARGEST = 16, 112
#: Under these names the model's files keep it.
_PREFIX, _ENTRY = "familiarity.", "familiarity"

Read = Callable[[NDArray[Any]], NDArray[Any]]


def learn_familiarity(sections: Sequence[PreparedSection], graphs: Sequence[Data]) -> Familiarity | None:
    """Learn what is familiar from training sections and their graphs, in the same order.

    Returns
    -------
    None if there are too few spots.
    """
    total = sum(each.section.n_obs for each in sections)
    drawn = [
        drawn_spots([graph], max(_OF_A_SECTION, _SPOTS * each.section.n_obs // total))
        for graph, each in zip(graphs, sections, strict=True)
    ]
    read, entry = _readable(sections[0].section)
    features = np.concatenate(
        [read(np.asarray(_raw(each.section)[rows])) for each, rows in zip(sections, drawn, strict=True)]
    )
    number = np.repeat(np.arange(len(sections)), [len(rows) for rows in drawn])
    if len(sections) == 1:
        number = section_groups(graphs)[drawn[0]]
    patients = np.unique(patients_of(graphs), return_inverse=True)[1]
    by_patient = patients.max() + 1 >= _PATIENTS
    held_out_by: HeldOutBy = "band" if len(sections) == 1 else "patient" if by_patient else "section"
    units = patients[number] if by_patient else number
    with one_thread():
        return Familiarity.fit(features, number, units, FeatureColumns.of(entry, features.shape[1]), held_out_by)


def add_familiarity(
    predicted: AnnData, familiarity: Familiarity | None, prepared: PreparedSection, threads: int = 1
) -> None:
    """Write how familiar the spots of a section are into its prediction, and warn of one that is unlike training.

    Parameters
    ----------
    predicted
        The prediction, with spots in the order of ``prepared``.
    familiarity
        That of the model; None, of an earlier version, writes nothing.
    prepared
        The section.
    threads
        Parts of a large section that are read at a time.
    """
    predicted.obs.drop(columns=Key.obs.familiarity, errors="ignore", inplace=True)
    if familiarity is None:
        return
    features, (read, _) = _raw(prepared.section), _readable(prepared.section)
    rows = Rows(features)
    parts = [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]
    # One thread for each part: a search on several threads takes four times as long as on one.
    with one_thread():
        found = on_threads(lambda part: familiarity.of(read(rows[part].numpy())), parts, threads)
        verdict = familiarity.judge(read(np.asarray(features[:: -(-len(features) // _SPOTS)])))
    predicted.obs[Key.obs.familiarity] = np.concatenate(found)
    predicted.uns[Key.uns.prediction][Key.prediction.familiarity] = {
        "median": float(np.median(predicted.obs[Key.obs.familiarity])),
        "unlike": verdict.unlike,
        "reasons": "; ".join(verdict.reasons),
        "tails": dict(verdict.tails),
        **({} if verdict.resolution is None else {"resolution": verdict.resolution}),
        "held_out_by": familiarity.held_out_by,
        "n_units": familiarity.n_units,
    }
    if verdict.unlike:
        logger.warning(
            "section %r is unlike the training sections: %s; its predictions may be worse than held-out scores say%s",
            prepared.name,
            "; ".join(verdict.reasons),
            f" ({verdict.caution})" if verdict.caution else "",
        )


def familiarity_state(familiarity: Familiarity | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Give the tensors and the entry of the description under which a model's files keep it; nothing for None."""
    if familiarity is None:
        return {}, {}
    arrays, facts = familiarity.state()
    return {f"{_PREFIX}{name}": torch.from_numpy(array) for name, array in arrays.items()}, {_ENTRY: facts}


def read_familiarity(tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> Familiarity | None:
    """Read it from a model's files; None if they are of an earlier version.

    Raises
    ------
    KeyError, ValueError
        If it is damaged.
    """
    if _ENTRY not in description:
        return None
    arrays = {name.removeprefix(_PREFIX): each.numpy() for name, each in tensors.items() if name.startswith(_PREFIX)}
    return Familiarity.restore(arrays, description[_ENTRY])


def _raw(section: AnnData) -> NDArray[Any]:
    """Give the features as encoders gave them, which may be a memory map."""
    return np.asanyarray(section.obsm[Key.obsm.image])


def _readable(section: AnnData) -> tuple[Read, Mapping[str, Any]]:
    """Give a function from features to numbers whose distances mean something, and the description of these.

    Pixels become colour and texture of their patch: two patches of the same tissue have no pixel in common.
    """
    entry = section.uns[Key.uns.image]
    encoders = [str(name) for name in np.atleast_1d(entry.get(Key.features.encoders, ()))]
    sizes = [int(size) for size in np.atleast_1d(entry.get(Key.features.n_features, ()))]
    sides = [int(name.partition(":")[2]) if name.startswith("pixels:") else 0 for name in encoders]
    if len(sizes) != len(sides) or not any(side >= _SMALLEST for side in sides):
        return _as_they_are, entry
    encoder = HandcraftedEncoder("colour+texture")
    ends = np.cumsum(sizes)[:-1]

    def read(features: NDArray[Any]) -> NDArray[Any]:
        parts = zip(np.split(features, ends, axis=1), sides, strict=True)
        return np.hstack([encoder.encode(_patches(part, side)) if side >= _SMALLEST else part for part, side in parts])

    names = [
        encoder.feature_names if side >= _SMALLEST else [f"{i}"] * size
        for i, (side, size) in enumerate(zip(sides, sizes, strict=True))
    ]
    described = {
        Key.features.encoders: [
            encoder.name if side >= _SMALLEST else name for name, side in zip(encoders, sides, strict=True)
        ],
        Key.features.n_features: [len(each) for each in names],
        Key.features.names: [name for each in names for name in each],
        Key.features.patch_um: entry.get(Key.features.patch_um, np.nan),
    }
    return read, described


def _as_they_are(features: NDArray[Any]) -> NDArray[Any]:
    return features


def _patches(pixels: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Make patches of at most 112 px a side, a multiple of 4, of their pixels, ``(n, side * side * 3)``."""
    step = -(-side // _LARGEST)
    patches = pixels.reshape(-1, side, side, 3)[:, ::step, ::step]
    kept = patches.shape[1] // 4 * 4
    return np.ascontiguousarray(patches[:, :kept, :kept].astype(np.uint8, copy=False))
