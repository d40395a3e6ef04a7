"""A study in sentences: what it compared on which sections, what its numbers are, and what they show."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from nh2st_graph.metrics import SCORES
from nh2st_graph.section import target_in_words
from nh2st_graph.study._plan import Fold, Study
from nh2st_graph.study._text import signed

__all__ = ["explain", "findings", "protocol", "under_trained", "verdict"]

#: A split of up to this number of folds is listed fold by fold.
_LISTED = 8
#: The beginning of references' names, which a sentence about them need not repeat.
_REFERENCE = "(reference) "
#: A curve whose best epoch is in this last share of the epochs allowed was still improving.
_LAST = 0.1


def explain(study: Study, scores: pd.DataFrame) -> str:
    """Say what the numbers of a study's table are."""
    sections = scores.drop_duplicates(["split", "fold", "section"]).groupby("split", sort=False).size()
    alone = [str(split) for split, number in sections.items() if number == 1]
    where = "" if len(study.splits) == 1 else f" ({', '.join(alone)})"
    depth = "'Given depth' takes out what the number of counts in a spot explains."
    if study.ranked:
        text = (
            "Means and standard deviations over sections, seeds averaged first. 'Place' is by the mean over sections "
            "of the rank by mean r, among methods and baselines. Differences are from the baseline that is best in "
            "this split by its test score, which favours the baseline; they are paired over sections and genes, with "
            f"the 95 % interval of a bootstrap over both. {depth} References read the genes of the test sections, and "
            "have no place."
        )
    else:
        text = (
            f"Means and standard deviations over sections and seeds ({', '.join(map(str, study.seeds))}). Differences "
            f"are from '{study.reference}', averaged over seeds, paired over sections and genes, with the 95 % "
            f"interval of a bootstrap over both. {depth}"
        )
    return text + (f" With one test section{where} the interval is over genes alone." if alone else "")


def protocol(study: Study) -> dict[str, str]:
    """Say what was compared on which sections.

    Returns
    -------
    Sentences by their subject: the splits by name, then panel, targets, features and seeds.
    """
    data = study.config.data
    words = {f"split {split}": _folds([f for f in study.folds if f.split == split]) for split in study.splits}
    kind, _, number = data.panel.partition(":")
    chosen = f"{number} highly variable genes of the training sections"
    words["panel"] = chosen if kind == "hvg" else f"genes of {Path(data.panel).name}"
    smoothed = "averaged with the spot's array neighbours, in the test sections too" if data.smooth != "none" else "not"
    words["targets"] = f"{target_in_words(data.normalize, data.log_base)}; smoothed: {smoothed}"
    others = [each.name for each in study.variants if each.config.data.log_base != data.log_base]
    if others:
        words["targets"] += f". {_listed(others)} learn another base of the logarithm; their errors are converted"
    methods: dict[str, list[str]] = {}
    for variant in study.variants:
        methods.setdefault(variant.config.features.described, []).append(variant.name)
    encoders = {encoder: "" if len(methods) == 1 else f" ({_listed(names)})" for encoder, names in methods.items()}
    words["features"] = "; ".join(f"{encoder}{readers}" for encoder, readers in encoders.items())
    fixed = [variant.name for variant in study.variants if not variant.random]
    words["seeds"] = ", ".join(map(str, study.seeds)) + (
        f" (the first alone for {_listed(fixed)}, in which nothing is random)" if fixed and len(study.seeds) > 1 else ""
    )
    return words


def _folds(folds: Collection[Fold]) -> str:
    """Say which sections are predicted from which."""
    if len(folds) > _LISTED:
        return f"{len(folds)} folds, {sum(len(fold.test) for fold in folds)} test sections"
    return "; ".join(f"{_listed(fold.test)} from {_listed(fold.train or ['all others'])}" for fold in folds)


def under_trained(study: Study, curves: pd.DataFrame) -> dict[str, list[str]]:
    """Find methods whose held-out error was still falling when training ended.

    Parameters
    ----------
    study
        Says how many epochs each method was allowed.
    curves
        From :class:`~nh2st_graph.study.Results`.

    Returns
    -------
    Names by split. A method is named where in half of its curves or more the best epoch is in the last tenth of those
    allowed.
    """
    known = curves.dropna(subset="val_loss").reset_index(drop=True)
    if known.empty:
        return {}
    best = known.loc[known.groupby(["split", "variant", "fold", "seed", "stage"])["val_loss"].idxmin()]
    allowed = best["variant"].map({variant.name: variant.config.train.max_epochs for variant in study.variants})
    late = (best["epoch"] > (1 - _LAST) * allowed).groupby([best["split"], best["variant"]]).mean()
    found: dict[str, list[str]] = {}
    for split, method in late.index[late >= 0.5]:
        found.setdefault(str(split), []).append(str(method))
    return found


def verdict(board: pd.DataFrame, late: Collection[str] = ()) -> list[str]:
    """Say what the rows of one split of a benchmark show.

    Parameters
    ----------
    board
        Rows of one split of a benchmark's table.
    late
        Methods of the split that :func:`under_trained` found.

    Returns
    -------
    Sentences: which methods are above the best baseline beyond the interval and which are not, in mean r and in mean r
    given depth; which share of the noise ceiling the best method reaches; the scores of the references; and what to
    read with care.
    """
    methods = board[board["role"] == "method"]
    sentences = [_against_baseline(board, methods, score, label) for score, label in SCORES.items()]
    placed = methods.dropna(subset="place")
    if len(placed):
        best = placed.iloc[placed["pcc_mean"].to_numpy().argmax()]
        share = best.get("share_of_ceiling", np.nan)
        reach = f", {100 * share:.0f} % of the noise ceiling (an estimate of what a perfect predictor would reach)"
        sentences.append(
            f"The best method, {best['variant']}, reaches a mean r of {best['pcc_mean']:.3f}"
            f"{'' if pd.isna(share) else reach}; given depth, {best['pcc_partial']:.3f}."
        )
    references = board[(board["role"] == "reference") & board["pcc_mean"].notna()]
    rivals = board.loc[(board["role"] != "reference") & board["place"].notna(), "pcc_mean"]
    if len(references) and len(rivals):
        parts = [
            f"{name.removeprefix(_REFERENCE)} {r:.3f} ({(rivals < r).sum()})"
            for name, r in zip(references["variant"], references["pcc_mean"], strict=True)
        ]
        sentences.append(
            "For scale, mean r of what reads the test sections' own genes, and in brackets how many of the "
            f"{len(rivals)} methods and baselines it is above: {'; '.join(parts)}."
        )
    unplaced, missing = methods["place"].isna(), methods["sections"] == 0
    care = {
        "Still improving on held-out training data when training ended: {}. More epochs would probably raise their "
        "scores; do not read their places as the methods' worth.": methods["variant"].isin(list(late)),
        "Without a score in some sections, and so without a place: {}.": unplaced & ~missing,
        "Without any result: {}.": missing,
    }
    named = {text: methods.loc[chosen, "variant"] for text, chosen in care.items()}
    return sentences + [text.format(_listed(names)) for text, names in named.items() if len(names)]


def findings(table: pd.DataFrame, reference: str | None) -> list[str]:
    """Say shortly what a study found.

    Parameters
    ----------
    table
        Rows of all splits.
    reference
        The variant that the others are compared with; None in a benchmark, where it is the best baseline.

    Returns
    -------
    A sentence for each split, without a full stop.
    """
    found = []
    for split, part in table.groupby("split", sort=False):
        where = f"{split}: " if table["split"].nunique() > 1 else ""
        found.append(where + (_best_method(part) if reference is None else _changes(part, reference)))
    return found


def _best_method(board: pd.DataFrame) -> str:
    methods = board[(board["role"] == "method") & board["place"].notna()]
    if methods.empty:
        return "no method has a score in every section"
    best = methods.iloc[methods["pcc_mean"].to_numpy().argmax()]
    lead = f"the best of {len(methods)} methods is" if len(methods) > 1 else "the one method is"
    text = f"{lead} {best['variant']}, with a mean r of {best['pcc_mean']:.3f}"
    baseline, difference = best["pcc_mean_baseline"], best["pcc_mean_difference"]
    if not baseline or pd.isna(difference):
        return f"{text}; there is no baseline to compare it with"
    apart = "beyond" if best["pcc_mean_low"] > 0 or best["pcc_mean_high"] < 0 else "within"
    return f"{text}: {signed(difference, 3)} against the best baseline ({baseline}), {apart} the 95 % interval"


def _changes(part: pd.DataFrame, reference: str) -> str:
    compared = part[(part["variant"] != reference) & (part["role"] != "reference")].dropna(subset="pcc_mean_difference")
    if compared.empty:
        return f"nothing can be compared with {reference}"
    below, above = compared["pcc_mean_high"] < 0, compared["pcc_mean_low"] > 0
    kinds = {"below": below, "above": above, "not to be told from it": ~below & ~above}
    parts = []
    for which, chosen in kinds.items():
        rows = compared[chosen]
        named = zip(rows["variant"], rows["pcc_mean_difference"], strict=True)
        if len(rows):
            parts.append(f"{which}: {', '.join(f'{name} ({signed(difference, 3)})' for name, difference in named)}")
    return f"mean r against {reference}, by the 95 % interval: {'; '.join(parts)}"


def _against_baseline(board: pd.DataFrame, methods: pd.DataFrame, score: str, label: str) -> str:
    baseline = board[f"{score}_baseline"].iloc[0]
    difference = f"{score}_difference"
    compared = methods[methods[difference].notna()].sort_values(difference, ascending=False)
    if not baseline or compared.empty:
        return f"In {label} there is nothing to compare: no baseline, or no method, has a result in every section."
    above, below = compared[f"{score}_low"] > 0, compared[f"{score}_high"] < 0
    reached = board.loc[board["variant"] == baseline, score].iloc[0]
    leads = {
        f"In {label}, {above.sum()} of {len(compared)} methods {'is' if above.sum() == 1 else 'are'} above the best "
        f"baseline ({baseline}, {reached:.3f}) beyond the 95 % interval": above,
        " Not to be told from it": ~above & ~below,
        " Below it beyond the interval": below,
    }
    sentence = ""
    for lead, chosen in leads.items():
        rows = compared[chosen]
        names = [f"{name} ({signed(r, 3)})" for name, r in zip(rows["variant"], rows[difference], strict=True)]
        if names or not sentence:
            sentence += f"{lead}: {', '.join(names)}." if names else f"{lead}."
    return sentence


def _listed(names: Iterable[str]) -> str:
    """Write names as a list in words."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last
