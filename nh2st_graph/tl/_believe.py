"""Write beside a prediction how far it can be believed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from anndata import AnnData
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError, listed, setting
from nh2st_graph._settings import RELIABLE
from nh2st_graph.confidence import FEW_SPOTS, OF_KNOWN, OF_NEW, call, reliable_in
from nh2st_graph.models import NH2STGraph, patient_digest
from nh2st_graph.section import Key, named_patients, section_name
from nh2st_graph.tl._named import asks_for_reliable, checked_genes
from nh2st_graph.train import FittedModel, PreparedSection, image_only, predict_graph

__all__ = [
    "believe",
    "blank_barely_measured",
    "call",
    "chosen_genes",
    "kind_of_slides",
    "of_training_patient",
    "refuse_genes",
    "say_barely_measured",
]

logger = logging.getLogger("nh2st_graph")


def of_training_patient(model: FittedModel, prepared: PreparedSection) -> bool:
    """Whether the model predicts a section as one of a training patient."""
    return isinstance(model.module, NH2STGraph) and model.module.knows(image_only(prepared.graph))


def kind_of_slides(model: FittedModel, patients: Iterable[str | None]) -> str:
    """Say by whose evidence sections are judged that are predicted together; see :meth:`Confidence.kind_of`.

    Parameters
    ----------
    model
        The model.
    patients
        The patient of each section; None where nobody is named.
    """
    assert model.confidence is not None
    kinds = set()
    for name in patients:
        # A model of an earlier version keeps its patients in the closed form alone.
        own = name is not None and isinstance(model.module, NH2STGraph) and model.module.knows(Data(patient=name))
        kind = model.confidence.kind_of(None if name is None else patient_digest(name))
        kinds.add(OF_KNOWN if own and kind == OF_NEW else kind)
    (kind,) = kinds if len(kinds) == 1 else {OF_NEW}
    return kind if kind in model.confidence.kinds else OF_NEW


def refuse_genes(model: FittedModel, sections: Sequence[AnnData], genes: str | Sequence[str] | None) -> None:
    """Refuse genes that cannot be kept of sections, before any features are computed.

    Raises
    ------
    ModelError
        If a gene is none of the model's, or ``genes`` is ``"reliable"``, and no gene is for these sections, which are
        predicted together.
    """
    if genes is not None and not asks_for_reliable(genes):
        checked_genes(genes, model.genes)
    if not asks_for_reliable(genes) or model.confidence is None:
        return
    if any(getattr(each.obs.get(Key.obs.patient), "dtype", None) != "category" for each in sections):
        return  # refused with its other faults when it is prepared
    evidence = model.confidence.of(kind_of_slides(model, map(named_patients, sections)))
    if not evidence.genes[Key.var.reliable].any():
        raise _none_reliable(list(map(section_name, sections)), alone=evidence.to_another_patient)


def believe(
    predicted: AnnData, model: FittedModel, prepared: PreparedSection, *, intervals: bool, kind: str | None = None
) -> None:
    """Write the evidence on genes into ``var``, what calls rest on into ``varm``, and intervals into ``layers``.

    Parameters
    ----------
    predicted
        The prediction, with spots in the order of the prepared section.
    model
        The model; one of an earlier version has no evidence.
    prepared
        The section.
    intervals
        Whether to write layers.
    kind
        By whose evidence the section is judged; None asks the model.
    """
    if intervals and model.folds:
        graph, threads = image_only(prepared.graph), model.config.train.n_threads
        spread = np.stack([predict_graph(module, graph, threads) for module in model.folds])
        predicted.layers[Key.layers.sd] = spread.std(axis=0, ddof=1).astype(np.float32)
    if model.confidence is None:
        return
    kind = kind_of_slides(model, [named_patients(prepared.section)]) if kind is None else kind
    evidence, level = model.confidence.of(kind), model.config.evaluate.coverage
    for column in evidence.genes:
        predicted.var[column] = evidence.genes[column].to_numpy()
    predicted.var[Key.var.cut] = evidence.calls.cut
    predicted.varm[Key.varm.call_high] = evidence.calls.high
    predicted.varm[Key.varm.call_low] = evidence.calls.low
    coverage = evidence.coverage(level)
    about = predicted.uns[Key.uns.prediction]
    about[Key.prediction.evidence] = kind
    about[Key.prediction.coverage] = {
        "level": level,
        "measured": coverage.measured,
        "guaranteed": coverage.guaranteed,
        "unit": coverage.unit,
        "n_units": coverage.n_units,
        "to_another_patient": coverage.to_another_patient,
    }
    if intervals:
        lower, upper = evidence.calibration.intervals(predicted.X, level)
        predicted.layers[Key.layers.lower], predicted.layers[Key.layers.upper] = lower, upper


def blank_barely_measured(predicted: AnnData, model: FittedModel) -> None:
    """Make the genes NaN that training barely measured."""
    if model.confidence is None:
        return
    barely = model.confidence.barely_measured
    predicted.var[Key.var.varies] &= ~barely
    for values in (predicted.X, *(predicted.layers[key] for key in _LAYERS if key in predicted.layers)):
        values[:, barely] = np.nan


def say_barely_measured(predicted: AnnData, model: FittedModel) -> None:
    """Warn of the genes of a prediction that training barely measured."""
    if model.confidence is None:
        return
    barely = {*model.confidence.not_predicted}
    genes = [gene for gene in predicted.var_names if gene in barely]
    if genes:
        logger.warning(
            "%d %s detected in fewer than %d training spots, and %s NaN: %s",
            len(genes),
            "gene was" if len(genes) == 1 else "genes were",
            FEW_SPOTS,
            "is" if len(genes) == 1 else "are",
            listed(genes),
        )


_LAYERS = (Key.layers.lower, Key.layers.upper, Key.layers.sd)


def chosen_genes(predicted: AnnData, model: FittedModel, genes: str | Sequence[str]) -> list[str]:
    """Find the genes to keep of a prediction, in its order.

    Raises
    ------
    ModelError
        If a gene is none of the model's, the model has no evidence, or no gene is reliable.
    """
    if not asks_for_reliable(genes):
        wanted = set(checked_genes(genes, model.genes))
        return [gene for gene in predicted.var_names if gene in wanted]
    found = reliable_in(predicted)
    if found is None:
        raise ModelError(
            f"{setting('genes', RELIABLE)}: the model is of an earlier version, and does not say which genes are "
            "reliable; train again"
        )
    if not found:
        about = predicted.uns[Key.uns.prediction]
        raise _none_reliable([about["section"]], alone=about[Key.prediction.coverage]["to_another_patient"])
    return found


def _none_reliable(sections: Sequence[str], *, alone: bool) -> ModelError:
    """Say why none is: ``alone`` if held-out tissue speaks for its own patients, and not all sections are theirs."""
    one = len(sections) == 1
    whose = "its patient" if one else "all their patients"
    which = f"section{'' if one else 's'} {listed(map(repr, sections))}"
    why = f", since no held-out tissue is known to speak for {whose}" if alone else ""
    return ModelError(
        f"{setting('genes', RELIABLE)}: no gene is reliable for {which}{why}; leave {setting('genes')} out"
    )
