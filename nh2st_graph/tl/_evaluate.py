"""Score a model on sections that it never saw, beside baselines and references."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from torch_geometric.data import Data

from nh2st_graph import __version__
from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph._progress import bars
from nh2st_graph.metrics import (
    LABELS,
    METHOD_LABELS,
    REFERENCES,
    SCORES,
    Scores,
    aggregate,
    depth_oracle,
    downstream_scores,
    n_constant,
    neighbour_mean,
    score_section,
    share_of_ceiling,
)
from nh2st_graph.metrics._scores import gene_blocks
from nh2st_graph.models import BASELINES, make_baseline
from nh2st_graph.nn import LARGE
from nh2st_graph.read import Sections, documented, sections_by_name
from nh2st_graph.section import (
    Key,
    absent_genes,
    check_section,
    find_genes,
    library_size,
    other_sections,
    patient_name,
    patients_in,
    say_same_sections,
    unknown_patients,
)
from nh2st_graph.tl._found import trust_scores
from nh2st_graph.tl._order import data_first
from nh2st_graph.tl._predict import finished, predict_prepared, with_genes
from nh2st_graph.train import FittedModel, PreparedSection, prepared_digest, threads_for
from nh2st_graph.train._held_out import section_ceiling
from nh2st_graph.train._memory import give_back
from nh2st_graph.train._record import record

__all__ = ["LABELS", "REFERENCES", "Evaluation", "evaluate"]

logger = logging.getLogger("nh2st_graph")

#: What an error calls the test sections.
_TESTS = setting("data.test", argument="test_sections")

#: Scores of each gene that are also kept for baselines and references.
_PER_GENE = ("pcc", "pcc_partial")


@dataclass
class Evaluation:
    """Scores of a model, the baselines and the references on test sections.

    Attributes
    ----------
    metrics
        Content of ``metrics.json``. Scores are of all genes of the panel; ``genes_not_predicted`` names those that were
        detected in too few training spots, so that predictions leave them out (NaN). A section also has ``coverage``,
        the share of its measured values within the model's intervals; ``n_reliable``, the number of genes that are
        called reliable for it; and ``reliable_positive``, the share of them with a positive r given depth.
    per_gene
        One row for each section and gene: the model's scores, ``pcc`` and ``pcc_partial`` of each baseline and
        reference (``pcc_ridge``, ``pcc_partial_depth_oracle``, ...), and the noise ceiling with its 95 % interval
        (``ceiling``, ``ceiling_low``, ``ceiling_high``); of more than 50,000 spots, of so many evenly drawn ones.
    predictions
        Predicted sections by name.
    predict_seconds
        Seconds that the model took to predict all sections, without their features and graphs.
    """

    metrics: dict[str, Any]
    per_gene: pd.DataFrame
    predictions: dict[str, AnnData] = field(repr=False)
    predict_seconds: float

    def table(self) -> pd.DataFrame:
        """Give one row for the model (``model``), each baseline and each reference: means over the test sections."""
        rows = {"model": self.metrics["mean"]}
        rows |= {name: each["mean"] for name, each in self.metrics["baselines"].items()}
        rows |= {name: each["mean"] for name, each in self.metrics["references"].items()}
        return pd.DataFrame.from_dict(rows, orient="index")

    def __str__(self) -> str:
        """Show the main scores in words, a line for each row of :meth:`table`."""
        words = self.table()[list(SCORES)].rename(index=self.labels, columns=SCORES)
        sections = ", ".join(self.metrics["protocol"]["test"])
        return f"mean r on {sections}\n{words.to_string(float_format='%.3f', na_rep='-')}"

    @property
    def labels(self) -> dict[str, str]:
        """Names for the rows of :meth:`table`: that of the model is its method, the others are in :data:`LABELS`."""
        method = self.metrics["protocol"]["method"]
        return {"model": METHOD_LABELS.get(method, method), **LABELS}


@documented
def evaluate(
    test_sections: Sections,
    model: FittedModel,
    train_sections: Sections,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
) -> Evaluation:
    """Score a model on measured sections.

    Parameters
    ----------
    test_sections
        Sections with counts that training never saw, in a list, a mapping, one AnnData or SpatialData.
    model
        A fitted model.
    train_sections
        The model's training sections. With ``evaluate.baselines``, the baselines are fitted on them, on the same
        features.
    %(library_key)s
    %(table_key)s

    Returns
    -------
    The scores of the model, the baselines and the references, by the same functions.

    Raises
    ------
    DataError
        If a test section was trained on or lacks a gene of the panel, or the training sections are not the model's.
    """
    test_sections, model = data_first("evaluate", test_sections, model)
    test = sections_by_name(test_sections, library_key=library_key, table_key=table_key, shared=True)
    train = sections_by_name(train_sections, library_key=library_key, table_key=table_key)
    if not test:
        raise DataError(f"no test section given; name at least one in {_TESTS}")
    adapted = model.origin.get("adapted", {}).get("sections", {})
    seen = sorted(set(test) & {*model.train_sections, *adapted})
    if seen:
        how = "trained" if seen[0] in model.train_sections else "adapted"
        raise DataError(f"section {seen[0]!r} was {how} on; a score on it says nothing: choose another in {_TESTS}")
    if sorted(train) != sorted(model.train_sections):
        raise DataError(
            f"baselines need the model's training sections ({', '.join(model.train_sections)}), "
            f"given: {', '.join(sorted(train)) or 'none'}"
        )
    for name, section in test.items():
        _check_genes(model, name, section)
    preparation = model.preparation
    train, test = ({name: preparation.kept(section) for name, section in part.items()} for part in (train, test))
    if model.config.evaluate.baselines:
        learned = [preparation.prepare(section, need=("genes",), training=True) for section in train.values()]
    else:  # only their targets are read
        learned = [
            PreparedSection(check_section(section, need=("genes",)), section.obs_names, preparation)
            for section in train.values()
        ]
    prepared = [preparation.prepare(section, need=("genes",)) for section in test.values()]
    say_same_sections({**adapted, **{each.name: each.digest for each in [*learned, *prepared]}})
    return evaluate_prepared(model, prepared, learned)


def _check_genes(model: FittedModel, name: str, section: AnnData) -> None:
    """Refuse a section that lacks genes of the model: they are chosen before training, not dropped after it."""
    if not section.n_vars:
        return  # refused with its other faults when it is prepared
    absent = absent_genes(section, model.genes, find_genes(section, model.genes).positions, "the model's panel")
    if absent:
        raise DataError(
            f"section {name!r}: panel gene {listed(absent)} not measured, so it has no score on the model's "
            f"{len(model.genes)} genes; train again and give the sections to score as {_TESTS}: genes are then "
            "chosen among theirs too"
        )


def evaluate_prepared(
    model: FittedModel, tests: Sequence[PreparedSection], train: Sequence[PreparedSection]
) -> Evaluation:
    """Score a model on prepared sections; see :func:`evaluate`."""
    _say_other_data(model, tests, train)
    graphs = [each.measured for each in train] if model.config.evaluate.baselines else []
    with threads_for(sum(each.section.n_obs for each in train), model.config.train.n_threads):
        baselines = _score_baselines(model, graphs, tests)
        results = {each.name: _score_one(model, baselines.scores[each.name], each) for each in tests}
    metrics = _assemble({name: each.scores for name, each in results.items()})
    metrics["genes_not_predicted"] = [] if model.confidence is None else model.confidence.not_predicted
    metrics["baselines_chosen"] = baselines.chosen
    metrics["protocol"] = _protocol(model, tests, train)
    metrics["record"] = record(model.config, metrics["protocol"]["sections"])
    per_gene = pd.concat({name: each.per_gene for name, each in results.items()}, names=["section", "gene"])
    predictions = {name: each.prediction for name, each in results.items()}
    return Evaluation(metrics, per_gene, predictions, sum(each.seconds for each in results.values()))


def _say_other_data(model: FittedModel, tests: Sequence[PreparedSection], train: Sequence[PreparedSection]) -> None:
    """Warn if sections are not as they were in training: baselines learn from them as they are, the model did not."""
    before = {**model.origin.get("tests", {}), **model.origin.get("train", {})}
    now = {each.name: prepared_digest(each) for each in (*tests, *train) if each.name in before}
    for text in other_sections(before, now, "section {!r} has other {} than when the model was trained"):
        logger.warning("%s; the scores are of the section as it is now", text)


class _Scored(NamedTuple):
    """Result of one test section: scores by method, the per-gene table, the prediction, and its seconds."""

    scores: dict[str, Scores | dict[str, float | None]]
    per_gene: pd.DataFrame
    prediction: AnnData
    seconds: float


class _Baselines(NamedTuple):
    """What the baselines reach: the scores of each by section, and what each chose."""

    scores: dict[str, dict[str, Scores]]
    chosen: dict[str, dict[str, Any]]


def _score_baselines(model: FittedModel, graphs: Sequence[Data], tests: Sequence[PreparedSection]) -> _Baselines:
    """Score every baseline on each test section; none without graphs to fit them on."""
    found = _Baselines({each.name: {} for each in tests}, {})
    with bars(shown=model.config.train.progress) as bar:
        for name in bar.track(BASELINES if graphs else (), description="fitting baselines"):
            # One after the other, since each keeps what it learned from.
            baseline = make_baseline(name)
            baseline.fit(graphs)
            for test in tests:
                graph = test.measured
                predicted = pd.DataFrame(baseline.predict(graph), index=graph.spots, columns=model.genes)
                found.scores[test.name][name] = _score(model, test, predicted)
            if baseline.chosen:
                found.chosen[name] = baseline.chosen
            del baseline
            give_back()
    return found


def _score(model: FittedModel, prepared: PreparedSection, predicted: pd.DataFrame) -> Scores:
    return score_section(
        predicted,
        prepared.observed,
        depth=_depth(prepared),
        heg50=model.heg50,
        hpg50=model.hpg50,
        threads=model.config.train.n_threads,
    )


def _depth(prepared: PreparedSection) -> pd.Series:
    return pd.Series(library_size(prepared.section), index=prepared.section.obs_names)


def _score_one(model: FittedModel, baselines: Mapping[str, Scores], prepared: PreparedSection) -> _Scored:
    """Score model, baselines and references on one section; the prediction has its spots in the order given."""
    observed, completed = prepared.observed, prepared.section
    start = time.perf_counter()
    prediction = predict_prepared(model, prepared)
    seconds = time.perf_counter() - start
    scores: dict[str, Any] = {"model": _score(model, prepared, prediction.to_df())}
    if model.config.evaluate.downstream:
        found = downstream_scores(prediction, seed=model.config.seed)
        scores["model"] = replace(scores["model"], summary={**scores["model"].summary, **found})
    scores |= baselines
    depth, subsets = _depth(prepared), {"heg50": model.heg50, "hpg50": model.hpg50}
    scores["depth_oracle"] = depth_oracle(depth, observed, **subsets, threads=model.config.train.n_threads)
    around = neighbour_mean(observed, completed.obsp[Key.obsp.connectivities])
    scores["neighbour_mean"] = _score(model, prepared, pd.DataFrame(around, observed.index, observed.columns))
    del around
    # Of smoothed targets, spots that are drawn alone would lack what they are means of.
    ceiling = section_ceiling(prepared, LARGE if model.config.data.smooth == "none" else completed.n_obs)
    summary: dict[str, Any] = {**scores, "noise_ceiling": _ceiling_summary(ceiling, subsets)}
    summary["genes_without_ceiling"] = _without(ceiling)
    per_gene = scores["model"].per_gene.assign(
        **{f"{r}_{name}": each.per_gene[r] for r in _PER_GENE for name, each in scores.items() if name != "model"},
        **ceiling,
    )
    summary["share_of_ceiling"] = share_of_ceiling(scores["model"].per_gene["pcc"], ceiling)
    prediction.var = prediction.var.join(per_gene)
    prediction = with_genes(finished(prediction, model, prepared), model, None)
    summary["trust"] = trust_scores(model, prediction)
    return _Scored(summary, per_gene, prediction, seconds)


def _n_constant(train: Sequence[PreparedSection]) -> int:
    """Count the genes that do not vary over the training spots, which are read some genes at a time."""
    blocks = gene_blocks(sum(each.section.n_obs for each in train), len(train[0].preparation.genes))
    return sum(n_constant(np.vstack([each.observed_of(genes) for each in train])) for genes in blocks)


def _without(ceiling: pd.DataFrame) -> list[str]:
    """List the genes without a measurable ceiling."""
    return [str(gene) for gene in ceiling.index[ceiling["ceiling_low"] <= 0]]


def _ceiling_summary(ceiling: pd.DataFrame, subsets: Mapping[str, list[str]]) -> dict[str, float | None]:
    values = ceiling["ceiling"]
    means = {f"pcc_{name}": float(values[genes].mean()) if genes else None for name, genes in subsets.items()}
    return {"pcc_mean": float(values.mean()), **means, "n_without_ceiling": len(_without(ceiling))}


def _assemble(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arrange scores for ``metrics.json``: the model at the top, baselines and references beside it."""

    def part(name: str) -> dict[str, Any]:
        each = {
            section: scores[name].summary if isinstance(scores[name], Scores) else scores[name]
            for section, scores in results.items()
        }
        return {"sections": each, **aggregate(each)}

    metrics = part("model")
    for section, scores in results.items():
        metrics["sections"][section] = {
            **metrics["sections"][section],
            "share_of_ceiling": scores["share_of_ceiling"],
            **scores["trust"],
        }
    metrics |= aggregate(metrics["sections"])
    metrics["baselines"] = {name: part(name) for name in BASELINES if name in next(iter(results.values()))}
    metrics["references"] = {name: part(name) for name in REFERENCES}
    metrics["genes_without_ceiling"] = {name: scores["genes_without_ceiling"] for name, scores in results.items()}
    return metrics


def _protocol(model: FittedModel, tests: Sequence[PreparedSection], train: Sequence[PreparedSection]) -> dict[str, Any]:
    """State the conditions of the scores, so that scores of other conditions are not compared with them."""
    patients = {
        part: sorted({patient for each in sections for patient in patients_in(each.section)})
        for part, sections in (("train", train), ("test", tests))
    }
    learned_since = model.origin.get("adapted", {}).get("sections", {})
    adapted = [patient_name(each.get("patient")) for each in learned_since.values()]
    patients["train"] += [name for name in adapted if name is not None]
    shared = sorted(set(patients["train"]) & set(patients["test"]))
    unknown = None in adapted or unknown_patients({each.name: each.section for each in (*train, *tests)})
    return {
        "version": __version__,
        "seed": model.config.seed,
        "train": sorted(each.name for each in train),
        "test": sorted(each.name for each in tests),
        "patients_in_both": shared,
        "split": "within patient" if shared else "patients unknown" if unknown else "across patients",
        "normalize": model.config.data.normalize,
        "smooth": model.config.data.smooth,
        "log_base": model.config.data.log_base,
        "n_genes": len(model.genes),
        "n_constant_train": _n_constant(train),
        "method": model.config.model.name,
        "encoder": model.config.features.described,
        "selected_epochs": model.selected_epochs,
        "sections": {each.name: prepared_digest(each) for each in (*train, *tests)},
    }
