"""Write the report of a run: one HTML file that opens offline and says how far the model can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nh2st_graph import __version__, pl
from nh2st_graph.confidence import FEW_SPOTS, OF_NEW, Confidence, Evidence, best_reliable, unfamiliar_spots
from nh2st_graph.metrics import LABELS, METHOD_LABELS, REFERENCES, RUN_SCORES
from nh2st_graph.section import Key, target_in_words
from nh2st_graph.tl._evaluate import Evaluation
from nh2st_graph.tl._found import covered, evidence_of, findings, kind_of, kinds_in
from nh2st_graph.tl._page_tables import UNNAMED, Cell, Table, gene_table, number, ordered, slides_in_words
from nh2st_graph.train import FittedModel

__all__ = ["evidence_table", "write_report"]

#: Genes whose maps are drawn, and most test sections with maps.
_MAPPED, _MOST_MAPS = 3, 4
#: Levels of the table of coverage.
_LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Coverage of a test section that is this much below the level is warned of.
_SHORTFALL = 0.05
#: Spots of a test section of which more than this share are unlike training are warned of.
_MANY_UNLIKE = 0.05


def evidence_table(confidence: Confidence) -> pd.DataFrame:
    """Put the evidence for each kind of slides side by side.

    Returns
    -------
    A row for each gene, those with the highest r given depth first: ``detected_spots``, ``predicted`` (false where
    these are too few, so that predictions are NaN), then the columns of
    :func:`nh2st_graph.confidence.gene_table` under ``training_patients_``, ``patients_adapted_to_`` (where there is
    such evidence) and ``new_patients_``.
    """
    kinds = confidence.kinds
    table = pd.concat([each.genes.add_prefix(f"{kind} ".replace(" ", "_")) for kind, each in kinds.items()], axis=1)
    table.insert(0, "detected_spots", confidence.detected)
    table.insert(1, "predicted", ~confidence.barely_measured)
    return table.loc[ordered(next(iter(kinds.values())).genes)]


def write_report(model: FittedModel, evaluation: Evaluation | None, path: Path, *, figures: bool) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    model
        The model; one of an earlier version has no evidence on genes and intervals, and the page says so.
    evaluation
        Its scores on test sections, if there are any.
    path
        The file.
    figures
        Whether to draw maps and curves; numbers are in tables in any case.

    Returns
    -------
    The path.
    """
    predictions = {} if evaluation is None else evaluation.predictions
    kind = next(iter(kinds_in(model, predictions.values())), _first_kind(model))
    evidence = None if model.confidence is None else model.confidence.of(kind)
    curve, tests = _curves(model, evidence, evaluation)
    return pl.write_page(
        path,
        "tl",
        "report.html.j2",
        title=f"Run {path.absolute().parent.name}",
        version=__version__,
        findings=findings(model, evaluation),
        warnings=_warnings(model, evaluation),
        protocol=_protocol(model, evaluation),
        kind=slides_in_words(model.confidence, kind),
        coverage=None if evidence is None else str(evidence.coverage(model.config.evaluate.coverage)),
        calibration=None if curve is None else _calibration(curve, tests),
        calibration_figure=(
            pl.as_data_uri(pl.calibration(curve, tests).figure) if figures and curve is not None else None
        ),
        sections=None if evaluation is None else _sections(evaluation),
        scores=None if evaluation is None else _scores(evaluation),
        familiarity=_familiarity(evaluation) if figures else [],
        maps=_maps(model, evaluation) if figures else [],
        genes=None if model.confidence is None else gene_table(model.confidence, kind, evaluation),
        n_reliable=0 if evidence is None else int(evidence.genes[Key.var.reliable].sum()),
    )


def _first_kind(model: FittedModel) -> str:
    """Say whose evidence to show where no test section says which counts: what one patient says is of this one."""
    confidence = model.confidence
    return next(iter(confidence.kinds)) if confidence is not None and confidence.new.to_another_patient else OF_NEW


def _curves(
    model: FittedModel, evidence: Evidence | None, evaluation: Evaluation | None
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Give nominal against measured coverage, of held-out units and of test sections."""
    if evidence is None:
        return None, None
    curve, tests = evidence.calibration.curve(), {}
    for name, prediction in evaluation.predictions.items() if evaluation is not None else ():
        own = evidence_of(model, prediction)
        assert own is not None
        tests[name] = covered(own.calibration, prediction, [float(level) for level in curve.index])
    return curve, pd.DataFrame(tests, index=curve.index) if tests else None


def _calibration(curve: pd.DataFrame, tests: pd.DataFrame | None) -> Table:
    """Tabulate coverage at some levels."""
    units = curve.drop(columns="measured")
    shown = {"held out, mean": curve["measured"], "held out, lowest": units.min(axis=1)}
    shown["held out, highest"] = units.max(axis=1)
    shown |= {f"test section {name}": tests[name] for name in tests} if tests is not None else {}
    levels = [level for level in _LEVELS if level in curve.index]
    rows = [(f"{level:.0%}", "", [Cell(f"{each[level]:.1%}") for each in shown.values()]) for level in levels]
    return Table(list(shown), rows)


def _sections(evaluation: Evaluation) -> Table:
    """Tabulate test sections: how they were predicted, and how far what was said of them held."""
    columns = [
        "spots",
        "judged by what is known for",
        "mean r",
        "mean r given depth",
        "coverage of intervals",
        "their width (sd of a gene)",
        "reliable genes",
        "of them with positive r given depth",
    ]
    known = [each for each in evaluation.predictions.values() if Key.obs.familiarity in each.obs]
    columns += ["spots unlike training"] if known else []
    rows = []
    for name, scores in evaluation.metrics["sections"].items():
        prediction = evaluation.predictions[name]
        cells = [
            str(prediction.n_obs),
            kind_of(prediction),
            number(scores["pcc_mean"]),
            number(scores["pcc_partial"]),
            number(scores.get("coverage"), "{:.1%}"),
            number(scores.get("interval_width"), "{:.1f}"),
            number(scores.get("n_reliable"), "{:.0f}"),
            number(scores.get("reliable_positive"), "{:.0%}"),
        ]
        cells += [f"{unfamiliar_spots(prediction).mean():.1%}"] if known else []
        rows.append((str(name), "", [Cell(cell) for cell in cells]))
    return Table(columns, rows)


def _scores(evaluation: Evaluation) -> Table:
    """Tabulate the scores of the model beside baselines and references."""
    table, labels = evaluation.table().reindex(columns=list(RUN_SCORES)), evaluation.labels
    rows = []
    for name, row in table.iterrows():
        role = "method" if name == "model" else "reference" if name in REFERENCES else "baseline"
        rows.append((labels.get(str(name), str(name)), role, [Cell(number(value)) for value in row]))
    return Table(list(RUN_SCORES.values()), rows)


def _maps(model: FittedModel, evaluation: Evaluation | None) -> list[dict[str, str]]:
    """Draw the best reliable genes on some test sections."""
    shown = []
    for name, prediction in list(evaluation.predictions.items())[:_MOST_MAPS] if evaluation is not None else ():
        evidence = evidence_of(model, prediction)
        best = [] if evidence is None else best_reliable(evidence.genes, _MAPPED)
        if best:
            image = pl.as_data_uri(pl.gene_maps(prediction, best), photo=True)
            alt = f"Section {name}: H&E image, measured and predicted expression of {', '.join(best)}"
            shown.append({"name": str(name), "image": image, "alt": alt})
    return shown


def _familiarity(evaluation: Evaluation | None) -> list[dict[str, str]]:
    """Draw how familiar the spots of some test sections are."""
    shown = []
    for name, prediction in list(evaluation.predictions.items())[:_MOST_MAPS] if evaluation is not None else ():
        if Key.obs.familiarity in prediction.obs:
            image = pl.as_data_uri(pl.familiarity(prediction).figure, photo=True)
            share = float(unfamiliar_spots(prediction).mean())
            alt = f"Section {name}: familiarity of each spot on the tissue; {share:.1%} of them are unlike training"
            shown.append({"name": str(name), "image": image, "alt": alt})
    return shown


def _protocol(model: FittedModel, evaluation: Evaluation | None) -> dict[str, str]:
    """Say what was trained on what."""
    config, train = model.config, model.origin.get("train", {})
    patients = sorted({each["patient"] for each in train.values() if each.get("patient")})
    method = config.model.name
    words = {
        "trained on": _listed(model.train_sections) + (f" (patients: {_listed(patients)})" if patients else ""),
        "scored on": "no section",
        "method": METHOD_LABELS.get(method, LABELS.get(method, method)),
        "image features": config.features.described,
        "genes": f"{len(model.genes)} ({Path(config.data.panel).name})",
        "targets": target_in_words(config.data.normalize, config.data.log_base)
        + ("; smoothed 3x3" if config.data.smooth != "none" else ""),
        "what predicts": _what_predicts(model),
        "held out in training": f"{_held_out(model)}; {model.selected_epochs} epochs were chosen by it",
        "intervals": f"{config.evaluate.coverage:.0%} of measured values",
        "seed": str(config.seed),
        "versions": f"nh2st_graph {__version__}"
        + (f", torch {model.origin['torch']}" if "torch" in model.origin else ""),
    }
    if evaluation is not None:
        protocol = evaluation.metrics["protocol"]
        words["scored on"] = f"{_listed(protocol['test'])} ({protocol['split']})"
    return words


def _warnings(model: FittedModel, evaluation: Evaluation | None) -> list[str]:
    """Say what a reader must know before believing the page."""
    confidence = model.confidence
    if confidence is None:
        return ["The model is of an earlier version, and says nothing of its genes and intervals. Train again."]
    found = []
    if not confidence.n_patients:
        found.append(UNNAMED)
    barely = confidence.not_predicted
    if barely:
        found.append(
            f"{len(barely)} of {len(model.genes)} genes were detected in fewer than {FEW_SPOTS} training spots and are "
            f"not predicted (NaN): {_listed(barely[:8])}{' and others' if len(barely) > 8 else ''}. Scores count them, "
            "as if they were predicted."
        )
    if evaluation is not None:
        found += _warnings_on_tests(model, evaluation)
    return found


def _warnings_on_tests(model: FittedModel, evaluation: Evaluation) -> list[str]:
    found, level = [], model.config.evaluate.coverage
    shared = evaluation.metrics["protocol"]["patients_in_both"]
    if shared:
        found.append(
            f"Training and test sections share a patient ({_listed(shared)}): on another patient, scores can be lower."
        )
    for name, scores in evaluation.metrics["sections"].items():
        coverage = scores.get("coverage")
        if coverage is not None and coverage < level - _SHORTFALL:
            found.append(
                f"On {name}, the {level:.0%} intervals held only {coverage:.0%} of the measured values: it is not like "
                "the held-out sections that set them."
            )
        prediction = evaluation.predictions[name]
        verdict = prediction.uns[Key.uns.prediction].get(Key.prediction.familiarity, {})
        if verdict.get("unlike"):
            found.append(
                f"{name} is unlike the training sections: {verdict['reasons']}. Its predictions may be worse than "
                "held-out scores say."
            )
        unlike = float(unfamiliar_spots(prediction).mean())
        if unlike > _MANY_UNLIKE:
            found.append(f"{unlike:.0%} of the spots of {name} are unlike training.")
    return found


def _what_predicts(model: FittedModel) -> str:
    """Say how much of the network's correction held-out tissue adds to the regression in closed form."""
    added = model.module.chosen.get("correction")
    if added is None:
        return "the method alone"
    shares = (f"{added[key]:.0%} {of}" for key, of in (("known", "for training patients"), ("new", "for new ones")))
    return f"a ridge regression in closed form, with this much of the network's correction: {', '.join(shares)}"


def _held_out(model: FittedModel) -> str:
    folds = f"in {model.config.train.folds} folds at most"
    if model.confidence is None:
        return f"{model.config.train.validation}, {folds}"
    calibration = model.confidence.new.calibration
    return f"{calibration.n_units} {calibration.unit}s, {folds}"


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))
