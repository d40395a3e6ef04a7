"""What the figure of readable genes shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from nh2st_graph import DataError, pl

BLUE = "#0072b2"


def table(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    r = rng.permutation(np.linspace(-0.1, 0.6, n))
    return pd.DataFrame(
        {
            "readable": r > 0.2,
            "pcc": r + 0.1,
            "pcc_partial": r,
            "low": r - 0.1,
            "high": r + 0.1,
            "chance": 0.1,
            "ceiling": np.clip(r + 0.3, 0, 1),
        },
        index=[f"G{i}" for i in range(n)],
    )


def points(ax, colour: str) -> np.ndarray:
    (found,) = (each for each in ax.collections if hasattr(each, "get_sizes") and each.get_sizes().size
                and to_hex(each.get_facecolor()[0]) == colour)  # fmt: skip
    return np.asarray(found.get_offsets())


def test_genes_are_ranked_and_those_that_can_be_read_coloured():
    genes = table(20)
    left, right = pl.predictability(genes).axes
    readable = genes[genes["readable"]].sort_values("pcc_partial", ascending=False)
    assert points(left, BLUE).tolist() == [[i, r] for i, r in enumerate(readable["pcc_partial"])]
    assert points(right, BLUE).tolist() == readable[["ceiling", "pcc"]].to_numpy().tolist()
    assert [label.get_text() for label in left.get_xticklabels()] == [
        *genes.sort_values("pcc_partial", ascending=False).index
    ]
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    others = ["not beyond chance", "chance reaches", "noise ceiling of r"]
    assert legend == [f"can be read ({len(readable)} of 20)", *others]
    assert any((each.get_offsets()[:, 1] == 0.1).all() for each in left.collections)


def test_of_many_genes_the_best_are_named():
    genes = table(200)
    left, _ = pl.predictability(genes).axes
    best = genes["pcc_partial"].nlargest(12).index
    more = genes["readable"].sum() - 12
    assert left.texts[0].get_text().replace("\n", " ") == f"best: {', '.join(best)} and {more} more"
    assert left.get_xlabel() == "genes, the best first"


@pytest.mark.parametrize("of", ["spread", "all near 1", "all low"])
def test_names_beside_the_ceiling_lie_on_no_point_and_no_other_name(of):
    genes = table(200)
    if of == "all near 1":
        genes["ceiling"] = np.linspace(0.93, 0.99, 200)
    elif of == "all low":
        genes = genes.assign(readable=True, pcc=genes["pcc"] / 5, ceiling=genes["ceiling"] / 4)
    figure = pl.predictability(genes)
    figure.draw_without_rendering()
    _, right = figure.axes
    names = {each.get_text(): Text.get_window_extent(each) for each in right.texts}
    assert list(names) == list(genes["pcc"].nlargest(12).index)
    axes = right.get_window_extent()
    drawn = right.transData.transform(genes[["ceiling", "pcc"]].to_numpy())
    for i, box in enumerate(names.values()):
        assert axes.x0 <= box.x0
        assert box.y1 <= axes.y1
        assert not any(box.overlaps(other) for other in list(names.values())[:i])
        assert not any(box.contains(x, y) for x, y in drawn)


def test_the_best_genes_are_named_below_the_axis():
    figure = pl.predictability(table(200))
    figure.draw_without_rendering()
    left, _ = figure.axes
    assert left.texts[0].get_window_extent().y1 < left.xaxis.label.get_window_extent().y0


def test_a_gene_without_scores_is_left_out_and_none_may_be_readable():
    genes = table(5).assign(readable=False)
    genes.iloc[0, 1:] = np.nan
    left, _ = pl.predictability(genes).axes
    assert len(left.get_xticklabels()) == 4
    assert "0 of 4" in left.get_legend().get_texts()[0].get_text()


def test_tables_of_other_things_are_refused():
    with pytest.raises(DataError, match="ceiling"):
        pl.predictability(table(3).drop(columns="ceiling"))
    with pytest.raises(DataError, match="no gene"):
        pl.predictability(table(3).assign(pcc_partial=np.nan))


def test_what_is_no_table_is_told_where_the_table_is():
    with pytest.raises(DataError, match=r"object is no table; give the genes .*\.genes"):
        pl.predictability(object())
