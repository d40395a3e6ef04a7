from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.config import Config
from nh2st_graph.study import Fold, Study, Variant
from nh2st_graph.study._words import explain, protocol, under_trained, verdict


def study(folds: list[Fold], seeds: tuple[int, ...] = (0, 1), **data: str) -> Study:
    config = Config().override([f"data.{key}={value}" for key, value in data.items()])
    pixels = config.override(["features.encoder=squidpy:summary"])
    variants = (Variant("deep", {}, config), Variant("wide", {}, pixels), Variant("ridge", {}, config, random=False))
    return Study("made up", variants, tuple(folds), seeds, config)


def test_the_protocol_says_what_was_compared_on_what():
    folds = [Fold("a", ("S1", "S2"), ("S3",), "loso"), Fold("b", ("S2", "S3"), ("S1",), "loso"),
             Fold("c", (), ("S8", "S9"), "far")]  # fmt: skip
    words = protocol(study(folds, panel="some/folder/genes.txt", normalize="panel", smooth="3x3"))
    assert words["split loso"] == "S3 from S1 and S2; S1 from S2 and S3"
    assert words["split far"] == "S8 and S9 from all others"
    assert words["panel"] == "genes of genes.txt"
    assert words["targets"].startswith("counts over a spot's library size (genes of the panel)")
    assert words["targets"].endswith("smoothed: averaged with the spot's array neighbours, in the test sections too")
    assert "squidpy:summary (wide)" in words["features"]
    assert "(deep and ridge)" in words["features"]
    assert words["seeds"] == "0, 1 (the first alone for ridge, in which nothing is random)"


def test_the_protocol_says_which_logarithm():
    made_up = study([Fold("a", ("S1",), ("S2",), "one")], panel="hvg:9", normalize="panel")
    base = made_up.config.change({"data.log_base": 10})
    published = replace(made_up, variants=(*made_up.variants, Variant("NH2ST", {}, base)))
    said = protocol(published)["targets"]
    assert "log1p" in said
    assert said.endswith("NH2ST learn another base of the logarithm; their errors are converted")
    assert "to 1e4, log10(1 + x)" in protocol(replace(made_up, config=base))["targets"]


def test_the_protocol_sums_up_what_is_many_and_says_no_more_than_there_is():
    folds = [Fold(f"f{i}", ("S0",), (f"S{2 * i + 1}", f"S{2 * i + 2}"), "all") for i in range(9)]
    words = protocol(study(folds, seeds=(3,), panel="hvg:250", normalize="residuals"))
    assert words["split all"] == "9 folds, 18 test sections"
    assert words["panel"] == "250 highly variable genes of the training sections"
    assert words["targets"] == "analytic Pearson residuals; smoothed: not"
    assert words["seeds"] == "3"


def curves(best: dict[str, list[int]], epochs: int = 40) -> pd.DataFrame:
    """Curves of so many epochs, each best at the epoch given."""
    rows = [
        {"split": "s", "variant": method, "fold": fold, "seed": 0, "stage": "fold0", "epoch": epoch,
         "val_loss": abs(epoch - middle), "val_pcc": 0.0}
        for method, middles in best.items()
        for (fold, middle), epoch in itertools.product(enumerate(middles), range(1, epochs + 1))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def with_epochs(**epochs: int) -> Study:
    """A benchmark whose methods were allowed so many epochs."""
    variants = [Variant(name, {}, Config().change({"train.max_epochs": n})) for name, n in epochs.items()]
    return Study("made up", tuple(variants), (), (0,), Config())


def test_methods_whose_best_epoch_is_among_the_last_are_under_trained():
    table = curves({"late": [40, 37], "edge": [36, 36], "mixed": [38, 5], "mostly": [38, 5, 5], "early": [3, 20]})
    given = dict.fromkeys(["late", "edge", "mixed", "mostly", "early"], 40)
    assert under_trained(with_epochs(**given), table) == {"s": ["late", "mixed"]}
    # patience ended them long before they had to end
    assert under_trained(with_epochs(**{**given, "late": 100, "mixed": 41}), table) == {"s": ["mixed"]}
    other = table.assign(split="t")
    assert set(under_trained(with_epochs(**given), pd.concat([table, other]))) == {"s", "t"}
    assert under_trained(with_epochs(**given), table.assign(val_loss=np.nan)) == {}
    assert under_trained(with_epochs(**given), table.iloc[:0]) == {}


def test_the_explanation_says_where_the_interval_is_over_genes_alone():
    folds = [Fold("a", ("S1",), ("S2", "S3"), "near"), Fold("b", ("S2",), ("S1",), "far")]
    scores = pd.DataFrame({"split": ["near", "near", "far"], "fold": list("aab"), "section": ["S2", "S3", "S1"]})
    ranked = explain(study(folds), pd.concat([scores, scores]))
    assert ranked.startswith("Means and standard deviations over sections, seeds averaged first. 'Place' is by")
    assert ranked.endswith("have no place. With one test section (far) the interval is over genes alone.")
    assert "one test section" not in explain(study(folds[:1]), scores[:2])
    assert "Differences are from 'deep'" in explain(replace(study(folds), reference="deep"), scores)


COLUMNS = ["variant", "role", "place", "sections", "pcc_mean", "pcc_mean_difference", "pcc_mean_low", "pcc_mean_high"]
ROWS = [
    ("deep", "method", 1, 4, 0.25, 0.05, 0.04, 0.06),
    ("wide", "method", 3, 4, 0.21, 0.01, -0.01, 0.03),
    ("poor", "method", 4, 4, 0.1, -0.1, -0.12, -0.08),
    ("lost", "method", None, 0, np.nan, np.nan, np.nan, np.nan),
    ("half", "method", None, 2, 0.3, 0.02, 0.01, 0.03),
    ("ridge", "baseline", 2, 4, 0.2, 0.0, 0.0, 0.0),
    ("(reference) depth alone", "reference", None, 4, 0.22, np.nan, np.nan, np.nan),
]


@pytest.fixture
def board() -> pd.DataFrame:
    table = pd.DataFrame(ROWS, columns=COLUMNS).assign(pcc_mean_baseline="ridge", pcc_partial_baseline="ridge")
    for what in ("", "_difference", "_low", "_high"):
        table[f"pcc_partial{what}"] = table[f"pcc_mean{what}"] / 2
    return table.assign(place=table["place"].astype("Int64"), share_of_ceiling=2 * table["pcc_mean"])


def test_the_verdict_says_who_is_above_the_best_baseline_and_who_is_not(board):
    r, partial, best, references, *care = verdict(board, ["poor", "nobody"])
    assert r == (
        "In mean r, 2 of 4 methods are above the best baseline (ridge, 0.200) beyond the 95 % interval: deep (+0.050), "
        "half (+0.020). Not to be told from it: wide (+0.010). Below it beyond the interval: poor (-0.100)."
    )
    assert partial.startswith("In mean r given depth, 2 of 4 methods are above the best baseline (ridge, 0.100)")
    assert best == (
        "The best method, deep, reaches a mean r of 0.250, 50 % of the noise ceiling (an estimate of what a "
        "perfect predictor would reach); given depth, 0.125."
    )
    assert references.endswith("how many of the 4 methods and baselines it is above: depth alone 0.220 (3).")
    assert care[0].startswith("Still improving on held-out training data when training ended: poor. ")
    assert care[1:] == [
        "Without a score in some sections, and so without a place: half.",
        "Without any result: lost.",
    ]


def test_the_verdict_says_no_more_than_it_can(board):
    methods = board[board["role"] == "method"].drop(columns="share_of_ceiling")
    alone = verdict(methods.assign(pcc_mean_baseline="", pcc_partial_baseline=""))
    assert (
        alone[0] == "In mean r there is nothing to compare: no baseline, or no method, has a result in every section."
    )
    assert "ceiling" not in alone[2]
    assert not any("For scale" in sentence for sentence in alone)
    one = verdict(board[board["variant"].isin(["wide", "ridge"])])
    assert one[0].startswith(
        "In mean r, 0 of 1 methods are above the best baseline (ridge, 0.200) beyond the 95 % interval."
    )
    baselines = verdict(board[board["role"] == "baseline"])
    assert [sentence[:5] for sentence in baselines] == ["In me", "In me"]
