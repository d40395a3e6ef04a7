"""Adapt a fitted model to sections of one's own, and say what that gains on tissue that was held out of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import t as student
from torch_geometric.data import Data

from nh2st_graph._errors import DataError, ModelError, listed, setting
from nh2st_graph.confidence import OF_KNOWN, OF_NEW, Confidence, HeldOut
from nh2st_graph.metrics import PairedDifference, paired_bootstrap, pearson
from nh2st_graph.models import PENALTIES, ClosedForm, drawn_spots, patient_digest
from nh2st_graph.nn import LARGE, ComponentRidge, RidgeSpots, fit_component_ridge
from nh2st_graph.read import Sections, documented, sections_by_name
from nh2st_graph.section import find_genes, say_same_sections, unknown_patient
from nh2st_graph.tl._measured import Entries, Measured, MeasuredValues, measured_entries, measured_values
from nh2st_graph.tl._order import data_first
from nh2st_graph.train import (
    FittedModel,
    PreparedSection,
    image_only,
    one_thread,
    pieces,
    predicted_expression,
    prepared_digest,
)
from nh2st_graph.train._held_out import section_ceiling

__all__ = ["adapt"]

logger = logging.getLogger("nh2st_graph")

#: Blocks of tissue that are held out in turn, at least two of each section; and the fewest spots of one.
_BLOCKS, _FEWEST = 8, 4
#: Most spots that the last layer is fitted on; of more, evenly drawn ones.
_MOST_SPOTS = 1500
#: Certainty that a part of the adaptation lowers the error on held-out blocks, for it to be kept.
_CERTAIN = 0.95
#: Between the kinds of slides, where a model was adapted to both.
_AND = " and "


class _Spots(NamedTuple):
    """Measured spots of all sections: descriptions, predictions, targets, depth, weight, and section and block."""

    described: torch.Tensor
    predicted: torch.Tensor
    observed: torch.Tensor
    depth: torch.Tensor
    weight: torch.Tensor
    pos: torch.Tensor
    sections: torch.Tensor
    blocks: torch.Tensor


class _Gain(NamedTuple):
    """What held-out blocks say: the parts of the error that others predict of a spot, 0 if they do not lower it.

    ``mean`` is that of each gene, and ``pattern`` the rest. Together they are no prediction of one model: where a block
    is high, the mean of the others is low, so that means of several folds turn a correlation down.
    """

    mean: torch.Tensor
    pattern: torch.Tensor
    offset: bool
    weights: bool


@documented
def adapt(
    sections: Sections,
    model: FittedModel,
    *,
    measured: Measured | Mapping[str, Measured] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> FittedModel:
    """Adapt a model to measured sections of one's own, such as those of another laboratory or patient.

    Encoder and graph stay what they are, and so do the components of expression. The last layer is fitted again: the
    weights from image features to components, by ridge regression towards those of the model, and the mean of each
    gene. Slides of training patients and others have weights of their own; those that predict ``sections`` are adapted.

    Eight compact blocks of tissue are held out in turn, the penalties being chosen on the other seven. A part of the
    adaptation that does not lower the squared error of blocks beyond chance (one-sided, 95 %%) is left out. If nothing
    is left, the model is returned as it is, and a warning says so.

    Parameters
    ----------
    sections
        Sections with raw counts, in a list, a mapping, one AnnData or SpatialData: all of training patients, or none.
    model
        A model of NH2ST-Graph with its closed form (the default).
    measured
        Which spots of a section were measured, True or False for each; by section if there are several. None takes all.
        Others are read for their image alone.
    %(library_key)s
    %(table_key)s

    Returns
    -------
    A new model; or ``model`` itself if nothing is gained. ``origin["adapted"]`` says what it was adapted on
    (``sections``, with their digests; ``n_spots``; ``n_blocks``; ``predicted_as``), which parts were kept (``offset``,
    ``weights``), and the gain on held-out blocks: ``pcc_mean`` and ``mse`` before and after, and ``pcc_gain``, the
    difference of mean r, with a 95 %% interval over genes and sections. Its evidence on such slides is of the held-out
    blocks; it has no models of folds, so that its predictions have no ``layers["sd"]``, and :func:`impute` corrects it
    by what the model before had learned. A model may be adapted again, on other sections: ``sections``, ``n_spots`` and
    ``predicted_as`` are then of all of them, and gain and evidence are those of the last ones.

    Raises
    ------
    DataError, ImageError
        If a section breaks the contract, lacks a gene that the model predicts, or has too few measured spots, or
        ``measured`` does not fit it; or if the model was trained or adapted on it, so that none of it is held out.
    ModelError
        If the model has no closed form.

    Examples
    --------
    Adapt on a section, and predict others of the same laboratory:

    >>> import nh2st_graph as ng
    >>> sections = ng.read.sections("visium", "sections")
    >>> adapted = ng.tl.adapt(sections["D1"], ng.load("model"))
    >>> gain = adapted.origin.get("adapted", {"pcc_gain": None})["pcc_gain"]
    >>> prediction = ng.tl.predict(sections["D2"], adapted)
    """
    sections, model = data_first("adapt", sections, model)
    form = model.nh2st_graph.closed_form
    if form is None:
        raise ModelError(
            "the model has no closed form, and its last layer cannot be fitted again; train with "
            f"{setting('model.closed_form', True)}"
        )
    named = sections_by_name(sections, library_key=library_key, table_key=table_key)
    if not named:
        raise DataError(f"no section given; name at least one in {setting('sections')}")
    _refuse_seen(model, named)
    whole, preparation, prepared, found = _whole_spots(named, measured), model.preparation, [], []
    for name, section in named.items():
        absent = _absent(section, name, model)
        each = preparation.prepare(section)
        told = whole[name][section.obs_names.get_indexer(each.section.obs_names)]
        counts = _with_zeros(each.section, absent)
        entries = Entries(told, np.zeros(counts.n_vars, dtype=bool))
        prepared.append(each)
        found.append(measured_values(counts, entries, model.genes, model.config.data, np.zeros(len(model.genes))))
    seen = {**model.origin.get("train", {}), **model.origin.get("adapted", {}).get("sections", {})}
    say_same_sections({**seen, **{each.name: each.digest for each in prepared}})
    known = _are_known(form, prepared)
    with one_thread():
        spots = _spots(model, form, prepared, found)
        ridge = form.ridge(image_only(prepared[0].graph))
        gain = _held_out(spots, ridge)
        return _adapted(model, form, prepared, found, spots, gain, known)


def _refuse_seen(model: FittedModel, named: Mapping[str, AnnData]) -> None:
    """Refuse sections that the model has learned from: no block of them is held out of what it predicts."""
    before = model.origin.get("adapted", {}).get("sections", ())
    for name in named:
        if name in model.train_sections:
            raise DataError(
                f"section {name!r} was trained on, and no block of it is held out of the model; adapt on others, or "
                "train again with all of them"
            )
        if name in before:
            raise DataError(
                f"section {name!r} was adapted on before, and no block of it is held out of the model; adapt on "
                "others, or adapt the model of before on all of them"
            )


def _absent(section: AnnData, name: str, model: FittedModel) -> list[str]:
    """Find the genes of the panel that a section lacks; refuse it if the model predicts one of them."""
    absent = [gene for gene, at in zip(model.genes, find_genes(section, model.genes).positions, strict=True) if at < 0]
    barely = set() if model.confidence is None else {*model.confidence.not_predicted}
    needed = [gene for gene in absent if gene not in barely]
    if needed:
        raise DataError(
            f"section {name!r}: panel gene {listed(needed)} not measured; adapt on sections with all genes that the "
            "model predicts"
        )
    return absent


def _with_zeros(section: AnnData, absent: list[str]) -> AnnData:
    """Count genes that a section lacks as 0."""
    if not absent:
        return section
    zeros = sparse.csr_matrix((section.n_obs, len(absent)), dtype=section.X.dtype)
    var = section.var.reindex([*section.var_names, *absent])
    counts = sparse.hstack([sparse.csr_matrix(section.X), zeros], format="csr")
    return AnnData(counts, section.obs, var, section.uns, section.obsm, obsp=section.obsp)


def _whole_spots(
    named: Mapping[str, AnnData], measured: Measured | Mapping[str, Measured] | None
) -> dict[str, NDArray[np.bool_]]:
    """Read which spots of each section were measured, all their genes."""
    if measured is None:
        return {name: np.ones(section.n_obs, dtype=bool) for name, section in named.items()}
    if not isinstance(measured, Mapping):
        measured = dict.fromkeys(named, measured) if len(named) == 1 else {}
    if set(measured) != set(named):
        raise DataError(
            f"{setting('measured')} is not of sections {', '.join(named)}; give a mask for each, by its name"
        )
    entries = {name: measured_entries(section, measured[name]) for name, section in named.items()}
    if any(each.genes.any() for each in entries.values()):
        raise DataError(
            f"{setting('measured')} names genes, and a model is adapted to whole spots; give True or False for each "
            "spot, or use ng.tl.impute, which takes genes"
        )
    for name, each in entries.items():
        if each.table is not None and each.table.any() and not each.whole.any():
            raise DataError(
                f"section {name!r}: {setting('measured')} has no spot of which all genes were measured, and a model is "
                "adapted to whole spots; use ng.tl.impute, which takes parts"
            )
    return {name: each.whole for name, each in entries.items()}


def _are_known(form: ClosedForm, prepared: list[PreparedSection]) -> bool:
    """Whether sections are of training patients; refuse those of whom some are."""
    known = [form.knows(image_only(each.graph)) for each in prepared]
    if len(set(known)) > 1:
        names = [each.name for each, is_known in zip(prepared, known, strict=True) if is_known]
        raise DataError(
            f"sections are of training patients ({', '.join(names)}) and of others, which are predicted by other "
            "weights; adapt on one kind"
        )
    return known[0]


def _spots(
    model: FittedModel, form: ClosedForm, prepared: list[PreparedSection], found: list[MeasuredValues]
) -> _Spots:
    """Join the measured spots of all sections, and cut each section into blocks."""
    n_blocks, parts = max(2, _BLOCKS // len(prepared)), []
    for number, (section, values) in enumerate(zip(prepared, found, strict=True)):
        graph, told = image_only(section.graph), values.spots[values.depth > 0]
        if len(told) < n_blocks * _FEWEST:
            raise DataError(
                f"section {section.name!r}: {len(told)} measured spots with counts are too few to hold out {n_blocks} "
                f"blocks of them; measure {n_blocks * _FEWEST} or more"
            )
        spots = told[drawn_spots([Data(pos=graph.pos[told], num_nodes=len(told))], _MOST_SPOTS // len(prepared))]
        blocks = torch.empty(len(spots), dtype=torch.int64)
        for i, block in enumerate(pieces(graph.pos[spots], n_blocks)):
            blocks[block] = number * n_blocks + i
        at = np.searchsorted(values.spots, spots)
        parts.append(
            _Spots(
                form.described(graph, spots),
                torch.from_numpy(predicted_expression(model, section.graph)[spots]).double(),
                torch.from_numpy(values.values[at]),
                torch.from_numpy(values.depth[at]),
                torch.from_numpy(values.depth[at] ** model.nh2st_graph.config.depth_power),
                graph.pos[spots],
                torch.full((len(spots),), number),
                blocks,
            )
        )
    return _Spots(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _fit(spots: _Spots, inside: torch.Tensor, ridge: ComponentRidge) -> ComponentRidge:
    """Fit the error of some spots by the kernel and components of a regression; penalties are chosen by blocks."""
    joined = RidgeSpots(
        spots.described[inside],
        (spots.observed - spots.predicted)[inside],
        spots.sections[inside],
        spots.blocks[inside],
        spots.weight[inside],
    )
    return fit_component_ridge(
        joined,
        sharpness=[ridge.sharpness],
        n_components=[len(ridge.basis)],
        penalties=PENALTIES,
        by_component=True,
        basis=ridge.basis.double(),
    ).ridge


def _held_out(spots: _Spots, ridge: ComponentRidge) -> _Gain:
    """Predict the error of each block by the others, and test whether offset and weights lower it."""
    error = spots.observed - spots.predicted
    offset, both = torch.zeros_like(error), torch.zeros_like(error)
    numbers = spots.blocks.unique()
    for block in numbers:
        inside = spots.blocks == block
        fitted = _fit(spots, ~inside, ridge)
        offset[inside], both[inside] = fitted.mean, fitted(spots.described[inside])
    variance = spots.observed.var(dim=0)
    varies = variance > 0

    def certain(before: torch.Tensor, after: torch.Tensor) -> bool:
        falls = (((error - before).square() - (error - after).square()) / variance)[:, varies].mean(dim=1)
        fall = np.array([float(falls[spots.blocks == block].mean()) for block in numbers])
        return bool(fall.mean() > student.ppf(_CERTAIN, len(fall) - 1) * fall.std(ddof=1) / len(fall) ** 0.5)

    keeps_offset, keeps_weights = certain(torch.zeros_like(error), offset), certain(offset, both)
    return _Gain(offset * keeps_offset, (both - offset) * keeps_weights, keeps_offset, keeps_weights)


def _adapted(
    model: FittedModel,
    form: ClosedForm,
    prepared: list[PreparedSection],
    found: list[MeasuredValues],
    spots: _Spots,
    gain: _Gain,
    known: bool,
) -> FittedModel:
    """Fit the parts that are kept on all spots, and say what they gain."""
    names = [each.name for each in prepared]
    scores = _scores(spots, gain, names, model.genes)
    if not (gain.offset or gain.weights):
        logger.warning("sections %s: nothing is gained beyond chance, and the model stays as it is", ", ".join(names))
        return model
    section = image_only(prepared[0].graph)
    fitted = _fit(spots, torch.ones(len(spots.blocks), dtype=torch.bool), form.ridge(section))
    kept = replace(
        fitted,
        mean=fitted.mean * gain.offset,
        coefficients=fitted.coefficients * gain.weights,
        intercept=fitted.intercept * gain.weights,
    )
    module = copy.deepcopy(model.nh2st_graph)
    module.recall({**module.memory, **form.corrected(section, kept).memory()})
    difference = scores["pcc_gain"]
    logger.info(
        "sections %s: on held-out blocks, mean r %.3f -> %.3f (%+.3f, %.3f to %.3f), squared error %.3f -> %.3f",
        ", ".join(names),
        *scores["pcc_mean"],
        *difference,
        *scores["mse"],
    )
    before = model.origin.get("adapted", {"sections": {}, "n_spots": 0, "predicted_as": ""})
    kinds = {*filter(None, before["predicted_as"].split(_AND)), OF_KNOWN if known else OF_NEW}
    about: dict[str, Any] = {
        "sections": {**before["sections"], **{each.name: prepared_digest(each) for each in prepared}},
        "n_spots": before["n_spots"] + len(spots.blocks),
        "n_blocks": len(spots.blocks.unique()),
        "predicted_as": _AND.join(sorted(kinds, key=[OF_KNOWN, OF_NEW].index)),
        "offset": gain.offset,
        "weights": gain.weights,
        **scores,
    }
    return replace(
        model,
        module=module,
        origin={**model.origin, "adapted": about},
        confidence=_confidence(model, form, prepared, found, spots, spots.predicted + gain.pattern + kept.mean, known),
        folds=(),
    )


def _scores(spots: _Spots, gain: _Gain, names: list[str], genes: list[str]) -> dict[str, list[float]]:
    """Compare predictions of held-out blocks before and after; a mean of a gene changes no correlation."""

    def by_gene(predicted: torch.Tensor) -> pd.DataFrame:
        inside = [spots.sections == number for number in range(len(names))]
        rows = [pearson(predicted[each].numpy(), spots.observed[each].numpy()) for each in inside]
        return pd.DataFrame(rows, index=names, columns=genes)

    before, after = by_gene(spots.predicted), by_gene(spots.predicted + gain.pattern)
    difference: PairedDifference = paired_bootstrap(after, before)
    whole = spots.predicted + gain.pattern + gain.mean
    mse = [float((spots.observed - each).square().mean()) for each in (spots.predicted, whole)]
    return {
        "pcc_mean": [float(before.to_numpy().mean()), float(after.to_numpy().mean())],
        "pcc_gain": [difference.mean, difference.low, difference.high],
        "mse": mse,
    }


def _ceilings(prepared: list[PreparedSection], found: list[MeasuredValues]) -> dict[str, pd.DataFrame]:
    """Measure the noise ceilings of sections that were measured whole; of none where one was not."""
    ceilings = {}
    for section, values in zip(prepared, found, strict=True):
        if section.lacks is not None or len(values.spots) < np.count_nonzero(section.library):
            return {}
        smooth = section.preparation.config.data.smooth != "none"
        ceilings[section.name] = section_ceiling(section, section.section.n_obs if smooth else LARGE)
    return ceilings


def _confidence(
    model: FittedModel,
    form: ClosedForm,
    prepared: list[PreparedSection],
    found: list[MeasuredValues],
    spots: _Spots,
    after: torch.Tensor,
    known: bool,
) -> Confidence | None:
    """Weigh the held-out blocks, in place of what was held out for slides of this kind in training."""
    if model.confidence is None:
        return None
    parts = []
    for block in spots.blocks.unique().tolist():
        inside = (spots.blocks == block).numpy()
        section = prepared[int(spots.sections[spots.blocks == block][0])]
        parts.append(
            HeldOut(
                section=section.name,
                # A section of nobody is of a patient of its own.
                patient=str(section.graph.patient) if "patient" in section.graph else unknown_patient(section.name),
                part=f"block{block + 1}",
                predicted=after.numpy()[inside],
                observed=spots.observed.numpy()[inside],
                depth=spots.depth.numpy()[inside],
                blocks=np.zeros(int(inside.sum()), dtype=np.int64),
                pos=spots.pos.numpy()[inside],
            )
        )
    residuals = model.config.data.normalize == "residuals"
    weighed = Confidence.fit(
        model.genes,
        parts,
        parts,  # of their own patients, these say what they say
        model.confidence.detected,
        ceilings=_ceilings(prepared, found),
        least=None if residuals else 0.0,
        seed=model.config.seed,
    )
    graphs = [section.graph for section in prepared]
    patients = frozenset(patient_digest(str(graph.patient)) for graph in graphs if "patient" in graph)
    if known and form.patients <= set(map(bytes.fromhex, patients)):
        return replace(model.confidence, known=weighed.known)
    if known:
        # Other training patients are predicted by these weights too, and the blocks are none of theirs.
        return replace(model.confidence, known=weighed.new, adapted=weighed.known, adapted_patients=patients)
    # The weights of training patients stay, and so does what was said of their slides.
    before = model.confidence.known or (model.confidence.new if form.patients else None)
    return replace(
        model.confidence,
        known=before,
        new=weighed.new,
        adapted=weighed.known if patients else None,
        adapted_patients=patients,
    )
